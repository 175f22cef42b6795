"""How often a server is asked: at once while rows come, rarely while none do, ever more rarely while it is away."""

from __future__ import annotations

from collections.abc import Callable

from streamer.base.files import Clock

LONGEST_PAUSE = 5.0
"""Seconds between two polls that bring nothing: twelve requests a minute."""

_SLOWER = 1.5
_FIRST_RETRY = 0.5
_LONGEST_RETRY = 30.0
"""Seconds between two tries while a server is away, however long that is."""


class Pace:
    """The pauses between requests to one server.

    Args:
        clock: what time it is.
        random: returns a number from 0 to 1, for pauses that differ: not all readers come back in one moment.
    """

    def __init__(self, clock: Clock, random: Callable[[], float]) -> None:
        self._clock = clock
        self._random = random
        self._shortest = 0.0
        self._pause = 0.0
        self._asked = float("-inf")
        self._failures = 0
        self._retry_at = float("-inf")

    def asked(self) -> None:
        """Note that a poll begins."""
        self._asked = self._clock.monotonic()

    @property
    def is_too_soon(self) -> bool:
        """Whether the last poll began a moment ago."""
        return self._clock.monotonic() < self._asked + self._shortest

    def hurry(self) -> None:
        """Go on from the shortest pause."""
        self._pause = 0.0

    def next(self, shortest: float, *, news: bool) -> float:
        """Return the seconds until the next poll, after one that worked."""
        self._shortest = shortest
        slower = min(LONGEST_PAUSE, self._pause * _SLOWER)
        self._pause = shortest if news else max(shortest, slower)
        return self._pause

    def worked(self) -> None:
        """Note that the server answers."""
        self._failures = 0

    def failed(self) -> None:
        """Note that it does not: each pause is up to twice as long as the one before."""
        longest = min(_LONGEST_RETRY, _FIRST_RETRY * 2.0 ** min(self._failures, 16))
        self._failures += 1
        self._retry_at = self._clock.monotonic() + longest * (1 + self._random()) / 2

    @property
    def retry_in(self) -> float:
        """Seconds until the next try; 0 when it is time."""
        return max(0.0, self._retry_at - self._clock.monotonic()) if self._failures else 0.0
