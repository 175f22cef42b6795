"""Which rollouts are to be read from the trace database, and their decisions, batch by batch.

Invariants
- A session is looked at when one of its outcome rows is new or changed, and in sweeps over all outcomes that the
  ledger holds: at the start, when too many were new at once to be held, and slowly after each change of the database.
  What is held in memory is a saving, the sweep is the truth.
- Where a session was read to is in the ledger, committed with the verdicts of what was read.
- With ``both``, a session of which the ledger has a line of a shard is not read. How long a shard is waited for decides
  where a record is read, never whether: the same record has the same key.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from anyio import to_thread

from streamer.base.env import Env
from streamer.base.errors import UnavailableError
from streamer.base.events import ShardOverwritten
from streamer.base.failures import ActiveFailures
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
"""Sessions or outcomes that are looked at together."""

_HELD = 10_000
"""Sessions that are held at once; beyond them, a sweep finds the others."""

_NO_INODE = -1
_SWEEP_PAUSE = 0.5
"""Seconds between two steps of a sweep over sessions that were read before."""

_LAST_US = 1 << 62
"""Stands for a created_at that is no time: after all others, as in the join."""


class RolloutInbox:
    """Decisions of rollouts that qualify, each once, as far as the ledger's cursors say."""

    def __init__(self, source: Source, ledger: Ledger, env: Env, failures: ActiveFailures) -> None:
        self._from = source.conversations
        self._patience = source.database_after if self._from is From.BOTH else 0.0
        self._reader = RolloutReader(source.database, source.max_line_bytes, token=source.token)
        self._ledger = ledger
        self._clock = env.clock
        self._emit = env.emit
        self._failures = failures
        self._try_again = 0.0
        self.error: UnavailableError | None = None
        self._rule = ""
        self._join = JoinRule.AS_OF
        self._wanted: dict[str, bool] = {}  # whether its shard was waited for
        self._waits: dict[str, float] = {}  # for its shard, until when
        self._times = self._reader.times()
        self._sweep_all()

    def _sweep_all(self) -> None:
        """Begin a sweep that does not pause: it has to find what is not held."""
        self._swept_to: int | None = 0
        self._behind = True
        self._next_sweep = 0.0

    def configure(self, rule: str, join: JoinRule) -> None:
        """Look for outcomes that qualify under the condition of this name from now on."""
        self._rule = rule
        self._join = join

    def close(self) -> None:
        """Let go of the database."""
        self._reader.close()

    def wait_no_longer(self) -> None:
        """Take every rollout without a shard at once: nothing more is to come."""
        self._patience = 0.0
        self._waits = dict.fromkeys(self._waits, 0.0)

    def look(self, outcomes: Iterable[Outcome]) -> None:
        """Look at the sessions of outcome rows that are new or changed."""
        if self._from is From.SHARDS:
            return
        for row in outcomes:
            self._want(row.session)

    def _want(self, session: str) -> None:
        if len(self._wanted) < _HELD:
            self._wanted.setdefault(session, False)
        else:
            self._sweep_all()

    @property
    def has_news(self) -> bool:
        """Say whether rollouts are known that are still to be looked at, or whose shard is waited for."""
        return bool(self._wanted or self._waits) or (self._behind and self._from is not From.SHARDS)

    @property
    def is_open(self) -> bool:
        """Say whether the database may be read now: after a failure there is a pause."""
        return self._clock.monotonic() >= self._try_again

    async def due(self, spans: Sequence[tuple[Span, Cursor]], budget: Budget) -> Work | None:
        """Return the decisions of spans that have to be judged again; None while the database cannot be read."""
        try:
            results = await to_thread.run_sync(self._reader.read_spans, spans, budget)
        except UnavailableError as error:
            self._failed(error)
            return None
        self._works()
        cursors = {cursor.id: cursor for _, cursor in spans}
        gone = {span.shard_id for span, result in results if isinstance(result, Overwritten)}
        for number in gone:
            await self._overwritten(cursors[number])
        items: list[Item] = []
        taken: list[Span] = []
        due: list[Span] = []
        for span, result in results:
            if isinstance(result, list) and span.shard_id not in gone:
                path = cursors[span.shard_id].path
                found = _items(path, span.shard_id, span.start, span.line, result, span.since)
                items += found
                taken.append(span)
                due += rest_of(span, [item.line for item in found])
        return Work(items, (), taken, (), due)

    async def new(self, budget: Budget) -> Work | None:
        """Return decisions that were not read before; None when there is nothing to look at, or it cannot be read.

        Each call takes at least one decision, or takes at least one session or outcome out of the inbox.
        """
        if self._from is From.SHARDS or not self.is_open:
            return None
        self.error = None
        self._end_waits()
        if not self._wanted and not await self._sweep():
            return None
        todo = await self._look_up(list(islice(self._wanted, _CHUNK)))
        if not todo:
            return Work(())
        try:
            results = await to_thread.run_sync(self._reader.read, todo, self._join, budget)
        except UnavailableError as error:
            self._failed(error)
            return None
        self._works()
        return await self._new_work(todo, results)

    def _failed(self, error: UnavailableError) -> None:
        self.error = error
        self._try_again = self._clock.monotonic() + self._failures.begin(error)

    def _works(self) -> None:
        self.error = None
        self._failures.all_over()

    def _end_waits(self) -> None:
        now = self._clock.monotonic()
        for session in [session for session, until in self._waits.items() if until <= now]:
            del self._waits[session]
            self._wanted[session] = True

    async def _sweep(self) -> bool:
        """Want the sessions of the next outcomes of a sweep; say whether it is time for that."""
        now = self._clock.monotonic()
        if now < self._next_sweep:
            return False
        if self._swept_to is None:
            times = self._reader.times()
            if times == self._times:
                return False
            self._times, self._swept_to = times, 0
        sessions, self._swept_to = await self._ledger.qualifying(self._swept_to, self._rule, _CHUNK)
        self._behind = self._behind and self._swept_to is not None
        self._next_sweep = 0.0 if self._behind else now + _SWEEP_PAUSE
        for session in sessions:
            self._want(session)
        return True

    async def _look_up(self, sessions: Sequence[str]) -> list[ToRead]:
        """Return the cursors from which to read; sessions that are not to be read leave the inbox."""
        outcomes = await self._ledger.outcomes(sessions)
        told = await self._ledger.told_by_shards(sessions) if self._from is From.BOTH else set()
        cursors, _ = await self._ledger.cursors({session_path(session): _NO_INODE for session in sessions})
        todo: list[ToRead] = []
        for session in sessions:
            rows = outcomes.get(session, ())
            qualifying = [row for row in rows if row.qualifies and row.rule == self._rule]
            if not qualifying or session in told or self._waits_for_shard(session, qualifying):
                self._leave(session)
                continue
            path = session_path(session)
            cursor = cursors.get(path) or Cursor(path, id=self._ledger.new_shard_id())
            todo.append(ToRead(cursor, max(map(_created, rows))))
        return todo

    def _waits_for_shard(self, session: str, qualifying: Sequence[Outcome]) -> bool:
        """Say whether the session's shard may still come, and remember until when it is waited for."""
        if self._wanted[session] or not self._patience or len(self._waits) >= _HELD:
            return False
        age = self._clock.now() - max(map(_created, qualifying)) / 1e6
        if age >= self._patience:
            return False
        left = self._patience - max(0.0, age)  # a time in the future is none to believe
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
                self._leave(session_at(before.path))
            if result.decisions:
                cursors.append(result.cursor)
                start, line = before.offset, before.lines + 1
                items += _items(before.path, before.id, start, line, result.decisions, since)
        return Work(items, cursors)

    def _leave(self, session: str) -> None:
        self._wanted.pop(session, None)

    async def _overwritten(self, cursor: Cursor) -> None:
        """Another database stands in the place of the one that was read: read the session from its start."""
        lost = await self._ledger.overwritten(cursor.id)
        self._emit(ShardOverwritten(cursor.path, lost))
        self._want(session_at(cursor.path))


def _items(
    path: str, shard_id: int, start: int, number: int, decisions: Iterable[Decision], since: float
) -> list[Item]:
    """Return decisions as lines that follow each other without a gap, the first of them from ``start`` on."""
    items: list[Item] = []
    for decision in decisions:
        start, stop = max(start, min(decision.first, FIRST_ROW)), decision.last + 1
        items.append(Item(Line(path, number, start, stop, None), shard_id, since, decision))
        start, number = stop, number + 1
    return items


def _created(row: Outcome) -> int:
    return _LAST_US if row.created_us is None else row.created_us
