"""Throttle a computation whose cost grows with the dataset to a small share of the time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")

_PAUSE_RATIO = 500
"""Ratio of the pause after a computation to its duration."""


class Throttled(Generic[_T]):
    """Caches the last result of a computation.

    Args:
        compute: Computes the value; :meth:`get` raises its errors.
        monotonic: Returns seconds that never go back.
        pause: Minimum seconds between two computations.
    """

    def __init__(self, compute: Callable[[], _T], monotonic: Callable[[], float], pause: float = 1.0) -> None:
        self._compute = compute
        self._monotonic = monotonic
        self._pause = pause
        self._lock = threading.Lock()
        self._cached: tuple[_T, float] | None = None

    def get(self) -> _T:
        """Return the value, computed again if it is time; concurrent callers wait for it."""
        with self._lock:
            began = self._monotonic()
            if self._cached is None or began >= self._cached[1]:
                value = self._compute()
                end = self._monotonic()
                self._cached = value, end + max(self._pause, _PAUSE_RATIO * (end - began))
            return self._cached[0]
