"""The routes ``/metrics`` for Prometheus, and ``/healthz`` and ``/readyz`` for health probes.

No request waits for the daemon: a worker thread collects metrics, and the probes read a few values.
"""

from __future__ import annotations

from collections.abc import Sequence

from anyio import to_thread
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from streamer.daemon.observers.health import Health, Healths
from streamer.web.merged import MergedRegistry

_Collected = CollectorRegistry | MergedRegistry


def routes(metrics: _Collected, health: Health | Healths) -> list[Route]:
    """Return the three routes, each for GET and HEAD."""

    async def expose(request: Request) -> Response:
        encode, media_type = choose_encoder(request.headers.get("accept", ""))
        body = await to_thread.run_sync(encode, metrics)
        return Response(body, media_type=media_type)

    async def healthz(_request: Request) -> Response:
        return _answer([health.stuck()], 503) if health.is_stuck else _answer(["alive"], 200)

    async def readyz(_request: Request) -> Response:
        missing = health.missing()
        return _answer(["not ready", *missing], 503) if missing else _answer(["ready"], 200)

    return [Route("/metrics", expose), Route("/healthz", healthz), Route("/readyz", readyz)]


def _answer(lines: Sequence[str], status: int) -> Response:
    return PlainTextResponse("".join(f"{line}\n" for line in lines), status)
