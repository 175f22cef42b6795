"""How one end of a fleet stands, as its daemon's ledger says.

The servers are not asked: a page that somebody looks at costs them nothing. `streamer fleet status` asks them.
"""

from __future__ import annotations

import socket
import sqlite3
import time
from collections.abc import Callable, Iterable

import msgspec

from streamer.config import Config
from streamer.config.fleet_names import host_name, shown_buckets
from streamer.config.fleet_table import SinkKind
from streamer.core.records.model import State
from streamer.core.verdicts.reasons import SENT_AGAIN
from streamer.fleet import origins, owners
from streamer.fleet.connection import CONNECT, LOOK_UP, USE
from streamer.fleet.intake import TAKE
from streamer.fleet.uplink import SEND
from streamer.store.views.snapshot import LedgerStatus, open_ledger
from streamer.web.throttled import Throttled

HOSTS_SHOWN = 50
SILENT_AFTER = 300.0
"""A collector of which nothing came for so many seconds is silent. It may have had nothing to send."""

_LONGEST_BUCKETS = 200
_LINK = frozenset({CONNECT, LOOK_UP, USE, SEND, TAKE, owners.OP})
"""What a daemon is doing when its link fails it."""


class _Collector(msgspec.Struct, frozen=True):
    """A collector: its name, and what became of the lines of its outbox (``delivery.Delivery``).

    It has a name when it has once tried to reach the servers.
    """

    origin: str
    lines: int
    delivered: int
    waiting: int
    behind: int
    undeliverable: dict[str, int]
    missing: int
    sent: int
    again: int


class _Host(msgspec.Struct, frozen=True):
    """A collector: when something of it came last, and how many records it brought (``origins.Heard``)."""

    origin: str
    seen: float
    records: int


class _Writer(msgspec.Struct, frozen=True):
    """A writer: its name, its buckets and how many they are, and the collectors that were heard of last.

    ``known`` are all collectors, ``silent`` those of which nothing came for some minutes, ``again`` records that came
    although they were held.
    """

    name: str = ""
    buckets: str = ""
    owned: int = 0
    hosts: list[_Host] = []
    known: int = 0
    silent: int = 0
    again: int = 0


class FleetNow(msgspec.Struct, frozen=True):
    """An end of a fleet: the fleet's dataset, why its link does not work if it does not, and how it stands.

    One of ``collector`` and ``writer`` is there.
    """

    dataset: str
    trouble: str
    silent_after: float = SILENT_AFTER
    collector: _Collector | None = None
    writer: _Writer | None = None


class FleetReader:
    """Reads how a fleet stands, from the threads of the page.

    Args:
        config: the present configuration.
        now: returns seconds since 1970.
        monotonic: returns seconds that never go back.
    """

    def __init__(
        self,
        config: Config,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._now = now
        self._writer: Throttled[_Writer] = Throttled(self._find_writer, monotonic)

    def read(self, stand: LedgerStatus, failures: Iterable[str]) -> FleetNow | None:
        """Return how it stands; None where this daemon is no part of a fleet.

        Args:
            stand: of this daemon's lines.
            failures: what it cannot do at present.

        Raises:
            StreamerError: the ledger cannot be read.
        """
        config = self._config
        failing = min(_LINK.intersection(failures), default="")
        if not config.source.is_local:
            again = stand.reasons[State.DUPLICATE].get(SENT_AGAIN, 0)
            writer = msgspec.structs.replace(self._writer.get(), again=again)
            return FleetNow(config.fleet.dataset, failing, writer=writer)
        if config.sink.kind is SinkKind.JETSTREAM:
            return FleetNow(config.fleet.dataset, failing, collector=self._collector(stand))
        return None

    def _find_writer(self) -> _Writer:
        with open_ledger(self._config.dataset.ledger) as db:
            if db is None:
                return _Writer()
            db.execute("BEGIN")  # one moment for all that follows
            return self._writer_in(db)

    def _writer_in(self, db: sqlite3.Connection) -> _Writer:
        now = self._now()
        called, owned = origins.called(db), owners.owned(db)
        known, silent = origins.count(db, before=now - SILENT_AFTER)
        return _Writer(
            name=self._named(called),
            buckets=shown_buckets(owned)[:_LONGEST_BUCKETS],
            owned=len(owned),
            hosts=[
                _Host(one.origin, max(0.0, min(one.seen, now)), one.records) for one in origins.heard(db, HOSTS_SHOWN)
            ],
            known=known,
            silent=silent,
        )

    def _collector(self, stand: LedgerStatus) -> _Collector:
        found = stand.delivery
        if found is None:
            lines = stand.dataset_lines + stand.removed_lines
            return _Collector("", lines, 0, lines, stand.dataset_bytes, {}, 0, 0, 0)
        return _Collector(
            origin=self._named(found.collector),
            lines=found.lines,
            delivered=found.delivered,
            waiting=found.waiting,
            behind=found.behind,
            undeliverable=dict(found.undeliverable),
            missing=found.missing,
            sent=found.sent,
            again=found.again,
        )

    def _named(self, own: str) -> str:
        """Return what the fleet calls an end that has this name in its ledger; nothing if it has none yet."""
        return f"{self._config.fleet.name or host_name(socket.gethostname())}.{own}" if own else ""
