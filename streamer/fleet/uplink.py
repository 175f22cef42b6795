"""The uplink of a collector: it publishes the lines of the outbox, each until a writer holds it.

Invariants
- A line committed to the outbox waits there until a receipt covers it, whatever happens to link, stream and writers.
- A line is sent again only if its acknowledgement does not arrive, or on evidence (``receipts``) that it is lost.
- Memory is bounded however much waits: limited messages in flight, and a few marks for each partition.
- The pipeline never waits for it: they share only the ledger, in short transactions.

An *epoch* is one run of an uplink. In each epoch lines are numbered anew by partition, beginning with the first one
that is not delivered, so that nothing depends on an earlier epoch, or on another copy of the same ledger.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from streamer.base.env import Env
from streamer.base.failures import ActiveFailures
from streamer.config import Config
from streamer.fleet.backlog import Backlog
from streamer.fleet.end import FleetEnd, SessionContext
from streamer.fleet.in_flight import InFlightMessages
from streamer.fleet.outbox import Outbox
from streamer.fleet.permissions import Role
from streamer.fleet.uplink_session import SEND, UplinkSession
from streamer.store.ledger import delivery
from streamer.store.ledger.ledger import Ledger


class Uplink(FleetEnd):
    """Delivers the lines of one outbox."""

    _role, _op = Role.COLLECTOR, SEND

    def __init__(self, config: Config, ledger: Ledger, env: Env, failures: ActiveFailures) -> None:
        super().__init__(config, ledger, env, failures)
        self._in_flight = InFlightMessages()
        self._backlog = Backlog(Outbox(config.dataset.path, ledger, env.files), ledger, config.dedup.by, env.emit)

    def committed(self, length: int, keys: Iterable[tuple[bytes, int]] = ()) -> None:
        """Note that the outbox is committed up to ``length``; ``keys``: (key, log offset) of its newest lines."""
        self._backlog.committed(length, keys)

    async def undelivered(self) -> int | None:
        """Return the number of records that no writer has confirmed to hold."""
        found = await self._ledger.look(delivery.delivery)
        return None if found is None else found.waiting

    async def keep_from(self) -> int | None:
        """Return the log offset from which on lines of the outbox may wait."""
        return await self._ledger.look(delivery.kept_from) or 0

    @property
    def is_at_rest(self) -> bool:
        """Say whether every line of the outbox is delivered."""
        return self._backlog.is_delivered

    @staticmethod
    def _register(db: sqlite3.Connection, new: str) -> str:
        return delivery.prepare(db, collector=new)

    async def _run_session(self, context: SessionContext) -> None:
        partitions = context.stream.partitions
        if self._backlog.needs_epoch(partitions) or self._in_flight.exceed(context.link.most_bytes):
            self._in_flight.remove_all()
            await self._backlog.begin(partitions)
        await UplinkSession(context, self._backlog, self._in_flight, self._emit).run()
