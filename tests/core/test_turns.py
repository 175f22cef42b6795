"""What a turn was worth, which rollout that belongs to, and which turns get in: pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.core.records.model import Outcome
from streamer.core.records.worth import Worth
from streamer.core.verdicts.join import JoinRule
from streamer.core.verdicts.reasons import AFTER_LAST_REWARD, NO_REWARD
from streamer.core.verdicts.turns import (
    LONGEST_ACHIEVEMENT,
    MOST_ACHIEVEMENTS,
    RolloutWorth,
    TurnBook,
    TurnReward,
    TurnRules,
    Turns,
    achievements_in,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

TURNS = range(6)
EVERY = list(JoinRule)
values = st.sampled_from([0.0, 0.25, 1.0, 2.0])
rewards = st.lists(st.builds(TurnReward, st.sampled_from(TURNS), values, st.integers(0, 40) | st.none()), max_size=12)
asked = st.builds(TurnRules, st.sampled_from(Turns), st.just("sparse"), st.sampled_from([None, 0.0, 0.5, 2.0]))


def outcome(ref: int, seconds: int) -> Outcome:
    """Return an outcome of the one session that there is here."""
    return Outcome(ref, "s", ref, 1, 8, "x", seconds, qualifies=True, rule="now", ref=ref)


def taken(found: Sequence[TurnReward], rules: TurnRules) -> set[int]:
    """Return the turns of a rollout that get in."""
    worth = RolloutWorth(found, rules)
    return {turn for turn in TURNS if worth.rejection_reason(turn) is None}


def worth_of(found: Sequence[TurnReward], at: Outcome, others: Sequence[Outcome], join: JoinRule) -> RolloutWorth:
    """Return what the rollout that ended with ``at`` was worth."""
    book = TurnBook({"s": found}, {"s": [*others]}, join, TurnRules(Turns.REWARDED, "sparse"))
    rollout = book.rollout(at)
    assert rollout is not None
    return rollout


@pytest.mark.parametrize(
    ("turns", "minimum", "expected"),
    [
        (Turns.ALL, None, {0, 1, 2, 3, 4, 5}),
        (Turns.REWARDED, None, {1, 3}),
        (Turns.REWARDED, 1.0, {3}),
        (Turns.REWARDED, 0.0, {0, 1, 3, 4}),
        (Turns.REWARDED, 3.0, set()),
        (Turns.UNTIL_LAST_REWARD, None, {0, 1, 2, 3}),
        (Turns.UNTIL_LAST_REWARD, 3.0, set()),
    ],
)
def test_turns_are_taken_by_their_reward(turns: Turns, minimum: float | None, expected: set[int]) -> None:
    """Turn 1 has 0.5, turn 3 has 2, turns 0 and 4 have 0, turns 2 and 5 have no reward."""
    found = [TurnReward(turn, value) for turn, value in ((0, 0.0), (1, 0.5), (3, 2.0), (4, 0.0))]
    assert taken(found, TurnRules(turns, "sparse", minimum)) == expected


def test_rewards_of_one_turn_are_added_up_and_their_achievements_named_once() -> None:
    """Several steps of one turn are one turn."""
    found = [TurnReward(2, 0.25, achievements=("a", "b")), TurnReward(2, 0.5, achievements=("b", "c"))]
    worth = RolloutWorth(found, TurnRules(Turns.REWARDED, "sparse", 0.75))
    assert worth.of(2) == Worth(0.75, ["a", "b", "c"])
    assert worth.of(1) == Worth(None, ())
    assert worth.rewarded == [2]


@pytest.mark.parametrize("turn", [None, "2", 2.0, True, [2]])
@pytest.mark.parametrize("turns", [Turns.REWARDED, Turns.UNTIL_LAST_REWARD])
def test_what_is_no_number_of_a_turn_has_no_reward(turns: Turns, turn: object) -> None:
    """A record that does not say which turn it is cannot be found to be good."""
    worth = RolloutWorth([TurnReward(1, 1.0), TurnReward(2, 1.0)], TurnRules(turns, "sparse"))
    assert worth.of(turn) == Worth(None, ())
    assert worth.rejection_reason(turn) == (NO_REWARD if turns is Turns.REWARDED else AFTER_LAST_REWARD)


@given(rewards, rewards, asked)
def test_a_later_reward_only_lets_more_in(found: list[TurnReward], later: list[TurnReward], rules: TurnRules) -> None:
    """So whatever was taken before it came is right after it came, in any order of coming."""
    assert taken(found, rules) <= taken([*found, *later], rules)
    assert taken([*found, *later], rules) == taken([*later, *found], rules)


@given(rewards, st.lists(st.integers(0, 40), min_size=1, max_size=4, unique=True), st.sampled_from(EVERY), st.data())
def test_each_reward_counts_for_one_rollout_at_most(
    found: list[TurnReward], ends: list[int], join: JoinRule, data: st.DataObject
) -> None:
    """However often a session was run, nothing is added up twice; and the order of coming makes no difference."""
    outcomes = [outcome(ref, seconds) for ref, seconds in enumerate(ends, 1)]
    sums = [sum(worth_of(found, at, outcomes, join).of(turn).reward or 0.0 for turn in TURNS) for at in outcomes]
    assert sum(sums) <= sum(reward.value for reward in found)
    shuffled, rows = data.draw(st.permutations(found)), data.draw(st.permutations(outcomes))
    for at in outcomes:
        worths = [worth_of(found, at, outcomes, join), worth_of(shuffled, at, rows, join)]
        assert len({tuple(worth.of(turn).reward for turn in TURNS) for worth in worths}) == 1


class TestWhichRollout:
    """A session that was run twice has each turn twice."""

    FIRST, SECOND = outcome(1, 10), outcome(2, 20)

    @pytest.mark.parametrize(
        ("happened", "recorded", "whose"),
        [
            (5, 5, [1.0, None]),
            (10, 11, [1.0, None]),
            (15, 15, [None, 1.0]),
            (5, 15, [1.0, None]),  # a judge that came later speaks of an event of the first
            (25, 25, [None, None]),  # a third run, which has not ended yet
            (None, 5, [1.0, None]),
            (None, 15, [None, 1.0]),
            (None, 25, [None, 1.0]),  # nothing says when it happened, and it was written after all of them
            (None, None, [None, 1.0]),
        ],
    )
    def test_a_reward_belongs_to_the_first_outcome_after_its_event(
        self, happened: int | None, recorded: int | None, whose: list[float | None]
    ) -> None:
        """As a record does, under ``as_of``."""
        found = [TurnReward(3, 1.0, happened, recorded)]
        both = (self.FIRST, self.SECOND)
        assert [worth_of(found, at, both, JoinRule.AS_OF).of(3).reward for at in both] == whose

    @pytest.mark.parametrize(("join", "ref"), [(JoinRule.FIRST, 1), (JoinRule.MAX, 2)])
    def test_the_other_rules_take_a_session_for_one_rollout(self, join: JoinRule, ref: int) -> None:
        """Records of all runs belong to that outcome, and so do rewards."""
        found = [TurnReward(3, 1.0, happened) for happened in (5, 15, 25)]
        both = (self.FIRST, self.SECOND)
        assert worth_of(found, both[ref - 1], both, join).of(3).reward == 3.0

    def test_a_session_whose_rewards_were_not_read_has_no_worth_yet(self) -> None:
        """That is something else than to have none."""
        book = TurnBook({"t": []}, {}, JoinRule.AS_OF, TurnRules(Turns.REWARDED, "sparse"))
        assert book.rollout(self.FIRST) is None


class TestAchievements:
    """What an annotation names."""

    @pytest.mark.parametrize(
        ("annotation", "names"),
        [
            (None, ()),
            ("", ()),
            ("nonsense", ()),
            ("[1]", ()),
            ('{"achievements": null}', ()),
            ('{"achievements": "a"}', ()),
            ('{"other": ["a"]}', ()),
            ('{"achievements": ["a", 1, null, ["b"], "a", "c"]}', ("a", "c")),
            ("[" * 100_000, ()),
            ('{"achievements": ["\\ud800"]}', ()),
        ],
    )
    def test_names_are_texts_each_once(self, annotation: str | None, names: tuple[str, ...]) -> None:
        """What is no list of names names nothing."""
        assert achievements_in(annotation) == names

    def test_their_number_and_length_are_bounded(self) -> None:
        """Whatever an environment writes there."""
        many = [str(number) for number in range(10 * MOST_ACHIEVEMENTS)]
        assert achievements_in(json.dumps({"achievements": many})) == tuple(many[:MOST_ACHIEVEMENTS])
        long = ["x" * LONGEST_ACHIEVEMENT, "y" * (LONGEST_ACHIEVEMENT + 1)]
        assert achievements_in(json.dumps({"achievements": long})) == (long[0],)
        rows = [TurnReward(1, 1.0, achievements=(name,)) for name in many]
        assert len(RolloutWorth(rows, TurnRules(Turns.ALL, "sparse")).of(1).achievements) == MOST_ACHIEVEMENTS
