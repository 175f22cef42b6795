"""Would a line of the dataset get in today? Pure: from the line itself, without its shard.

Near-duplicates, duplicates and caps are not asked again: what is in the dataset was the first, and had room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from streamer.base.text import invalid_utf8
from streamer.core.records.layouts import time_us
from streamer.core.records.model import Outcome, State, Verdict
from streamer.core.verdicts.join import choose
from streamer.core.verdicts.judge import Rules
from streamer.core.verdicts.qualify import rejection_reason
from streamer.core.verdicts.reasons import RETRACTED, WHERE
from streamer.core.verdicts.turns import TurnBook

_NOT_OURS = "no record of streamer"
_NO_OUTCOME = "no outcome known"
_NOT_READ = "outcome not read under the present condition"
_NO_REWARDS = "event rewards not read"
NO_SHARD = "shard of their other lines cannot be read"
"""Why lines stay although nothing says that they would get in today."""


class _Facts(msgspec.Struct, frozen=True):
    """What a dataset line says of itself, as far as verdicts depend on it."""

    run_id: str
    turn: Any
    model: Any
    has_image: bool
    timestamp: Any


class _Line(msgspec.Struct, gc=False):
    metadata: _Facts


_decode = msgspec.json.Decoder(_Line).decode


def facts_of(line: bytes) -> _Facts | None:
    """Return what a dataset line says of itself, None if it is not one of ours."""
    try:
        return _decode(line).metadata if invalid_utf8(line) is None else None
    except (msgspec.MsgspecError, RecursionError):
        return None


class Judge:
    """Judges lines of some rollouts.

    Args:
        outcomes: all known outcome rows of their sessions.
        withdrawn: the ``ref`` of those that were corrected after records were taken by them.
        rules: what verdicts depend on.
        turns: what their turns were worth, if the rules ask for it.
    """

    def __init__(
        self,
        outcomes: Mapping[str, Sequence[Outcome]],
        withdrawn: frozenset[int],
        rules: Rules,
        turns: TurnBook | None,
    ) -> None:
        self._outcomes = outcomes
        self._withdrawn = withdrawn
        self._rules = rules
        self._turns = turns

    def verdict(self, facts: _Facts | None) -> Verdict | str | None:
        """Return the verdict that takes a line out, the reason why it stays unjudged, or None: it stays."""
        if facts is None:
            return _NOT_OURS
        rows = self._outcomes.get(facts.run_id, ())
        outcome = choose(rows, time_us(facts.timestamp), self._rules.join)
        if outcome is None:
            return _NO_OUTCOME
        if outcome.rule != self._rules.where:
            return _NOT_READ
        if not outcome.qualifies:
            return self._below(RETRACTED if outcome.ref in self._withdrawn else WHERE, outcome)
        reason = rejection_reason(facts, self._rules.records)
        if reason is None and self._turns is not None:
            rollout = self._turns.rollout(outcome)
            if rollout is None:
                return _NO_REWARDS
            reason = rollout.rejection_reason(facts.turn)
        return None if reason is None else self._below(reason, outcome)

    def _below(self, reason: str, outcome: Outcome) -> Verdict:
        return Verdict(State.REJECTED, reason, outcome.ref, outcome.rule)
