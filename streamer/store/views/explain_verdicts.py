"""The sentence that says why lines have their state, from the ledger alone."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from streamer.core.records.model import State
from streamer.core.verdicts.reasons import (
    AFTER_LAST_OUTCOME,
    CAP,
    CONDITION_FAILED,
    CONDITION_TOO_SLOW,
    IMAGES,
    MODELS,
    NEAR,
    NOT_A_NUMBER,
    RETRACTED,
    REWARD_REASONS,
    REWARDS_UNREAD,
    RULE_CHANGED,
    SENT_AGAIN,
    TURN,
    UNREADABLE,
    VALUE_TOO_LONG,
)
from streamer.store.dataset.dead_letters import dead_letters_path
from streamer.store.ledger.cuts import taken_out_at
from streamer.store.ledger.paths import is_stream
from streamer.store.views.explain_subjects import OutcomeRow
from streamer.store.views.explain_turns import TurnReasons

_OVERWRITTEN = " (these lines were overwritten in the shard since)"

_PROBLEMS = {
    NOT_A_NUMBER: "a reward or count in that row is no number",
    CONDITION_FAILED: "SQLite could not evaluate the condition on that row; guard it, as in json_valid(...) AND ...",
    CONDITION_TOO_SLOW: "the condition took too long on that row",
    VALUE_TOO_LONG: "that row holds a value that is too long for the condition to look at",
}

_RULES = {
    MODELS: "its model is not among records.models",
    IMAGES: "records.images asks for the other kind",
    TURN: "its turn lies outside records.min_turn and max_turn",
}


class VerdictReasons:
    """Reasons for the verdicts of spans of one ledger.

    Args:
        db: The ledger, in a transaction.
        dataset: Its dataset.
        turns: Reasons from event rewards.
    """

    def __init__(self, db: sqlite3.Connection, dataset: Path, turns: TurnReasons) -> None:
        self._db = db
        self._dead_letters = dead_letters_path(dataset)
        self._turns = turns
        self._conditions = dict(db.execute("SELECT rule, sql FROM condition"))

    def because(self, span: dict[str, Any], outcomes: Sequence[OutcomeRow]) -> str:
        """Return the reason of a span; ``outcomes`` are those of its session."""
        at, taken_out = None, ""
        if span["state"] == State.REJECTED:
            at = taken_out_at(self._db, span["shard_id"], span["start"], span["stop"])
        if at is not None:
            time = f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%SZ}"
            taken_out = f"; taken out of the dataset by `streamer compact` at {time}"
        return self._verdict(span, outcomes) + taken_out + (_OVERWRITTEN if span["replaced"] else "")

    def _verdict(self, span: dict[str, Any], outcomes: Sequence[OutcomeRow]) -> str:
        outcome = f"outcome row {span['outcome_id']} (total_reward {span['total_reward']})"
        state, reason = span["state"], span["reason"]
        is_sent = is_stream(os.fsdecode(span["path"]))
        qualified = "it qualified at its collector" if is_sent else f"its rollout qualifies by {outcome}"
        if reason == SENT_AGAIN:
            return "its collector sent it again, and the dataset holds it"
        if reason.startswith(CAP):
            return f"{qualified}, but the cap on {reason.removeprefix(CAP)} was full"
        if state == State.DUPLICATE:
            held = "a record that it nearly equals" if reason == NEAR else "an equal record"
            return f"{qualified}, but the dataset holds {held}"
        if state == State.ACCEPTED:
            later = ", but was corrected and would not qualify now" if span["withdrawn"] else ""
            return qualified if is_sent else f"{outcome} met the condition{later}"
        if state == State.DEAD_LETTERED:
            return f"{reason}; see {self._dead_letters}"
        return self._rejected(span, outcome) if state == State.REJECTED else self._waiting(state, reason, outcomes)

    def _rejected(self, span: dict[str, Any], outcome: str) -> str:
        reason = span["reason"]
        if reason == UNREADABLE:
            return f"{outcome} qualifies since a correction or a late reward, but the shard could not be read"
        if reason == RETRACTED:
            return f"its rollout was withdrawn: {outcome} was corrected, and does not qualify any more"
        if reason in REWARD_REASONS:
            return f"its rollout qualifies by {outcome}, but {self._turns.of_rollout(span)}"
        if reason in _PROBLEMS:
            return f"{outcome} does not qualify: {_PROBLEMS[reason]}"
        return _RULES.get(reason, f"{outcome} did not meet: {self._conditions.get(span['rule'])}")

    def _waiting(self, state: str, reason: str, outcomes: Sequence[OutcomeRow]) -> str:
        still = "; still taken when its outcome comes" if state == State.EXPIRED else ""
        if reason == UNREADABLE:
            return f"its outcome is there, but the shard could not be read then: put it back in place{still}"
        if reason == RULE_CHANGED:
            return f"its outcome has not been read under the present condition yet{still}"
        if reason == REWARDS_UNREAD:
            return f"its rollout qualifies, but its event rewards have not been read yet{still}"
        if reason == AFTER_LAST_OUTCOME and outcomes:
            return (
                f"its own time lies after the newest outcome of its session ({outcomes[-1].created_at});"
                f" if that is wrong (clocks, time zones), set join.rule to max or first{still}"
            )
        return f"outcome_rewards has no row of its session yet{still}"
