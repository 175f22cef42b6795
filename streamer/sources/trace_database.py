"""What a poller needs of a trace database, be it a file or on a server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from enum import Enum, auto
from pathlib import Path
from typing import Any, Protocol

from streamer.base.errors import UnavailableError
from streamer.config.database_url import Server


class Opened(Enum):
    """What opening a database found: what was open; a new connection; a database that is another one than before.

    Positions hold on what was open, and only there.
    """

    AS_BEFORE = auto()
    ANEW = auto()
    ANOTHER = auto()


class TooSlowError(UnavailableError):
    """A read was broken off, as it took too long. Fewer rows may do."""


class StatementError(Exception):
    """The database has read a statement, and cannot evaluate it."""


class TraceDatabase(Protocol):
    """One trace database, which is only ever read.

    ``sweep_pause`` is the seconds between two pages of rows that are known already. ``patience`` is the seconds that
    a poll waits before it goes on in the background; None where every read is short. ``keeps_positions`` says that
    positions outlive a failure, as a look at the last row tells whether they still hold.
    """

    sweep_pause: float
    patience: float | None
    keeps_positions: bool

    @property
    def path(self) -> Path | Server:
        """Where it is; as a text, it is fit for errors and the log."""

    @property
    def is_open(self) -> bool:
        """Whether it can be asked."""

    async def open(self, prepare: Callable[[], Awaitable[None]]) -> Opened:
        """Open it unless it is, then call ``prepare``; it counts as open when that has returned.

        Raises:
            UnavailableError: it is not there, or it is too early to try again.
        """

    def is_at_rest(self, *, caught_up: bool, sweeping: bool) -> bool:
        """Say whether there is nothing to be asked just now.

        Args:
            caught_up: every row that was there has been read.
            sweeping: known rows are still to be read again.
        """

    async def version(self) -> int:
        """Return a number that is another one when rows may have changed.

        Raises:
            UnavailableError: as :meth:`fetch`.
        """

    async def fetch(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """Return all rows of a SELECT.

        Raises:
            UnavailableError: it cannot be read now; TooSlowError if that took too long.
        """

    async def try_out(self, sql: str, values: Sequence[Any]) -> None:
        """See whether the database can evaluate a SELECT, without its rows.

        Raises:
            StatementError: it cannot.
            UnavailableError: it cannot be asked now.
        """

    def column(self, expression: str) -> str:
        """Return the SQL that brings a column here as it is, whatever it holds."""

    def value(self, value: Any) -> Any:
        """Return what stands in a column that was read by :meth:`column`."""

    def pause(self, interval: float, *, news: bool) -> float:
        """Return the seconds until the next poll.

        Args:
            interval: the shortest one, in seconds.
            news: the last one has brought something.
        """

    def pause_after_failure(self, pause: float) -> float:
        """Return the seconds until the next poll after one that failed, instead of ``pause``."""

    def hurry(self) -> None:
        """Take note of a sign that there may be new rows."""

    def forget(self) -> None:
        """Have the next :meth:`open` open it anew."""

    async def close(self) -> None:
        """Close it; the next :meth:`open` opens it again."""
