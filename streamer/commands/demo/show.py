"""One demo, from the first process to the last: a producer, a daemon, and a screen that shows both."""

import contextlib
import json
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import typer

from streamer.base.errors import UnavailableError
from streamer.base.text import printable
from streamer.commands.demo.view import STATES, DemoView, megabytes, totals
from streamer.commands.simulation.process import MODULE, ChildProcess
from streamer.commands.simulation.screen import Screen, screen
from streamer.commands.simulation.workspace import Workspace
from streamer.reader.tail import Follower
from streamer.store.views.snapshot import Snapshot, snapshot

_WEB_PORT = 8765
_PLAIN_SECONDS = 1.0
_POLL_SECONDS = 0.25
_SETTLE_SECONDS = 10.0
"""After this time without a change, the counts are final."""

_NEWEST = 4

_MUST_HAPPEN = ("appended", "duplicate", "below_bar")
"""A demo shows nothing unless each of these happens."""


class Show:
    """One demo.

    Args:
        workspace: Paths of everything; the folder of the shards exists.
        rollouts: Number of rollouts that the producer plays.
        seed: Seed of the first one.
        pace: Seconds between two rollouts.
    """

    def __init__(self, workspace: Workspace, rollouts: int, seed: int, pace: float) -> None:
        self.workspace = workspace
        self._rollouts = rollouts
        self._play = ("--rollouts", str(rollouts), "--seed", str(seed), "--pace", str(pace))
        self._address = f"127.0.0.1:{_free_port()}" if _can_serve() else ""
        workspace.config.write_text(_config(workspace, self._address), "utf-8")
        self._started = time.monotonic()
        self._counts = snapshot(workspace.dataset)
        self._growth = [0]

    def run(self) -> list[str]:
        """Run the producer and the daemon, show their progress, sum up; return the faults."""
        typer.echo(f"everything is in {_shown(self.workspace.folder)}")
        typer.echo(_where_to_look(self._address))
        with self._child("daemon", "streamer", "run", "--config", str(self.workspace.config)) as daemon:
            where = ("--shards", str(self.workspace.shards), "--database", str(self.workspace.database))
            with (
                self._child("producer", "streamer.commands.demo.producer", *where, *self._play) as producer,
                screen(_PLAIN_SECONDS, stderr=False) as shown_on,
            ):
                faults = self._watch(daemon, producer, shown_on)
            seconds = self._seconds()
            if daemon.stop() and not faults:
                faults = [_ended("daemon", daemon)]
        shortfalls = self._sum_up(seconds)
        return faults or shortfalls

    def _child(self, name: str, *module: str) -> ChildProcess:
        return ChildProcess([*MODULE, *module], self._log(name))

    def _log(self, name: str) -> Path:
        return self.workspace.folder / f"{name}.log"

    def _watch(self, daemon: ChildProcess, producer: ChildProcess, shown_on: Screen) -> list[str]:
        """Show the progress until the producer has ended and every written line has its state, or nothing moves."""
        counts, changed = self._counts.counts, 0.0
        while True:
            view = self._look()
            if shown_on.due(view.seconds):
                shown_on.show(view)
            if daemon.status is not None:
                return [_ended("daemon", daemon)]
            if producer.status:
                return [_ended("producer", producer)]
            if view.counts.counts != counts or producer.status is None:
                counts, changed = view.counts.counts, view.seconds
            elif view.seconds - changed >= _SETTLE_SECONDS or self._is_done(view.counts):
                return []
            time.sleep(_POLL_SECONDS)

    def _is_done(self, counts: Snapshot) -> bool:
        return counts.counts["waiting"] == 0 and counts.read == self._lines_written()

    def _look(self) -> DemoView:
        # The ledger may be busy; the next look reads it.
        with contextlib.suppress(UnavailableError):
            self._counts = snapshot(self.workspace.dataset)
        self._growth.append(self._counts.dataset_lines)
        # The producer prints one line for each rollout.
        played = self._log("producer").read_bytes().count(b"\n")
        replies = newest(self.workspace.dataset)
        return DemoView(self._seconds(), self._rollouts, played, self._counts, tuple(self._growth), replies)

    def _sum_up(self, seconds: float) -> list[str]:
        counts, written = snapshot(self.workspace.dataset), self._lines_written()
        typer.echo(f"\n{written} lines written by the producer in {seconds:.1f} s")
        typer.echo("\n".join(_summary(self.workspace, counts)))
        return _faults(counts, written)

    def _lines_written(self) -> int:
        return sum(shard.read_bytes().count(b"\n") for shard in self.workspace.shards.glob("*.jsonl"))

    def _seconds(self) -> float:
        return time.monotonic() - self._started


def _ended(name: str, process: ChildProcess) -> str:
    """Return how a process ended, with the end of its log."""
    log = (f"  {line}" for line in process.last_lines())
    return "\n".join([f"the {name} ended with status {process.status}", *log])


def _config(workspace: Workspace, address: str) -> str:
    """Return the daemon's configuration, with paths that stay true when the folder moves."""
    lines = ["[source]", f'shards = "{workspace.shards.name}"', f'database = "{workspace.database.name}"']
    lines += ["[dataset]", f'path = "{workspace.dataset.name}"']
    lines += ["[web]", f'listen = "{address}"'] if address else []
    return "\n".join(lines) + "\n"


def _can_serve() -> bool:
    return all(find_spec(name) is not None for name in ("starlette", "uvicorn", "prometheus_client"))


def _free_port() -> int:
    """Return the usual port of the web UI, or any other one if that is in use."""
    for port in (_WEB_PORT, 0):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)) as found:
            return int(found.getsockname()[1])
    return _WEB_PORT


def _where_to_look(address: str) -> str:
    if address:
        return f"watch it grow: http://{address}/"
    return "no page: install the extra `web` to watch it grow in a browser (in a checkout: pip install '.[web]')"


def _summary(workspace: Workspace, counts: Snapshot) -> Iterator[str]:
    streamer = "streamer" if shutil.which("streamer") else f"{shlex.quote(sys.executable)} -m streamer"
    dataset = shlex.quote(_shown(workspace.dataset))
    yield totals(counts)
    yield f"dataset: {_shown(workspace.dataset)} ({counts.dataset_lines} lines, {megabytes(counts.dataset_bytes)})"
    yield ""
    yield "Look further:"
    yield f"  {streamer} verify {dataset}"
    yield f"  {streamer} tail --dataset {dataset} -n 3 --no-follow"
    yield f"  {streamer} status --dataset {dataset}"
    yield f"  {streamer} report {dataset} --html report.html"
    yield f"  {streamer} run --config {shlex.quote(_shown(workspace.config))}  # serves the page again"
    yield f"  jq -r '.messages[-1].tool_calls[0].function.arguments' {dataset} | sort | uniq -c | sort -n"


def _faults(counts: Snapshot, written: int) -> list[str]:
    faults = [f"no record was {STATES[key][0]}" for key in _MUST_HAPPEN if not counts.counts[key]]
    if counts.read != written:
        faults.append(f"{written} lines were written, but {counts.read} read")
    if counts.dataset_lines != counts.counts["appended"]:
        faults.append(f"the dataset has {counts.dataset_lines} lines, not one for each record appended")
    return faults


def newest(dataset: Path) -> tuple[str, ...]:
    """Return the newest replies in the dataset, one line each, the newest last."""
    with Follower(dataset, last=_NEWEST) as lines:
        return tuple(_reply(msgspec.json.decode(line.data)) for line in lines.read())


def _reply(line: dict[str, Any]) -> str:
    message, metadata = line["messages"][-1], line["metadata"]
    calls = (json.loads(call["function"]["arguments"]) for call in message.get("tool_calls", ()))
    actions = " ".join(action for call in calls for action in call["actions"])
    return f"reward {metadata['total_reward']}  turn {metadata['turn']}  {actions}  {message['content']}"


def _shown(path: Path) -> str:
    return printable(str(path))
