"""Poll ``outcome_rewards``: new rows at once, every row again in slow sweeps, as rows are corrected.

Invariants
- Each read is one page, fetched whole, and no lock outlives it.
- Nothing is read while ``PRAGMA data_version`` says that the file is as it was.
- No position outlives the connection: after a reopen (restart, replaced file, error) every row is read
  again, and the ledger says which are new. A position can therefore never pass a row.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import aiosqlite
from blake3 import blake3

from streamer.errors import ConfigError, UnavailableError
from streamer.files import Clock
from streamer.layouts import time_us
from streamer.model import Outcome
from streamer.sources.trace_db import file_id, file_times, local_path, open_trace_database

PAGE = 500
"""Rows in one read, at most: a condition that is slow to evaluate makes it fewer."""

_LONGEST_READ = 0.1
"""Seconds after which a read is broken off: it would hold up the producer."""

_STEPS = 10_000
"""Steps of SQLite's machine between two looks at the clock: well under a millisecond."""

_SWEEP_PAUSE = 0.5
"""Seconds between two pages of a sweep over rows that are known already."""

_TRUST = 1.0
"""Seconds for which unchanged file times are believed; then SQLite itself is asked again."""

_OPTIONAL = ("achievements_count", "total_steps", "created_at")


def rule_name(where: str) -> str:
    """Return the name under which the ledger remembers a condition."""
    return blake3(where.strip().encode()).hexdigest(8)


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
    """Reads the rows of one trace database, page by page, for as long as the daemon lives."""

    def __init__(self, database: str, where: str, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._open = AsyncExitStack()
        self._db: aiosqlite.Connection | None = None
        self._opened: tuple[int, int] | None = None
        self.replaced = False
        self._deadline = 0.0
        self.set_where(where)

    @property
    def path(self) -> Path:
        """The database file; sqld's appears with its directory."""
        return local_path(self._database)

    def set_where(self, where: str) -> None:
        """Ask another condition of the rows; every row is read again under it."""
        self.where = where
        self.rule = rule_name(where)
        self._page_rows = PAGE
        # The next poll opens the database again, and prepares for the condition.
        self._file: tuple[int, int] | None = None
        self._start_over()

    def _start_over(self) -> None:
        self._version: int | None = None
        self._last = 0
        self._sweep_at: int | None = None
        self._swept_version: int | None = None
        self._next_sweep = 0.0
        self.caught_up = False
        self._times: object = None
        self._ask_again = 0.0

    async def poll(self) -> Sequence[Outcome]:
        """Return one page of rows that may be new or changed; empty when there is nothing to see.

        ``caught_up`` says afterwards whether every row that is there now has been returned once.

        Raises:
            UnavailableError: the database is not there, is busy, or is damaged; poll again later.
            ConfigError: the condition cannot be evaluated on this database.
        """
        try:
            await self._reopen_if_replaced()
            return () if self._is_at_rest() else await self._page()
        except sqlite3.Error as error:
            await self.close()
            if "interrupted" in str(error):
                raise self._too_slow() from error
            raise self._unavailable(error) from error

    def _too_slow(self) -> UnavailableError:
        rows, self._page_rows = self._page_rows, max(1, self._page_rows // 4)
        return UnavailableError(
            "read outcomes",
            str(self.path),
            f"the condition took more than {_LONGEST_READ} s for {rows} rows",
            "smaller pages are tried; if that does not end, make qualify.where simpler",
        )

    async def check(self, where: str) -> None:
        """See that the database that is open, if one is, can evaluate a condition.

        Raises:
            ConfigError: it cannot.
            UnavailableError: the database cannot be asked now.
        """
        try:
            if self._db is not None:
                await self._statement(self._db, where)
        except sqlite3.Error as error:
            raise self._unavailable(error) from error

    async def close(self) -> None:
        """Close the connection; the next poll opens it again and starts over."""
        self._db = None
        self._file = None
        self._start_over()
        await self._open.aclose()

    async def _reopen_if_replaced(self) -> None:
        there = file_id(self.path)
        if there is not None and there == self._file:
            return
        self.replaced |= None not in (there, self._opened) and there != self._opened
        await self.close()
        if there is None:
            raise UnavailableError(
                "read outcomes",
                str(self.path),
                "there is no such file yet",
                "it is waited for; or name another: --database FILE, TURSO_LOCAL_DB_URL, SQLD_DB_PATH",
            )
        db = await self._open.enter_async_context(open_trace_database(self.path))
        await db.set_progress_handler(lambda: self._clock.monotonic() > self._deadline, _STEPS)
        self._deadline = self._clock.monotonic() + _LONGEST_READ
        self._sql = await self._statement(db, self.where)
        self._db = db
        self._file = self._opened = there

    def _is_at_rest(self) -> bool:
        """Say whether nothing is to be done and the files are as they were, at the cost of a few stats."""
        now = self._clock.monotonic()
        times = file_times(self.path)
        rested = self.caught_up and not self.sweeping and times == self._times and now < self._ask_again
        if not rested:
            self._times, self._ask_again = times, now + _TRUST
        return rested

    async def _page(self) -> Sequence[Outcome]:
        version = (await self._fetch("PRAGMA data_version"))[0][0]
        if self._swept_version is None:
            self._swept_version = version  # the first pass reads every row as of now, or later
        if version != self._version or not self.caught_up:
            rows, self.caught_up = await self._rows_after(self._last)
            if rows:
                self._last = rows[-1].id
            if self.caught_up:
                self._version = version
            if rows:
                return rows
        return await self._sweep_page()

    async def _sweep_page(self) -> Sequence[Outcome]:
        """Read one page of known rows again, if the file changed since they were last read."""
        if self._sweep_at is None:
            if self._swept_version == self._version:
                return ()
            self._sweep_at, self._swept_version = 0, self._version
        if self._clock.monotonic() < self._next_sweep:
            return ()
        self._next_sweep = self._clock.monotonic() + _SWEEP_PAUSE
        rows, is_last = await self._rows_after(self._sweep_at)
        self._sweep_at = None if is_last else rows[-1].id
        return rows

    @property
    def sweeping(self) -> bool:
        """Say whether known rows are still to be read again."""
        return self._sweep_at is not None or self._swept_version != self._version

    async def _rows_after(self, last: int) -> tuple[list[Outcome], bool]:
        """Return one page of rows, and whether it was the last one."""
        asked = self._page_rows
        rows = await self._fetch(self._sql, (last, asked))
        self._page_rows = min(PAGE, 2 * asked)  # what was slow may have been a busy machine
        # One row each, even if session_traces holds a session twice.
        return list({row[0]: self._outcome(row) for row in rows}.values()), len(rows) < asked

    def _outcome(self, row: Sequence[Any]) -> Outcome:
        number, session, reward, achievements, steps, created_at, qualifies = row
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
        )

    async def _statement(self, db: aiosqlite.Connection, where: str) -> str:
        columns = await _columns(db, "outcome_rewards")
        missing = {"session_id", "total_reward"} - columns
        if missing:
            raise UnavailableError(
                "read outcomes",
                str(self.path),
                f"outcome_rewards has no column {', '.join(sorted(missing))}"
                if columns
                else "no table outcome_rewards yet",
                "the producer makes it with its first rollout; is tracing on, and is this the right file?",
            )
        number = "outcome_rewards.rowid"  # which id is another name of, where the producer made the table
        optional = [f"outcome_rewards.{name}" if name in columns else "NULL" for name in _OPTIONAL]
        sessions = "LEFT JOIN session_traces USING (session_id)" if await _columns(db, "session_traces") else ""
        source = f"FROM outcome_rewards {sessions} WHERE {number} > ?"
        # Where rows are chosen an aggregate is an error; where columns are listed it would fold all rows into one.
        try:
            await self._check_where(db, where, f"{source} AND ({where}\n)")
        except ConfigError as error:
            if sessions or "no such" not in error.cause:
                raise
            hint = "the producer makes it with its first session"
            raise UnavailableError("read outcomes", str(self.path), "no table session_traces yet", hint) from error
        return (
            f"SELECT {number}, outcome_rewards.session_id, outcome_rewards.total_reward, {', '.join(optional)},\n"
            f"CASE WHEN ({where}\n) THEN 1 ELSE 0 END {source} ORDER BY {number} LIMIT ?"
        )

    async def _check_where(self, db: aiosqlite.Connection, where: str, source: str) -> None:
        try:
            await db.execute_fetchall(f"EXPLAIN SELECT 1 {source}", (0,))
        except (sqlite3.OperationalError, sqlite3.ProgrammingError, sqlite3.Warning) as error:
            if "locked" in str(error) or "busy" in str(error):
                raise
            raise _bad_where(where, error) from error
        except sqlite3.DatabaseError as error:
            if "not authorized" in str(error) or "prohibited" in str(error):
                raise _bad_where(where, error) from error
            raise

    async def _fetch(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        if self._db is None:
            raise AssertionError("the database is closed")
        self._deadline = self._clock.monotonic() + _LONGEST_READ
        return list(await self._db.execute_fetchall(sql, values))

    def _unavailable(self, error: sqlite3.Error) -> UnavailableError:
        busy = "locked" in str(error) or "busy" in str(error)
        hint = (
            "the producer is writing; it is tried again"
            if busy
            else "it is tried again; if a row makes the condition fail, guard it (json_valid(...) AND ...),"
            f" if the file is damaged: sqlite3 '{self.path}' 'PRAGMA quick_check'"
        )
        return UnavailableError("read outcomes", str(self.path), str(error), hint)


async def _columns(db: aiosqlite.Connection, table: str) -> set[str]:
    return {row[0] for row in await db.execute_fetchall("SELECT name FROM pragma_table_info(?)", (table,))}


def _bad_where(where: str, error: Exception) -> ConfigError:
    return ConfigError(
        "use the condition",
        "qualify.where",
        f"{where!r}: {error}",
        "it is an SQL condition over outcome_rewards and session_traces, such as total_reward > 0;"
        " name the table where both have the column, as in outcome_rewards.created_at",
    )
