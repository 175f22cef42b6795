"""How numbers are spread: bins for a histogram, and quantiles, of what a tally has counted."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from streamer.base.spill_counts import Tally

_DISTINCT = 20
"""With more different values than that, they are put into bins of equal width."""

_BINS = 10


class Bin(msgspec.Struct, frozen=True):
    """How many records have a value from ``low`` to below ``high`` (the last bin: to ``high``).

    The two are equal where the bin is one value.
    """

    low: float
    high: float
    records: int


def bins(tally: Tally, what: str, *, tail: int = 0, whole: bool = False, count: int = _BINS) -> list[Bin]:
    """Return how the values of ``what`` are spread, ascending: one bin each if they are few.

    Args:
        tally: where they were counted.
        what: their name there.
        tail: so many percent of the values, the largest ones, do not widen the bins: the last bin takes them.
        whole: the values are whole numbers, and the bins begin at such.
        count: how many bins there are if the values are many.
    """
    if tally.distinct(what) <= _DISTINCT:
        return [Bin(value, value, records) for value, records in tally.in_order(what)]
    low, highest = tally.range(what)
    high = quantile(tally, what, 100 - tail, 100) if tail else highest
    if high <= low:
        high = highest
    width = high / count - low / count  # their difference may be more than a float holds
    if whole:
        width = float(math.ceil(width))
        count = int((high - low) // width) + 1
    counts = [0] * count
    for value, records in tally.in_order(what):
        counts[min(int(value / width - low / width), count - 1)] += records
    edges = [low + i * width for i in range(count)] + [highest]
    return [Bin(edges[i], edges[i + 1], records) for i, records in enumerate(counts)]


def quantile(tally: Tally, what: str, part: int, of: int) -> float:
    """Return the smallest value that ``part`` of ``of`` values do not exceed, 0 if there is none."""
    left = tally.total(what) * part / of
    for value, times in tally.in_order(what):
        left -= times
        if left <= 0:
            return value
    return 0.0
