"""``python -m benchmarks.plan``: what a fleet of some size needs, from what was measured of a small one.

Arithmetic on the results of *fleet* and *scale*, and a simulation of how evenly keys fall into buckets.
"""

from __future__ import annotations

import argparse
import math
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from benchmarks.results import Fleet, Results, Scale, median
from streamer.config.fleet_names import partition_of

_RESULTS = Path(__file__).with_name("results")
_USE = 0.5
"""The share of a core that a plan fills: the rest is for bursts, and for catching up."""

_DAY = 86_400
_GB = 1e9
_REPLICAS = 3


class Wanted(msgspec.Struct, frozen=True):
    """What is planned: ``rate`` are qualifying records a second of each host.

    ``away`` are seconds for which writers may be away, and all hosts go on.
    """

    hosts: int
    rate: float
    records: float
    line_bytes: int
    away: float = _DAY


class Costs(msgspec.Struct, frozen=True):
    """What was measured, for each record: seconds of CPU, and bytes on the disk of each server and in a ledger."""

    collector: float
    servers: float
    writer: float
    key_bytes: float

    @classmethod
    def of(cls, fleet: list[Fleet], scale: list[Scale]) -> Costs:
        """Take the company that costs most of each, and the largest ledger."""
        largest = max(scale, key=lambda one: one.keys)
        return cls(
            collector=max(median(run.collectors_cpu for run in one.runs) / one.distinct for one in fleet),
            servers=max(median(run.servers_cpu for run in one.runs) / one.distinct for one in fleet),
            writer=max(median(run.writers_cpu for run in one.runs) / one.distinct for one in fleet),
            key_bytes=largest.ledger_bytes / largest.keys,
        )


class Needs(msgspec.Struct, frozen=True):
    """What a plan comes to. Bytes; ``*_cores`` of all hosts of a kind together."""

    rate: float
    days: float
    collector_share: float
    server_cores: float
    writers: int
    outbox_bytes: float
    stream_bytes: float
    dataset_bytes: float
    keys_each: float
    ledger_bytes: float
    catch_up: float


def needs(wanted: Wanted, costs: Costs) -> Needs:
    """Return what a fleet needs."""
    rate = wanted.hosts * wanted.rate
    writers = max(1, math.ceil(rate * costs.writer / _USE))
    most = writers / costs.writer  # records a second with all cores of the writers busy
    waiting = rate * wanted.away * wanted.line_bytes
    return Needs(
        rate=rate,
        days=wanted.records / rate / _DAY,
        collector_share=wanted.rate * costs.collector,
        server_cores=rate * costs.servers / _USE,
        writers=writers,
        outbox_bytes=waiting / wanted.hosts,
        stream_bytes=waiting,  # on each of the servers, with as many replicas as there are servers
        dataset_bytes=wanted.records * wanted.line_bytes / writers,
        keys_each=wanted.records / writers,
        ledger_bytes=wanted.records / writers * costs.key_bytes,
        catch_up=rate * wanted.away / (most - rate),
    )


def imbalance(buckets: int, writers: int, keys: int = 200_000, seed: int = 1) -> float:
    """Return how much more than its share the busiest of some writers gets, with random keys and equal buckets."""
    draw = random.Random(seed)
    share = Counter(partition_of(draw.randbytes(16), buckets) * writers // buckets for _ in range(keys))
    return max(share.values()) * writers / keys


def table(plans: list[Wanted], costs: Costs) -> Iterator[str]:
    """Yield the plans side by side, as Markdown."""
    found = [needs(wanted, costs) for wanted in plans]
    rows = [
        ("hosts that evaluate", [f"{wanted.hosts:,}" for wanted in plans]),
        ("records a second, all together", [f"{one.rate:,.0f}" for one in found]),
        ("days until that many records are there", [f"{one.days:,.1f}" for one in found]),
        ("CPU of each collector", [f"{one.collector_share:.2%} of a core" for one in found]),
        (f"cores of the {_REPLICAS} servers, together", [f"{one.server_cores:,.1f}" for one in found]),
        ("writers, of one core each", [f"{one.writers}" for one in found]),
        ("outbox of each host, GB", [f"{one.outbox_bytes / _GB:,.1f}" for one in found]),
        ("stream on each server, GB", [f"{one.stream_bytes / _GB:,.0f}" for one in found]),
        ("dataset of each writer, GB", [f"{one.dataset_bytes / _GB:,.0f}" for one in found]),
        ("keys of each writer, millions", [f"{one.keys_each / 1e6:,.0f}" for one in found]),
        ("ledger of each writer, GB", [f"{one.ledger_bytes / _GB:,.1f}" for one in found]),
        ("hours to catch up after that time away", [f"{one.catch_up / 3600:,.1f}" for one in found]),
    ]
    yield (
        f"| {_USE:.0%} of each core in use | " + " | ".join(f"{wanted.records:,.0f} records" for wanted in plans) + " |"
    )
    yield "| --- |" + " ---: |" * len(plans)
    yield from (f"| {name} | {' | '.join(values)} |" for name, values in rows)


def main() -> None:
    """Print the plans that docs/scale.md shows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plan", description=__doc__.splitlines()[0])
    parser.add_argument("--line-bytes", type=int, default=2_000, help="bytes of a dataset line (2,000: text)")
    parser.add_argument("--rate", type=float, default=2.0, help="qualifying records a second of each host (2)")
    parser.add_argument("--fleet", type=Path, default=_RESULTS / "fleet" / "results.json", help="results with *fleet*")
    parser.add_argument("--scale", type=Path, default=_RESULTS / "results.json", help="results with *scale*")
    args = parser.parse_args()
    fleet, scale = (msgspec.json.decode(path.read_bytes(), type=Results) for path in (args.fleet, args.scale))
    costs = Costs.of(fleet.fleet, scale.scale)
    print(f"per record: {costs.collector * 1e6:.0f} µs of the collector, {costs.servers * 1e6:.0f} µs of all servers,")
    print(f"{costs.writer * 1e6:.0f} µs of the writer (CPU); {costs.key_bytes:.0f} bytes of ledger for a key\n")
    sizes = ((3, 1e6), (100, 1e8), (1000, 1e9))
    for line in table([Wanted(hosts, args.rate, records, args.line_bytes) for hosts, records in sizes], costs):
        print(line)
    print("\n| buckets | writers | the busiest one gets, times its share |\n| ---: | ---: | ---: |")
    for buckets, writers in ((32, 2), (32, 5), (256, 5), (256, 16), (1024, 16)):
        print(f"| {buckets} | {writers} | {imbalance(buckets, writers):.3f} |")


if __name__ == "__main__":
    main()
