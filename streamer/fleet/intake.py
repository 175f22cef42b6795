"""The intake of a writer: records that have qualified at their collectors, as one more inbox of the pipeline.

Invariants
- A message is acknowledged, and a receipt sent, only after the ledger commit that holds its line, key or dead letter.
  A message pulled and not committed comes again, to this writer or to the next owner.
- A writer pulls from a partition only while it owns it (``owners``).
- No claim of a message is trusted (``arrivals``).
- Memory is bounded: each partition has one pending request, limited in messages and bytes.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

import anyio
from anyio import to_thread

from streamer.base.env import Env
from streamer.base.errors import UnavailableError
from streamer.base.failures import ActiveFailures
from streamer.config import Config
from streamer.core.records.dataset_line import keys_meaning
from streamer.core.records.model import Cursor, Span
from streamer.fleet import producers
from streamer.fleet.arrivals import Arrival, PulledMessage, decoded, to_items, verified
from streamer.fleet.beside import to_its_end
from streamer.fleet.connection import Link
from streamer.fleet.end import FleetEnd, SessionContext
from streamer.fleet.intake_session import TAKE, IntakeSession
from streamer.fleet.owners import Owners
from streamer.fleet.permissions import Role
from streamer.sources.inbox import Work
from streamer.sources.reader import Budget
from streamer.store.ledger.ledger import Ledger

_GIVE_BACK_SECONDS = 5.0
"""Time limit to give messages back at the end; messages not given back come again later."""


class Intake(FleetEnd):
    """Receives the records of a fleet; ``news`` is called when one has come, or after a failure."""

    _role, _op = Role.WRITER, TAKE
    has_news = False

    def __init__(
        self,
        config: Config,
        ledger: Ledger,
        env: Env,
        failures: ActiveFailures,
        news: Callable[[], None],
    ) -> None:
        super().__init__(config, ledger, env, failures, news)
        self._news = news
        self._wanted = config.source.buckets
        self._pulled: deque[PulledMessage] = deque()
        self._judged: list[PulledMessage] = []
        self._session: IntakeSession | None = None
        self._partitions = 0

    # -- the inbox -------------------------------------------------------------------------------------------

    def look(self, _paths: object) -> None:
        """Ignore changed paths: records come over the link."""

    async def scan(self) -> None:
        """Scan nothing: there is no folder."""

    async def pending(self, spans: Sequence[tuple[Span, Cursor]], _budget: Budget) -> Work:
        """Put spans back: an acknowledged message cannot be read again."""
        taken = [span for span, _ in spans]
        return Work((), (), taken, taken)

    @property
    def is_at_rest(self) -> bool:
        """Say whether the stream holds no more records for this writer."""
        return not self._pulled and self._session is not None and self._session.is_at_rest

    async def new(self, budget: Budget) -> Work | None:
        """Return the next batch of records; None if there are none."""
        pulled: list[PulledMessage] = []
        while self._pulled and not budget.spent:
            pulled.append(self._pulled.popleft())
            budget.lines -= 1
            budget.size -= len(pulled[-1].body)
        if not pulled:
            return None
        session = self._session
        if session is None:
            return Work(())  # the stream delivers all of them again
        found = [decoded(one) for one in pulled]
        names = dict.fromkeys(one.message.object for one in found if one.message is not None and one.message.object)
        try:
            fetched = await session.fetch(names)
        except UnavailableError:
            session.give_up()  # so that these messages, which count as pending, are delivered again
            return Work(())
        self._judged = pulled
        found = await to_thread.run_sync(self._verified, found, fetched)
        ids = [one.id for one in found if one.id is not None]
        already_held = await self._ledger.look(partial(producers.already_held, ids=ids))
        items, cursors = await to_items(found, already_held, self._ledger, self._clock.now())
        held = [one.held for one in found if one.held is not None]
        progress: dict[tuple[str, int, str], int] = {}

        def also(db: sqlite3.Connection) -> None:
            progress.update(producers.store(db, held, self._clock.now()))

        async def done() -> None:
            self._judged = []
            await session.done(pulled, fetched, progress)

        return Work(items, cursors, also=also, done=done)

    def _verified(self, found: Sequence[Arrival], fetched: Mapping[str, bytes | None]) -> list[Arrival]:
        return [verified(one, fetched, self._by, self._partitions) for one in found]

    # -- the links -------------------------------------------------------------------------------------------

    @staticmethod
    def _register(db: sqlite3.Connection, new: str) -> str:
        producers.prepare(db)
        return producers.name_writer(db, new)

    async def _run_session(self, context: SessionContext) -> None:
        self._partitions = context.stream.partitions
        owners = Owners(context, self._ledger, keys_meaning(self._by), self._emit)
        session = IntakeSession(context, self._ledger, owners, self._wanted, self._on_pulled)
        self._session = session
        try:
            await session.run()
        finally:
            self._session = None
            await to_its_end(partial(self._give_back, context.link, session))

    async def _give_back(self, link: Link, session: IntakeSession) -> None:
        """Have the stream deliver uncommitted messages again at once; otherwise it does so after a timeout."""
        with anyio.move_on_after(_GIVE_BACK_SECONDS), suppress(Exception):
            if not link.lost.is_set():
                await session.drain()
                for one in (*self._judged, *self._pulled):
                    await link.client.publish(one.reply, b"-NAK")
                await link.client.flush()  # a connection closed at once would lose them
        self._judged = []
        self._pulled.clear()

    def _on_pulled(self, pulled: PulledMessage) -> None:
        self._pulled.append(pulled)
        self._news()
