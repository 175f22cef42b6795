"""Polling intervals of a server: short while rows arrive, longer while none do, with backoff while it is down."""

from __future__ import annotations

from collections.abc import Callable

from streamer.base.files import Clock

LONGEST_PAUSE = 5.0
"""Maximum seconds between two polls without new rows: twelve requests a minute."""

_SLOWER = 1.5
_FIRST_RETRY = 0.5
_LONGEST_RETRY = 30.0
"""Maximum seconds between two retries while a server is down."""


class Pace:
    """Computes the pauses between requests to one server.

    Args:
        clock: The current time.
        random: Returns a number from 0 to 1, the jitter that keeps readers from returning at the same moment.
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
        """Record the start of a poll."""
        self._asked = self._clock.monotonic()

    @property
    def is_too_soon(self) -> bool:
        """Whether the last poll began a moment ago."""
        return self._clock.monotonic() < self._asked + self._shortest

    def hurry(self) -> None:
        """Restart from the shortest pause."""
        self._pause = 0.0

    def next(self, shortest: float, *, found_new: bool) -> float:
        """Return the seconds until the next poll after a successful one."""
        self._shortest = shortest
        slower = min(LONGEST_PAUSE, self._pause * _SLOWER)
        self._pause = shortest if found_new else max(shortest, slower)
        return self._pause

    def worked(self) -> None:
        """Record that the server answered."""
        self._failures = 0

    def failed(self) -> None:
        """Record a failure: each pause is up to twice as long as the one before."""
        longest = min(_LONGEST_RETRY, _FIRST_RETRY * 2.0 ** min(self._failures, 16))
        self._failures += 1
        self._retry_at = self._clock.monotonic() + longest * (1 + self._random()) / 2

    @property
    def retry_in(self) -> float:
        """Seconds until the next retry; 0 if it may happen now."""
        return max(0.0, self._retry_at - self._clock.monotonic()) if self._failures else 0.0
