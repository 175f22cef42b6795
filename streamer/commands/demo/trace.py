"""The trace database: the tables of the real one that matter here, with the rows that it would hold.

Order of one rollout: its session, each turn as it happens, the outcome, the end of the session. Every step
is a transaction of its own, in a database with ``journal_mode=delete``, so a reader sees each of them come.
"""

from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from streamer.commands.demo.episodes import PlayedTurn

BUSY_SECONDS = 5.0
"""How long a commit waits for readers; then it fails. The same as the real one's."""

SCHEMA = """
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


class DemoTrace:
    """A trace database being written; use it as a context manager.

    Args:
        path: the database; it is created, with its tables, if it is not there.

    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=BUSY_SECONDS)
        self._db.execute("PRAGMA journal_mode=delete")
        self._db.executescript(SCHEMA)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def begin(self, session: str, seed: int) -> None:
        """Open a session for one rollout."""
        metadata = {"run_id": session, "policy_name": "demo", "env_name": "crafter", "seed": seed}
        with self._db:
            self._insert(
                "INSERT INTO session_traces VALUES (?, ?, 0, 0, 0, ?, NULL, NULL)",
                (session, _now(), _compact(metadata)),
            )

    def turn(self, session: str, turn: PlayedTurn, record: dict[str, Any]) -> None:
        """Add one turn: its timestep, messages, events and rewards.

        Args:
            session: an open session.
            turn: what was played.
            record: the same turn as the shard will tell it.

        """
        with self._db:
            step = self._timestep(session, turn.number)
            self._messages(session, step, turn, record)
            event = self._events(session, step, turn, record)
            self._rewards(session, event, turn)

    def outcome(self, session: str, seed: int, turns: int, achievements: list[str]) -> None:
        """Score a rollout: the reward is the number of achievements."""
        count = len(achievements)
        metadata = {"env_seed": seed, "final_achievements": achievements}
        with self._db:
            self._insert(
                "INSERT INTO outcome_rewards (session_id, total_reward, achievements_count, total_steps,"
                " created_at, reward_metadata) VALUES (?, ?, ?, ?, ?, ?)",
                (session, count, count, turns, _now(), _compact(metadata)),
            )

    def end(self, session: str) -> None:
        """Close a session: its totals are known now."""
        with self._db:
            self._db.execute(
                "UPDATE session_traces SET"
                " num_timesteps = (SELECT count(*) FROM session_timesteps WHERE session_id = :session),"
                " num_events = (SELECT count(*) FROM events WHERE session_id = :session),"
                " num_messages = (SELECT count(*) FROM messages WHERE session_id = :session)"
                " WHERE session_id = :session",
                {"session": session},
            )

    def _timestep(self, session: str, number: int) -> int:
        return self._insert(
            "INSERT INTO session_timesteps (session_id, step_id, step_index, turn_number, started_at,"
            " num_events, num_messages, step_metadata) VALUES (?, ?, ?, ?, ?, 2, 3, '{}')",
            (session, _step_id(number), number, number, _now()),
        )

    def _messages(self, session: str, step: int, turn: PlayedTurn, record: dict[str, Any]) -> None:
        about = {"turn": turn.number, "step_id": _step_id(turn.number)}
        for message, text in zip(record["dialogue"], record["dialogue_text"], strict=True):
            content = {"role": message["role"], "text": text["content"], "content": message["content"]}
            self._message(session, step, message["role"], content, about)
        functions = [call["function"] for call in record["assistant"]["tool_calls"]]
        calls = [{"tool_name": f["name"], "arguments": json.loads(f["arguments"])} for f in functions]
        self._message(session, step, "assistant", calls, {**about, "is_tool_call": True})

    def _message(self, session: str, step: int, role: str, content: object, about: dict[str, Any]) -> None:
        self._insert(
            "INSERT INTO messages (session_id, timestep_id, message_type, content, event_time, metadata)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (session, step, role, json.dumps(content, ensure_ascii=False), _seconds(), _compact(about)),
        )

    def _events(self, session: str, step: int, turn: PlayedTurn, record: dict[str, Any]) -> int:
        """Add the model's call and the environment's answer; return the id of the latter."""
        about = _compact({"turn": turn.number, "run_id": session, "step_id": _step_id(turn.number)})
        self._insert(
            "INSERT INTO events (session_id, timestep_id, event_type, system_instance_id, event_time,"
            " model_name, provider, metadata) VALUES (?, ?, 'cais', 'policy:demo', ?, ?, ?, ?)",
            (session, step, _seconds(), record["model"], record["provider"], about),
        )
        return self._insert(
            "INSERT INTO events (session_id, timestep_id, event_type, system_instance_id, event_time,"
            " reward, terminated, truncated, metadata)"
            " VALUES (?, ?, 'environment', 'environment:crafter', ?, ?, 0, 0, ?)",
            (session, step, _seconds(), float(len(turn.gained)), about),
        )

    def _rewards(self, session: str, event: int, turn: PlayedTurn) -> None:
        gained = _compact({"achievements": list(turn.gained)})
        self._reward(session, event, turn, "sparse", None)
        self._reward(session, event, turn, "achievement_delta", gained)
        if turn.gained:
            self._reward(session, event, turn, "unique_achievement_delta", gained)

    def _reward(self, session: str, event: int, turn: PlayedTurn, kind: str, annotation: str | None) -> None:
        self._insert(
            "INSERT INTO event_rewards (event_id, session_id, turn_number, reward_value, reward_type,"
            " annotation, source, created_at) VALUES (?, ?, ?, ?, ?, ?, 'environment', ?)",
            (event, session, turn.number, float(len(turn.gained)), kind, annotation, _now()),
        )

    def _insert(self, sql: str, row: tuple[Any, ...]) -> int:
        return self._db.execute(sql, row).lastrowid or 0


def _step_id(number: int) -> str:
    return f"decision_{number}"


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _seconds() -> float:
    return datetime.now(UTC).timestamp()
