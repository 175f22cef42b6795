"""Poll ``outcome_rewards``: new rows at once, and every row again in slow sweeps, as rows may be corrected.

If event rewards are configured, the poller reads those of a page's sessions right after the page, so that it sees
all that the producer wrote before an outcome. The sweeps find later ones.

Invariants
- Each read is one page, fetched whole, and no lock outlives it.
- Nothing is read while the database reports no change.
- A position in a file ends with its connection: after a reopen (restart, replaced file, error) every row is read
  again, and the ledger knows which are new. A position on a server outlives errors, but only while its row is the
  one that was read. Either way it advances by rows that were returned, and never skips one.
"""

from __future__ import annotations

import asyncio
import random as randomness
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from blake3 import blake3

from streamer.base.errors import ConfigError, StreamerError, UnavailableError
from streamer.base.events import Event, NumberConverted, OutcomeProblem
from streamer.base.files import Clock
from streamer.base.secret import NO_SECRET, Secret
from streamer.config.database_url import Server, server_of
from streamer.core.records.layouts import latest_us
from streamer.core.records.model import Outcome
from streamer.core.records.number import Number, number_of
from streamer.core.verdicts.reasons import NOT_A_NUMBER
from streamer.core.verdicts.turns import SessionRewards, TurnRules
from streamer.sources.condition import NUMBERS, Columns, Plan, needs_sessions, plan, quoted, text_literal
from streamer.sources.evaluator import CopiedRow, Evaluation, Evaluator
from streamer.sources.event_rewards import EventRewards
from streamer.sources.local_database import LocalDatabase
from streamer.sources.remote_database import RemoteDatabase
from streamer.sources.trace_database import Opened, TooSlowError, TraceDatabase

PAGE = 500
"""Maximum number of rows in one read; a slow condition reduces it."""

_PAGE_WITH_REWARDS = 100
"""The same maximum if the event rewards of their sessions are read with them."""

_OBJECTIVE = "objective_key"
_MAX_METADATA = 1 << 16
"""Maximum length of ``reward_metadata`` in characters; the task app writes some hundred."""


def rule_name(where: str, keys: Sequence[str] = ()) -> str:
    """Return the ledger's name for a condition and the metadata keys that are read with it."""
    return blake3("\0".join([where.strip(), *keys]).encode()).hexdigest(8)


class OutcomePoller:
    """Reads the rows of one trace database, page by page.

    ``notices`` are conversions and problems of values to report; each kind is noted once for each column.

    Args:
        database: A path or a URL.
        where: The condition to evaluate for each row.
        clock: The current time.
        token: The token to show to a server.
        turns: The event rewards to read with rows that qualify; None reads none.
        objective: The objective whose rows are outcomes, where the table has a column ``objective_key``.
        random: Returns a number from 0 to 1, for the pauses after failures of a server.
    """

    def __init__(
        self,
        database: str,
        where: str,
        clock: Clock,
        *,
        token: Secret = NO_SECRET,
        turns: TurnRules | None = None,
        objective: str = "reward",
        random: Callable[[], float] = randomness.random,
    ) -> None:
        server = server_of(database, token)
        self._db: TraceDatabase = RemoteDatabase(server, clock, random) if server else LocalDatabase(database, clock)
        self._clock = clock
        self._objective = objective
        self._background_poll: asyncio.Task[Sequence[Outcome]] | None = None
        self._found_new = False
        self._evaluator: Evaluator | None = None
        self._noted: set[tuple[str, str]] = set()
        self.notices: Sequence[Event] = ()
        self.replaced = False
        self.set_where(where, turns)

    @property
    def path(self) -> Path | Server:
        """The database's file (sqld's appears with its directory), or its server."""
        return self._db.path

    @property
    def is_waiting(self) -> bool:
        """Whether the last poll still runs in the background, waiting for a server or a condition."""
        return self._background_poll is not None

    def set_where(self, where: str, turns: TurnRules | None = None, keys: Sequence[str] = ()) -> None:
        """Set the condition and the event rewards; every row is read again under them.

        Args:
            where: The condition.
            turns: The event rewards to read.
            keys: The keys of ``reward_metadata`` to read.
        """
        self._cancel_poll()
        self.where = where
        self.rule = rule_name(where, keys)
        self._keys = keys
        self._events = self._event_rewards(turns)
        self._max_rows = self._page_rows = _PAGE_WITH_REWARDS if self._events else PAGE
        self.rewards: Sequence[SessionRewards] = ()
        # The next poll reopens the database, and prepares the statement for the condition.
        self._db.invalidate()
        self._reset()

    def _reset(self) -> None:
        self._version: int | None = None
        self._last_id = 0
        self._last_row: Outcome | None = None
        self._sweep_at: int | None = None
        self._swept_version: int | None = None
        self._next_sweep = 0.0
        self.caught_up = False

    async def poll(self) -> Sequence[Outcome]:
        """Return one page of rows that may be new or changed; empty if there are none.

        Afterwards ``rewards`` holds the event rewards of those sessions of the page that qualify, if they are
        configured, and ``caught_up`` says whether each present row has been returned once. If a server or a
        condition is slow, the poll returns nothing and continues in the background (``is_waiting``): a later one has
        its rows.

        Raises:
            UnavailableError: The database is missing, busy or damaged; poll again later.
            ConfigError: The condition cannot be evaluated on this database.
        """
        if self._background_poll is None:
            self._background_poll = asyncio.ensure_future(self._poll())
        await asyncio.wait([self._background_poll], timeout=self._db.poll_timeout)
        if not self._background_poll.done():
            return ()
        done, self._background_poll = self._background_poll, None
        return done.result()

    async def _poll(self) -> Sequence[Outcome]:
        self._found_new = False
        self.rewards = ()
        try:
            opened = await self._db.open(self._prepare)
            if opened is not Opened.UNCHANGED:
                self._reset()
                self.replaced |= opened is Opened.REPLACED
            if self._db.is_at_rest(caught_up=self.caught_up, sweeping=self.sweeping):
                return ()
            return await self._page()
        except StreamerError as error:
            if isinstance(error, TooSlowError):
                self._page_rows = max(1, self._page_rows // 4)
            self.caught_up = False
            if not self._db.keeps_positions:
                await self._db.close()
                self._reset()
            raise

    def pause(self, interval: float) -> float:
        """Return the seconds until the next poll after a successful one, at least ``interval``."""
        return self._db.pause(interval, found_new=self._found_new)

    def pause_after_failure(self, pause: float) -> float:
        """Return the seconds until the next poll after a failed one; ``pause`` is the usual backoff."""
        return self._db.pause_after_failure(pause)

    def hurry(self) -> None:
        """Poll soon: there may be new rows."""
        self._db.hurry()

    async def check(self, where: str, turns: TurnRules | None = None) -> None:
        """Validate a condition and the event rewards on the open database, if one is open.

        Raises:
            ConfigError: It cannot evaluate the condition, or has no event rewards.
            UnavailableError: The database cannot be read now.
        """
        if self._db.is_open:
            await self._plan(where)
            events = self._event_rewards(turns)
            if events is not None:
                await events.prepare()

    async def close(self) -> None:
        """Close the connection; the next poll reopens it and reads every row again."""
        poll = self._cancel_poll()
        if poll is not None:
            with suppress(asyncio.CancelledError, StreamerError):
                await poll
        self._reset()
        self._close_evaluator()
        await self._db.close()

    def _close_evaluator(self) -> None:
        if self._evaluator is not None:
            self._evaluator.close()

    def _cancel_poll(self) -> asyncio.Task[Sequence[Outcome]] | None:
        """Cancel the poll in the background, if there is one, and return it."""
        poll, self._background_poll = self._background_poll, None
        if poll is not None and not poll.cancel():
            poll.exception()  # it has ended, and its error no longer matters
        return poll

    async def _prepare(self) -> None:
        made, self._sql = await self._plan(self.where)
        self._close_evaluator()
        self._evaluator = Evaluator(made)
        if self._events is not None:
            await self._events.prepare()

    def _event_rewards(self, turns: TurnRules | None) -> EventRewards | None:
        return EventRewards(self._db, turns.type) if turns else None

    async def _page(self) -> Sequence[Outcome]:
        version = await self._db.version()
        if self._swept_version is None:
            self._swept_version = version  # the first pass reads every row in this version or a later one
            if self._db.keeps_positions:
                self._next_sweep = self._clock.monotonic() + self._db.sweep_pause
        if version != self._version or not self.caught_up:
            rows, self.caught_up = await self._new_rows()
            self._found_new = bool(rows)
            if self.caught_up:
                self._version = version
            if rows:
                return rows
        return await self._sweep_page()

    async def _new_rows(self) -> tuple[list[Outcome], bool]:
        """Return one page of new rows, and whether it was the last one.

        If positions outlive failures, the last known row is read again with them. If it is missing or another row
        has its id, the database was replaced, and is read from its start.
        """
        known = self._last_row if self._db.keeps_positions else None
        if known is None:
            rows, is_last = await self._rows_after(self._last_id)
        else:
            rows, is_last = await self._rows_after(known.id - 1, more=1)
            if not rows or _identity(rows[0]) != _identity(known):
                self.replaced |= bool(rows) and rows[0].id == known.id
                self._reset()
                return [], False
            if rows[0] == known:
                del rows[0]
        await self._read_rewards(rows)
        if rows:
            self._last_id, self._last_row = rows[-1].id, rows[-1]
        return rows, is_last

    async def _read_rewards(self, rows: Sequence[Outcome]) -> None:
        """Read the event rewards of rows, before any position advances: after a failure the rows are read again."""
        if self._events is not None:
            self.rewards = await self._events.of(row.session for row in rows if row.qualifies)

    async def _sweep_page(self) -> Sequence[Outcome]:
        """Read one page of known rows again if the database changed since the last sweep."""
        if self._sweep_at is None:
            if self._swept_version == self._version:
                return ()
            self._sweep_at, self._swept_version = 0, self._version
        if self._clock.monotonic() < self._next_sweep:
            return ()
        self._next_sweep = self._clock.monotonic() + self._db.sweep_pause
        rows, is_last = await self._rows_after(self._sweep_at)
        await self._read_rewards(rows)
        self._sweep_at = None if is_last else rows[-1].id
        return rows

    @property
    def sweeping(self) -> bool:
        """Whether a sweep is running or pending."""
        return self._sweep_at is not None or self._swept_version != self._version

    async def _rows_after(self, last: int, more: int = 0) -> tuple[list[Outcome], bool]:
        """Return one page of rows, ``more`` rows longer than usual, and whether it was the last one."""
        limit = self._page_rows + more
        fetched = await self._db.fetch(self._sql, (last, limit))
        self._page_rows = min(self._max_rows, 2 * self._page_rows)  # the slow read may have been due to a busy machine
        # One row per id, even if session_traces has a session twice.
        rows = list({row[0]: _Read(row[0], list(map(self._db.value, row[1:]))) for row in fetched}.values())
        return await self._outcomes(rows), len(fetched) < limit

    async def _outcomes(self, rows: Sequence[_Read]) -> list[Outcome]:
        """Return rows as outcomes: numbers become numbers, then the condition is evaluated on what it looks at."""
        numbers = [dict(zip(NUMBERS, map(number_of, row.values[1:4]), strict=True)) for row in rows]
        problems = [self._problem(row, found) for row, found in zip(rows, numbers, strict=True)]
        sound = [i for i, problem in enumerate(problems) if not problem]
        if self._evaluator is None:
            raise AssertionError("the statement was prepared")
        copied = [_copied(rows[i], numbers[i], self._evaluator.plan) for i in sound]
        evaluations = dict(zip(sound, await self._evaluator.evaluate(copied), strict=True))
        return [
            self._outcome(row, numbers[i], evaluations.get(i) or Evaluation(qualifies=False, problem=problems[i]))
            for i, row in enumerate(rows)
        ]

    def _problem(self, row: _Read, numbers: Mapping[str, Number]) -> str:
        """Return why a row cannot be evaluated, or an empty text; note conversions and problems, to report them."""
        problem = ""
        for column, number in numbers.items():
            if number.problem:
                problem = NOT_A_NUMBER
                self._note(OutcomeProblem(row.number, column, number.problem))
            elif number.converted_from:
                self._note(NumberConverted(row.number, column, number.converted_from))
        return problem

    def _note(self, notice: NumberConverted | OutcomeProblem) -> None:
        """Report a notice, once for each kind and column."""
        kind = (notice.name, notice.column)
        if kind not in self._noted:
            self._noted.add(kind)
            self.notices = [*self.notices, notice]

    def _outcome(self, row: _Read, numbers: Mapping[str, Number], evaluation: Evaluation) -> Outcome:
        session, _, _, _, created_at, metadata = row.values[:_FIRST_COPIED]
        return Outcome(
            id=row.number,
            session="" if session is None else str(session),
            total_reward=numbers["total_reward"].value,
            achievements_count=numbers["achievements_count"].value,
            total_steps=numbers["total_steps"].value,
            created_at=str(created_at),
            created_us=latest_us(created_at),
            qualifies=evaluation.qualifies,
            rule=self.rule,
            metadata=_metadata_keys(metadata, self._keys),
            problem=evaluation.problem,
        )

    async def _plan(self, where: str) -> tuple[Plan, str]:
        """Return how to evaluate a condition, and the statement that reads a page of rows for it."""
        columns = Columns(await self._columns("outcome_rewards"), await self._columns("session_traces"))
        missing = {"session_id", "total_reward"} - columns.outcomes.keys()
        if missing:
            raise UnavailableError(
                "read outcomes",
                str(self.path),
                f"outcome_rewards has no column {', '.join(sorted(missing))}"
                if columns.outcomes
                else "no table outcome_rewards yet",
                "the producer makes it with its first rollout; is tracing on, and is this the right database?",
            )
        try:
            made = plan(where, columns)
        except ConfigError as error:
            if columns.sessions or not needs_sessions(where, columns):
                raise
            hint = "the producer makes it with its first session"
            raise UnavailableError("read outcomes", str(self.path), "no table session_traces yet", hint) from error
        return made, self._statement(made, columns)

    def _statement(self, made: Plan, columns: Columns) -> str:
        names = ["session_id", *NUMBERS, "created_at"]
        read = [self._column("outcome_rewards", name) if name in columns.outcomes else "NULL" for name in names]
        read.append(self._db.column(_METADATA) if self._keys and "reward_metadata" in columns.outcomes else "NULL")
        read += [self._column("outcome_rewards", name) for name in made.outcomes]
        if columns.sessions:
            read += [self._column("session_traces", name) for name in ("session_id", *made.sessions)]
            sessions = "LEFT JOIN session_traces USING (session_id)"
        else:
            read.append("NULL")
            sessions = ""
        # The rowid is the same as id in tables that the producer made.
        return (
            f"SELECT outcome_rewards.rowid, {', '.join(read)} FROM outcome_rewards {sessions}"
            f" WHERE outcome_rewards.rowid > ?{self._of_objective(columns)} ORDER BY outcome_rewards.rowid LIMIT ?"
        )

    def _of_objective(self, columns: Columns) -> str:
        """Return SQL that leaves the rows of other objectives out: they hold a latency or a cost, to be minimised."""
        if _OBJECTIVE not in columns.outcomes:
            return ""
        return f" AND outcome_rewards.{_OBJECTIVE} = {text_literal(self._objective)}"

    def _column(self, table: str, name: str) -> str:
        return self._db.column(f"{table}.{quoted(name)}")

    async def _columns(self, table: str) -> dict[str, str]:
        """Return the declared types of a table's columns by name; nothing if there is no such table."""
        rows = await self._db.fetch("SELECT name, type FROM pragma_table_xinfo(?) WHERE hidden <> 1", (table,))
        return {str(name): str(kind) for name, kind in rows}


class _Read(NamedTuple):
    """A row as it was read: its rowid, and the columns of the statement after it."""

    number: int
    values: list[Any]


_FIRST_COPIED = 6
"""Position of the first column that is copied for the condition: six that an outcome consists of come before."""


def _copied(row: _Read, numbers: Mapping[str, Number], made: Plan) -> CopiedRow:
    """Return what the condition looks at in a row."""
    stop = _FIRST_COPIED + len(made.outcomes)
    copied = zip(made.outcomes, row.values[_FIRST_COPIED:stop], strict=True)
    own = [numbers[name].value if name in numbers else value for name, value in copied]
    session, *theirs = row.values[stop:]
    return CopiedRow(row.number, [row.values[0], *own], None if session is None else [session, *theirs])


_METADATA = (
    f"CASE WHEN length(outcome_rewards.reward_metadata) <= {_MAX_METADATA} THEN outcome_rewards.reward_metadata END"
)


def _metadata_keys(metadata: object, keys: Sequence[str]) -> str:
    """Return some keys of a JSON object as JSON, if they hold scalars or lists of them; empty if there are none."""
    if not keys or not isinstance(metadata, str | bytes):
        return ""
    try:
        found = msgspec.json.decode(metadata, type=dict[str, Any])
        selected = {key: found[key] for key in keys if _is_scalar(found.get(key))}
        return msgspec.json.encode(selected).decode() if selected else ""
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return ""


def _is_scalar(value: object) -> bool:
    several = value if isinstance(value, list) else [value]
    return value is not None and all(isinstance(one, str | int | float) for one in several)


def _identity(row: Outcome) -> tuple[int, str, str]:
    return row.id, row.session, row.created_at
