"""Judges lines of the dataset by the rules of today. Pure: from the line itself, without its shard.

Duplicates, near-duplicates and caps are not checked again: the record in the dataset came first, and was below the cap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from streamer.base.text import invalid_utf8
from streamer.core.records.layouts import time_us
from streamer.core.records.model import Outcome, State, Verdict
from streamer.core.verdicts.join import choose
from streamer.core.verdicts.judge import Rules, judge_facts
from streamer.core.verdicts.reasons import RETRACTED, WHERE
from streamer.core.verdicts.turns import TurnBook

_NOT_OURS = "no record of streamer"
_NO_OUTCOME = "no outcome known"
_NOT_READ = "outcome not read under the present condition"
_NO_REWARDS = "event rewards not read"
NO_SHARD = "shard of their other lines cannot be read"
"""Reasons of lines that stay because they cannot be judged."""


class _LineFacts(msgspec.Struct, frozen=True):
    """The values of a dataset line on which verdicts depend."""

    run_id: str
    turn: Any
    model: Any
    has_image: bool
    timestamp: Any


class _Line(msgspec.Struct, gc=False):
    metadata: _LineFacts


_decode = msgspec.json.Decoder(_Line).decode


def facts_of(line: bytes) -> _LineFacts | None:
    """Return the facts of a dataset line, or None if streamer did not write it."""
    try:
        return _decode(line).metadata if invalid_utf8(line) is None else None
    except (msgspec.MsgspecError, RecursionError):
        return None


class Judge:
    """Judges lines of some rollouts.

    Args:
        outcomes: All known outcome rows of their sessions.
        retracted: The ``ref`` of the rows that were corrected after records had been accepted by them.
        rules: The rules of today.
        turns: The worth of their turns, if the rules need it.
    """

    def __init__(
        self,
        outcomes: Mapping[str, Sequence[Outcome]],
        retracted: frozenset[int],
        rules: Rules,
        turns: TurnBook | None,
    ) -> None:
        self._outcomes = outcomes
        self._retracted = retracted
        self._rules = rules
        self._turns = turns

    def verdict(self, facts: _LineFacts | None) -> Verdict | str | None:
        """Return the verdict that removes a line, the reason why it cannot be judged, or None: it stays."""
        if facts is None:
            return _NOT_OURS
        rows = self._outcomes.get(facts.run_id, ())
        outcome = choose(rows, time_us(facts.timestamp), self._rules.join)
        if outcome is None:
            return _NO_OUTCOME
        if outcome.rule != self._rules.where:
            return _NOT_READ
        if not outcome.qualifies:
            reason = RETRACTED if outcome.ref in self._retracted else outcome.problem or WHERE
            return Verdict(State.REJECTED, reason, outcome.ref, outcome.rule)
        verdict, _ = judge_facts(facts, outcome, self._rules, self._turns)
        return _NO_REWARDS if verdict is not None and verdict.state is State.WAITING else verdict
