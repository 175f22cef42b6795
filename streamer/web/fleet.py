"""Status of one end of a fleet for the web UI, from its daemon's ledger.

The servers are not asked: the web UI costs them nothing. `streamer fleet status` asks them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import msgspec

from streamer.config import Config
from streamer.config.fleet_names import shown_partitions
from streamer.config.fleet_table import SinkKind
from streamer.core.records.model import State
from streamer.core.verdicts.reasons import SENT_AGAIN
from streamer.fleet import owners, producers
from streamer.fleet.connection import CONNECT, LOOK_UP, USE
from streamer.fleet.end import full_name
from streamer.fleet.intake_session import TAKE
from streamer.fleet.uplink_session import SEND
from streamer.store.views.snapshot import LedgerStatus, open_ledger
from streamer.web.throttled import Throttled

HOSTS_SHOWN = 50
SILENT_AFTER = 300.0
"""A collector that sent nothing for so many seconds is silent. It may have had nothing to send."""

_LONGEST_PARTITIONS = 200
_LINK = frozenset({CONNECT, LOOK_UP, USE, SEND, TAKE, owners.OP})
"""Operations that fail with the link."""


class _Collector(msgspec.Struct, frozen=True):
    """A collector: its producer id (empty before its first link), and its delivery status (``delivery.Delivery``)."""

    producer: str = msgspec.field(name="origin")
    lines: int
    delivered: int
    waiting: int
    behind: int
    undeliverable: dict[str, int]
    missing: int
    sent: int
    again: int


class _Host(msgspec.Struct, frozen=True):
    """A collector: when its last message came, and how many records it has brought."""

    producer: str = msgspec.field(name="origin")
    seen: float
    records: int


class _Writer(msgspec.Struct, frozen=True):
    """A writer: its name, its partitions and their number, and the most recently active collectors.

    ``known`` counts all collectors, ``silent`` those that sent nothing for some minutes, ``again`` records that came
    although they were held.
    """

    name: str = ""
    partitions: str = msgspec.field(name="buckets", default="")
    owned: int = 0
    hosts: list[_Host] = []
    known: int = 0
    silent: int = 0
    again: int = 0


class FleetNow(msgspec.Struct, frozen=True):
    """An end of a fleet: the fleet's dataset, the operation that fails (or empty), and its status.

    One of ``collector`` and ``writer`` is set.
    """

    dataset: str
    trouble: str
    silent_after: float = SILENT_AFTER
    collector: _Collector | None = None
    writer: _Writer | None = None


class FleetReader:
    """Reads the status of a fleet's end, from the threads of the web UI.

    Args:
        config: The present configuration.
        now: Returns seconds since 1970.
        monotonic: Returns monotonic seconds.
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
        """Return the status; None if this daemon is no part of a fleet.

        Args:
            stand: Status of the ledger.
            failures: Operations that fail at present.

        Raises:
            StreamerError: The ledger cannot be read.
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
        now = self._now()
        with open_ledger(self._config.dataset.ledger) as db:
            if db is None:
                return _Writer()
            db.execute("BEGIN")  # one snapshot for all queries
            owned, latest = owners.owned(db), producers.latest(db, HOSTS_SHOWN)
            known, silent = producers.count(db, before=now - SILENT_AFTER)
            return _Writer(
                name=full_name(self._config.fleet, producers.writer_name(db)),
                partitions=shown_partitions(owned)[:_LONGEST_PARTITIONS],
                owned=len(owned),
                hosts=[_Host(one.producer, max(0.0, min(one.seen, now)), one.records) for one in latest],
                known=known,
                silent=silent,
            )

    def _collector(self, stand: LedgerStatus) -> _Collector:
        found = stand.delivery
        if found is None:
            lines = stand.dataset_lines + stand.removed_lines
            return _Collector("", lines, 0, lines, stand.dataset_bytes, {}, 0, 0, 0)
        return _Collector(
            producer=full_name(self._config.fleet, found.collector),
            lines=found.lines,
            delivered=found.delivered,
            waiting=found.waiting,
            behind=found.behind,
            undeliverable=dict(found.undeliverable),
            missing=found.missing,
            sent=found.sent,
            again=found.again,
        )
