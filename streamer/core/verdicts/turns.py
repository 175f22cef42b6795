"""What single turns of a rollout were worth, and which of them get in. Pure: no I/O, no clock.

The rows of ``event_rewards`` are of several types that count the same thing in different ways: they are never added
across types. One type is read; its rows of one turn are added up.

A reward belongs to a rollout as a record does. A session that was run several times has the same turns several times,
so each reward finds its outcome by its time (``join``), which is that of its event: a judge that comes an hour after
the rollout still speaks of an event of that rollout.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, TypeGuard

import msgspec

from streamer.core.records.model import Outcome
from streamer.core.records.worth import Worth
from streamer.core.verdicts.join import JoinRule, choose
from streamer.core.verdicts.reasons import AFTER_LAST_REWARD, NO_REWARD

DEFAULT_REWARD_TYPE = "achievement_delta"
"""What is read if nothing else is asked for: the one type of the task app that has a row for each turn, also for those
that achieved nothing, and that names the achievements."""

MOST_ACHIEVEMENTS = 64
"""Names that are kept of one turn."""

LONGEST_ACHIEVEMENT = 200
"""Characters of a name that is kept."""


class Turns(StrEnum):
    """Which turns of a rollout that qualifies are taken."""

    ALL = "all"
    REWARDED = "rewarded"
    UNTIL_LAST_REWARD = "until_last_reward"


class TurnRules(msgspec.Struct, frozen=True):
    """Which event rewards are read, and what is asked of a turn.

    ``minimum`` is the least reward that counts; None asks for more than 0.
    """

    turns: Turns
    type: str
    minimum: float | None = None

    def is_rewarded(self, reward: float | None) -> bool:
        """Say whether a turn's reward counts."""
        if reward is None:
            return False
        return reward > 0 if self.minimum is None else reward >= self.minimum


class TurnReward(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One row of ``event_rewards``, of one type.

    ``happened_us`` is the time of its event, ``recorded_us`` that of the row itself; None where they are unknown.
    """

    turn: int
    value: float
    happened_us: int | None = None
    recorded_us: int | None = None
    achievements: tuple[str, ...] = ()


class SessionRewards(msgspec.Struct, frozen=True):
    """All rewards of one type that a session has, in the order in which they were recorded."""

    session: str
    type: str
    rewards: Sequence[TurnReward]


_NOTHING = Worth()


class RolloutWorth:
    """What the turns of one rollout were worth."""

    def __init__(self, rewards: Iterable[TurnReward], rules: TurnRules) -> None:
        by_turn: dict[int, list[TurnReward]] = {}
        for reward in rewards:
            by_turn.setdefault(reward.turn, []).append(reward)
        self._rules = rules
        self._turns = {turn: _worth(rows) for turn, rows in by_turn.items()}
        self.rewarded = sorted(turn for turn, worth in self._turns.items() if rules.is_rewarded(worth.reward))

    def of(self, turn: object) -> Worth:
        """Return what a turn was worth; what is no number of a turn was worth nothing."""
        return self._turns.get(turn, _NOTHING) if is_turn(turn) else _NOTHING

    def rejection_reason(self, turn: object) -> str | None:
        """Return why a record of this turn stays out for now, as a counted reason, or None if it does not."""
        if self._rules.turns is Turns.REWARDED and not self._rules.is_rewarded(self.of(turn).reward):
            return NO_REWARD
        if self._rules.turns is Turns.UNTIL_LAST_REWARD and not self._is_up_to_last(turn):
            return AFTER_LAST_REWARD
        return None

    def _is_up_to_last(self, turn: object) -> bool:
        return bool(self.rewarded) and is_turn(turn) and turn <= self.rewarded[-1]


class TurnBook:
    """The worth of turns of several sessions, worked out once for each rollout that is asked for."""

    def __init__(
        self,
        rewards: Mapping[str, Sequence[TurnReward]],
        outcomes: Mapping[str, Sequence[Outcome]],
        join: JoinRule,
        rules: TurnRules,
    ) -> None:
        self._rewards = rewards
        self._outcomes = outcomes
        self._join = join
        self._rules = rules
        self._by_session: dict[str, dict[int | None, RolloutWorth]] = {}

    def rollout(self, outcome: Outcome) -> RolloutWorth | None:
        """Return the worth of the rollout that ended with ``outcome``; None if its rewards have not been read."""
        session = outcome.session
        if session not in self._rewards:
            return None
        if session not in self._by_session:
            rewards = by_rollout(self._rewards[session], self._outcomes.get(session, ()), self._join)
            self._by_session[session] = {ref: RolloutWorth(theirs, self._rules) for ref, theirs in rewards.items()}
        return self._by_session[session].get(outcome.ref) or RolloutWorth((), self._rules)


def by_rollout(
    rewards: Iterable[TurnReward], outcomes: Sequence[Outcome], join: JoinRule
) -> dict[int | None, list[TurnReward]]:
    """Return the rewards of a session by the ``ref`` of the outcome that their rollout ended with.

    Under None stand those of a rollout whose outcome is still to come.
    """
    found: dict[int | None, list[TurnReward]] = {}
    for reward in rewards:
        outcome = _outcome_of(reward, outcomes, join)
        found.setdefault(outcome.ref if outcome else None, []).append(reward)
    return found


def _outcome_of(reward: TurnReward, outcomes: Sequence[Outcome], join: JoinRule) -> Outcome | None:
    """Return the outcome of the rollout that a reward belongs to.

    An event after all outcomes is one of a rollout that is still to end. A row without an event says only when it
    was written, and that may be long after its rollout: then it belongs to the newest.
    """
    if reward.happened_us is not None:
        return choose(outcomes, reward.happened_us, join)
    return choose(outcomes, reward.recorded_us, join) or choose(outcomes, None, join)


def _worth(rows: Sequence[TurnReward]) -> Worth:
    names = dict.fromkeys(name for row in rows for name in row.achievements)
    return Worth(math.fsum(row.value for row in rows), list(names)[:MOST_ACHIEVEMENTS])


def is_turn(value: object) -> TypeGuard[int]:
    """Say whether a value is the number of a turn."""
    return isinstance(value, int) and not isinstance(value, bool)


class _Annotation(msgspec.Struct):
    achievements: list[Any] = msgspec.field(default_factory=list)


_annotation = msgspec.json.Decoder(_Annotation).decode


def achievements_in(annotation: str | None) -> tuple[str, ...]:
    """Return the achievements that an annotation names, each once; what cannot be read names none."""
    try:
        named = _annotation(annotation).achievements if annotation else []
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return ()
    names = dict.fromkeys(name for name in named if isinstance(name, str) and len(name) <= LONGEST_ACHIEVEMENT)
    return tuple(names)[:MOST_ACHIEVEMENTS]
