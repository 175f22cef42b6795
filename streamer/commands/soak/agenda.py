"""Runs many slow scripts in one thread; each is a generator that yields its pauses."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from itertools import count

Script = Iterator[float]
"""A generator of acts; each ``yield`` is a pause in seconds."""


class Agenda:
    """Runs scripts in the order in which they are due.

    Args:
        now: Returns monotonic seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._order = count()
        self._waiting: list[tuple[float, int, Script]] = []

    def add(self, script: Script, pause: float = 0.0) -> None:
        """Add a script that begins after a pause in seconds."""
        heapq.heappush(self._waiting, (self._now() + pause, next(self._order), script))

    def act(self) -> float:
        """Run the next act of every script that is due; return the seconds until another one is due."""
        due = self._now()
        while self._waiting and self._waiting[0][0] <= due:
            script = heapq.heappop(self._waiting)[2]
            pause = next(script, None)
            if pause is not None:
                self.add(script, pause)
        return max(0.0, self._waiting[0][0] - self._now()) if self._waiting else 0.0
