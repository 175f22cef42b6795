"""The page of one daemon, served from a thread with an event loop of its own.

So nothing that is asked holds up the daemon's loop, and the page answers even while that is stuck. What cannot be
served (a port that is in use) is a trouble like any other: it is told, and tried again; records are collected all the
same.
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
from streamer.web.board import Board
from streamer.web.distributions import DistributionReader
from streamer.web.guard import Guard
from streamer.web.metrics import Metrics
from streamer.web.state import DatasetLink, StateReader
from streamer.web.together import Together, distinct

_OP = "serve the page"
_CONNECTIONS = 64
_BACKLOG = 64
_HEADER_BYTES = 16 << 10
_UNFIT = re.compile(r"[^A-Za-z0-9._-]")
"""What an address does not take of the name of a dataset."""

_LAST_ANSWERS = 1
"""Seconds that answers under way have when the daemon ends."""


class _One:
    """What observes and shows one dataset."""

    def __init__(self, config: Config, health: Health, links: Sequence[DatasetLink]) -> None:
        self.metrics = Metrics(config.dataset.path, config.dataset.ledger, health, others=config.others)
        board = Board(self._poke)
        self.observe = fan_out(self.metrics, board)
        self._state = StateReader(config, board, health, links)
        self._distributions = DistributionReader(config)
        self.api = Api(config, self._state, self._distributions)

    def configure(self, config: Config) -> None:
        """Show what is in force from now on."""
        self.api.config = self._state.config = self._distributions.config = config

    def _poke(self) -> None:
        self.api.publisher.poke()


class Page:
    """An observer, and what shows what it observed: each dataset below an address of its own if there are several.

    Args:
        configs: the configuration for each dataset, with an address to listen at. The first one is shown at "/".
        healths: how the life of each is, by its path.
        emit: told of where the page is, and of what keeps it from being served; from a thread of the page.
    """

    def __init__(self, configs: Sequence[Config], healths: Mapping[Path, Health], emit: Emit) -> None:
        web = configs[0].web
        if web.listen is None:
            raise AssertionError("the page is off")
        self._address: Address = web.listen
        names = distinct(config.dataset.path.name for config in configs)
        slugs = distinct(_UNFIT.sub("-", name) for name in names)
        links = [
            DatasetLink(name, str(config.dataset.path.absolute()), f"/datasets/{slug}", here=False)
            for name, slug, config in zip(names, slugs, configs, strict=True)
            if len(configs) > 1
        ]
        self._each = {config.dataset.path: _One(config, healths[config.dataset.path], links) for config in configs}
        all_of_them = list(self._each.values())
        self._observe = fan_out(*(one.observe for one in all_of_them))
        self._emit = fan_out(emit, *(one.metrics for one in all_of_them))
        self._publishers = [one.api.publisher for one in all_of_them]
        apis = {
            "": all_of_them[0].api,
            **{link.address: one.api for link, one in zip(links, all_of_them, strict=False)},
        }
        registries = {name: one.metrics.registry for name, one in zip(names, all_of_them, strict=True)}
        routes = (
            monitoring.routes(Together(registries), Healths(list(healths.values())))
            if links
            else monitoring.routes(all_of_them[0].metrics.registry, *healths.values())
        )
        self._app = Guard(create_app(apis, self._emit, routes), self._address, web.token)

    def __call__(self, event: Event) -> None:
        """Take note of an event that is about no single dataset."""
        self._observe(event)

    def of(self, dataset: Path) -> Emit:
        """Return who takes note of the events of one dataset."""
        return self._each[dataset].observe

    def configure(self, config: Config) -> None:
        """Show what is in force from now on; the address and the token stay."""
        self._each[config.dataset.path].configure(config)

    @contextmanager
    def served(self) -> Iterator[None]:
        """Serve the page from a thread, until the block ends."""
        with start_blocking_portal(name="page") as portal:
            stop = portal.call(anyio.Event)
            served = portal.start_task_soon(self._live, stop)
            try:
                yield
            finally:
                portal.call(stop.set)
                served.result()

    async def _live(self, stop: anyio.Event) -> None:
        """Serve until told to stop. A fault of the page ends it, and nothing else."""
        try:
            await self._serve(stop)
        except Exception as error:  # noqa: BLE001 - whatever it is, records go on
            self._emit(WebUIFault("any more requests", repr(error)))

    async def _serve(self, stop: anyio.Event) -> None:
        async with anyio.create_task_group() as tasks:
            for publisher in self._publishers:
                tasks.start_soon(publisher.run)
            listener = await self._listener(stop)
            if listener is not None:
                await self._answer(listener, stop)
            tasks.cancel_scope.cancel()

    async def _listener(self, stop: anyio.Event) -> socket.socket | None:
        """Return the socket, as soon as it can be had; None if the daemon ends before."""
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

    async def _answer(self, listener: socket.socket, stop: anyio.Event) -> None:
        logging.getLogger("uvicorn").addHandler(logging.NullHandler())  # what it has to say is not for a log of ours
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
            timeout_graceful_shutdown=_LAST_ANSWERS,
            h11_max_incomplete_event_size=_HEADER_BYTES,
        )
        config.load()
        server = uvicorn.Server(config)
        # Not serve(): that takes the signals, which are the daemon's, and wakes ten times a second.
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
