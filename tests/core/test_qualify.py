"""What is asked of an outcome and of a record before it gets in."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.core.records.conversation import of_messages
from streamer.core.records.model import SourceRecord
from streamer.core.verdicts.qualify import Images, RecordRules, rejection_reason


def record(turn: Any = 0, model: Any = "gpt-5-nano", *, has_image: bool = False) -> SourceRecord:
    """Return a record of which only that matters."""
    return SourceRecord("run-a", of_messages([]), has_image, turn=turn, model=model)


def test_without_rules_every_record_of_a_good_rollout_gets_in() -> None:
    """Whatever its turn, model and images are, or are not."""
    for turn, model, image in ((0, "a", True), (None, None, False), ("x", 5, True)):
        assert rejection_reason(record(turn, model, has_image=image), RecordRules()) is None


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        (RecordRules(models=("gpt-5-nano", "other")), None),
        (RecordRules(models=("gpt-5",)), "models"),
        (RecordRules(models=("GPT-5-NANO",)), "models"),
        (RecordRules(images=Images.WITHOUT), None),
        (RecordRules(images=Images.WITH), "images"),
        (RecordRules(min_turn=3, max_turn=3), None),
        (RecordRules(min_turn=4), "turn"),
        (RecordRules(max_turn=2), "turn"),
        (RecordRules(models=("x",), images=Images.WITH, max_turn=0), "models"),
        (RecordRules(images=Images.WITH, max_turn=0), "images"),
    ],
)
def test_each_rule_has_its_own_reason(rules: RecordRules, reason: str | None) -> None:
    """The first rule that a record fails is counted."""
    assert rejection_reason(record(3), rules) == reason


@pytest.mark.parametrize("has_image", [False, True])
def test_images_are_asked_for_or_left_out(has_image: bool) -> None:  # noqa: FBT001
    """``with`` and ``without`` divide all records between them."""
    one = record(has_image=has_image)
    verdicts = [rejection_reason(one, RecordRules(images=rule)) for rule in (Images.WITH, Images.WITHOUT)]
    assert verdicts == ([None, "images"] if has_image else ["images", None])


@pytest.mark.parametrize("turn", [None, "3", 3.0, [], {}])
def test_a_record_without_a_turn_is_left_out_as_soon_as_turns_are_asked_for(turn: Any) -> None:
    """What is no whole number cannot be compared."""
    assert rejection_reason(record(turn), RecordRules(min_turn=0)) == "turn"
    assert rejection_reason(record(turn), RecordRules(max_turn=100)) == "turn"


@given(st.integers(), st.none() | st.integers(0, 9), st.none() | st.integers(0, 9))
def test_both_bounds_of_the_turn_are_included(turn: int, low: int | None, high: int | None) -> None:
    """A bound that is not set bounds nothing."""
    fits = (low is None or low <= turn) and (high is None or turn <= high)
    assert (rejection_reason(record(turn), RecordRules(min_turn=low, max_turn=high)) is None) is fits


@given(st.none() | st.text() | st.integers() | st.lists(st.text()), st.lists(st.text(), min_size=1, max_size=3))
def test_models_are_compared_as_they_are(model: Any, models: list[str]) -> None:
    """A model that is no text is none of them, and raises nothing."""
    assert (rejection_reason(record(model=model), RecordRules(models=tuple(models))) is None) is (model in models)
