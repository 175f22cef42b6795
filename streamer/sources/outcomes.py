"""Poll ``outcome_rewards``: new rows at once, every row again in slow sweeps, as rows are corrected.

Event rewards are read with them, where they are asked for: those of the sessions of a page, right after it, so that
whatever the producer wrote before an outcome is seen with it. What comes later is found by the sweeps.

Invariants
- Each read is one page, fetched whole, and no lock outlives it.
- Nothing is read while the database says that it is as it was.
- No position in a file outlives the connection: after a reopen (restart, replaced file, error) every row is read
  again, and the ledger says which are new. A position on a server outlives errors, but only while the row it
  stands on is the one that was read. Either way it moves by rows that were returned, and can never pass one.
"""

from __future__ import annotations

import asyncio
import random as randomness
import re
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3

from streamer.base.errors import ConfigError, StreamerError, UnavailableError
from streamer.base.files import Clock
from streamer.base.secret import NO_SECRET, Secret
from streamer.config.database_url import Server, server_of
from streamer.core.records.layouts import time_us
from streamer.core.records.model import Outcome
from streamer.core.verdicts.turns import SessionRewards, TurnRules
from streamer.sources.event_rewards import EventRewards
from streamer.sources.local_database import LocalDatabase
from streamer.sources.remote_database import RemoteDatabase
from streamer.sources.trace_database import Opened, StatementError, TooSlowError, TraceDatabase

PAGE = 500
"""Rows in one read, at most: a condition that is slow to evaluate makes it fewer."""

_PAGE_WITH_REWARDS = 100
"""The same where the event rewards of their sessions are read with them."""

_OPTIONAL = ("achievements_count", "total_steps", "created_at")
_NOT_CODE = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*.*?(?:\*/|\Z)", re.DOTALL)
"""What may hold any character: texts, quoted names, comments."""


_LONGEST_METADATA = 1 << 16
"""Characters of ``reward_metadata`` up to which it is read: the task app writes some hundred."""


def rule_name(where: str, keys: Sequence[str] = ()) -> str:
    """Return the name under which the ledger remembers a condition, and which keys of the metadata it has seen."""
    return blake3("\0".join([where.strip(), *keys]).encode()).hexdigest(8)


_PRODUCER_SCHEMA = """
CREATE TABLE outcome_rewards (id INTEGER PRIMARY KEY, session_id, total_reward, achievements_count, total_steps,
  created_at, reward_metadata);
CREATE TABLE session_traces (session_id, created_at, num_timesteps, num_events, num_messages, metadata,
  experiment_id, embedding);
"""


def check_condition(where: str) -> None:
    """Find what is wrong with a condition without a trace database, as far as that can be said.

    Raises:
        ConfigError: it is no SQL condition. Names that the producer's tables do not have are let pass.
    """
    _refuse_several_statements(where)
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript(_PRODUCER_SCHEMA)
        try:
            db.execute(
                f"EXPLAIN SELECT 1 FROM outcome_rewards JOIN session_traces USING (session_id) WHERE ({where}\n)"
            )
        except (sqlite3.Error, sqlite3.Warning) as error:
            if not str(error).startswith("no such"):
                raise _bad_where(where, error) from error


class OutcomePoller:
    """Reads the rows of one trace database, page by page, for as long as the daemon lives.

    Args:
        database: a path or a URL.
        where: the condition that is asked of each row.
        clock: what time it is.
        token: what a server is to be shown.
        turns: which event rewards are read with the rows of sessions that qualify; None reads none.
        random: returns a number from 0 to 1, for the pauses after failures of a server.
    """

    def __init__(
        self,
        database: str,
        where: str,
        clock: Clock,
        *,
        token: Secret = NO_SECRET,
        turns: TurnRules | None = None,
        random: Callable[[], float] = randomness.random,
    ) -> None:
        server = server_of(database, token)
        self._db: TraceDatabase = RemoteDatabase(server, clock, random) if server else LocalDatabase(database, clock)
        self._clock = clock
        self._going_on: asyncio.Task[Sequence[Outcome]] | None = None
        self._news = False
        self.replaced = False
        self.set_where(where, turns)

    @property
    def path(self) -> Path | Server:
        """Where the database is: its file (sqld's appears with its directory), or its server."""
        return self._db.path

    @property
    def is_waiting(self) -> bool:
        """Whether the last poll goes on in the background, as a server has not answered yet."""
        return self._going_on is not None

    def set_where(self, where: str, turns: TurnRules | None = None, keys: Sequence[str] = ()) -> None:
        """Ask another condition of the rows, and for other event rewards; every row is read again under it.

        Args:
            where: the condition.
            turns: which event rewards are read.
            keys: what is wanted of the rows' ``reward_metadata``.
        """
        self._break_off()
        self.where = where
        self.rule = rule_name(where, keys)
        self._keys = keys
        self._events = self._event_rewards(turns)
        self._most_rows = self._page_rows = _PAGE_WITH_REWARDS if self._events else PAGE
        self.rewards: Sequence[SessionRewards] = ()
        # The next poll opens the database again, and prepares for the condition.
        self._db.forget()
        self._start_over()

    def _start_over(self) -> None:
        self._version: int | None = None
        self._last = 0
        self._last_row: Outcome | None = None
        self._sweep_at: int | None = None
        self._swept_version: int | None = None
        self._next_sweep = 0.0
        self.caught_up = False

    async def poll(self) -> Sequence[Outcome]:
        """Return one page of rows that may be new or changed; empty when there is nothing to see.

        ``rewards`` are afterwards the event rewards of those of their sessions that qualify, where they are asked for.
        ``caught_up`` says afterwards whether every row that is there now has been returned once. A poll of a server
        that is slow to answer returns nothing, and goes on: ``is_waiting``, and a later poll has its rows.

        Raises:
            UnavailableError: the database is not there, is busy, or is damaged; poll again later.
            ConfigError: the condition cannot be evaluated on this database.
        """
        if self._db.patience is None:
            return await self._poll()
        if self._going_on is None:
            self._going_on = asyncio.ensure_future(self._poll())
        await asyncio.wait([self._going_on], timeout=self._db.patience)
        if not self._going_on.done():
            return ()
        done, self._going_on = self._going_on, None
        return done.result()

    async def _poll(self) -> Sequence[Outcome]:
        self._news = False
        self.rewards = ()
        try:
            opened = await self._db.open(self._prepare)
            if opened is not Opened.AS_BEFORE:
                self._start_over()
                self.replaced |= opened is Opened.ANOTHER
            if self._db.is_at_rest(caught_up=self.caught_up, sweeping=self.sweeping):
                return ()
            return await self._page()
        except StreamerError as error:
            if isinstance(error, TooSlowError):
                self._page_rows = max(1, self._page_rows // 4)
            self.caught_up = False
            if not self._db.keeps_positions:
                await self._db.close()
                self._start_over()
            raise

    def pause(self, interval: float) -> float:
        """Return the seconds until the next poll, after one that worked; ``interval`` is the shortest of them."""
        return self._db.pause(interval, news=self._news)

    def pause_after_failure(self, pause: float) -> float:
        """Return the seconds until the next poll, after one that failed; ``pause`` is what others would wait."""
        return self._db.pause_after_failure(pause)

    def hurry(self) -> None:
        """Take note of a sign that there may be new rows."""
        self._db.hurry()

    async def check(self, where: str, turns: TurnRules | None = None) -> None:
        """See that the database that is open, if one is, can evaluate a condition, and has the event rewards.

        Raises:
            ConfigError: it cannot, or has none.
            UnavailableError: the database cannot be asked now.
        """
        if self._db.is_open:
            await self._statement(where)
            events = self._event_rewards(turns)
            if events is not None:
                await events.prepare()

    async def close(self) -> None:
        """Close the connection; the next poll opens it again and starts over."""
        going_on = self._break_off()
        if going_on is not None:
            with suppress(asyncio.CancelledError, StreamerError):
                await going_on
        self._start_over()
        await self._db.close()

    def _break_off(self) -> asyncio.Task[Sequence[Outcome]] | None:
        """Cancel the poll that goes on in the background, and return it, if there is one."""
        going_on, self._going_on = self._going_on, None
        if going_on is not None and not going_on.cancel():
            going_on.exception()  # it was over; what it says is of no interest any more
        return going_on

    async def _prepare(self) -> None:
        self._sql = await self._statement(self.where)
        if self._events is not None:
            await self._events.prepare()

    def _event_rewards(self, turns: TurnRules | None) -> EventRewards | None:
        return EventRewards(self._db, turns.type) if turns else None

    async def _page(self) -> Sequence[Outcome]:
        version = await self._db.version()
        if self._swept_version is None:
            self._swept_version = version  # the first pass reads every row as of now, or later
            if self._db.keeps_positions:
                self._next_sweep = self._clock.monotonic() + self._db.sweep_pause
        if version != self._version or not self.caught_up:
            rows, self.caught_up = await self._new_rows()
            self._news = bool(rows)
            if self.caught_up:
                self._version = version
            if rows:
                return rows
        return await self._sweep_page()

    async def _new_rows(self) -> tuple[list[Outcome], bool]:
        """Return one page of rows that are new, and whether it was the last one.

        Where positions outlive failures, the last row that is known is read again with them: if another one has
        its id, or none, the database is not what it was, and is read from its start.
        """
        known = self._last_row if self._db.keeps_positions else None
        if known is None:
            rows, is_last = await self._rows_after(self._last)
        else:
            rows, is_last = await self._rows_after(known.id - 1, more=1)
            if not rows or _identity(rows[0]) != _identity(known):
                self.replaced |= bool(rows) and rows[0].id == known.id
                self._start_over()
                return [], False
            if rows[0] == known:
                del rows[0]
        await self._read_rewards(rows)
        if rows:
            self._last, self._last_row = rows[-1].id, rows[-1]
        return rows, is_last

    async def _read_rewards(self, rows: Sequence[Outcome]) -> None:
        """Read the event rewards that go with rows. No position moves before: a failure leaves the rows to be read."""
        if self._events is not None:
            self.rewards = await self._events.of(row.session for row in rows if row.qualifies)

    async def _sweep_page(self) -> Sequence[Outcome]:
        """Read one page of known rows again, if the file changed since they were last read."""
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
        """Say whether known rows are still to be read again."""
        return self._sweep_at is not None or self._swept_version != self._version

    async def _rows_after(self, last: int, more: int = 0) -> tuple[list[Outcome], bool]:
        """Return one page of rows, ``more`` longer than others, and whether it was the last one."""
        asked = self._page_rows + more
        rows = await self._db.fetch(self._sql, (last, asked))
        self._page_rows = min(self._most_rows, 2 * self._page_rows)  # what was slow may have been a busy machine
        # One row each, even if session_traces holds a session twice.
        return list({row[0]: self._outcome(row) for row in rows}.values()), len(rows) < asked

    def _outcome(self, row: Sequence[Any]) -> Outcome:
        number, *values, qualifies = row
        session, reward, achievements, steps, created_at, metadata = map(self._db.value, values)
        return Outcome(
            id=number,
            session="" if session is None else str(session),
            total_reward=reward if isinstance(reward, int | float) else None,
            achievements_count=achievements if isinstance(achievements, int) else None,
            total_steps=steps if isinstance(steps, int) else None,
            created_at=str(created_at),
            created_us=time_us(created_at),
            qualifies=bool(qualifies),
            rule=self.rule,
            metadata=_picked(metadata, self._keys),
        )

    async def _statement(self, where: str) -> str:
        _refuse_several_statements(where)
        columns = await self._columns("outcome_rewards")
        missing = {"session_id", "total_reward"} - columns
        if missing:
            raise UnavailableError(
                "read outcomes",
                str(self.path),
                f"outcome_rewards has no column {', '.join(sorted(missing))}"
                if columns
                else "no table outcome_rewards yet",
                "the producer makes it with its first rollout; is tracing on, and is this the right database?",
            )
        number = "outcome_rewards.rowid"  # which id is another name of, where the producer made the table
        names = ["session_id", "total_reward", *(name if name in columns else None for name in _OPTIONAL)]
        read = [self._db.column(f"outcome_rewards.{name}") if name else "NULL" for name in names]
        read.append(self._db.column(_METADATA) if self._keys and "reward_metadata" in columns else "NULL")
        sessions = "LEFT JOIN session_traces USING (session_id)" if await self._columns("session_traces") else ""
        source = f"FROM outcome_rewards {sessions} WHERE {number} > ?"
        # Where rows are chosen an aggregate is an error; where columns are listed it would fold all rows into one.
        try:
            await self._db.try_out(f"SELECT 1 {source} AND ({where}\n)", (0,))
        except StatementError as error:
            if sessions or "no such" not in str(error):
                raise _bad_where(where, error) from error
            hint = "the producer makes it with its first session"
            raise UnavailableError("read outcomes", str(self.path), "no table session_traces yet", hint) from error
        return (
            f"SELECT {number}, {', '.join(read)},\n"
            f"CASE WHEN ({where}\n) THEN 1 ELSE 0 END {source} ORDER BY {number} LIMIT ?"
        )

    async def _columns(self, table: str) -> set[str]:
        return {row[0] for row in await self._db.fetch("SELECT name FROM pragma_table_info(?)", (table,))}


_METADATA = (
    f"CASE WHEN length(outcome_rewards.reward_metadata) <= {_LONGEST_METADATA} THEN outcome_rewards.reward_metadata END"
)


def _picked(metadata: object, keys: Sequence[str]) -> str:
    """Return some keys of a JSON object as one, with what is a plain value or a list of them; empty for none."""
    if not keys or not isinstance(metadata, str | bytes):
        return ""
    try:
        found = msgspec.json.decode(metadata, type=dict[str, Any])
        picked = {key: found[key] for key in keys if _is_plain(found.get(key))}
        return msgspec.json.encode(picked).decode() if picked else ""
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return ""


def _is_plain(value: object) -> bool:
    several = value if isinstance(value, list) else [value]
    return value is not None and all(isinstance(one, str | int | float) for one in several)


def _identity(row: Outcome) -> tuple[int, str, str]:
    return row.id, row.session, row.created_at


def _refuse_several_statements(where: str) -> None:
    """Refuse a condition that ends the statement it stands in.

    Raises:
        ConfigError: it does.
    """
    if ";" in _NOT_CODE.sub("", where):
        raise _bad_where(where, "it has a ; and is more than a condition")


def _bad_where(where: str, error: Exception | str) -> ConfigError:
    return ConfigError(
        "use the condition",
        "qualify.where",
        f"{where!r}: {error}",
        "it is an SQL condition over outcome_rewards and session_traces, such as total_reward > 0;"
        " name the table where both have the column, as in outcome_rewards.created_at",
    )
