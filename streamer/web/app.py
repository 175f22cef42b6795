"""The endpoints of the web UI: each reads in a worker thread, and answers with JSON, an image or a file.

The event loop only passes requests and answers on. At most a few reads run at a time and the rest wait, so that too
many requests slow down the web UI, and not the daemon.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from streamer.base.errors import StreamerError
from streamer.base.events import Emit, WebUIFault
from streamer.config import Config
from streamer.core.records.model import State
from streamer.web import records, rollouts
from streamer.web.distributions import DistributionReader
from streamer.web.encoding import encode
from streamer.web.errors import RefusedRequestError, not_found
from streamer.web.pictures import Picture
from streamer.web.state import StateReader
from streamer.web.static_files import StaticFile, static_files
from streamer.web.stream import Publisher

_T = TypeVar("_T")
_P = ParamSpec("_P")

_READS = 2
"""Concurrent reads, which limits the memory that they use."""

_DEFAULT_LIMIT = 20
_MAX_DIGITS = 18
_JSON = "application/json"
_PICTURE = {
    "content-security-policy": "default-src 'none'; sandbox",
    "cache-control": "private, max-age=300",
}

_Endpoint = Callable[[Request], Awaitable[Response]]


class Api:
    """The endpoints of one dataset.

    Args:
        config: The current configuration.
        state: Reads the state.
        distributions: Reads the distributions.
    """

    def __init__(self, config: Config, state: StateReader, distributions: DistributionReader) -> None:
        self.config = config
        self._state = state
        self._distributions = distributions
        self._limiter = CapacityLimiter(_READS)
        self.publisher = Publisher(lambda: self._thread(state.read))

    async def _thread(self, work: Callable[_P, _T], *args: _P.args, **more: _P.kwargs) -> _T:
        return await to_thread.run_sync(partial(work, *args, **more), limiter=self._limiter, abandon_on_cancel=True)

    async def _json(self, work: Callable[_P, Any], *args: _P.args, **more: _P.kwargs) -> Response:
        """Read and encode off the event loop: a record may have megabytes."""
        body = await self._thread(lambda: encode(work(*args, **more)))
        return Response(body, media_type=_JSON)

    async def state(self, _request: Request) -> Response:
        """Answer with the state."""
        return Response(encode(await self.publisher.current()), media_type=_JSON)

    async def events(self, request: Request) -> Response:
        """Answer with the current state, then with each change."""
        headers = {"content-type": "text/event-stream"}
        if request.method == "HEAD":
            return Response(headers=headers)
        return StreamingResponse(self.publisher.subscribe(), headers=headers)

    async def history(self, request: Request) -> Response:
        """Answer with the growth of the dataset."""
        return await self._json(self._state.history, _time(request.query_params.get("since", "0")))

    async def distributions(self, _request: Request) -> Response:
        """Answer with the distributions of rewards."""
        return await self._json(self._distributions.read)

    async def records(self, request: Request) -> Response:
        """Answer with the newest records."""
        before = request.query_params.get("before")
        limit = _number(request.query_params.get("limit", str(_DEFAULT_LIMIT)), "limit")
        if not 1 <= limit <= records.MOST_LISTED:
            raise RefusedRequestError(400, f"limit is a number from 1 to {records.MOST_LISTED}")
        offset = None if before is None else _number(before, "before")
        return await self._json(records.newest, self.config.dataset, offset, limit)

    async def record(self, request: Request) -> Response:
        """Answer with one whole record."""
        return await self._json(records.at, self.config.dataset, _path_number(request, "offset"))

    async def record_image(self, request: Request) -> Response:
        """Answer with an image of a record."""
        offset, image = _path_number(request, "offset"), _path_number(request, "image")
        return _picture(await self._thread(records.image_of, self.config.dataset, offset, image))

    async def rollouts(self, request: Request) -> Response:
        """Answer with the rollout of an exact id, or with those whose id begins with a prefix."""
        session = request.query_params.get("session")
        if session is not None:
            return await self._rollout(session)
        return await self._json(rollouts.search, self.config, _subject(request.query_params.get("prefix", "")))

    async def rollout(self, request: Request) -> Response:
        """Answer with the rollout of an exact id."""
        return await self._rollout(request.path_params["session"])

    async def _rollout(self, subject: str) -> Response:
        if not subject:  # the session id of dead letters
            raise RefusedRequestError(400, "name a session, a shard or SHARD:LINE")
        return await self._json(rollouts.rollout, self.config, _subject(subject))

    async def line(self, request: Request) -> Response:
        """Answer with the record of a line of a shard."""
        shard_id, number = _path_number(request, "shard"), _path_number(request, "line")
        return await self._json(rollouts.line, self.config, shard_id, number)

    async def line_image(self, request: Request) -> Response:
        """Answer with an image of a line of a shard."""
        numbers = [_path_number(request, name) for name in ("shard", "line", "image")]
        return _picture(await self._thread(rollouts.line_image, self.config, *numbers))

    async def examples(self, request: Request) -> Response:
        """Answer with examples of lines in one state."""
        state = request.query_params.get("state", "")
        if state not in tuple(State):
            raise RefusedRequestError(400, f"state is one of {', '.join(State)}")
        return await self._json(rollouts.examples, self.config, State(state), request.query_params.get("reason"))


def create_app(apis: Mapping[str, Api], emit: Emit, more: Sequence[BaseRoute] = ()) -> Starlette:
    """Return the application.

    Args:
        apis: The endpoints by URL prefix: "" and, if there are several datasets, one for each.
        emit: Called with unexpected errors.
        more: Further routes.
    """
    routes = [route for prefix, api in apis.items() for route in _api_routes(prefix, api, emit)]
    return Starlette(routes=[*routes, *more, *_static_routes(apis)], exception_handlers={HTTPException: _http_error})


def _api_routes(prefix: str, api: Api, emit: Emit) -> list[Route]:
    endpoints: dict[str, _Endpoint] = {
        "/api/state": api.state,
        "/api/events": api.events,
        "/api/history": api.history,
        "/api/distributions": api.distributions,
        "/api/records": api.records,
        "/api/records/{offset}": api.record,
        "/api/records/{offset}/images/{image}": api.record_image,
        "/api/rollouts": api.rollouts,
        "/api/rollouts/{session:path}": api.rollout,
        "/api/lines/{shard}/{line}": api.line,
        "/api/lines/{shard}/{line}/images/{image}": api.line_image,
        "/api/examples": api.examples,
    }
    return [Route(f"{prefix}{path}", _with_errors(path, endpoint, emit)) for path, endpoint in endpoints.items()]


def _with_errors(path: str, endpoint: _Endpoint, emit: Emit) -> _Endpoint:
    """Return an endpoint that answers errors with a message."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except RefusedRequestError as error:
            return _error(error.status, error.words)
        except StreamerError as error:
            return _error(503, f"cannot {error.op}: {error.cause}")
        except Exception as error:  # noqa: BLE001 - a bug must end neither the web UI nor the daemon
            emit(WebUIFault(path, type(error).__name__))
            return _error(500, "this could not be answered; the daemon's log names the fault")

    return answer


async def _http_error(_request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return _error(status, "there is nothing at this address")


def _error(status: int, words: str) -> Response:
    return Response(encode({"error": words}), status, media_type=_JSON)


def _picture(found: Picture) -> Response:
    return Response(found.data, media_type=found.media, headers=_PICTURE)


def _static_routes(prefixes: Iterable[str]) -> list[Route]:
    files = static_files()
    routes = [Route(f"/static/{name}", _static(file)) for name, file in files.items()]
    index = files.get("index.html")
    if index is None:
        return routes
    # The script of the page resolves these addresses.
    pages = ("/", "/rollouts/{rest:path}", "/records/{rest:path}")
    return [*routes, *(Route(f"{prefix}{path}", _static(index)) for prefix in prefixes for path in pages)]


def _static(file: StaticFile) -> _Endpoint:
    headers = {"etag": file.etag, "cache-control": "no-cache"}

    async def answer(request: Request) -> Response:
        if request.headers.get("if-none-match") == file.etag:
            return Response(status_code=304, headers=headers)
        return Response(file.data, media_type=file.media, headers=headers)

    return answer


def _path_number(request: Request, name: str) -> int:
    text: str = request.path_params[name]
    if not _is_number(text):
        raise not_found("there is nothing at this address")
    return int(text)


def _number(text: str, name: str) -> int:
    if not _is_number(text):
        raise RefusedRequestError(400, f"{name} is a whole number")
    return int(text)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS


def _time(text: str) -> float:
    try:
        time = float(text)
    except ValueError:
        time = float("nan")
    if not abs(time) < float("inf"):
        raise RefusedRequestError(400, "since is a number of seconds since 1970")
    return time


def _subject(text: str) -> str:
    if len(text) > rollouts.LONGEST_SUBJECT:
        raise RefusedRequestError(400, f"an id has at most {rollouts.LONGEST_SUBJECT:,} characters")
    return text
