"""Cuts: the lines that compaction took out of a part, and the offsets of the others since. Pure.

The log offsets of a part's lines never change; its file gets shorter with each *cut*. A cut has offsets of the file as
it was before::

    before    aaaa bbbb cccc dddd        removed: (4, 12)
    after     aaaa dddd                  the line at 12 is now at 4; the lines from 4 to 12 are gone
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

import msgspec
from blake3 import blake3

TAIL = 4096
"""Bytes before an offset whose digest ties a token to a dataset: whole lines of a dataset never change."""

_DIGEST_BYTES = 16

_KEPT_BYTES = 6
"""Bytes that a cut keeps of the digest of a token that the file can no longer prove."""


class Cut(msgspec.Struct, frozen=True):
    """One compaction of one part.

    ``removed`` are the ranges that were taken out, as (from, to) in the file before the cut, in order and not adjacent.
    ``tokens`` are the first bytes of the digests of all tokens whose ``TAIL`` lost bytes: these tokens are still valid,
    although the bytes that they were made of are gone.
    """

    removed: tuple[tuple[int, int], ...]
    tokens: bytes = b""

    @property
    def size(self) -> int:
        """Number of bytes taken out."""
        return sum(stop - start for start, stop in self.removed)

    def has(self, digest: bytes) -> bool:
        """Say whether a token with this digest was valid when the cut was made."""
        wanted, known = digest[:_KEPT_BYTES], self.tokens
        return any(known[at : at + _KEPT_BYTES] == wanted for at in range(0, len(known), _KEPT_BYTES))

    def offset(self, before: int) -> int:
        """Return the offset after the cut of the line that was at ``before``; if it is gone, that of the next line."""
        return _Shift(self.removed).after(before)

    def touches(self, end: int) -> bool:
        """Say whether the cut took bytes out of the ``TAIL`` before ``end``."""
        return touches(self.removed, end)


def token_digest(tail: bytes) -> bytes:
    """Return the digest of a token; ``tail`` are the last ``TAIL`` bytes before its offset."""
    return blake3(tail).digest(_DIGEST_BYTES)


def kept_digest(tail: bytes) -> bytes:
    """Return the bytes that a cut keeps of ``token_digest``."""
    return token_digest(tail)[:_KEPT_BYTES]


def touches(removed: Sequence[tuple[int, int]], end: int) -> bool:
    """Say whether any of these ranges has a byte among the ``TAIL`` bytes before ``end``."""
    last = bisect_left(removed, (end, end)) - 1
    return last >= 0 and removed[last][1] > end - TAIL


def joined(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Return ordered ranges with adjacent ones merged."""
    found: list[tuple[int, int]] = []
    for start, stop in ranges:
        if found and found[-1][1] == start:
            found[-1] = found[-1][0], stop
        else:
            found.append((start, stop))
    return tuple(found)


class _Shift:
    """How far one cut moves each line, computed once."""

    def __init__(self, removed: Sequence[tuple[int, int]]) -> None:
        self._removed = removed
        self._starts: list[int] = []
        self._moved: list[int] = []
        self._gone = [0]
        for start, stop in removed:
            self._starts.append(start)
            self._moved.append(start - self._gone[-1])
            self._gone.append(self._gone[-1] + stop - start)

    def after(self, before: int) -> int:
        """Return the new offset of the line that was at ``before``; if it is gone, that of the next line."""
        cuts = bisect_left(self._starts, before)
        if not cuts:
            return before
        start, stop = self._removed[cuts - 1]
        return before - self._gone[cuts - 1] - (min(before, stop) - start)

    def before(self, offset: int) -> int:
        """Return the former offset of the line that is at ``offset``."""
        return offset + self._gone[bisect_right(self._moved, offset)]

    def removes(self, before: int) -> bool:
        """Say whether the line that was at ``before`` is gone."""
        cuts = bisect_right(self._starts, before)
        return bool(cuts) and before < self._removed[cuts - 1][1]


class OffsetMap:
    """The log offsets of the lines of one file of a dataset, and the file offsets at which they stand.

    Args:
        start: Log offset of the first line that the file ever had.
        cuts: Removals from the file since, in order.
    """

    def __init__(self, start: int, cuts: Iterable[Cut] = ()) -> None:
        self.start = start
        self._shifts = [_Shift(cut.removed) for cut in cuts]

    def file_offset(self, log_offset: int) -> int:
        """Return the file offset of the line with this log offset; if it is gone, that of the next line."""
        offset = log_offset - self.start
        for shift in self._shifts:
            offset = shift.after(offset)
        return offset

    def log_offset(self, file_offset: int) -> int:
        """Return the log offset of the line at this file offset."""
        for shift in reversed(self._shifts):
            file_offset = shift.before(file_offset)
        return self.start + file_offset

    def has(self, log_offset: int) -> bool:
        """Say whether the line with this log offset is still there."""
        offset = log_offset - self.start
        for shift in self._shifts:
            if shift.removes(offset):
                return False
            offset = shift.after(offset)
        return True
