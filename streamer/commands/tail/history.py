"""How many records came when, since one began to look: in bounded memory, however long that is."""

from __future__ import annotations

from collections import deque

import msgspec

MOST = 240
"""Slots that are kept. When they are full, two become one."""

_MINUTE = 60.0
_RECENT = 1000
"""Looks of the last minute that are kept: more than anyone looks."""


class _Slots(msgspec.Struct, frozen=True):
    """Records that came in slots of ``seconds`` each, the oldest first; the last slot is the present one."""

    seconds: float
    records: tuple[int, ...]


class ArrivalHistory:
    """Counts records by the time at which they came.

    Args:
        now: monotonic seconds at the beginning.
        slot: seconds of a slot at the beginning.
    """

    def __init__(self, now: float, slot: float = 1.0) -> None:
        self._start = now
        self._slot = slot
        self._records = [0]
        self._recent: deque[tuple[float, int]] = deque(maxlen=_RECENT)

    def add(self, now: float, records: int) -> None:
        """Count ``records`` that came now; 0 lets time pass."""
        while (index := int((now - self._start) / self._slot)) >= MOST:
            self._records += [0] * (len(self._records) % 2)
            self._records = [a + b for a, b in zip(self._records[::2], self._records[1::2], strict=True)]
            self._slot *= 2
        self._records += [0] * (index + 1 - len(self._records))
        self._records[index] += records
        if records:
            self._recent.append((now, records))

    def slots(self, width: int) -> _Slots:
        """Return all of it in at most ``width`` slots of equal length."""
        merged = -(-len(self._records) // max(1, width))
        records = (sum(self._records[i : i + merged]) for i in range(0, len(self._records), merged))
        return _Slots(self._slot * merged, tuple(records))

    def per_minute(self, now: float) -> float:
        """Return how many records came in the last minute; of a shorter time, how many a minute."""
        while self._recent and self._recent[0][0] < now - _MINUTE:
            self._recent.popleft()
        seconds = min(max(now - self._start, self._slot), _MINUTE)
        return sum(records for _, records in self._recent) / seconds * _MINUTE
