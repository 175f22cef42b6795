"""Queries: how long a person waits for ``status``, ``tail`` and ``explain`` over a large dataset."""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks.contenders import OUTPUT, streamer_config
from benchmarks.conversations import Kind
from benchmarks.corpus import Corpus, Layout
from benchmarks.measure import STREAMER, measure
from benchmarks.results import Measured, Queries
from benchmarks.sizes import Sizes, say

_LINE_BYTES = 3_350
"""Bytes of a dataset line of this corpus, about."""

_RECORDS_OF_A_SHARD = 100


def run(sizes: Sizes, work: Path) -> list[Queries]:
    """Fill a dataset as a user would, then ask, round by round. The first command only starts and ends."""
    records = int(sizes.gigabytes * 1e9 / _LINE_BYTES)
    shards = max(1, records // _RECORDS_OF_A_SHARD)
    say(f"queries: a dataset of about {sizes.gigabytes:g} GB")
    corpus = Corpus(Kind.TEXT, Layout.MESSAGES, records=records, shards=shards, seed=sizes.seed, plain=True)
    corpus.write(work)
    out = work / "out"
    out.mkdir()
    filled = measure([*STREAMER, "run", "--once", "--config", str(streamer_config(work, out))], work / "log")
    say(f"  filled in {filled.wall:.1f} s")
    dataset = out / OUTPUT
    commands = {
        "streamer --version": ["--version"],
        "streamer status": ["status", "--dataset", str(dataset)],
        "streamer tail -n 20": ["tail", str(dataset), "-n", "20", "--no-follow"],
        "streamer explain RUN_ID": ["explain", corpus.run_id(shards // 2), "--dataset", str(dataset)],
    }
    runs: dict[str, list[Measured]] = {name: [] for name in commands}
    for _ in range(sizes.rounds):
        for name, command in commands.items():
            runs[name].append(measure([*STREAMER, *command], work / "log"))
            say(f"  {name:<24} {runs[name][-1].wall * 1e3:5.0f} ms")
    found = Queries(dataset.stat().st_size, records, runs)
    shutil.rmtree(work)
    return [found]
