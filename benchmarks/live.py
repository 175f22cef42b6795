"""Live latency: from the end of a rollout to its last record in the output, while a producer goes on.

A rollout has ended when both its shard is closed and its outcome is committed. When its last record is visible
is found afterwards: while it goes on only the size of the output is looked at, every millisecond, which is
how exact it is.
"""

from __future__ import annotations

import bisect
import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import msgspec

from benchmarks import procfs
from benchmarks.contenders import Command
from benchmarks.measure import PYTHON, environment
from benchmarks.peers.bare_loop import parse
from benchmarks.producer import RECORDS, Ended, corpus
from benchmarks.results import Live, median
from benchmarks.running import Place, live_contenders, started
from benchmarks.sizes import Sizes, say

_LOOK_SECONDS = 0.001
_QUIET_SECONDS = 0.1
_PATIENCE_SECONDS = 30.0

_FULL_SYNC_RATE = 50
"""Up to this rate the producer syncs its commits as SQLite does by default; beyond it, no disk would keep up."""


def run(sizes: Sizes, work: Path) -> list[Live]:
    """Measure every contender that can follow, at each rate.

    Raises:
        RuntimeError: a rollout did not arrive whole.
    """
    found = []
    for rate in sizes.rates:
        for name, command in live_contenders():
            found.append(_one(sizes, name, command, rate, work))
            shutil.rmtree(work)
    return found


def _one(sizes: Sizes, name: str, command: Command, rate: int, work: Path) -> Live:
    rollouts = int(rate * sizes.live_seconds) + 1
    place = Place(corpus(rollouts, sizes.seed), work).make()
    synchronous = "full" if rate <= _FULL_SYNC_RATE else "off"
    with started(command(work, place.out), work / "log") as process:
        place.add(0)  # whoever takes this one is ready
        place.wait_for(0)
        options = {"rate": rate, "rollouts": rollouts, "first": 1, "seed": sizes.seed, "synchronous": synchronous}
        before, start, growth = procfs.cpu_seconds(process.pid), time.monotonic(), Growth(place.output)
        ended = _produce(place, options, growth)
        cpu = (procfs.cpu_seconds(process.pid) - before) / (time.monotonic() - start)
        growth.look_until(place.corpus.records)
    visible = growth.last_lines(RECORDS)
    missing = [one.session for one in ended if one.session not in visible]
    if missing:
        raise RuntimeError(f"{name}: {len(missing)} rollouts did not come whole, {missing[0]} for one")
    latencies = [max(0, visible[one.session] - one.at) / 1e9 for one in ended]
    commits = [one.commit for one in ended]
    kept = (len(ended) - 1) * 1e9 / (ended[-1].at - ended[0].at)
    say(f"live: {name} at {rate}/s: median {median(latencies) * 1e3:.1f} ms")
    return Live(name, rate, kept, synchronous, (median(commits), max(commits)), latencies, cpu)


def _produce(place: Place, options: Mapping[str, object], growth: Growth) -> list[Ended]:
    """Let a producer run to its end, looking on; return what it noted."""
    flags = [f"--{option}={value}" for option, value in options.items()]
    command = [*PYTHON, "benchmarks.producer", *flags, str(place.shards), str(place.database)]
    notes = place.folder / "ended"
    with open(notes, "wb") as out, subprocess.Popen(command, env=environment(), stdout=out) as producer:
        while producer.poll() is None:
            growth.look()
    if producer.returncode:
        raise RuntimeError("the producer failed")
    return msgspec.json.decode(notes.read_bytes(), type=list[Ended])


class Growth:
    """How a file grows: its size, and when it was seen first."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sizes = [0]
        self._times = [0]

    def look(self) -> None:
        """Note the size if it is another one; then sleep."""
        size = os.stat(self._path).st_size
        if size != self._sizes[-1]:
            self._times.append(time.monotonic_ns())
            self._sizes.append(size)
        time.sleep(_LOOK_SECONDS)

    def look_until(self, lines: int) -> None:
        """Look until the file has so many lines. It is read only while it does not grow.

        Raises:
            RuntimeError: nothing more comes.
        """
        found = 0
        since = time.monotonic_ns()
        with open(self._path, "rb") as file:
            while found < lines:
                self.look()
                quiet = (time.monotonic_ns() - max(since, self._times[-1])) / 1e9
                if quiet > _QUIET_SECONDS:
                    found += sum(block.count(b"\n") for block in iter(partial(file.read, 1 << 20), b""))
                if quiet > _PATIENCE_SECONDS:
                    raise RuntimeError(f"{found} of {lines} lines came")
        self.look()  # what was counted may have come after the last look

    def last_lines(self, lines: int) -> dict[str, int]:
        """Return when the last line of each session was there, of sessions with so many lines."""
        counts: Counter[str] = Counter()
        times: dict[str, int] = {}
        end = 0
        with open(self._path, "rb") as file:
            for line in file:
                end += len(line)
                session = parse(line).session()
                counts[session] += 1
                times[session] = self._times[bisect.bisect_left(self._sizes, end)]
        return {session: at for session, at in times.items() if counts[session] == lines}
