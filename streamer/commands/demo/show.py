"""One demo, from the first process to the last: a producer, a daemon, and someone who watches both."""

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
from streamer.commands.demo import screen
from streamer.commands.demo.child import DemoProcess
from streamer.commands.demo.place import DemoPlace
from streamer.store.views.snapshot import Snapshot, snapshot

_PAGE_PORT = 8765
_POLL_SECONDS = 0.25
_SETTLE_SECONDS = 10.0
"""Without a change for so long, the counts are as settled as they will get."""

_TAIL_BYTES = 64 * 1024
_NEWEST = 4

_MUST_HAPPEN = ("appended", "duplicate", "below_bar")
"""A demo in which one of these never happened has shown nothing."""


class Show:
    """One demo from the first process to the last.

    Args:
        place: where everything goes.
        rollouts: how many the producer plays.
        seed: its first seed.
        pace: seconds between two rollouts.

    """

    def __init__(self, place: DemoPlace, rollouts: int, seed: int, pace: float) -> None:
        self.place = place
        self._rollouts = rollouts
        self._page = f"127.0.0.1:{_free_port()}" if _can_serve() else ""
        place.config.write_text(_config(place, self._page), "utf-8")
        self._producer = DemoProcess("producer", place.log("producer"), _producer(place, rollouts, seed, pace))
        self._daemon = DemoProcess("daemon", place.log("daemon"), _daemon(place))
        self._started = time.monotonic()
        self._counts = snapshot(place.dataset)
        self._growth = [0]

    def run(self) -> list[str]:
        """Start both, watch, stop both, sum up; return what went wrong."""
        typer.echo(f"everything is in {_shown(self.place.folder)}")
        typer.echo(_where_to_look(self._page))
        with self._daemon:
            with self._producer, screen.screen() as shown_on:
                faults = self._watch(shown_on)
            seconds = self._seconds()
            if self._daemon.stop() and not faults:
                faults = [self._daemon.fault()]
        shortfalls = self._sum_up(seconds)
        return faults or shortfalls

    def _watch(self, shown_on: screen.Screen) -> list[str]:
        settling = _Settling(self.place)
        while True:
            view = self._look()
            shown_on.show(view)
            if self._daemon.status is not None:
                return [self._daemon.fault()]
            if self._producer.status:
                return [self._producer.fault()]
            if self._producer.status == 0 and settling.settled(view):
                return []
            time.sleep(_POLL_SECONDS)

    def _look(self) -> screen.DemoView:
        # A ledger that is busy right now is looked at again in a moment.
        with contextlib.suppress(UnavailableError):
            self._counts = snapshot(self.place.dataset)
        self._growth.append(self._counts.dataset_lines)
        # The producer says one line a rollout.
        played = self.place.log("producer").read_bytes().count(b"\n")
        replies = newest(self.place.dataset)
        return screen.DemoView(self._seconds(), self._rollouts, played, self._counts, tuple(self._growth), replies)

    def _sum_up(self, seconds: float) -> list[str]:
        counts = snapshot(self.place.dataset)
        written = self.place.lines_written()
        typer.echo(f"\n{written} lines written by the producer in {seconds:.1f} s")
        typer.echo("\n".join(_summary(self.place, counts)))
        return _faults(counts, written)

    def _seconds(self) -> float:
        return time.monotonic() - self._started


class _Settling:
    """Tells when nothing more is to come after the producer has ended."""

    def __init__(self, place: DemoPlace) -> None:
        self._place = place
        self._counts: dict[str, int] = {}
        self._changed = 0.0

    def settled(self, view: screen.DemoView) -> bool:
        """Say whether every written line has its fate, or nothing has moved for a while."""
        if view.counts.counts != self._counts:
            self._counts, self._changed = view.counts.counts, view.seconds
        done = view.counts.counts["waiting"] == 0 and view.counts.read == self._place.lines_written()
        return done or view.seconds - self._changed >= _SETTLE_SECONDS


def _producer(place: DemoPlace, rollouts: int, seed: int, pace: float) -> list[str]:
    where = ["--shards", str(place.shards), "--database", str(place.database)]
    how = ["--rollouts", str(rollouts), "--seed", str(seed), "--pace", str(pace)]
    return [sys.executable, "-m", "streamer.commands.demo.producer", *where, *how]


def _daemon(place: DemoPlace) -> list[str]:
    return [sys.executable, "-m", "streamer", "run", "--config", str(place.config)]


def _config(place: DemoPlace, page: str) -> str:
    """Return the daemon's configuration, with paths that hold wherever the folder is moved."""
    lines = ["[source]", f'shards = "{place.shards.name}"', f'database = "{place.database.name}"']
    lines += ["[dataset]", f'path = "{place.dataset.name}"']
    lines += ["[web]", f'listen = "{page}"'] if page else []
    return "\n".join(lines) + "\n"


def _can_serve() -> bool:
    return all(find_spec(name) is not None for name in ("starlette", "uvicorn", "prometheus_client"))


def _free_port() -> int:
    """Return the usual port of the page, or any other one if that is taken."""
    for port in (_PAGE_PORT, 0):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)) as found:
            return int(found.getsockname()[1])
    return _PAGE_PORT


def _where_to_look(page: str) -> str:
    if page:
        return f"watch it grow: http://{page}/"
    return "no page: install the extra `web` to watch it grow in a browser (in a checkout: pip install '.[web]')"


def _summary(place: DemoPlace, counts: Snapshot) -> Iterator[str]:
    streamer = "streamer" if shutil.which("streamer") else f"{shlex.quote(sys.executable)} -m streamer"
    dataset = shlex.quote(_shown(place.dataset))
    yield screen.accounts(counts)
    yield f"dataset: {_shown(place.dataset)} ({counts.dataset_lines} lines, {screen.size(counts.dataset_bytes)})"
    yield ""
    yield "Look further:"
    yield f"  {streamer} verify {dataset}"
    yield f"  {streamer} tail --dataset {dataset} -n 3 --no-follow"
    yield f"  {streamer} status --dataset {dataset}"
    yield f"  {streamer} report {dataset} --html report.html"
    yield f"  {streamer} run --config {shlex.quote(_shown(place.config))}  # serves the page again"
    yield f"  jq -r '.messages[-1].tool_calls[0].function.arguments' {dataset} | sort | uniq -c | sort -n"


def _faults(counts: Snapshot, written: int) -> list[str]:
    faults = [f"no record was {screen.FATES[key][0]}" for key in _MUST_HAPPEN if not counts.counts[key]]
    if counts.read != written:
        faults.append(f"{written} lines were written, but {counts.read} read")
    if counts.dataset_lines != counts.counts["appended"]:
        faults.append(f"the dataset has {counts.dataset_lines} lines, not one for each record appended")
    return faults


def newest(dataset: Path) -> tuple[str, ...]:
    """Return the newest replies in the dataset, one line each, the newest last."""
    try:
        with dataset.open("rb") as file:
            start = max(0, dataset.stat().st_size - _TAIL_BYTES)
            file.seek(start)
            lines = file.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return ()
    whole = lines[1:] if start else lines
    return tuple(_reply(msgspec.json.decode(line)) for line in whole[-_NEWEST:])


def _reply(line: dict[str, Any]) -> str:
    message, metadata = line["messages"][-1], line["metadata"]
    calls = (json.loads(call["function"]["arguments"]) for call in message.get("tool_calls", ()))
    actions = " ".join(action for call in calls for action in call["actions"])
    return f"reward {metadata['total_reward']}  turn {metadata['turn']}  {actions}  {message['content']}"


def _shown(path: Path) -> str:
    return printable(str(path))
