"""One end of a fleet, collector or writer: it keeps a link to the servers and runs a session over each link."""

from __future__ import annotations

import secrets
import socket
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from streamer.base.env import Env
from streamer.base.errors import StreamerError, UnavailableError
from streamer.base.failures import ActiveFailures
from streamer.base.files import Clock
from streamer.config import Config
from streamer.config.fleet_names import Names, host_name
from streamer.config.fleet_table import Fleet
from streamer.fleet import connection, durability
from streamer.fleet.connection import CONNECT, Link, Stream
from streamer.fleet.permissions import Role
from streamer.store.ledger.ledger import Ledger


def full_name(fleet: Fleet, own: str) -> str:
    """Return the name of an end in the fleet: its host's name, and its ``own`` from the ledger; empty without one."""
    return f"{fleet.name or host_name(socket.gethostname())}.{own}" if own else ""


class LinkStatus:
    """Whether an end of a fleet works at present. ``error`` says why not; it is None if it works.

    Args:
        failures: Active failures of this end, or of an earlier one of the same dataset.
        on_failure: Called after each failure.
    """

    def __init__(self, failures: ActiveFailures, on_failure: Callable[[], None]) -> None:
        self._failures = failures
        self._on_failure = on_failure
        self.error: UnavailableError | None = None

    def fails(self, error: StreamerError) -> float:
        """Report a failure; return the seconds to wait before a retry."""
        self.error = UnavailableError(error.op, error.where, error.cause, error.hint)
        pause = self._failures.begin(error)
        self._on_failure()
        return pause

    def works(self) -> None:
        """Report that all failures are over."""
        self.error = None
        self._failures.all_over()


class SessionContext(NamedTuple):
    """An open link, and what every session over it needs: ``name`` is that of this end, ``names`` are the fleet's."""

    link: Link
    stream: Stream
    names: Names
    name: str
    status: LinkStatus
    clock: Clock


class FleetEnd(ABC):
    """A collector or writer, and its link to the servers.

    Args:
        config: The fleet, and what makes two records duplicates.
        ledger: Ledger of this end.
        env: Clock, events and system calls.
        failures: Active failures of this end, or of an earlier one of the same dataset.
        on_failure: Called after each failure.

    Raises:
        MissingExtraError: The NATS client is not installed.
    """

    _role: Role
    _op: str

    def __init__(
        self,
        config: Config,
        ledger: Ledger,
        env: Env,
        failures: ActiveFailures,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        connection.client_package()
        self._fleet = config.fleet
        self._by = config.dedup.by
        self._ledger = ledger
        self._clock = env.clock
        self._emit = env.emit
        self._names = Names(config.fleet.prefix, config.fleet.dataset)
        self._status = LinkStatus(failures, on_failure)
        self._name = ""

    @property
    def error(self) -> UnavailableError | None:
        """Why no record can be sent or received now; None if it works."""
        return self._status.error

    async def run(self) -> None:
        """Run one link after another until cancelled, with a pause after each failure."""
        await durability.report(self._fleet, self._emit)
        while True:
            try:
                await self._one_link()
            except StreamerError as error:  # also a wrong setting: meanwhile records wait at their collectors
                pause = self._status.fails(error)
            except Exception as error:  # noqa: BLE001 - reported with its name, and retried over another link
                pause = self._status.fails(connection.unexpected(self._op, self._names.stream, error))
            await self._clock.sleep(pause)

    async def _one_link(self) -> None:
        if not self._name:
            own = await self._ledger.transact(partial(self._register, new=secrets.token_hex(4)))
            self._name = full_name(self._fleet, own)
        async with connection.connected(self._fleet, f"streamer {self._role} {self._name}") as link:
            stream = await connection.stream_of(link, self._names)
            connection.check_dedup(stream, self._names, self._by)
            with connection.answered(link, self._op, self._names.stream):
                await self._run_session(
                    SessionContext(link, stream, self._names, self._name, self._status, self._clock)
                )
        cause = link.complaint or "the connection was lost"
        raise UnavailableError(CONNECT, link.where, cause, "see nats-server; it is retried")

    @staticmethod
    @abstractmethod
    def _register(db: sqlite3.Connection, new: str) -> str:
        """Create the tables of this end; return its own name, ``new`` for the first time."""

    @abstractmethod
    async def _run_session(self, context: SessionContext) -> None:
        """Send or receive records until the link is lost."""
