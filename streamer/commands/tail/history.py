"""The number of new records over time since the view was opened, in bounded memory."""

from __future__ import annotations

from collections import deque

import msgspec

MOST = 240
"""The most slots. When all are used, each two are merged."""

_MINUTE = 60.0
_RECENT = 1000
"""The most looks that are kept of the last minute: more than there are."""


class _Slots(msgspec.Struct, frozen=True):
    """The number of new records in each slot of ``seconds``, oldest first; the last slot is the present one."""

    seconds: float
    records: tuple[int, ...]


class ArrivalHistory:
    """Counts records by their arrival time.

    Args:
        now: The time in monotonic seconds.
        slot: The initial length of a slot in seconds.
    """

    def __init__(self, now: float, slot: float = 1.0) -> None:
        self._start = now
        self._slot = slot
        self._records = [0]
        self._recent: deque[tuple[float, int]] = deque(maxlen=_RECENT)

    def add(self, now: float, records: int) -> None:
        """Count ``records`` that arrived at ``now``; 0 only advances time."""
        while (index := int((now - self._start) / self._slot)) >= MOST:
            self._records += [0] * (len(self._records) % 2)
            self._records = [a + b for a, b in zip(self._records[::2], self._records[1::2], strict=True)]
            self._slot *= 2
        self._records += [0] * (index + 1 - len(self._records))
        self._records[index] += records
        if records:
            self._recent.append((now, records))

    def slots(self, width: int) -> _Slots:
        """Return the whole history in at most ``width`` slots of equal length."""
        merged = -(-len(self._records) // max(1, width))
        records = (sum(self._records[i : i + merged]) for i in range(0, len(self._records), merged))
        return _Slots(self._slot * merged, tuple(records))

    def per_minute(self, now: float) -> float:
        """Return the records of the last minute; in the first minute, the rate extrapolated to a minute."""
        while self._recent and self._recent[0][0] < now - _MINUTE:
            self._recent.popleft()
        seconds = min(max(now - self._start, self._slot), _MINUTE)
        return sum(records for _, records in self._recent) / seconds * _MINUTE
