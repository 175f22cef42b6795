"""The tables of a trace database that hold conversations, made to order: as the real task app has them."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from streamer.core.records.trace_messages import Row
from tests.helpers.producer import EPOCH, PNG, make_traces

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_TABLES = """
CREATE TABLE session_timesteps (
  id INTEGER PRIMARY KEY AUTOINCREMENT, session_id VARCHAR NOT NULL, step_id VARCHAR NOT NULL,
  step_index INTEGER NOT NULL, turn_number INTEGER, UNIQUE(session_id, step_id)
);
CREATE TABLE events (
  id INTEGER PRIMARY KEY AUTOINCREMENT, session_id VARCHAR NOT NULL, timestep_id INTEGER, event_type VARCHAR NOT NULL,
  event_time FLOAT, model_name VARCHAR, provider VARCHAR, call_records TEXT, metadata TEXT
);
CREATE TABLE messages (
  id INTEGER PRIMARY KEY AUTOINCREMENT, session_id VARCHAR NOT NULL, timestep_id INTEGER,
  message_type VARCHAR NOT NULL, content TEXT NOT NULL, timestamp DATETIME, event_time FLOAT, message_time INTEGER,
  metadata TEXT, embedding VECTOR, FOREIGN KEY(session_id) REFERENCES session_traces(session_id)
);
CREATE TABLE event_rewards (
  id INTEGER PRIMARY KEY AUTOINCREMENT, event_id INTEGER NOT NULL, session_id VARCHAR NOT NULL, message_id INTEGER,
  turn_number INTEGER, reward_value FLOAT NOT NULL, reward_type VARCHAR, "key" VARCHAR, annotation TEXT,
  source VARCHAR, created_at DATETIME NOT NULL
);
CREATE INDEX idx_session_created ON session_traces (created_at);
CREATE INDEX idx_event_session_step ON events (session_id, timestep_id);
CREATE INDEX idx_message_session_step ON messages (session_id, timestep_id);
CREATE INDEX idx_message_type ON messages (message_type);
CREATE INDEX idx_event_rewards_session ON event_rewards (session_id);
CREATE INDEX idx_event_rewards_event ON event_rewards (event_id);
CREATE INDEX idx_event_rewards_type ON event_rewards (reward_type);
"""
SYSTEM = "You are playing Crafter."


def make_conversations(path: Path) -> Path:
    """Create an empty trace database with all tables that matter, in delete-journal mode."""
    make_traces(path)
    with closing(sqlite3.connect(path)) as db:
        db.executescript(_TABLES)
    return path


def payload(role: str, text: str, *, image: bool = False) -> str:
    """Return the content of a prompt, as the task app wraps it."""
    content: Any = [{"type": "image_url", "image_url": {"url": PNG}}] if image else text
    return json.dumps({"role": role, "text": "" if image else text, "content": content})


def tool_reply(*actions: str) -> str:
    """Return the content of a reply: the tool calls, as the task app writes them."""
    return json.dumps([{"tool_name": "interact_many", "arguments": {"actions": list(actions)}}])


def decision(
    turn: int, text: str = "state", reply: str | None = None, *, image: bool = False, first: int = 1, step: int = -1
) -> list[Row]:
    """Return the three rows of a decision: system, user, reply."""
    step = turn + 1 if step < 0 else step
    about = json.dumps({"turn": turn, "step_id": f"decision_{turn}"})
    of_reply = json.dumps({"turn": turn, "step_id": f"decision_{turn}", "is_tool_call": True})
    moment = EPOCH.timestamp() + turn
    return [
        Row(first, step, "system", payload("system", SYSTEM), about, moment),
        Row(first + 1, step, "user", payload("user", text, image=image), about, moment),
        Row(first + 2, step, "assistant", tool_reply("do") if reply is None else reply, of_reply, moment),
    ]


def add_session(
    path: Path,
    session: str,
    rewards: Sequence[object] = (),
    *,
    turns: int = 1,
    rows: Sequence[Row] | None = None,
    created: float = 0.0,
    created_at: object = None,
    metadata: object = None,
    model: str | None = None,
) -> None:
    """Add a session with its messages and its outcomes.

    Args:
        path: the database.
        session: the session id.
        rewards: ``total_reward`` of each outcome row.
        turns: how many decisions; each user text names session and turn.
        rows: the messages instead.
        created: when it was created, in seconds after ``EPOCH``; outcomes are 100 s later, each one second more.
        created_at: the text of that column instead.
        metadata: the metadata, as text or as an object.
        model: makes an event of each turn, with that model.
    """
    start = (EPOCH + timedelta(seconds=created)).isoformat()
    if metadata is None:
        metadata = {"run_id": session, "env_name": "crafter", "policy_name": "crafter-react", "seed": 7}
    if rows is None:
        rows = [row for turn in range(turns) for row in decision(turn, f"{session} {turn}")]
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(
            "INSERT INTO session_traces (session_id, created_at, num_timesteps, num_events, num_messages, metadata)"
            " VALUES (?, ?, ?, 0, ?, ?)",
            (
                session,
                start if created_at is None else created_at,
                turns,
                len(rows),
                metadata if isinstance(metadata, str) else json.dumps(metadata),
            ),
        )
        db.executemany(
            "INSERT INTO messages (session_id, timestep_id, message_type, content, metadata, event_time)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            [(session, row.timestep, row.type, row.content, row.metadata, row.time) for row in rows],
        )
        db.executemany(
            "INSERT INTO outcome_rewards (session_id, total_reward, achievements_count, total_steps, created_at)"
            " VALUES (?, ?, 1, 8, ?)",
            [
                (session, reward, (EPOCH + timedelta(seconds=created + 100 + i)).isoformat(timespec="microseconds"))
                for i, reward in enumerate(rewards)
            ],
        )
        if model is not None:
            db.executemany(
                "INSERT INTO events (session_id, timestep_id, event_type, model_name, provider) VALUES (?, ?, ?, ?, ?)",
                [(session, turn + 1, "cais", model, "custom") for turn in range(turns)],
            )


def add_reward(
    path: Path,
    session: str,
    turn: object,
    value: object,
    *,
    seconds: float | None = None,
    recorded: float | None = None,
    reward_type: str = "achievement_delta",
    achievements: Sequence[object] = (),
    annotation: str | None = None,
) -> int:
    """Add a row of ``event_rewards``, and return its id.

    Args:
        path: the database.
        session: the session id.
        turn: ``turn_number``.
        value: ``reward_value``.
        seconds: when its event happened, in seconds after ``EPOCH``; without it there is no such event.
        recorded: when the row was written; the same time without it.
        reward_type: its type.
        achievements: what the annotation names.
        annotation: the annotation instead.
    """
    if recorded is None:
        recorded = seconds or 0.0
    if annotation is None:
        annotation = json.dumps({"achievements": achievements})
    with closing(sqlite3.connect(path)) as db, db:
        event = 0
        if seconds is not None:
            event = (
                db.execute(
                    "INSERT INTO events (session_id, event_type, event_time) VALUES (?, 'environment', ?)",
                    (session, EPOCH.timestamp() + seconds),
                ).lastrowid
                or 0
            )
        row = db.execute(
            "INSERT INTO event_rewards (event_id, session_id, turn_number, reward_value, reward_type, annotation,"
            " source, created_at) VALUES (?, ?, ?, ?, ?, ?, 'environment', ?)",
            (event, session, turn, value, reward_type, annotation, (EPOCH + timedelta(seconds=recorded)).isoformat()),
        )
        assert row.lastrowid is not None
        return row.lastrowid


def correct_reward(path: Path, row: int, value: object) -> None:
    """Correct the value of an event reward."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE event_rewards SET reward_value = ? WHERE id = ?", (value, row))


def add_messages(path: Path, session: str, rows: Sequence[Row], seconds: float | None = None) -> None:
    """Add rows of ``messages`` to a session; with ``seconds`` after ``EPOCH`` instead of their own time."""
    moment = None if seconds is None else EPOCH.timestamp() + seconds
    with closing(sqlite3.connect(path)) as db, db:
        db.executemany(
            "INSERT INTO messages (session_id, timestep_id, message_type, content, metadata, event_time)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            [
                (session, row.timestep, row.type, row.content, row.metadata, row.time if moment is None else moment)
                for row in rows
            ],
        )


def call_records(text: str | None, *actions: str) -> str:
    """Return what an event says of a call of the model: what it said, and what it called."""
    tools = [{"name": "interact_many", "arguments_json": json.dumps({"actions": list(actions)}), "call_id": "call_1"}]
    return json.dumps([{"api_type": "chat_completions", "output_text": text, "output_tool_calls": tools}])
