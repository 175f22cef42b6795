"""What the ledger keeps of event rewards: those of each session as last read, and what was asked of them.

The functions run inside the ledger's transactions. Rewards are stored in the transaction that stores the outcomes
they were read with, and make the lines ``due`` that they can let in.

The tables are made when event rewards are asked for first. A ledger that never was asked has none, and a streamer that
does not know them passes them over; so they belong to the same version of the ledger.
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
    """Store what was read, and make the lines due whose verdict it can change.

    Where only the type changed that is asked for, what was judged stays judged.
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
    """Remember what is asked of turns from now on, for those who explain it; before anything is read or judged."""
    if rules is not None:
        db.execute(_REWARDS)
        db.execute(_RULE)
        db.execute(
            "INSERT OR REPLACE INTO turn_rule VALUES (1, ?, ?, ?, ?)", (rules.turns, rules.type, rules.minimum, join)
        )


def rules_in(db: sqlite3.Connection) -> tuple[TurnRules, JoinRule]:
    """Return what was asked of turns last, and how rewards found their outcome. Only where turns were ever asked."""
    turns, reward_type, minimum, join = db.execute("SELECT turns, type, minimum, rule FROM turn_rule").fetchone()
    return TurnRules(Turns(turns), reward_type, minimum), JoinRule(join)
