"""Recent activity of the running daemon, in bounded memory: its last batch, and the latency of records."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import islice

import msgspec

from streamer.base.events import Committed, Event

_LATENCIES_KEPT = 1000


class Latency(msgspec.Struct, frozen=True):
    """Latency in seconds from an outcome to its records in the dataset, over the newest ``count`` rollouts."""

    count: int
    median: float
    p99: float


class RecentActivity:
    """An observer that collects figures of batches: called in the daemon's thread, read in the web UI's.

    Args:
        on_change: Called after every event.
        now: Returns seconds since 1970.

    ``last_batch`` is the time of the last commit; None if there was none since the start.
    """

    def __init__(self, on_change: Callable[[], None], now: Callable[[], float] = time.time) -> None:
        self.last_batch: float | None = None
        self._now = now
        self._on_change = on_change
        self._lock = threading.Lock()
        self._latencies: deque[float] = deque(maxlen=_LATENCIES_KEPT)

    def __call__(self, event: Event) -> None:
        """Record an event."""
        if isinstance(event, Committed):
            self.last_batch = self._now()
            with self._lock:
                self._latencies.extend(islice(event.latencies, _LATENCIES_KEPT))
        self._on_change()

    def latency(self) -> Latency | None:
        """Return the latency of recent records; None if there are none."""
        with self._lock:
            found = sorted(self._latencies)
        if not found:
            return None
        last = len(found) - 1
        return Latency(len(found), found[last // 2], found[-(-last * 99 // 100)])
