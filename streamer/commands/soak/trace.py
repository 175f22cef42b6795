"""The trace database that the soak's producer writes: the real tables, in delete-journal mode."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Self

from streamer.commands.demo.trace import BUSY_SECONDS, SCHEMA


class SoakTrace:
    """A trace database being written; use it as a context manager. Each method is one transaction.

    A commit waits ``BUSY_SECONDS`` for readers, as the real producer's does, then it fails.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Self:
        self._db = sqlite3.connect(self._path, timeout=BUSY_SECONDS)
        self._db.execute("PRAGMA journal_mode=delete")
        self._db.executescript(SCHEMA)
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def begin(self, session: str, at: str) -> None:
        """Open a session, if it is not there."""
        with self._db:
            self._db.execute(
                "INSERT OR IGNORE INTO session_traces VALUES (?, ?, 0, 0, 0, ?, NULL, NULL)",
                (session, at, json.dumps({"run_id": session, "policy_name": "soak", "env_name": "crafter"})),
            )

    def score(self, session: str, created_at: str, reward: int, steps: int) -> None:
        """Add an outcome row."""
        about = json.dumps({"env_id": "crafter", "policy_id": "soak", "env_seed": 7, "final_achievements": []})
        with self._db:
            self._db.execute(
                "INSERT INTO outcome_rewards (session_id, total_reward, achievements_count, total_steps,"
                " created_at, reward_metadata) VALUES (?, ?, ?, ?, ?, ?)",
                (session, reward, reward, steps, created_at, about),
            )

    def correct(self, session: str, created_at: str, reward: int) -> None:
        """Correct an outcome row in place, as a late judge does."""
        with self._db:
            self._db.execute(
                "UPDATE outcome_rewards SET total_reward = ? WHERE session_id = ? AND created_at = ?",
                (reward, session, created_at),
            )

    def end(self, session: str, steps: int) -> None:
        """Close a session."""
        with self._db:
            self._db.execute(
                "UPDATE session_traces SET num_timesteps = ?, num_messages = 3 * ? WHERE session_id = ?",
                (steps, steps, session),
            )
