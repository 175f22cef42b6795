"""A real sqld on the loopback: started, killed, started again on what it left; and a producer that writes to it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

from tests.helpers.producer import _TABLES, EPOCH

if TYPE_CHECKING:
    from pathlib import Path

_STARTS_WITHIN = 30.0
_LENIENT = "PRAGMA foreign_keys = OFF"  # rows of any kind are made here, as the task app's own file takes them
_ADD_SESSION = """
INSERT OR IGNORE INTO session_traces (session_id, created_at, num_timesteps, num_events, num_messages, metadata)
VALUES (?, ?, 8, 8, 16, ?)
"""
_ADD_OUTCOME = """
INSERT INTO outcome_rewards (session_id, total_reward, achievements_count, total_steps, created_at, reward_metadata)
VALUES (?, ?, 1, 8, ?, '{}')
"""


def binary() -> str:
    """Return where sqld is, as `make test-remote` says."""
    try:
        return os.environ["STREAMER_SQLD"]
    except KeyError:
        raise RuntimeError("STREAMER_SQLD does not name sqld: run `make test-remote`") from None


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


class Sqld:
    """One server, for as long as the block it is opened for.

    Args:
        folder: where it keeps its database.
        options: further options of its command line.
        token: what the producer shows it.
    """

    def __init__(self, folder: Path, *options: str, token: str = "") -> None:
        self._folder = folder
        self._options = options
        self._token = token
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it and wait until it answers."""
        address = f"127.0.0.1:{self.port}"
        command = [binary(), "--db-path", str(self._folder), "--http-listen-addr", address, "--no-welcome"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen([*command, *self._options], **quiet)  # type: ignore[call-overload]
        deadline = time.monotonic() + _STARTS_WITHIN
        while not self._answers():
            assert time.monotonic() < deadline, "sqld does not start"
            assert self._process.poll() is None, "sqld has ended"

    def kill(self) -> None:
        """Kill it as the kernel would: nothing of it runs any more."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def execute(self, *statements: str | tuple[str, list[Any]]) -> list[Any]:
        """Do something to the database, in one request and one transaction, as a producer would."""
        asked = [statement if isinstance(statement, tuple) else (statement, []) for statement in statements]
        requests = [{"type": "execute", "stmt": {"sql": sql, "args": list(map(_value, values))}}
                    for sql, values in [(_LENIENT, []), ("BEGIN", []), *asked, ("COMMIT", [])]]  # fmt: skip
        body = json.dumps({"requests": [*requests, {"type": "close"}]}).encode()
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        request = urllib.request.Request(f"{self.url}/v2/pipeline", body, headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            results = json.load(answer)["results"]
        wrong = [result["error"] for result in results if result["type"] == "error"]
        assert not wrong, wrong
        return [result["response"]["result"] for result in results[2:-2]]

    def make_tables(self) -> None:
        """Make the tables of the task app."""
        self.execute(*filter(str.strip, _TABLES.split(";")))

    def add_outcome(self, session: str, reward: object, seconds: float = 0.0) -> None:
        """Add an outcome row and its session."""
        created = (EPOCH + timedelta(seconds=seconds)).isoformat()
        self.execute((_ADD_SESSION, [session, created, json.dumps({"run_id": session, "seed": 7})]),
                     (_ADD_OUTCOME, [session, reward, created]))  # fmt: skip

    def _answers(self) -> bool:
        with suppress(OSError):
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return True
            except urllib.error.HTTPError:
                return True
        time.sleep(0.02)  # a real process starts in real time
        return False


def _value(value: Any) -> dict[str, Any]:
    if value is None:
        return {"type": "null"}
    if isinstance(value, int):
        return {"type": "integer", "value": str(value)}
    return {"type": "float", "value": value} if isinstance(value, float) else {"type": "text", "value": value}
