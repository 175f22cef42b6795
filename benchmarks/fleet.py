"""The fleet: one backlog through 1, 2 and 4 collectors into 1 and 2 writers, beside one machine that takes it alone.

All hosts are processes of this machine, and so are the three servers: what is measured is what the way through the log
costs, not what more machines would bring.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks.compare import contents
from benchmarks.contenders import OUTPUT, streamer_config
from benchmarks.conversations import Kind
from benchmarks.corpus import Corpus, Layout, Made
from benchmarks.measure import STREAMER, environment, measure, warm
from benchmarks.procfs import cpu_seconds, rss
from benchmarks.results import Fleet, FleetRun, Measured
from benchmarks.running import started
from benchmarks.sizes import Sizes, say
from streamer.commands.simulation.process import ChildProcess
from tests.suites.fleet.servers import Cluster

_BUCKETS = 32
_PATIENCE = 600.0
_PAUSE_SECONDS = 0.02


def run(sizes: Sizes, work: Path) -> list[Fleet]:
    """Measure every company, and one machine alone, in turn, round by round.

    Raises:
        RuntimeError: what came together is not what one machine alone makes of the same shards.
    """
    records, shards = sizes.fleet
    say(f"fleet: {records:,} records in {shards:,} shards")
    corpus = work / "corpus"
    made = Corpus(Kind.TEXT, Layout.TASKAPP, records=records, shards=shards, seed=sizes.seed).write(corpus)
    warm(corpus)
    companies = [(collectors, writers) for writers in sizes.writers for collectors in sizes.collectors]
    alone: list[Measured] = []
    runs: list[list[FleetRun]] = [[] for _ in companies]
    for number in range(sizes.rounds):
        digest = _alone(corpus, work / "alone", made, alone)
        shift = number % len(companies)  # so that none always follows the same one
        for index in [*range(shift, len(companies)), *range(shift)]:
            with Cluster.of(work / "cluster") as cluster:
                company = _Company(corpus, work / "company", cluster, *companies[index])
                runs[index].append(company.run(made, digest))
            shutil.rmtree(work / "cluster")
            shutil.rmtree(work / "company")
    shutil.rmtree(work)
    return [
        Fleet(made.records, made.distinct, made.bytes, alone, collectors, writers, runs[index])
        for index, (collectors, writers) in enumerate(companies)
    ]


def _alone(corpus: Path, out: Path, made: Made, runs: list[Measured]) -> str:
    """Let one machine do it; return the digest of its conversations."""
    out.mkdir()
    runs.append(measure([*STREAMER, "run", "--once", "--config", str(streamer_config(corpus, out))], out / "log"))
    found = contents(out / OUTPUT)
    if (found.lines, found.distinct) != (made.distinct, made.distinct):
        raise RuntimeError(f"one machine wrote {found}, expected {made.distinct} different")
    shutil.rmtree(out)
    say(f"  {'one machine':<26} {runs[-1].wall:7.2f} s  {runs[-1].cpu:7.2f} s CPU")
    return found.digest


class _Company:
    """Collectors with a share of the shards each, and writers with a share of the buckets each, on one cluster."""

    def __init__(self, corpus: Path, folder: Path, cluster: Cluster, collectors: int, writers: int) -> None:
        self._cluster = cluster
        self._collectors = [folder / f"collector-{number}" for number in range(collectors)]
        self._writers = [folder / f"writer-{number}" for number in range(writers)]
        for number, host in enumerate(self._collectors):
            _share(corpus / "shards", host / "shards", number, collectors)
            source = f'shards = "{host / "shards"}"\ndatabase = "{corpus / "traces.db"}"\n[sink]\nkind = "jetstream"'
            self._configure(host, source)
        each = _BUCKETS // writers
        for number, host in enumerate(self._writers):
            host.mkdir()
            self._configure(host, f'kind = "jetstream"\nbuckets = "{number * each}-{number * each + each - 1}"')

    def _configure(self, host: Path, source: str) -> None:
        servers = json.dumps([server.url for server in self._cluster.servers])
        (host / "config.toml").write_text(
            f'[source]\n{source}\n[dataset]\npath = "{host / OUTPUT}"\n'
            f'[fleet]\nservers = {servers}\ndataset = "bench"\nname = "{host.name}"\nbuckets = {_BUCKETS}\n'
        )

    def run(self, made: Made, digest: str) -> FleetRun:
        """Let them take the backlog; writers wait already when the collectors start."""
        config = str(self._writers[0] / "config.toml")
        subprocess.run(
            [*STREAMER, "fleet", "init", "--config", config], env=environment(), check=True, stdout=subprocess.DEVNULL
        )
        servers = [server.pid for server in self._cluster.servers]
        with ExitStack() as stack:
            writers = [stack.enter_context(_daemon(host)).pid for host in self._writers]
            _until(lambda: all((host / f"{OUTPUT}.ledger").exists() for host in self._writers))
            os.sync()
            before = sum(map(cpu_seconds, servers))
            began = time.monotonic()
            collectors = [stack.enter_context(_daemon(host)).pid for host in self._collectors]
            outputs = [_Lines(host / OUTPUT) for host in self._writers]
            _until(lambda: sum(output.count() for output in outputs) >= made.distinct)
            written = time.monotonic() - began
            _until(lambda: all(map(_is_delivered, self._collectors)))
            delivered = time.monotonic() - began
            run = FleetRun(
                written=written,
                delivered=delivered,
                collectors_cpu=sum(map(cpu_seconds, collectors)),
                writers_cpu=sum(map(cpu_seconds, writers)),
                servers_cpu=sum(map(cpu_seconds, servers)) - before,
                collector_rss=max(map(rss, collectors)),
                writer_rss=max(map(rss, writers)),
                stored=sum(_bytes(server.store) for server in self._cluster.servers),
            )
        self._check(made, digest)
        name = f"{len(self._collectors)} into {len(self._writers)}"
        cpu = f"{run.collectors_cpu:.2f} + {run.servers_cpu:.2f} + {run.writers_cpu:.2f}"
        say(f"  {name:<26} {run.written:7.2f} s  {cpu} s CPU of collectors, servers, writers")
        return run

    def _check(self, made: Made, digest: str) -> None:
        """See that all writers together hold what one machine does, and nothing twice."""
        whole = self._writers[0].parent / "whole.jsonl"
        with open(whole, "wb") as out:
            out.writelines((host / OUTPUT).read_bytes() for host in self._writers)
        found = contents(whole)
        if (found.lines, found.distinct, found.digest) != (made.distinct, made.distinct, digest):
            raise RuntimeError(f"the writers hold {found}, expected {made.distinct} different")


def _share(shards: Path, folder: Path, number: int, hosts: int) -> None:
    """Link every so manieth shard into a folder of its own."""
    folder.mkdir(parents=True)
    for shard in sorted(shards.iterdir())[number::hosts]:
        os.link(shard, folder / shard.name)


def _daemon(host: Path) -> ChildProcess:
    return started([*STREAMER, "run", "--config", str(host / "config.toml")], host / "log")


class _Lines:
    """How many lines a file has that grows; what was counted is not read again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = self._lines = 0

    def count(self) -> int:
        """Return how many lines there are now."""
        if self._path.exists():
            with open(self._path, "rb") as file:
                file.seek(self._offset)
                while block := file.read(1 << 20):
                    self._lines += block.count(b"\n")
                    self._offset += len(block)
        return self._lines


def _is_delivered(host: Path) -> bool:
    command = [*STREAMER, "status", "--config", str(host / "config.toml"), "--json"]
    said = json.loads(subprocess.run(command, env=environment(), check=True, stdout=subprocess.PIPE).stdout)
    delivery = said["delivery"]
    return bool(delivery and delivery["delivered"] == delivery["lines"])


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"it did not come within {_PATIENCE:.0f} s")
        time.sleep(_PAUSE_SECONDS)
