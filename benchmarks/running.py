"""A contender that goes on for ever: start it, see that it takes something, stop it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Self

from benchmarks.contenders import CONTENDERS, OUTPUT, Command
from benchmarks.corpus import Corpus
from benchmarks.measure import environment
from streamer.commands.simulation.process import ChildProcess
from streamer.commands.simulation.trace import INSERT_OUTCOME, connect

_PATIENCE = 120.0
_LOOK_SECONDS = 0.001
_PAUSE_SECONDS = 0.05


class Place:
    """A folder in which a corpus comes to be while a contender reads along. It may hold one already."""

    def __init__(self, corpus: Corpus, folder: Path) -> None:
        self.corpus = corpus
        self.folder = folder
        self.shards = folder / "shards"
        self.database = folder / "traces.db"
        self.out = folder / "out"
        self.output = self.out / OUTPUT

    def make(self) -> Self:
        """Make what is missing: the folders and an empty database."""
        self.shards.mkdir(parents=True, exist_ok=True)
        self.out.mkdir(exist_ok=True)
        connect(self.database).close()
        return self

    def add(self, rollout: int) -> None:
        """Let one rollout end: its shard, then its outcome."""
        (self.shards / self.corpus.name(rollout)).write_bytes(self.corpus.shard(rollout))
        with closing(connect(self.database)) as db, db:
            db.execute(INSERT_OUTCOME, self.corpus.outcome(rollout))

    def wait_for(self, rollout: int, after: int = 0) -> None:
        """Wait until a line of a rollout stands in the output, at or after the offset ``after``.

        Raises:
            TimeoutError: it did not come.
        """
        session, deadline, seen = self.corpus.run_id(rollout).encode(), time.monotonic() + _PATIENCE, -1
        while time.monotonic() < deadline:
            if self.output.exists() and (size := self.output.stat().st_size) != seen:
                seen = size
                with open(self.output, "rb") as lines:
                    lines.seek(after)
                    if session in lines.read():
                        return
            time.sleep(_LOOK_SECONDS)
        raise TimeoutError(f"{session.decode()} did not come within {_PATIENCE:.0f} s")

    def wait_for_lines(self, lines: int) -> None:
        """Wait until the output has so many lines.

        Raises:
            TimeoutError: they did not come.
        """
        deadline, found, offset = time.monotonic() + _PATIENCE, 0, 0
        while time.monotonic() < deadline:
            if self.output.exists():
                with open(self.output, "rb") as output:
                    output.seek(offset)
                    while block := output.read(1 << 20):
                        found += block.count(b"\n")
                        offset += len(block)
            if found >= lines:
                return
            time.sleep(_PAUSE_SECONDS)
        raise TimeoutError(f"{found} of {lines} lines came within {_PATIENCE:.0f} s")


def live_contenders() -> list[tuple[str, Command]]:
    """Return name and command of those that can go on for ever, and are installed."""
    return [(one.name, one.live) for one in CONTENDERS if one.live is not None and one.installed]


def started(command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> ChildProcess:
    """Run a command in the background; as a context manager it is stopped in the end."""
    return ChildProcess(command, log, environment=env or environment())
