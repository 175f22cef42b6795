"""Select rollouts in the trace database, and read their decisions batch by batch.

Invariants
- A session is checked when one of its outcome rows is new or changed, and in sweeps over all outcomes of the ledger:
  at the start, after too many new ones to hold in memory, and slowly after each change of the database. The sessions
  held in memory are a saving, the sweep is the truth.
- The cursor of a session is in the ledger, committed with the verdicts of its decisions.
- With ``both``, a session is not read if the ledger has a line of its shard. The time to wait for a shard decides where
  a record is read, never whether: the same record has the same key.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from anyio import to_thread

from streamer.base.env import Env
from streamer.base.errors import UnavailableError
from streamer.base.events import ShardOverwritten
from streamer.base.failures import ActiveFailures
from streamer.base.files import path_text
from streamer.config import From, Source
from streamer.core.records.model import Cursor, Line, Outcome, Span
from streamer.core.records.trace_messages import Decision
from streamer.core.verdicts.join import JoinRule
from streamer.core.verdicts.judge import Item
from streamer.sources.inbox import Work, rest_of
from streamer.sources.reader import Budget, Overwritten
from streamer.sources.rollout_reader import FIRST_ROW, RolloutReader, SessionRead, ToRead
from streamer.store.ledger.ledger import Ledger
from streamer.store.ledger.paths import session_at, session_path

_CHUNK = 100
"""Sessions or outcomes that are checked together."""

_MAX_HELD = 10_000
"""Sessions held in memory; a sweep finds further ones."""

_NO_INODE = -1
_SWEEP_PAUSE = 0.5
"""Seconds between two steps of a sweep over known sessions."""

_LAST_US = 1 << 62
"""Replaces a created_at that is no time: the latest of all, as in the join."""


class RolloutInbox:
    """Reads each decision of rollouts that qualify once, by the cursors of the ledger."""

    def __init__(self, source: Source, ledger: Ledger, env: Env, failures: ActiveFailures) -> None:
        self._from = source.conversations
        self._shard_wait = source.database_after if self._from is From.BOTH else 0.0
        self._reader = RolloutReader(source.database, source.max_line_bytes, token=source.token)
        self._ledger = ledger
        self._clock = env.clock
        self._emit = env.emit
        self._failures = failures
        self._retry_at = 0.0
        self.error: UnavailableError | None = None
        self._rule = ""
        self._join = JoinRule.AS_OF
        self._pending: dict[str, bool] = {}  # session -> whether the wait for its shard has ended
        self._waits: dict[str, float] = {}  # session -> end of the wait for its shard
        self._times = self._reader.times()
        self._sweep_all()

    def _sweep_all(self) -> None:
        """Start a sweep without pauses, to find sessions that are not held in memory."""
        self._swept_to: int | None = 0
        self._catching_up = True
        self._next_sweep = 0.0

    def configure(self, rule: str, join: JoinRule) -> None:
        """Set the ledger's name of the condition, and the join rule."""
        self._rule = rule
        self._join = join

    def close(self) -> None:
        """Close the database."""
        self._reader.close()

    def wait_no_longer(self) -> None:
        """Read every rollout without a shard now: no further shards are expected."""
        self._shard_wait = 0.0
        self._waits = dict.fromkeys(self._waits, 0.0)

    def look(self, outcomes: Iterable[Outcome]) -> None:
        """Check the sessions of new or changed outcome rows."""
        if self._from is From.SHARDS:
            return
        for row in outcomes:
            self._add(row.session)

    def _add(self, session: str) -> None:
        if len(self._pending) < _MAX_HELD:
            self._pending.setdefault(session, False)
        else:
            self._sweep_all()

    @property
    def has_news(self) -> bool:
        """Whether some sessions are still to be checked, or wait for their shard."""
        return bool(self._pending or self._waits) or (self._catching_up and self._from is not From.SHARDS)

    @property
    def is_open(self) -> bool:
        """Whether the database may be read now; False during the backoff after a failure."""
        return self._clock.monotonic() >= self._retry_at

    async def pending(self, spans: Sequence[tuple[Span, Cursor]], budget: Budget) -> Work | None:
        """Read the decisions of spans pending re-evaluation; None while the database cannot be read."""
        try:
            results = await to_thread.run_sync(self._reader.read_spans, spans, budget)
        except UnavailableError as error:
            self._failed(error)
            return None
        self._succeeded()
        cursors = {cursor.id: cursor for _, cursor in spans}
        gone = {span.shard_id for span, result in results if isinstance(result, Overwritten)}
        for number in gone:
            await self._overwritten(cursors[number])
        items: list[Item] = []
        taken: list[Span] = []
        pending: list[Span] = []
        for span, result in results:
            if isinstance(result, list) and span.shard_id not in gone:
                path = cursors[span.shard_id].path
                found = _items(path, span.shard_id, span.start, span.line, result, span.since)
                items += found
                taken.append(span)
                pending += rest_of(span, [item.line for item in found])
        return Work(items, (), taken, (), pending)

    async def new(self, budget: Budget) -> Work | None:
        """Read new decisions; None if no session is pending, or the database cannot be read.

        Each call reads at least one decision, or removes at least one session or outcome from the inbox.
        """
        if self._from is From.SHARDS or not self.is_open:
            return None
        self.error = None
        self._end_waits()
        if not self._pending and not await self._sweep():
            return None
        todo = await self._cursors_for(list(islice(self._pending, _CHUNK)))
        if not todo:
            return Work(())
        try:
            results = await to_thread.run_sync(self._reader.read, todo, self._join, budget)
        except UnavailableError as error:
            self._failed(error)
            return None
        self._succeeded()
        return await self._new_work(todo, results)

    def _failed(self, error: UnavailableError) -> None:
        self.error = error
        self._retry_at = self._clock.monotonic() + self._failures.begin(error)

    def _succeeded(self) -> None:
        self.error = None
        self._failures.all_over()

    def _end_waits(self) -> None:
        now = self._clock.monotonic()
        for session in [session for session, until in self._waits.items() if until <= now]:
            del self._waits[session]
            self._pending[session] = True

    async def _sweep(self) -> bool:
        """Add the sessions of the next outcomes of a sweep; return False if no step is pending."""
        now = self._clock.monotonic()
        if now < self._next_sweep:
            return False
        if self._swept_to is None:
            times = self._reader.times()
            if times == self._times:
                return False
            self._times, self._swept_to = times, 0
        sessions, self._swept_to = await self._ledger.qualifying(self._swept_to, self._rule, _CHUNK)
        self._catching_up = self._catching_up and self._swept_to is not None
        self._next_sweep = 0.0 if self._catching_up else now + _SWEEP_PAUSE
        for session in sessions:
            self._add(session)
        return True

    async def _cursors_for(self, sessions: Sequence[str]) -> list[ToRead]:
        """Return the cursors to read from; sessions that must not be read leave the inbox."""
        outcomes = await self._ledger.outcomes(sessions)
        in_shards = await self._ledger.sessions_in_shards(sessions) if self._from is From.BOTH else set()
        cursors, _ = await self._ledger.cursors({session_path(session): _NO_INODE for session in sessions})
        todo: list[ToRead] = []
        for session in sessions:
            rows = outcomes.get(session, ())
            qualifying = [row for row in rows if row.qualifies and row.rule == self._rule]
            if not qualifying or session in in_shards or self._waits_for_shard(session, qualifying):
                self._finish(session)
                continue
            path = session_path(session)
            cursor = cursors.get(path) or Cursor(path, id=self._ledger.new_shard_id())
            todo.append(ToRead(cursor, max(map(_created, rows))))
        return todo

    def _waits_for_shard(self, session: str, qualifying: Sequence[Outcome]) -> bool:
        """Return whether to wait for the session's shard, and set the end of the wait."""
        if self._pending[session] or not self._shard_wait or len(self._waits) >= _MAX_HELD:
            return False
        age = self._clock.now() - max(map(_created, qualifying)) / 1e6
        if age >= self._shard_wait:
            return False
        left = self._shard_wait - max(0.0, age)  # a time in the future is not credible
        self._waits.setdefault(session, self._clock.monotonic() + left)
        return True

    async def _new_work(self, todo: Sequence[ToRead], results: Sequence[SessionRead | Overwritten]) -> Work:
        cursors: list[Cursor] = []
        items: list[Item] = []
        since = self._clock.now()
        for one, result in zip(todo, results, strict=False):
            before = one.cursor
            if isinstance(result, Overwritten):
                await self._overwritten(before)
                continue
            if not result.more:
                self._finish(session_at(before.path))
            if result.decisions:
                cursors.append(result.cursor)
                start, line = before.offset, before.lines + 1
                items += _items(before.path, before.id, start, line, result.decisions, since)
        return Work(items, cursors)

    def _finish(self, session: str) -> None:
        self._pending.pop(session, None)

    async def _overwritten(self, cursor: Cursor) -> None:
        """Read the session from its start: its database was replaced."""
        lost = await self._ledger.overwritten(cursor.id)
        self._emit(ShardOverwritten(cursor.path, lost))
        self._add(session_at(cursor.path))


def _items(
    path: str, shard_id: int, start: int, number: int, decisions: Iterable[Decision], since: float
) -> list[Item]:
    """Return decisions as consecutive lines without gaps, the first one beginning at ``start``."""
    items: list[Item] = []
    shard = path_text(path)
    for decision in decisions:
        start, stop = max(start, min(decision.first, FIRST_ROW)), decision.last + 1
        items.append(Item(Line(shard, number, start, stop, None), shard_id, since, decision))
        start, number = stop, number + 1
    return items


def _created(row: Outcome) -> int:
    return _LAST_US if row.created_us is None else row.created_us
