"""The trace database: the tables of the real one that matter here, with the rows that it would hold.

The journal mode is ``delete``, and each step is a transaction of its own, so a reader sees each of them arrive.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

_BUSY_SECONDS = 5.0
"""A commit waits this long for readers, then it fails, as the real producer's does."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS session_traces (
    session_id VARCHAR PRIMARY KEY, created_at DATETIME NOT NULL, num_timesteps INTEGER NOT NULL,
    num_events INTEGER NOT NULL, num_messages INTEGER NOT NULL, metadata TEXT, experiment_id VARCHAR,
    embedding VECTOR);
CREATE TABLE IF NOT EXISTS session_timesteps (
    id INTEGER PRIMARY KEY AUTOINCREMENT, session_id VARCHAR NOT NULL, step_id VARCHAR NOT NULL,
    step_index INTEGER NOT NULL, turn_number INTEGER, started_at DATETIME, completed_at DATETIME,
    num_events INTEGER, num_messages INTEGER, step_metadata TEXT, UNIQUE(session_id, step_id));
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, session_id VARCHAR NOT NULL, timestep_id INTEGER,
    event_type VARCHAR NOT NULL, system_instance_id VARCHAR, event_time FLOAT, message_time INTEGER,
    created_at DATETIME, model_name VARCHAR, provider VARCHAR, input_tokens INTEGER, output_tokens INTEGER,
    total_tokens INTEGER, cost_usd INTEGER, latency_ms INTEGER, span_id VARCHAR, trace_id VARCHAR,
    call_records TEXT, reward FLOAT, terminated BOOLEAN, truncated BOOLEAN, system_state_before TEXT,
    system_state_after TEXT, metadata TEXT, event_metadata TEXT, embedding VECTOR,
    CHECK (event_type IN ('cais', 'environment', 'runtime')));
CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, session_id VARCHAR NOT NULL, timestep_id INTEGER,
    message_type VARCHAR NOT NULL, content TEXT NOT NULL, timestamp DATETIME, event_time FLOAT,
    message_time INTEGER, metadata TEXT, embedding VECTOR,
    CHECK (message_type IN ('user', 'assistant', 'system', 'tool_use', 'tool_result')));
CREATE TABLE IF NOT EXISTS outcome_rewards (
    id INTEGER PRIMARY KEY AUTOINCREMENT, session_id VARCHAR NOT NULL, total_reward INTEGER NOT NULL,
    achievements_count INTEGER NOT NULL, total_steps INTEGER NOT NULL, created_at DATETIME NOT NULL,
    reward_metadata TEXT);
CREATE TABLE IF NOT EXISTS event_rewards (
    id INTEGER PRIMARY KEY AUTOINCREMENT, event_id INTEGER NOT NULL, session_id VARCHAR NOT NULL,
    message_id INTEGER, turn_number INTEGER, reward_value FLOAT NOT NULL, reward_type VARCHAR, "key" VARCHAR,
    annotation TEXT, source VARCHAR, created_at DATETIME NOT NULL);
CREATE INDEX IF NOT EXISTS idx_outcome_rewards_session ON outcome_rewards (session_id);
CREATE INDEX IF NOT EXISTS idx_outcome_rewards_total ON outcome_rewards (total_reward);
CREATE INDEX IF NOT EXISTS idx_event_rewards_session ON event_rewards (session_id);
CREATE INDEX IF NOT EXISTS idx_message_session_step ON messages (session_id, timestep_id);
"""


INSERT_OUTCOME = (
    "INSERT INTO outcome_rewards (session_id, total_reward, achievements_count, total_steps, created_at,"
    " reward_metadata) VALUES (?, ?, ?, ?, ?, ?)"
)

Outcome = tuple[str, int, int, int, str, str]
"""Session, reward, achievements, steps, time and metadata of an outcome row, for ``INSERT_OUTCOME``."""


def connect(path: Path) -> sqlite3.Connection:
    """Open a trace database to write it; a new one gets its folder and its tables."""
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path, timeout=_BUSY_SECONDS)
    db.execute("PRAGMA journal_mode=delete")
    db.executescript(_SCHEMA)
    return db


def outcome(
    session: str, at: str, reward: int, steps: int, policy: str, seed: int, achievements: Sequence[str] = ()
) -> Outcome:
    """Return an outcome row; ``at`` is in ISO format, ``seed`` is the environment's."""
    about = {"env_id": "crafter", "policy_id": policy, "env_seed": seed, "final_achievements": list(achievements)}
    return session, reward, reward, steps, at, _json(about)


class TraceWriter:
    """The writer of a trace database, as a context manager. Each method is one transaction.

    Args:
        path: The database; it is created if it is missing.
        policy: The name of the policy.
    """

    def __init__(self, path: Path, policy: str) -> None:
        self._db = connect(path)
        self._policy = policy

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def begin(self, session: str, **about: object) -> None:
        """Add a session, if it is missing; ``about`` goes to its metadata."""
        metadata = {"run_id": session, "policy_name": self._policy, "env_name": "crafter", **about}
        with self._db:
            self._db.execute(
                "INSERT OR IGNORE INTO session_traces VALUES (?, ?, 0, 0, 0, ?, NULL, NULL)",
                (session, _now(), _json(metadata)),
            )

    def turn(self, session: str, record: dict[str, Any], gained: Sequence[str]) -> None:
        """Add one turn: its timestep, messages, events and rewards.

        Args:
            session: A session that has begun.
            record: The turn as its shard holds it, in the dialogue layout.
            gained: The achievements that it unlocked.
        """
        number = record["turn"]
        about = {"turn": number, "run_id": session, "step_id": f"decision_{number}"}
        timestep = {"step_id": about["step_id"], "step_index": number, "turn_number": number, "step_metadata": "{}"}
        counts = {"num_events": 2, "num_messages": 3}
        with self._db:
            step = self._insert("session_timesteps", session, started_at=_now(), **timestep, **counts)
            self._messages(session, step, record, about)
            event = self._events(session, step, record, float(len(gained)), _json(about))
            self._rewards(session, event, number, gained)

    def score(
        self, session: str, at: str, reward: int, steps: int, seed: int = 7, achievements: Sequence[str] = ()
    ) -> None:
        """Add an outcome; ``at`` is in ISO format, ``seed`` is the environment's."""
        row = outcome(session, at, reward, steps, self._policy, seed, achievements)
        with self._db:
            self._db.execute(INSERT_OUTCOME, row)

    def correct(self, session: str, at: str, reward: int) -> None:
        """Correct an outcome in place, as a late judge does."""
        with self._db:
            self._db.execute(
                "UPDATE outcome_rewards SET total_reward = ? WHERE session_id = ? AND created_at = ?",
                (reward, session, at),
            )

    def end(self, session: str) -> None:
        """End a session: its totals are known."""
        with self._db:
            self._db.execute(
                "UPDATE session_traces SET"
                " num_timesteps = (SELECT count(*) FROM session_timesteps WHERE session_id = :session),"
                " num_events = (SELECT count(*) FROM events WHERE session_id = :session),"
                " num_messages = (SELECT count(*) FROM messages WHERE session_id = :session)"
                " WHERE session_id = :session",
                {"session": session},
            )

    def _messages(self, session: str, step: int, record: dict[str, Any], about: dict[str, Any]) -> None:
        for message, text in zip(record["dialogue"], record["dialogue_text"], strict=True):
            content = {"role": message["role"], "text": text["content"], "content": message["content"]}
            self._message(session, step, message["role"], content, about)
        functions = [call["function"] for call in record["assistant"]["tool_calls"]]
        calls = [{"tool_name": f["name"], "arguments": json.loads(f["arguments"])} for f in functions]
        self._message(session, step, "assistant", calls, {**about, "is_tool_call": True})

    def _message(self, session: str, step: int, role: str, content: object, about: dict[str, Any]) -> None:
        texts = {"content": json.dumps(content, ensure_ascii=False), "metadata": _json(about)}
        self._insert("messages", session, timestep_id=step, message_type=role, event_time=_seconds(), **texts)

    def _events(self, session: str, step: int, record: dict[str, Any], reward: float, about: str) -> int:
        """Add the model's call and the environment's answer; return the id of the answer."""
        called = {"event_type": "cais", "system_instance_id": f"policy:{self._policy}"}
        answered = {"event_type": "environment", "system_instance_id": "environment:crafter"}
        common: dict[str, Any] = {"timestep_id": step, "event_time": _seconds(), "metadata": about}
        self._insert("events", session, model_name=record["model"], provider=record["provider"], **called, **common)
        return self._insert("events", session, reward=reward, terminated=0, truncated=0, **answered, **common)

    def _rewards(self, session: str, event: int, turn: int, gained: Sequence[str]) -> None:
        annotation = _json({"achievements": list(gained)})
        annotations = {"sparse": None, "achievement_delta": annotation}
        if gained:
            annotations["unique_achievement_delta"] = annotation
        common: dict[str, Any] = {"event_id": event, "turn_number": turn, "reward_value": float(len(gained))}
        common |= {"source": "environment", "created_at": _now()}
        for kind, text in annotations.items():
            self._insert("event_rewards", session, reward_type=kind, annotation=text, **common)

    def _insert(self, table: str, session: str, **row: object) -> int:
        """Add a row of a session; return the row's id."""
        row["session_id"] = session
        sql = f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})"
        return self._db.execute(sql, tuple(row.values())).lastrowid or 0


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _seconds() -> float:
    return datetime.now(UTC).timestamp()
