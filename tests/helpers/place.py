"""A folder in which a test runs the real executable, and how long it waits for it."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.helpers.producer import add_outcome, dialogue, jsonl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT.parent / "shared" / "real"
"""What a real task app wrote, where that is at hand."""

PATIENCE = 20.0
"""Seconds after which something that should happen at once has not happened."""

OURS = ("STREAMER", "TASKAPP", "SFT", "TURSO", "SQLD", "NOTIFY", "WATCHDOG", "JOURNAL")


class Place:
    """A folder with shards, a trace database and a configuration, and the commands to be run there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards = folder / "shards"
        self.traces = folder / "traces.db"
        self.dataset = folder / "good.jsonl"
        self.config = folder / "config.toml"
        self.log = folder / "log"
        self.shards.mkdir()
        self.configure()

    def configure(self, text: str = "", source: str = "") -> None:
        """Write the configuration; ``text`` holds more tables."""
        self.config.write_text(
            f'[source]\nshards = "shards"\ndatabase = "traces.db"\nscan_interval = "200ms"\n{source}\n'
            f'[dataset]\npath = "good.jsonl"\n[log]\nformat = "json"\n{text}\n'
        )

    def shard(self, name: str, *values: Any) -> Path:
        """Append lines to a shard."""
        path = self.shards / name
        with path.open("ab") as file:
            file.write(jsonl(*values))
        return path

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self._command(arguments), cwd=self.folder, env=environment(), check=False, capture_output=True, text=True,
            timeout=PATIENCE,
        )  # fmt: skip

    def once(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Work off what is there."""
        return self.call("run", "--once", *arguments)

    def status(self) -> dict[str, Any]:
        """Return what ``streamer status --json`` says, after seeing that it adds up."""
        done = self.call("status", "--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        accounting = dict(found["accounting"])
        assert accounting.pop("read") == sum(accounting.values())
        assert found["dataset_lines"] + found["removed_lines"] == accounting["appended"] + found["adopted"]
        return found

    @contextmanager
    def daemon(self, *arguments: str, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run the daemon until the test is through with it; then stop it, or kill it if the test failed."""
        command = self._command(("run", *arguments))
        with self.log.open("ab") as log:
            process = subprocess.Popen(command, cwd=self.folder, env=environment() | environ, stderr=log)
        try:
            yield process
            process.terminate()
            process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait()

    def _command(self, arguments: tuple[str, ...]) -> list[str]:
        command, *rest = arguments
        return [sys.executable, "-m", "streamer", command, "--config", str(self.config), *rest]

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the events of one name from the log."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [event for event in map(json.loads, (x for x in lines if x[:1] == "{")) if event["event"] == name]

    def records(self) -> list[dict[str, Any]]:
        """Return the values of all whole lines of the dataset."""
        data = self.dataset.read_bytes() if self.dataset.exists() else b""
        return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]

    def holds(self, lines: int) -> bool:
        """Say whether the dataset is there and holds so many lines."""
        return self.dataset.exists() and self.dataset.read_bytes().count(b"\n") >= lines

    def texts(self) -> set[str]:
        """Return what the users of all records said, in a dataset without images."""
        return {record["messages"][1]["content"] for record in self.records()}


def environment() -> dict[str, str]:
    """Return an environment that says nothing to streamer."""
    return {key: value for key, value in os.environ.items() if not key.startswith(OURS)}


def until(condition: Callable[[], object]) -> None:
    """Return as soon as a condition holds; fail if that takes too long."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.01)


def ended(process: subprocess.Popen[bytes]) -> int:
    """Return the exit code of a daemon that was told to stop: within 5 seconds."""
    return process.wait(timeout=5)


class Rollouts:
    """A producer that writes many rollouts, good and bad, in either order."""

    def __init__(self, place: Place, seed: int) -> None:
        self.place = place
        self.random = random.Random(seed)
        self.number = 0
        self.good = 0

    def write(self) -> None:
        """Write one rollout: outcome first or shard first, the shard at once or in two parts."""
        self.number += 1
        run = f"run-{self.number}"
        reward = self.random.choice([0, 1, 2])
        name = f"{run}_2026-01-01_00-00-00.jsonl"
        self.good += reward > 0
        data = jsonl(*(dialogue(run, turn, f"{run} {turn}", seconds=turn) for turn in range(6)))
        first = self.random.random() < 0.5
        if first:
            add_outcome(self.place.traces, run, reward, 9)
        cut = self.random.choice([len(data), self.random.randrange(len(data))])
        with (self.place.shards / name).open("ab", buffering=0) as file:
            file.write(data[:cut])
            file.write(data[cut:])
        if not first:
            add_outcome(self.place.traces, run, reward, 9)
