"""Histograms and quantiles: every value is in one bin, and the bins cover the range."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.base.histogram import Bin, bins, quantile
from streamer.base.spill_counts import Tally

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@contextmanager
def counted(values: Iterable[float]) -> Iterator[Tally]:
    """Count values under the name ``v``."""
    with Tally() as tally:
        for value in values:
            tally.add("v", value)
        yield tally


def test_a_few_values_get_a_bin_each() -> None:
    """Without a width."""
    with counted([3, 1, 3]) as tally:
        assert bins(tally, "v") == [Bin(1, 1, 1), Bin(3, 3, 2)]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_every_value_is_in_one_bin(values: list[float]) -> None:
    """However large the numbers are."""
    with counted(values) as tally:
        found = bins(tally, "v")
    assert sum(one.records for one in found) == len(values)
    assert (found[0].low, found[-1].high) == (min(values), max(values))


def test_a_tail_shares_the_last_bin() -> None:
    """One value far away does not squeeze all others into the first bin."""
    with counted([*range(99), 10_000]) as tally:
        assert [one.records for one in bins(tally, "v")] == [99] + [0] * 8 + [1]
        found = bins(tally, "v", tail=5)
    assert found[-1].high == 10_000
    assert min(one.records for one in found) > 0


def test_a_range_that_is_all_tail_is_shown_whole() -> None:
    """Nearly all values are equal, so the quantile is no upper end."""
    with counted([0] * 10_000 + list(range(25))) as tally:
        assert bins(tally, "v", tail=5)[-1].high == 24


def test_bins_of_whole_numbers_have_whole_edges() -> None:
    """Their width is rounded up, so there may be fewer of them."""
    with counted(range(25)) as tally:
        found = bins(tally, "v", whole=True)
    assert [(one.low, one.records) for one in found] == [(low, 3) for low in range(0, 24, 3)] + [(24, 1)]


@pytest.mark.parametrize(("part", "value"), [(0, 1), (50, 2), (75, 3), (100, 4)])
def test_a_quantile_is_one_of_the_values(part: int, value: float) -> None:
    """The smallest one that so many do not exceed."""
    with counted([1, 2, 3, 4]) as tally:
        assert quantile(tally, "v", part, 100) == value


def test_a_quantile_of_nothing_is_zero() -> None:
    """As there is no value to return."""
    with counted([]) as tally:
        assert quantile(tally, "v", 1, 2) == 0.0
