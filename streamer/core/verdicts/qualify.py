"""The record rules: reasons to reject a record of a rollout that qualifies. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Protocol

import msgspec

from streamer.core.verdicts.reasons import IMAGES, MODELS, TURN
from streamer.core.verdicts.turns import DEFAULT_REWARD_TYPE, TurnRules, Turns


class Images(StrEnum):
    """Rule on images: the records that are accepted."""

    ANY = "any"
    WITH = "with"
    WITHOUT = "without"


class Facts(Protocol):
    """The facts that rules test; a record has them, and so has its dataset line."""

    @property
    def model(self) -> Any:
        """The model that replied."""

    @property
    def turn(self) -> Any:
        """The number of the turn in its rollout."""

    @property
    def has_image(self) -> bool:
        """Whether it contains an image."""


class RecordRules(msgspec.Struct, frozen=True):
    """Conditions on a record beyond its outcome. An empty rule accepts every record.

    ``turns``, ``reward_type`` and ``min_turn_reward`` need event rewards: see ``turn_rules``.
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
        """Conditions on the event rewards of a turn; None if none are read."""
        if self.turns is Turns.ALL and self.reward_type is None:
            return None
        return TurnRules(self.turns, self.reward_type or DEFAULT_REWARD_TYPE, self.min_turn_reward)


def rejection_reason(record: Facts, rules: RecordRules) -> str | None:
    """Return the counted reason to reject a record of a rollout that qualifies, or None to accept it."""
    if rules.models and record.model not in rules.models:
        return MODELS
    if rules.images is not Images.ANY and record.has_image is not (rules.images is Images.WITH):
        return IMAGES
    if not _turn_fits(record.turn, rules):
        return TURN
    return None


def _turn_fits(turn: object, rules: RecordRules) -> bool:
    if rules.min_turn is None and rules.max_turn is None:
        return True
    if not isinstance(turn, int):
        return False
    return (rules.min_turn is None or turn >= rules.min_turn) and (rules.max_turn is None or turn <= rules.max_turn)
