"""A trace database that is a file, opened read-only.

Invariants
- Each read is short, and no lock outlives it: the producer can commit whenever we are not reading.
- Nothing is read while ``PRAGMA data_version`` reports no change.
- A replaced or deleted file is noticed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiosqlite

from streamer.base.errors import UnavailableError
from streamer.base.files import Clock
from streamer.config.database_url import local_path
from streamer.sources.database_file import file_id, file_times, is_busy, open_trace_database, primary_code
from streamer.sources.trace_database import Opened, TooSlowError

_LONGEST_READ = 0.1
"""Timeout of one read in seconds: a longer one would delay the producer."""

_STEPS = 10_000
"""SQLite instructions between two checks of the clock: well under a millisecond."""

_QUIET_POLLS = 50
"""Polls without a new row after which pauses become longer, by the factor ``_SLOWER``."""

_SLOWER = 5

_SWEEP_PAUSE = 0.5
_TRUST = 1.0
"""Seconds for which unchanged file times are trusted; then SQLite itself is asked."""


_POLL_TIMEOUT = 0.5
"""Seconds after which lines no longer wait for a condition that is slow."""


class LocalDatabase:
    """One file, which may appear, disappear and be replaced.

    Args:
        database: A path or a URL of a file; sqld's file appears with its directory.
        clock: The current time.
    """

    sweep_pause = _SWEEP_PAUSE
    poll_timeout = _POLL_TIMEOUT
    keeps_positions = False

    def __init__(self, database: str, clock: Clock) -> None:
        self._quiet = 0
        self._database = database
        self._clock = clock
        self._open = AsyncExitStack()
        self._db: aiosqlite.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._opened: tuple[int, int] | None = None
        self._deadline = 0.0
        self._times: object = None
        self._ask_again = 0.0

    @property
    def path(self) -> Path:
        """The file; sqld's appears with its directory."""
        return local_path(self._database)

    @property
    def is_open(self) -> bool:
        """Whether it can be read."""
        return self._db is not None

    async def open(self, prepare: Callable[[], Awaitable[None]]) -> Opened:
        """Open the present file unless it is open.

        Raises:
            UnavailableError: There is none, or it cannot be opened.
        """
        there = file_id(self.path)
        if there is not None and there == self._file:
            return Opened.UNCHANGED
        is_replaced = None not in (there, self._opened) and there != self._opened
        await self.close()
        if there is None:
            raise UnavailableError(
                "read outcomes",
                str(self.path),
                "there is no such file yet",
                "it is waited for; or name another: --database FILE, TURSO_LOCAL_DB_URL, SQLD_DB_PATH",
            )
        self._db = await self._open.enter_async_context(open_trace_database(self.path))
        try:
            await self._db.set_progress_handler(lambda: self._clock.monotonic() > self._deadline, _STEPS)
        except sqlite3.Error as error:
            raise self._unavailable(error) from error
        await prepare()
        self._file = self._opened = there
        return Opened.REPLACED if is_replaced else Opened.REOPENED

    def is_at_rest(self, *, caught_up: bool, sweeping: bool) -> bool:
        """Return whether no work is pending and the file times are unchanged, which costs a few stats."""
        now = self._clock.monotonic()
        times = file_times(self.path)
        rested = caught_up and not sweeping and times == self._times and now < self._ask_again
        if not rested:
            self._times, self._ask_again = times, now + _TRUST
        return rested

    async def version(self) -> int:
        """Return SQLite's data version, which changes when another connection has written.

        Raises:
            UnavailableError: As :meth:`fetch`.
        """
        rows = await self.fetch("PRAGMA data_version")
        return int(rows[0][0])

    async def fetch(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """Return all rows of a SELECT.

        Raises:
            UnavailableError: The file is busy or damaged; TooSlowError if it took too long.
        """
        if self._db is None:
            raise AssertionError("the database is closed")
        self._deadline = self._clock.monotonic() + _LONGEST_READ
        try:
            return list(await self._db.execute_fetchall(sql, values))
        except sqlite3.Error as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: sqlite3.Error) -> UnavailableError:
        op, place = "read outcomes", str(self.path)
        if primary_code(error) == sqlite3.SQLITE_INTERRUPT:
            cause = f"a read took more than {_LONGEST_READ} s"
            hint = "smaller pages are tried; is the disk slow?"
            return TooSlowError(op, place, cause, hint)
        hint = (
            "the producer is writing; it is tried again"
            if is_busy(error)
            else "it is tried again; if a row makes the condition fail, guard it (json_valid(...) AND ...),"
            f" if the file is damaged: sqlite3 '{self.path}' 'PRAGMA quick_check'"
        )
        return UnavailableError(op, place, str(error), hint)

    def column(self, expression: str) -> str:
        """Return the column unchanged."""
        return expression

    def value(self, value: Any) -> Any:
        """Return the value unchanged."""
        return value

    def pause(self, interval: float, *, found_new: bool) -> float:
        """Return the seconds until the next poll: a quiet file is polled less often.

        A notified change ends the pause early.
        """
        self._quiet = 0 if found_new else self._quiet + 1
        return interval if self._quiet < _QUIET_POLLS else interval * _SLOWER

    def pause_after_failure(self, pause: float) -> float:
        """Return the usual backoff."""
        return pause

    def hurry(self) -> None:
        """Do nothing: polls of a file are always frequent."""

    def invalidate(self) -> None:
        """Make the next poll reopen it."""
        self._file = None

    async def close(self) -> None:
        """Close the connection."""
        self._db = None
        self._file = None
        self._times, self._ask_again = None, 0.0
        await self._open.aclose()
