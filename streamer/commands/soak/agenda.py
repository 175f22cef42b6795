"""Many slow scripts in one thread, each a generator that says when it wants to go on."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from itertools import count

Script = Iterator[float]
"""Acts, one after the other; each ``yield`` is a pause in seconds."""


class Agenda:
    """Scripts in the order in which they are due.

    Args:
        now: returns seconds that never go back.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._order = count()
        self._waiting: list[tuple[float, int, Script]] = []

    def add(self, script: Script, pause: float = 0.0) -> None:
        """Begin a script after so many seconds."""
        heapq.heappush(self._waiting, (self._now() + pause, next(self._order), script))

    def act(self) -> float:
        """Let every script that is due do its next act; return the seconds until another one is."""
        due = self._now()
        while self._waiting and self._waiting[0][0] <= due:
            script = heapq.heappop(self._waiting)[2]
            pause = next(script, None)
            if pause is not None:
                self.add(script, pause)
        return max(0.0, self._waiting[0][0] - self._now()) if self._waiting else 0.0
