"""The event rewards of single turns, and which turns they accept. Pure: no I/O, no clock.

The rows of ``event_rewards`` have several types that count the same thing in different ways, so they are never added
across types. One type is read; its rows of one turn are added.

A reward belongs to a rollout as a record does. A session that was run several times has the same turns several times,
so each reward finds its outcome by the time of its event (``join``): a judge may write the row an hour after the
rollout.
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
"""The reward type that is read by default: the only one of the task app that names the achievements and has a row for
each turn, also for turns without an achievement."""

MOST_ACHIEVEMENTS = 64
"""Achievements kept for one turn."""

LONGEST_ACHIEVEMENT = 200
"""Characters of an achievement; longer names are left out."""


class Turns(StrEnum):
    """Rule on turns: those of a rollout that qualifies that are accepted."""

    ALL = "all"
    REWARDED = "rewarded"
    UNTIL_LAST_REWARD = "until_last_reward"


class TurnRules(msgspec.Struct, frozen=True):
    """The event rewards that are read, and the condition on a turn.

    ``minimum`` is the least reward that counts; None means more than 0.
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
    """All rewards of one type of a session, in the order in which they were recorded."""

    session: str
    type: str
    rewards: Sequence[TurnReward]


_NOTHING = Worth()


class RolloutWorth:
    """The rewards of one rollout, by turn."""

    def __init__(self, rewards: Iterable[TurnReward], rules: TurnRules) -> None:
        by_turn: dict[int, list[TurnReward]] = {}
        for reward in rewards:
            by_turn.setdefault(reward.turn, []).append(reward)
        self._rules = rules
        self._turns = {turn: _worth(rows) for turn, rows in by_turn.items()}
        self.rewarded = sorted(turn for turn, worth in self._turns.items() if rules.is_rewarded(worth.reward))

    def of(self, turn: object) -> Worth:
        """Return the rewards of a turn; none for a value that is no turn number."""
        return self._turns.get(turn, _NOTHING) if is_turn(turn) else _NOTHING

    def rejection_reason(self, turn: object) -> str | None:
        """Return the counted reason to reject a record of this turn for now, or None to accept it."""
        if self._rules.turns is Turns.REWARDED and not self._rules.is_rewarded(self.of(turn).reward):
            return NO_REWARD
        if self._rules.turns is Turns.UNTIL_LAST_REWARD and not self._is_up_to_last(turn):
            return AFTER_LAST_REWARD
        return None

    def _is_up_to_last(self, turn: object) -> bool:
        return bool(self.rewarded) and is_turn(turn) and turn <= self.rewarded[-1]


class TurnBook:
    """The rewards of turns of several sessions, computed once for each rollout when first requested."""

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
        """Return the rewards of the rollout that ended with ``outcome``; None if they have not been read."""
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
    """Return the rewards of a session by the ``ref`` of their rollout's outcome.

    The key None has those of a rollout that has no outcome yet.
    """
    found: dict[int | None, list[TurnReward]] = {}
    for reward in rewards:
        outcome = _outcome_of(reward, outcomes, join)
        found.setdefault(outcome.ref if outcome else None, []).append(reward)
    return found


def _outcome_of(reward: TurnReward, outcomes: Sequence[Outcome], join: JoinRule) -> Outcome | None:
    """Return the outcome of the rollout that a reward belongs to.

    An event after all outcomes belongs to a rollout that has not ended. A row without an event has only the time at
    which it was written, which may be long after its rollout: then it belongs to the newest one.
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
    """Return the achievements in an annotation, each once; none if it cannot be read."""
    try:
        named = _annotation(annotation).achievements if annotation else []
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return ()
    names = dict.fromkeys(name for name in named if isinstance(name, str) and len(name) <= LONGEST_ACHIEVEMENT)
    return tuple(names)[:MOST_ACHIEVEMENTS]
