"""Histograms and quantiles of the numbers that a tally has counted."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from streamer.base.spill_counts import Tally

_DISTINCT = 20
"""Most distinct values that get a bin each; more values share bins of equal width."""

_BINS = 10


class Bin(msgspec.Struct, frozen=True):
    """Number of records with a value from ``low`` to below ``high`` (the last bin: to ``high``).

    ``low`` equals ``high`` if the bin is one value.
    """

    low: float
    high: float
    records: int


def bins(tally: Tally, what: str, *, tail: int = 0, whole: bool = False, count: int = _BINS) -> list[Bin]:
    """Return the histogram of the values of ``what``, ascending; a few values get one bin each.

    Args:
        tally: Counts of the values.
        what: Name of the values in the tally.
        tail: Percentage of the largest values that do not widen the bins; the last bin takes them.
        whole: Bins begin at whole numbers, as all values are whole.
        count: Number of bins if the values are many.
    """
    if tally.distinct(what) <= _DISTINCT:
        return [Bin(value, value, records) for value, records in tally.in_order(what)]
    low, highest = tally.range(what)
    high = quantile(tally, what, 100 - tail, 100) if tail else highest
    if high <= low:
        high = highest
    width = high / count - low / count  # high - low may overflow a float
    if whole:
        width = float(math.ceil(width))
        count = int((high - low) // width) + 1
    counts = [0] * count
    for value, records in tally.in_order(what):
        counts[min(int(value / width - low / width), count - 1)] += records
    edges = [low + i * width for i in range(count)] + [highest]
    return [Bin(edges[i], edges[i + 1], records) for i, records in enumerate(counts)]


def quantile(tally: Tally, what: str, part: int, of: int) -> float:
    """Return the smallest value that ``part`` of ``of`` values do not exceed; 0 without values."""
    left = tally.total(what) * part / of
    for value, times in tally.in_order(what):
        left -= times
        if left <= 0:
            return value
    return 0.0
