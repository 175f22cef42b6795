"""Reasons to reject a turn of a rollout that qualifies, from the ledger alone."""

from __future__ import annotations

import sqlite3
from functools import cached_property
from typing import Any

from streamer.base.text import counted
from streamer.core.verdicts.join import JoinRule
from streamer.core.verdicts.reasons import AFTER_LAST_REWARD
from streamer.core.verdicts.turns import RolloutWorth, TurnRules, by_rollout, is_turn
from streamer.store.ledger.ledger import outcomes_in
from streamer.store.ledger.turn_rewards import rewards_in, rules_in

_NAMED = 20
"""Rewarded turns listed by number."""


class TurnReasons:
    """Explains spans of one ledger that are rejected by the rules on turns.

    Args:
        db: The ledger, in a transaction.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._last: tuple[object, RolloutWorth, RolloutWorth] | None = None

    @cached_property
    def _rules(self) -> tuple[TurnRules, JoinRule]:
        return rules_in(self._db)

    def of_rollout(self, span: dict[str, Any]) -> str:
        """Return why a span is rejected, and the turns of its rollout that have enough reward."""
        rules, _ = self._rules
        rewarded = self._worth(span)[0].rewarded
        asked = "more than 0" if rules.minimum is None else f"{rules.minimum:g} or more"
        reward = f"{_a(rules.type)} reward of {asked}"
        if not rewarded:
            return f"no turn of it has {reward}; still taken if one comes"
        if span["reason"] == AFTER_LAST_REWARD:
            return f"turn {rewarded[-1]} is its last one with {reward}; still taken if a later one comes"
        named = ", ".join(map(str, rewarded[:_NAMED]))
        more = f" and {counted(len(rewarded) - _NAMED, 'other')}" if len(rewarded) > _NAMED else ""
        return f"only its turn{'s' * (len(rewarded) > 1)} {named}{more} had {reward}; still taken if one comes"

    def of_turn(self, span: dict[str, Any], turn: object) -> str:
        """Return the reward of one turn of the span's rollout, in words."""
        rules, _ = self._rules
        if not is_turn(turn):
            return "it does not say which turn it is"
        worth, pending = self._worth(span)
        reward = worth.of(turn).reward
        fits = worth.rejection_reason(turn) is None
        since = "; it was judged under other settings, or is about to be judged again" if fits else ""
        if reward is not None:
            return f"turn {turn} has {_a(rules.type)} reward of {reward:g}{since}"
        later = ", but one of an event after the newest outcome of the session" if pending.of(turn).reward else ""
        return f"turn {turn} has no {rules.type} reward{later}{since}"

    def _worth(self, span: dict[str, Any]) -> tuple[RolloutWorth, RolloutWorth]:
        """Return the rewards of a span's rollout, and of the one of its session that has not ended yet."""
        place = (span["session"], span["outcome"])
        if self._last is None or self._last[0] != place:
            rules, join = self._rules
            rewards = rewards_in(self._db, [span["session"]], rules.type).get(span["session"], ())
            found = by_rollout(rewards, outcomes_in(self._db, span["session"]), join)
            self._last = (
                place,
                RolloutWorth(found.get(span["outcome"], ()), rules),
                RolloutWorth(found.get(None, ()), rules),
            )
        return self._last[1], self._last[2]


def _a(reward_type: str) -> str:
    return f"{'an' if reward_type[:1].lower() in 'aeio' else 'a'} {reward_type}"
