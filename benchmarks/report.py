"""Results -> ``results.json``, ``table.md`` and the plots."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

import msgspec

from benchmarks.contenders import BARE_LOOP, CAT_SYNC, DUCKDB
from benchmarks.results import (
    Backlog,
    Fleet,
    FleetRun,
    Live,
    Measured,
    Near,
    NearSteps,
    Queries,
    Rest,
    Restart,
    Results,
    Scale,
    median,
    quantile,
)

_MB = 1e6
_MIB = 1 << 20
_MS = 1e3
_US = 1e6


def write(results: Results, folder: Path) -> None:
    """Write everything that can be said so far into ``folder``."""
    data = msgspec.json.format(msgspec.json.encode(results), indent=1)
    (folder / "results.json").write_bytes(data + b"\n")
    (folder / "table.md").write_text(table(results))
    if find_spec("matplotlib") is not None:
        from benchmarks import plots  # noqa: PLC0415 - the tables do without it

        plots.write(results, folder)


def table(results: Results) -> str:
    """Return all results as Markdown."""
    here = results.machine
    versions = {"Python": here.python, **here.packages}
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    parts = [
        "# Figures\n",
        f"{here.cpu}, {here.cores} cores, {here.memory / 2**30:.0f} GiB; Linux {here.kernel}; {packages}.\n",
        *(["Of a quick run: good for nothing but to see that it works.\n"] if results.quick else []),
        *map(_backlog, results.backlog),
        *([_live(results.live)] if results.live else []),
        *([_rest(results.rest)] if results.rest else []),
        *([_scale(results.scale)] if results.scale else []),
        *map(_restart, results.restart),
        *map(_queries, results.queries),
        *map(_near, results.near),
        *([_fleet(results.fleet)] if results.fleet else []),
    ]
    return "\n".join(parts)


def _backlog(one: Backlog) -> str:
    rounds = len(next(iter(one.runs.values())))
    rows = []
    for name, runs in one.runs.items():
        walls = [run.wall for run in runs]
        rows.append(
            [
                name,
                f"{median(walls):.2f}",
                _spread(walls),
                f"{one.bytes / _MB / median(walls):,.0f}",
                f"{median(run.cpu for run in runs):.2f}",
                f"{median(run.peak for run in runs) / _MIB:,.0f}",
                *(_ratio(runs, one.runs.get(other), "wall") for other in (DUCKDB, BARE_LOOP, CAT_SYNC)),
                *(_ratio(runs, one.runs.get(other), "cpu") for other in (DUCKDB, BARE_LOOP)),
            ]
        )
    about = (
        f"{one.records:,} records in {one.shards:,} shards, {one.bytes / _MB:,.0f} MB; {one.distinct:,} conversations"
        f" in every output; rounds: {rounds}.\n\n"
    )
    head = ["", "wall s", "spread", "MB/s", "CPU s", "peak MiB", f"wall/{DUCKDB}", f"wall/{BARE_LOOP}",
            f"wall/{CAT_SYNC}", f"CPU/{DUCKDB}", f"CPU/{BARE_LOOP}"]  # fmt: skip
    return f"## Backlog: {one.corpus}\n\n{about}{_table(head, rows)}"


def _ratio(runs: Sequence[Measured], others: Sequence[Measured] | None, what: str) -> str:
    """Return the median of the ratios of each round: what slowed a whole round down does not count."""
    if not others:
        return ""
    pairs = zip(runs, others, strict=True)
    return f"{median(getattr(run, what) / max(getattr(other, what), 1e-9) for run, other in pairs):.2f}"


def _live(runs: Sequence[Live]) -> str:
    rows = [
        [
            one.contender,
            f"{one.rate} ({one.kept:.1f})",
            *(f"{quantile(one.latencies, part) * _MS:.1f}" for part in (0.5, 0.9, 0.99, 1.0)),
            f"{one.cpu:.0%}",
            f"{one.commit[0] * _MS:.1f} / {one.commit[1] * _MS:.0f}",
            one.synchronous,
        ]
        for one in runs
    ]
    head = ["", "rollouts/s (kept)", "median ms", "p90 ms", "p99 ms", "max ms", "CPU of a core",
            "producer's commit ms, median / max", "synchronous"]  # fmt: skip
    return f"## Live: from rollout to dataset\n\n{_table(head, rows)}"


def _rest(runs: Sequence[Rest]) -> str:
    rows = [
        [one.contender, f"{one.shards:,}", f"{one.cpu:.2%}", f"{one.rss / _MIB:,.0f}", f"{one.switches:.0f}"]
        for one in runs
    ]
    head = ["", "shards taken", "CPU of a core", "RSS MiB", "context switches/s"]
    return f"## At rest\n\n{_table(head, rows)}"


def _scale(runs: Sequence[Scale]) -> str:
    rows = []
    for one in runs:
        walls = [run.wall for run in one.runs]
        rows.append(
            [
                f"{one.keys:,}",
                f"{one.ledger_bytes / _MB:,.0f}",
                f"{one.records:,}",
                f"{median(walls):.2f}",
                _spread(walls),
                f"{median(walls) / one.records * _US:.0f}",
                f"{median(run.cpu for run in one.runs) / one.records * _US:.0f}",
                f"{median(run.peak for run in one.runs) / _MIB:,.0f}",
            ]
        )
    head = ["keys in the ledger", "ledger MB", "records", "wall s", "spread", "wall µs/record", "CPU µs/record",
            "peak MiB"]  # fmt: skip
    return f"## Scale: a further backlog, by size of the ledger\n\n{_table(head, rows)}"


def _near(one: Near) -> str:
    rows = [
        [
            f"{at.threshold}",
            f"{at.near:,}",
            f"{at.right / at.near:.3f}",
            f"{at.right / at.found:.3f}",
            f"{at.clear_found / at.clear:.4f}",
            f"{at.clearly_wrong}",
        ]
        for at in one.found
    ]
    head = ["threshold", "near", "recall", "precision", "recall from 0.05 above", "found below by 0.05 or more"]
    found = f"## Near-duplicates among {one.texts:,} texts\n\n{_table(head, rows)}"
    rows = [
        [
            "off" if cost.known is None else f"{cost.known:,}",
            f"{cost.ledger_bytes / _MB:,.0f}",
            f"{median(start.cpu for start in cost.starts):.2f}",
            _spread([start.cpu for start in cost.starts]),
            f"{median(start.peak for start in cost.starts) / _MIB:,.0f}",
            *(_step(cost.steps, step) for step in ("sign", "compare", "remember")),
        ]
        for cost in one.cost
    ]
    head = ["records in mind", "ledger MB", "start CPU s", "spread", "peak MiB", "sign µs", "compare µs",
            "remember µs"]  # fmt: skip
    return f"{found}\n## Near-duplicates: cost\n\n{_table(head, rows)}"


def _step(steps: NearSteps | None, name: str) -> str:
    return "" if steps is None else f"{getattr(steps, name) * _US:.0f}"


def _restart(one: Restart) -> str:
    first = one.first_pass
    rows = [
        [what, f"{median(seconds):.2f}", _spread(seconds)]
        for what, seconds in (("ready", one.ready), ("a rollout that ended meanwhile is in the dataset", one.taken))
    ]
    about = (
        f"The first pass over them took {first.wall:.1f} s, {first.cpu:.1f} s CPU, {first.peak / _MIB:,.0f} MiB.\n\n"
    )
    return f"## Restart with {one.shards:,} known shards\n\n{about}{_table(['from exec until', 's', 'spread'], rows)}"


def _queries(one: Queries) -> str:
    rows = [
        [
            f"`{command}`",
            f"{median(run.wall for run in runs) * _MS:.0f}",
            _spread([run.wall * _MS for run in runs], 0),
            f"{median(run.peak for run in runs) / _MIB:.0f}",
        ]
        for command, runs in one.runs.items()
    ]
    about = f"{one.lines:,} lines, {one.dataset_bytes / 1e9:.2f} GB.\n\n"
    return f"## Queries over a dataset\n\n{about}{_table(['', 'wall ms', 'spread', 'peak MiB'], rows)}"


def _company(one: Fleet) -> list[str]:
    written = [run.written for run in one.runs]
    middle = {name: median(getattr(run, name) for run in one.runs) for name in FleetRun.__struct_fields__}
    ratios = (wall / alone.wall for wall, alone in zip(written, one.alone, strict=True))
    return [
        f"{one.collectors} into {one.writers}",
        f"{middle['written']:.2f}",
        _spread(written),
        f"{one.records / middle['written']:,.0f}",
        f"{median(ratios):.2f}",
        *(f"{middle[name]:.2f}" for name in ("delivered", "collectors_cpu", "servers_cpu", "writers_cpu")),
        *(f"{middle[name] / _MIB:.0f}" for name in ("collector_rss", "writer_rss", "stored")),
    ]


def _fleet(companies: Sequence[Fleet]) -> str:
    first = companies[0]
    alone = [run.wall for run in first.alone]
    cpu, peak = (median(getattr(run, what) for run in first.alone) for what in ("cpu", "peak"))
    rates = [f"{median(alone):.2f}", _spread(alone), f"{first.records / median(alone):,.0f}", "1.00"]
    rows = [
        ["one machine", *rates, "", f"{cpu:.2f}", "", "", f"{peak / _MIB:.0f}", "", ""],
        *map(_company, companies),
    ]
    about = (
        f"{first.records:,} records, {first.bytes / _MB:,.0f} MB of shards; {first.distinct:,} conversations."
        " Collectors, writers and three servers with three replicas, all on this machine.\n\n"
    )
    head = ["", "wall s", "spread", "records/s", "wall/one machine", "all receipts s", "CPU s: collectors", "servers",
            "writers", "MiB: collector", "writer", "servers' disks"]  # fmt: skip
    return f"## Fleet\n\n{about}{_table(head, rows)}"


def _spread(values: Sequence[float], digits: int = 2) -> str:
    return f"{min(values):.{digits}f}-{max(values):.{digits}f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
