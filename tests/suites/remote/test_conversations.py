"""Conversations from the messages of a server: live, through a kill of the daemon and of the server."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from tests.helpers.traces import payload, tool_reply

if TYPE_CHECKING:
    from pathlib import Path

    from tests.suites.remote.sqld import Sqld

_TURNS = 3
_PATIENCE = 60.0
_MESSAGES = (
    "CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY AUTOINCREMENT, session_id VARCHAR NOT NULL,"
    " timestep_id INTEGER, message_type VARCHAR NOT NULL, content TEXT NOT NULL, timestamp DATETIME, event_time FLOAT,"
    " message_time INTEGER, metadata TEXT)"
)
_ADD = (
    "INSERT INTO messages (session_id, timestep_id, message_type, content, event_time, metadata) VALUES (?,?,?,?,?,?)"
)


def add_rollout(sqld: Sqld, session: str, first_step: int) -> None:
    """Add what a rollout said, with a hostile text in each turn, and then its outcome."""
    rows: list[tuple[str, list[object]]] = []
    for turn in range(_TURNS):
        said = f"{session} {turn} \x1b[2J<script> ../../etc"
        texts = (("user", payload("user", said), None), ("assistant", tool_reply("do"), '{"is_tool_call": true}'))
        rows += [(_ADD, [session, first_step + turn, kind, text, 1.0, more]) for kind, text, more in texts]
    sqld.execute(*rows)
    sqld.add_outcome(session, 2)


def users(dataset: Path) -> list[str]:
    """Return what the users said in all whole lines of a dataset."""
    data = dataset.read_bytes() if dataset.exists() else b""
    lines = data[: data.rfind(b"\n") + 1].splitlines()
    return sorted(
        message["content"] for line in lines for message in json.loads(line)["messages"] if message["role"] == "user"
    )


def wait_for(dataset: Path, rollouts: int) -> None:
    """Return when the decisions of so many rollouts are there."""
    deadline = time.monotonic() + _PATIENCE
    while len(users(dataset)) < rollouts * _TURNS:
        assert time.monotonic() < deadline, users(dataset)
        time.sleep(0.05)


def test_decisions_on_a_server_come_once_whoever_is_killed(sqld: Sqld, tmp_path: Path) -> None:
    """One rollout before any kill, one while the daemon is dead, one after the server was killed."""
    sqld.execute(_MESSAGES)
    dataset, config = tmp_path / "good.jsonl", tmp_path / "config.toml"
    config.write_text(f'[source]\ndatabase = "{sqld.url}"\nconversations = "database"\n[dataset]\npath = "{dataset}"\n')
    command = [sys.executable, "-m", "streamer", "run", "--config", str(config)]
    with open(tmp_path / "log", "ab") as log:
        add_rollout(sqld, "one", 0)
        first = subprocess.Popen(command, stderr=log)
        wait_for(dataset, 1)
        first.kill()
        first.wait()
        add_rollout(sqld, "two", 10)
        second = subprocess.Popen(command, stderr=log)
        try:
            wait_for(dataset, 2)
            sqld.kill()
            sqld.start()
            add_rollout(sqld, "three", 20)
            wait_for(dataset, 3)
        finally:
            second.send_signal(signal.SIGTERM)
            assert second.wait(_PATIENCE) == 0
    found = users(dataset)
    assert len(found) == len(set(found)) == 3 * _TURNS
    assert b"\x1b" not in dataset.read_bytes() + (tmp_path / "log").read_bytes()
