"""A value that costs more as the dataset grows: found anew only for a small share of the time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")

_SHARE = 500
"""Finding it is followed by a pause of so many times its own duration."""


class Seldom(Generic[_T]):
    """The value as it was when it was last found.

    Args:
        find: finds it; what it raises is raised by :meth:`get`.
        monotonic: returns seconds that never go back.
        pause: the shortest seconds between two findings.
    """

    def __init__(self, find: Callable[[], _T], monotonic: Callable[[], float], pause: float = 1.0) -> None:
        self._find = find
        self._monotonic = monotonic
        self._pause = pause
        self._lock = threading.Lock()
        self._found: tuple[_T, float] | None = None

    def get(self) -> _T:
        """Return the value, found anew if it is time; whoever asks meanwhile waits for it."""
        with self._lock:
            began = self._monotonic()
            if self._found is None or began >= self._found[1]:
                value = self._find()
                end = self._monotonic()
                self._found = value, end + max(self._pause, _SHARE * (end - began))
            return self._found[0]
