"""Index of the newest records by band. In memory, some 200 bytes a record, allocated once.

It has one hash table for each band, as arrays: ``heads`` is the newest record of each bucket, ``older`` links each
record to the next older one of its bucket, and ``tags`` distinguish records that share a bucket by chance. Records are
numbered in the order in which they are added. ``older`` and ``tags`` are rings: entries more than ``keep`` numbers old
are overwritten, and a chain ends where it leads to such a number.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence

_LONGEST_WALK = 32
"""Newest records of one bucket that are visited; it bounds the cost if all records are alike."""

_MOST = 64
"""Candidates for one record: those that share most bands with it."""

_TAG = 16
"""The upper bits of a band are its tag."""


class Buckets:
    """The bands of the newest ``keep`` records: ``bands`` checksums of 32 bits for each record.

    Results depend on the added records alone.
    """

    def __init__(self, bands: int, keep: int) -> None:
        self._keep = keep
        self._mask = (1 << (keep - 1).bit_length()) - 1
        self._heads = [array("I", bytes(4 * (self._mask + 1))) for _ in range(bands)]
        self._older = [array("I", bytes(4 * keep)) for _ in range(bands)]
        self._tags = [array("H", bytes(2 * keep)) for _ in range(bands)]
        self.last = 0

    def add(self, number: int, bands: Sequence[int]) -> None:
        """Add a record, with a number (from 1) above all others."""
        slot, mask = number % self._keep, self._mask
        for band, heads, older, tags in zip(bands, self._heads, self._older, self._tags, strict=True):
            bucket = band & mask
            older[slot] = heads[bucket]
            tags[slot] = band >> _TAG
            heads[bucket] = number
        self.last = number

    def candidates(self, bands: Sequence[int]) -> list[int]:
        """Return the numbers of the records that share most bands with these, the newer first of several."""
        oldest = max(0, self.last - self._keep)
        found: Counter[int] = Counter()
        for band, heads, older, tags in zip(bands, self._heads, self._older, self._tags, strict=True):
            tag = band >> _TAG
            number = heads[band & self._mask]
            walked = 0
            while number > oldest and walked < _LONGEST_WALK:
                slot = number % self._keep
                if tags[slot] == tag:
                    found[number] += 1
                number = older[slot]
                walked += 1
        if len(found) <= _MOST:
            return sorted(found, reverse=True)
        return sorted(found, key=lambda number: (found[number], number), reverse=True)[:_MOST]
