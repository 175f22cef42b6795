"""Results -> pictures: throughput over the backlog, distribution of live latency, cost against size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

from benchmarks.contenders import CONTENDERS
from benchmarks.results import Backlog, Live, Results, Scale, median

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "streamer"  # the same figures give the same file

from matplotlib import pyplot as plt  # noqa: E402 - after the choice of a backend that needs no screen

_MB = 1e6
_MS = 1e3
_US = 1e6
_FLOOR = {contender.name for contender in CONTENDERS if not contender.deduplicates}
"""They would dwarf all others; the table has them."""

_COLOURS = {contender.name: f"C{number}" for number, contender in enumerate(CONTENDERS)}


def write(results: Results, folder: Path) -> None:
    """Draw what was measured into ``folder``."""
    if results.backlog:
        _backlog(results.backlog, folder / "backlog.svg")
    if results.live:
        _live(results.live, folder / "live.svg")
    if results.scale:
        _scale(results.scale, folder / "scale.svg")


def _backlog(corpora: Sequence[Backlog], path: Path) -> None:
    _, axes = plt.subplots(1, len(corpora), figsize=(4 * len(corpora), 3.2), sharey=True, squeeze=False)
    for one, axis in zip(corpora, axes[0], strict=True):
        names = [name for name in reversed(one.runs) if name not in _FLOOR]
        for name in names:
            speeds = [one.bytes / _MB / run.wall for run in one.runs[name]]
            middle = median(speeds)
            spread = [[middle - min(speeds)], [max(speeds) - middle]]
            axis.barh(name, middle, xerr=spread, color=_COLOURS[name], capsize=3)
        axis.set_title(one.corpus)
        axis.set_xlabel("MB of shards a second")
    _save(path)


def _live(runs: Sequence[Live], path: Path) -> None:
    rates = sorted({one.rate for one in runs})
    _, axes = plt.subplots(1, len(rates), figsize=(5 * len(rates), 3.5), sharey=True, squeeze=False)
    for rate, axis in zip(rates, axes[0], strict=True):
        for one in runs:
            if one.rate == rate:
                values = [max(seconds * _MS, 0.1) for seconds in one.latencies]
                axis.ecdf(values, label=one.contender, color=_COLOURS[one.contender])
        axis.set_title(f"{rate} rollouts a second")
        axis.set_xlabel("ms from the end of a rollout to its last record")
        axis.set_xscale("log")
        axis.grid(alpha=0.3)
        axis.legend()
    axes[0][0].set_ylabel("part of the rollouts")
    _save(path)


def _scale(runs: Sequence[Scale], path: Path) -> None:
    _, axis = plt.subplots(figsize=(5, 3.5))
    keys = [one.keys for one in runs]
    for label, what in (("wall", "wall"), ("CPU", "cpu")):
        costs = [[getattr(run, what) / one.records * _US for run in one.runs] for one in runs]
        middle = [median(values) for values in costs]
        spread = [
            [value - min(values) for value, values in zip(middle, costs, strict=True)],
            [max(values) - value for value, values in zip(middle, costs, strict=True)],
        ]
        axis.errorbar(keys, middle, yerr=spread, marker="o", capsize=3, label=label)
    axis.set_xscale("symlog", linthresh=1e4)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("records known to the ledger")
    axis.set_ylabel("µs for a further record")
    axis.grid(alpha=0.3)
    axis.legend()
    _save(path)


def _save(path: Path) -> None:
    plt.tight_layout()
    plt.savefig(path, metadata={"Date": None})
    plt.close("all")
