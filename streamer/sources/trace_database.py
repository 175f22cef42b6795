"""The interface of a trace database for the poller: a file or a server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from enum import Enum, auto
from pathlib import Path
from typing import Any, Protocol

from streamer.base.errors import UnavailableError
from streamer.config.database_url import Server


class Opened(Enum):
    """Result of opening a database: the open connection, a new one, or one to a database that replaced the last.

    Positions are valid only on an unchanged connection.
    """

    UNCHANGED = auto()
    REOPENED = auto()
    REPLACED = auto()


class TooSlowError(UnavailableError):
    """A read was aborted because it took too long. Fewer rows may succeed."""


class TraceDatabase(Protocol):
    """One trace database, opened read-only.

    ``sweep_pause`` is the pause between two pages of known rows, in seconds. ``poll_timeout`` is the time that a poll
    waits before it continues in the background, in seconds. ``keeps_positions`` says that positions outlive a failure,
    as reading the last row again shows whether they are valid.
    """

    sweep_pause: float
    poll_timeout: float
    keeps_positions: bool

    @property
    def path(self) -> Path | Server:
        """Its file or server; the text form is safe for errors and the log."""

    @property
    def is_open(self) -> bool:
        """Whether it can be read."""

    async def open(self, prepare: Callable[[], Awaitable[None]]) -> Opened:
        """Open it if it is not open, then call ``prepare``; it counts as open once that has returned.

        Raises:
            UnavailableError: It is missing, or it is too early to retry.
        """

    def is_at_rest(self, *, caught_up: bool, sweeping: bool) -> bool:
        """Return whether a poll would find nothing now.

        Args:
            caught_up: Every row has been read.
            sweeping: A sweep over known rows is running or pending.
        """

    async def version(self) -> int:
        """Return a number that differs after each possible change of rows.

        Raises:
            UnavailableError: As :meth:`fetch`.
        """

    async def fetch(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """Return all rows of a SELECT.

        Raises:
            UnavailableError: It cannot be read now; TooSlowError if that took too long.
        """

    def column(self, expression: str) -> str:
        """Return the SQL that transfers a column unchanged, whatever it holds."""

    def value(self, value: Any) -> Any:
        """Return the value of a column that was read with :meth:`column`."""

    def pause(self, interval: float, *, found_new: bool) -> float:
        """Return the seconds until the next poll.

        Args:
            interval: The minimum, in seconds.
            found_new: Whether the last poll found new rows.
        """

    def pause_after_failure(self, pause: float) -> float:
        """Return the seconds until the next poll after a failed one, instead of ``pause``."""

    def hurry(self) -> None:
        """Poll soon: there may be new rows."""

    def invalidate(self) -> None:
        """Make the next :meth:`open` reopen it."""

    async def close(self) -> None:
        """Close it; the next :meth:`open` reopens it."""
