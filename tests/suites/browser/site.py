"""A daemon that serves its page, on a folder of its own, and a producer that writes to that folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from tests.helpers.producer import add_outcome, dialogue, jsonl, make_traces
from tests.suites.remote.sqld import free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PATIENCE = 30.0
"""Seconds after which something that should happen at once has not happened."""

_OURS = ("STREAMER", "TASKAPP", "SFT", "TURSO", "SQLD", "NOTIFY", "WATCHDOG", "JOURNAL")


def eventually(condition: Callable[[], object], what: str) -> None:
    """Return as soon as a condition holds; fail if that takes too long."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


class Site:
    """A folder with shards and a trace database, and the daemon that works there. Its address stays the same."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards = folder / "shards"
        self.traces = make_traces(folder / "traces.db")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self._config = folder / "config.toml"
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self.shards.mkdir()
        self.configure('[dataset]\npath = "good.jsonl"\n')

    def configure(self, datasets: str) -> None:
        """Write the configuration."""
        self._config.write_text(
            '[source]\nshards = "shards"\ndatabase = "traces.db"\nscan_interval = "200ms"\n'
            f'{datasets}[log]\nformat = "json"\n'
            f'[web]\nlisten = "127.0.0.1:{self.port}"\n'
        )

    # -- the daemon --

    def start(self) -> None:
        """Start the daemon; return when it serves the page."""
        begun = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command("run"), cwd=self.folder, env=_environment(), stderr=log)
        eventually(lambda: self._serves(begun), "the daemon does not serve its page")

    def _serves(self, begun: int) -> bool:
        assert self._process is not None
        said = self._log.read_bytes()[begun:]
        assert self._process.poll() is None, said.decode()
        return b'"page_served"' in said

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End the daemon, if it runs."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.wait(PATIENCE)

    def status(self) -> dict[str, Any]:
        """Return what ``streamer status --json`` says."""
        command = self._command("status", "--json")
        done = subprocess.run(command, cwd=self.folder, env=_environment(), check=True, capture_output=True)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def reads(self, lines: int) -> None:
        """Return when the daemon has read so many lines."""
        eventually(lambda: self.status()["accounting"]["read"] == lines, f"{lines} lines are not read")

    def _command(self, command: str, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "streamer", command, "--config", str(self._config), *arguments]

    # -- the producer --

    def shard(self, name: str, data: bytes) -> None:
        """Append to a shard."""
        with (self.shards / name).open("ab") as file:
            file.write(data)

    def rollout(self, run: str, reward: int | None = 1, turns: int = 2, text: str = "", *, image: bool = False) -> None:
        """Write a whole rollout, as the task app does: its outcome, unless that is None, then its shard."""
        if reward is not None:
            add_outcome(self.traces, run, reward)
        values = [dialogue(run, turn, f"{text or run}, state {turn}", image=image) for turn in range(turns)]
        self.shard(f"{run}_2026-01-01_00-00-00.jsonl", jsonl(*values))


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
