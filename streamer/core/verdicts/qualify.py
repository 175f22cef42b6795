"""Does a record of a rollout that qualifies get in? Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Protocol

import msgspec

from streamer.core.verdicts.turns import DEFAULT_REWARD_TYPE, TurnRules, Turns


class Images(StrEnum):
    """Which records are taken with regard to images."""

    ANY = "any"
    WITH = "with"
    WITHOUT = "without"


class Facts(Protocol):
    """What rules look at: a record has it, and so has its line in the dataset."""

    @property
    def model(self) -> Any:
        """Which model it is of."""

    @property
    def turn(self) -> Any:
        """Which turn of its rollout it is."""

    @property
    def has_image(self) -> bool:
        """Whether an image is in it."""


class RecordRules(msgspec.Struct, frozen=True):
    """What is asked of a record beyond its outcome. An empty rule asks nothing.

    ``turns``, ``reward_type`` and ``min_turn_reward`` ask for event rewards: see ``turn_rules``.
    """

    models: tuple[str, ...] = ()
    images: Images = Images.ANY
    min_turn: int | None = None
    max_turn: int | None = None
    turns: Turns = Turns.ALL
    reward_type: str | None = None
    min_turn_reward: float | None = None

    @property
    def turn_rules(self) -> TurnRules | None:
        """What is asked of the event rewards of a turn; None where none are to be read."""
        if self.turns is Turns.ALL and self.reward_type is None:
            return None
        return TurnRules(self.turns, self.reward_type or DEFAULT_REWARD_TYPE, self.min_turn_reward)


def below_bar(record: Facts, rules: RecordRules) -> str | None:
    """Return why a record of a rollout that qualifies stays out, as a counted reason, or None if it does not."""
    if rules.models and record.model not in rules.models:
        return "models"
    if rules.images is not Images.ANY and record.has_image is not (rules.images is Images.WITH):
        return "images"
    if not _turn_fits(record.turn, rules):
        return "turn"
    return None


def _turn_fits(turn: object, rules: RecordRules) -> bool:
    if rules.min_turn is None and rules.max_turn is None:
        return True
    if not isinstance(turn, int):
        return False
    return (rules.min_turn is None or turn >= rules.min_turn) and (rules.max_turn is None or turn <= rules.max_turn)
