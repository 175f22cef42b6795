"""Event rewards in the ledger: those of each session as last read, and the rules on turns.

The functions run inside the ledger's transactions. Rewards are stored in the transaction that stores the outcomes
they were read with, and make the lines pending that they can accept.

The tables are created when event rewards are first configured. An older streamer ignores them, so the ledger's version
is the same.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

import msgspec

from streamer.core.records.model import OPEN_STATES, State
from streamer.core.verdicts.join import JoinRule
from streamer.core.verdicts.reasons import REWARD_REASONS, REWARDS_UNREAD
from streamer.core.verdicts.turns import SessionRewards, TurnReward, TurnRules, Turns

_REWARDS = """
CREATE TABLE IF NOT EXISTS turn_reward (
  session TEXT PRIMARY KEY, type TEXT NOT NULL, rewards TEXT NOT NULL
) WITHOUT ROWID
"""
_RULE = """
CREATE TABLE IF NOT EXISTS turn_rule (
  one INTEGER PRIMARY KEY CHECK (one = 1), turns TEXT NOT NULL, type TEXT NOT NULL, minimum REAL, rule TEXT NOT NULL
)
"""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[TurnReward]).decode


def store_rewards(db: sqlite3.Connection, read: Iterable[SessionRewards]) -> None:
    """Store rewards, and make the lines pending whose verdict they can change.

    Where only the configured reward type changed, verdicts stay.
    """
    for one in read:
        rewards = _encode(one.rewards).decode()
        old = db.execute("SELECT type, rewards FROM turn_reward WHERE session = ?", (one.session,)).fetchone()
        if old != (one.type, rewards):
            db.execute("INSERT OR REPLACE INTO turn_reward VALUES (?, ?, ?)", (one.session, one.type, rewards))
        if old is not None and old[0] == one.type and old[1] != rewards:
            db.execute(
                "UPDATE span SET due = 1 WHERE session = ? AND state = ? AND reason IN (?, ?) AND NOT due",
                (one.session, State.REJECTED, *REWARD_REASONS),
            )
        db.execute(
            "UPDATE span SET due = 1 WHERE session = ? AND state IN (?, ?) AND reason = ? AND NOT due",
            (one.session, *OPEN_STATES, REWARDS_UNREAD),
        )


def rewards_in(db: sqlite3.Connection, sessions: Sequence[str], reward_type: str) -> dict[str, Sequence[TurnReward]]:
    """Return the rewards of those of ``sessions`` that were read under this type."""
    marks = ",".join("?" * len(sessions))
    rows = db.execute(
        f"SELECT session, rewards FROM turn_reward WHERE type = ? AND session IN ({marks})", (reward_type, *sessions)
    )
    return {session: _decode(rewards) for session, rewards in rows}


def describe_rules(db: sqlite3.Connection, rules: TurnRules | None, join: JoinRule) -> None:
    """Store the rules on turns, for ``explain``; call it before lines are read or judged."""
    if rules is not None:
        db.execute(_REWARDS)
        db.execute(_RULE)
        db.execute(
            "INSERT OR REPLACE INTO turn_rule VALUES (1, ?, ?, ?, ?)", (rules.turns, rules.type, rules.minimum, join)
        )


def rules_in(db: sqlite3.Connection) -> tuple[TurnRules, JoinRule]:
    """Return the last rules on turns, and the rule that joined rewards to outcomes. The ledger must have some."""
    turns, reward_type, minimum, join = db.execute("SELECT turns, type, minimum, rule FROM turn_rule").fetchone()
    return TurnRules(Turns(turns), reward_type, minimum), JoinRule(join)
