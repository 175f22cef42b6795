"""Which of several outcomes a record belongs to, by each rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.core.records.model import Outcome
from streamer.core.verdicts.join import JoinRule, choose

if TYPE_CHECKING:
    from collections.abc import Sequence


def row(number: int, created: int | None, reward: float | None = 1) -> Outcome:
    """Return an outcome row of one session."""
    return Outcome(number, "run-a", reward, 1, 8, str(created), created, qualifies=True, rule="r", ref=number)


RUNS = [row(1, 10, 3), row(2, 20, 0), row(3, 30, 7), row(4, 30, 7)]
"""Four rollouts of one run id, the last two within one moment."""

rows = st.lists(st.tuples(st.none() | st.integers(0, 3), st.none() | st.integers(-1, 2)), min_size=1, max_size=5).map(
    lambda pairs: [row(i, created, reward) for i, (created, reward) in enumerate(pairs, 1)]
)
times = st.none() | st.integers(-1, 4)


@pytest.mark.parametrize("rule", list(JoinRule))
@pytest.mark.parametrize("time", [None, 5])
def test_a_record_waits_while_its_session_has_no_outcome(rule: JoinRule, time: int | None) -> None:
    """Either side may come first."""
    assert choose([], time, rule) is None


@pytest.mark.parametrize(("time", "number"), [(0, 1), (10, 1), (11, 2), (20, 2), (21, 3), (30, 3)])
def test_as_of_takes_the_first_outcome_at_or_after_the_record(time: int, number: int) -> None:
    """A turn is played before its rollout is scored."""
    chosen = choose(RUNS, time, JoinRule.AS_OF)
    assert chosen is not None
    assert chosen.id == number


def test_as_of_waits_while_all_outcomes_are_older() -> None:
    """They belong to earlier rollouts of the same run id."""
    assert choose(RUNS, 31, JoinRule.AS_OF) is None


def test_as_of_takes_the_newest_for_a_record_without_a_time() -> None:
    """There is nothing better to go by."""
    assert choose(RUNS, None, JoinRule.AS_OF) == RUNS[3]


@pytest.mark.parametrize("time", [None, 0, 25, 99])
def test_first_and_max_do_not_look_at_the_time(time: int | None) -> None:
    """The oldest row; the highest reward, of equal ones the newest."""
    assert choose(RUNS, time, JoinRule.FIRST) == RUNS[0]
    assert choose(RUNS, time, JoinRule.MAX) == RUNS[3]


def test_an_outcome_without_a_time_comes_after_all_others() -> None:
    """So a record is joined with it only where no other one fits."""
    unknown = row(9, None)
    assert choose([unknown, *RUNS], 30, JoinRule.AS_OF) == RUNS[2]
    assert choose([unknown, *RUNS], 31, JoinRule.AS_OF) == unknown
    assert choose([unknown, *RUNS], 5, JoinRule.FIRST) == RUNS[0]


def test_a_row_without_a_reward_is_the_worst() -> None:
    """By ``max`` it is taken only where it is alone."""
    assert choose([row(1, 1, None), row(2, 2, -5)], None, JoinRule.MAX) == row(2, 2, -5)
    assert choose([row(1, 1, None)], None, JoinRule.MAX) == row(1, 1, None)


@pytest.mark.slow
@given(rows, times, st.sampled_from(JoinRule), st.randoms())
def test_the_order_in_which_outcomes_are_known_does_not_matter(
    known: list[Outcome], time: int | None, rule: JoinRule, random: object
) -> None:
    """Rows may be read in any order, after any restart."""
    shuffled = list(known)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert choose(shuffled, time, rule) == choose(known, time, rule)


@given(rows, times)
def test_as_of_is_what_the_sentence_says(known: Sequence[Outcome], time: int | None) -> None:
    """Sort by age, drop what is older than the record, take the first; without a time, the last."""
    aged = sorted(known, key=lambda one: (one.created_us is None, one.created_us or 0, one.id))
    fitting = [one for one in aged if time is None or one.created_us is None or one.created_us >= time]
    expected = (fitting[-1] if time is None else fitting[0]) if fitting else None
    assert choose(known, time, JoinRule.AS_OF) == expected


@given(rows, times)
def test_a_newer_outcome_never_takes_a_record_with_a_time_away(known: list[Outcome], time: int | None) -> None:
    """Once a record has its outcome, later rollouts of the same run id are none of its business."""
    before = choose(known, time, JoinRule.AS_OF)
    newer = row(99, max((one.created_us or 0 for one in known), default=0) + 1)
    if time is not None and before is not None and before.created_us is not None:
        assert choose([*known, newer], time, JoinRule.AS_OF) == before
