"""Hosts that evaluate, hosts that write, and one machine that sees everything: what all of them should come to."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from tests.helpers.place import Place, environment
from tests.helpers.producer import add_outcome, conversations, dialogue, make_traces
from tests.suites.fleet.fleets import DATASET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from tests.suites.fleet.servers import Cluster

PATIENCE = 60.0
"""Seconds after which a company that should be through is not: elections and requests that were lost take some."""

TURNS = 4


class Host(Place):
    """A place whose daemon is one end of a fleet; it can be killed, and started again."""

    def __init__(self, folder: Path, servers: Iterable[str], inside: Sequence[str] = ()) -> None:
        folder.mkdir(parents=True)
        self.servers = list(servers)
        self.inside = list(inside)
        self.process: subprocess.Popen[bytes] | None = None
        super().__init__(folder)

    def configure(self, text: str = "", source: str = "") -> None:
        """Write the configuration."""
        fleet = f'[fleet]\nservers = {json.dumps(self.servers)}\ndataset = "{DATASET}"\nname = "{self.folder.name}"\n'
        super().configure(f"{fleet}\n{text}", source)

    def start(self) -> None:
        """Start the daemon."""
        assert self.process is None
        with self.log.open("ab") as log:
            command = [*self.inside, *self._command(("run",))]
            self.process = subprocess.Popen(command, cwd=self.folder, env=environment(), stderr=log)

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End the daemon by a signal, and wait until it has ended."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(timeout=PATIENCE)
            self.process = None

    def lines(self) -> int:
        """Return how many whole lines there are in the dataset."""
        return self.dataset.read_bytes().count(b"\n") if self.dataset.exists() else 0


class Collector(Host):
    """A host that evaluates."""

    def configure(self, text: str = "", source: str = "") -> None:
        """Write the configuration."""
        super().configure(f'[sink]\nkind = "jetstream"\n{text}', source)

    def plays(self, rollouts: Iterable[Rollout]) -> None:
        """Write what an evaluation writes."""
        if not self.traces.exists():
            make_traces(self.traces)
        for rollout in rollouts:
            add_outcome(self.traces, rollout.run, rollout.reward, 10)
            self.shard(f"sft_{rollout.run}.jsonl", *rollout.values)

    @property
    def sent(self) -> int:
        """How many records the stream has acknowledged."""
        said = self.status()["delivery"]
        return 0 if said is None else int(said["sent"])

    @property
    def waits(self) -> int:
        """How many records no writer has said to hold, those included that are in the outbox and not committed yet."""
        said = self.status()["delivery"]
        if said is None:  # nothing was ever sent
            return self.lines()
        return int(self.lines() - said["delivered"] - sum(said["undeliverable"].values()))


class Writer(Host):
    """A host that writes."""

    def __init__(self, folder: Path, servers: Iterable[str], buckets: str, inside: Sequence[str] = ()) -> None:
        self.buckets = buckets
        super().__init__(folder, servers, inside)

    def configure(self, text: str = "", source: str = "") -> None:
        """Write the configuration."""
        super().configure(text, f'kind = "jetstream"\nbuckets = "{self.buckets}"\n{source}')


class Rollout:
    """What one rollout writes, wherever it is played: every third one ends badly."""

    def __init__(self, number: int, turns: int = TURNS) -> None:
        self.run = f"run-{number}"
        self.reward = number % 3
        self.values = [dialogue(self.run, turn, f"{self.run}, turn {turn}") for turn in range(turns)]


class Company:
    """Collectors and writers on one cluster, for as long as the block it is opened for.

    Each rollout is played at two of the collectors, as if it had been started twice.
    """

    def __init__(self, folder: Path, servers: Sequence[str], collectors: int, writers: Sequence[str]) -> None:
        self.folder = folder
        self.collectors = [Collector(folder / f"eval-{number}", servers) for number in range(collectors)]
        self.writers = [Writer(folder / f"w-{number}", servers, buckets) for number, buckets in enumerate(writers)]
        self.rollouts: list[Rollout] = []

    def __enter__(self) -> Self:
        for host in (*self.writers, *self.collectors):
            host.start()
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as stack:
            for host in (*self.writers, *self.collectors):
                stack.callback(host.end)

    def play(self, count: int) -> None:
        """Play so many rollouts more."""
        first = len(self.rollouts)
        new = [Rollout(number) for number in range(first, first + count)]
        self.rollouts += new
        size = len(self.collectors)
        for number, collector in enumerate(self.collectors):
            mine = [one for index, one in enumerate(new, first) if number in (index % size, (index + 3) % size)]
            collector.plays(mine)

    @property
    def expected(self) -> int:
        """How many records the dataset has to have."""
        return sum(len(rollout.values) for rollout in self.rollouts if rollout.reward > 0)

    def written(self) -> int:
        """Return how many records all writers have."""
        return sum(writer.lines() for writer in self.writers)

    def until(self, condition: Callable[[], object]) -> None:
        """Return as soon as a condition holds."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, self.picture()
            time.sleep(0.05)  # real processes take real time

    def picture(self) -> str:
        """Return what a person would want to see of a company that does not get there."""
        lines = [f"{self.written()} of {self.expected} records"]
        for host in (*self.writers, *self.collectors):
            tail = host.log.read_text().splitlines()[-4:] if host.log.exists() else []
            lines += [f"-- {host.folder.name}: {host.lines()} lines", *(line[:300] for line in tail)]
        return "\n".join(lines)

    def settle(self) -> None:
        """Wait until all that was played is with the writers, and all collectors know that."""
        self.until(lambda: self.written() >= self.expected)
        for collector in self.collectors:
            self.until(partial(_has_delivered, collector))

    def check(self) -> None:
        """See that the writers together have what one machine has that saw all shards, and nothing twice."""
        one = Place(_made(self.folder / f"one-{len(self.rollouts)}"))
        make_traces(one.traces)
        for rollout in self.rollouts:
            add_outcome(one.traces, rollout.run, rollout.reward, 10)
            one.shard(f"sft_{rollout.run}.jsonl", *rollout.values)
        done = one.once()
        assert done.returncode == 0, done.stderr
        records: list[dict[str, Any]] = [record for writer in self.writers for record in writer.records()]
        assert conversations(records) == conversations(one.records())
        for host in (*self.writers, *self.collectors):
            host.status()  # its accounts add up
            assert "Traceback" not in host.log.read_text()


def _has_delivered(collector: Collector) -> bool:
    return collector.waits == 0


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def urls_without(cluster: Cluster, server: object) -> list[str]:
    """Return where clients find the other servers of a cluster."""
    return [one.url for one in cluster.servers if one is not server]
