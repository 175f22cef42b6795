"""The web UI of one daemon, served from a thread with its own event loop.

So no request delays the daemon's loop, and the web UI answers even while that loop is stuck. If the port is in use,
streamer logs it and retries, and collects records all the same.
"""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import anyio
import uvicorn
from anyio import to_thread
from anyio.from_thread import start_blocking_portal

from streamer.base.address import Address
from streamer.base.errors import UnavailableError
from streamer.base.events import Emit, Event, WebUIFault, WebUIServed, fan_out
from streamer.base.failures import ActiveFailures
from streamer.config import Config
from streamer.daemon.observers.health import Health, Healths
from streamer.web import monitoring
from streamer.web.app import Api, create_app
from streamer.web.distributions import DistributionReader
from streamer.web.guard import Guard
from streamer.web.merged import MergedRegistry, distinct
from streamer.web.metrics import Metrics
from streamer.web.recent import RecentActivity
from streamer.web.state import DatasetLink, StateReader

_OP = "serve the page"
_CONNECTIONS = 64
_BACKLOG = 64
_HEADER_BYTES = 16 << 10
_NOT_IN_URL = re.compile(r"[^A-Za-z0-9._-]")
"""Characters of a dataset's name that its URL cannot contain."""

_SHUTDOWN_SECONDS = 1
"""Seconds that running requests have when the daemon stops."""


class _DatasetUi:
    """The observers and endpoints of one dataset."""

    def __init__(self, config: Config, health: Health, links: Sequence[DatasetLink]) -> None:
        self.metrics = Metrics(config.dataset.path, config.dataset.ledger, health, others=config.others)
        activity = RecentActivity(self._notify)
        self.observe = fan_out(self.metrics, activity)
        self._state = StateReader(config, activity, health, links)
        self._distributions = DistributionReader(config)
        self.api = Api(config, self._state, self._distributions)

    def configure(self, config: Config) -> None:
        """Apply a new configuration."""
        self.api.config = self._state.config = self._distributions.config = config

    def _notify(self) -> None:
        self.api.publisher.notify()


class WebUi:
    """The web UI, and its observer of events: each of several datasets has a URL prefix of its own.

    Args:
        configs: The configuration of each dataset, with an address to listen on. The first one is shown at "/".
        healths: The health of each dataset, by its path.
        emit: Called from the web UI's thread with its address, and with failures to serve it.
    """

    def __init__(self, configs: Sequence[Config], healths: Mapping[Path, Health], emit: Emit) -> None:
        web = configs[0].web
        if web.listen is None:
            raise AssertionError("the page is off")
        self._address: Address = web.listen
        names = distinct(config.dataset.path.name for config in configs)
        slugs = distinct(_NOT_IN_URL.sub("-", name) for name in names)
        links = [
            DatasetLink(name, str(config.dataset.path.absolute()), f"/datasets/{slug}", here=False)
            for name, slug, config in zip(names, slugs, configs, strict=True)
            if len(configs) > 1
        ]
        self._datasets = {
            config.dataset.path: _DatasetUi(config, healths[config.dataset.path], links) for config in configs
        }
        datasets = list(self._datasets.values())
        self._observe = fan_out(*(one.observe for one in datasets))
        self._emit = fan_out(emit, *(one.metrics for one in datasets))
        self._publishers = [one.api.publisher for one in datasets]
        apis = {
            "": datasets[0].api,
            **{link.address: one.api for link, one in zip(links, datasets, strict=False)},
        }
        registries = {name: one.metrics.registry for name, one in zip(names, datasets, strict=True)}
        routes = (
            monitoring.routes(MergedRegistry(registries), Healths(list(healths.values())))
            if links
            else monitoring.routes(datasets[0].metrics.registry, *healths.values())
        )
        self._app = Guard(create_app(apis, self._emit, routes), self._address, web.token)

    def __call__(self, event: Event) -> None:
        """Record an event that concerns no single dataset."""
        self._observe(event)

    def of(self, dataset: Path) -> Emit:
        """Return the observer of one dataset."""
        return self._datasets[dataset].observe

    def configure(self, config: Config) -> None:
        """Apply a new configuration; the address and the token stay."""
        self._datasets[config.dataset.path].configure(config)

    @contextmanager
    def served(self) -> Iterator[None]:
        """Serve the web UI from a thread until the block ends."""
        with start_blocking_portal(name="page") as portal:
            stop = portal.call(anyio.Event)
            served = portal.start_task_soon(self._run, stop)
            try:
                yield
            finally:
                portal.call(stop.set)
                served.result()

    async def _run(self, stop: anyio.Event) -> None:
        """Serve until ``stop`` is set. A bug in the web UI ends only the web UI."""
        try:
            await self._serve(stop)
        except Exception as error:  # noqa: BLE001 - no error may end the collection of records
            self._emit(WebUIFault("any more requests", repr(error)))

    async def _serve(self, stop: anyio.Event) -> None:
        async with anyio.create_task_group() as tasks:
            for publisher in self._publishers:
                tasks.start_soon(publisher.run)
            listener = await self._listener(stop)
            if listener is not None:
                await self._serve_requests(listener, stop)
            tasks.cancel_scope.cancel()

    async def _listener(self, stop: anyio.Event) -> socket.socket | None:
        """Return the socket, with retries until it can be opened; None if the daemon stops before."""
        failures = ActiveFailures(self._emit)
        while not stop.is_set():
            try:
                listener = await to_thread.run_sync(_listen, self._address, abandon_on_cancel=True)
            except OSError as error:
                with anyio.move_on_after(failures.begin(_cannot_listen(self._address, error))):
                    await stop.wait()
            else:
                failures.over(_OP)
                self._emit(WebUIServed(_url(self._address, listener)))
                return listener
        return None

    async def _serve_requests(self, listener: socket.socket, stop: anyio.Event) -> None:
        logging.getLogger("uvicorn").addHandler(logging.NullHandler())  # keeps its messages out of the daemon's log
        logging.getLogger("uvicorn").propagate = False
        config = uvicorn.Config(
            self._app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
            h11_max_incomplete_event_size=_HEADER_BYTES,
        )
        config.load()
        server = uvicorn.Server(config)
        # Not serve(): that takes over the daemon's signals, and wakes up ten times a second.
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[listener])
        await stop.wait()
        for publisher in self._publishers:
            publisher.stop()
        await server.shutdown(sockets=[listener])


def _listen(address: Address) -> socket.socket:
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, place = min(found, key=lambda one: one[0] != socket.AF_INET)
    return socket.create_server(place[:2], family=family, backlog=_BACKLOG)


def _cannot_listen(address: Address, error: OSError) -> UnavailableError:
    return UnavailableError(
        _OP,
        str(address),
        error.strerror or str(error),
        f"it is tried again; see who has it (ss -ltnp 'sport = :{address.port}'), or set web.listen to another port;"
        " records are collected all the same",
    )


def _url(address: Address, listener: socket.socket) -> str:
    host = socket.gethostname() if address.host in ("0.0.0.0", "::") else address.host  # noqa: S104 - not bound to here
    return f"http://{Address(host, listener.getsockname()[1])}/"
