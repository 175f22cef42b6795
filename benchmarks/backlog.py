"""The backlog: everything is there already, how long does it take? All contenders in turn, round by round."""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks.compare import contents
from benchmarks.contenders import CONTENDERS, OUTPUT, Contender
from benchmarks.conversations import Kind
from benchmarks.corpus import Corpus, Layout, Made
from benchmarks.measure import measure, warm
from benchmarks.results import Backlog, Measured
from benchmarks.sizes import Sizes, say


def run(sizes: Sizes, work: Path) -> list[Backlog]:
    """Measure both corpora in both layouts.

    Raises:
        RuntimeError: a contender failed, or its output holds other conversations.
    """
    return [_one(sizes, kind, layout, work) for kind in Kind for layout in Layout]


def _one(sizes: Sizes, kind: Kind, layout: Layout, work: Path) -> Backlog:
    records, shards = sizes.text if kind is Kind.TEXT else sizes.images
    corpus = work / "corpus"
    say(f"backlog: {kind} in layout {layout}, {records:,} records in {shards:,} shards")
    made = Corpus(kind, layout, records=records, shards=shards, seed=sizes.seed).write(corpus)
    warm(corpus)
    contenders = [contender for contender in CONTENDERS if contender.installed]
    runs: dict[str, list[Measured]] = {contender.name: [] for contender in contenders}
    digests: set[str] = set()
    for number in range(sizes.rounds):
        # Each time another one begins, so that none always follows the same one.
        shift = number % len(contenders)
        for contender in contenders[shift:] + contenders[:shift]:
            out = work / "out"
            out.mkdir()
            runs[contender.name].append(_run(contender, corpus, out))
            if number == 0:
                digests.add(_digest(contender, out / OUTPUT, made))
            shutil.rmtree(out)
    if len(digests) != 1:
        raise RuntimeError("the outputs hold different conversations")
    shutil.rmtree(work)
    return Backlog(f"{kind}, {layout}", made.records, made.shards, made.bytes, made.distinct, runs)


def _run(contender: Contender, corpus: Path, out: Path) -> Measured:
    measured = measure(contender.command(corpus, out), out / "log")
    say(f"  {contender.name:<12} {measured.wall:7.2f} s  {measured.cpu:7.2f} s CPU  {measured.peak >> 20:6,} MiB")
    return measured


def _digest(contender: Contender, output: Path, made: Made) -> str:
    """Return the digest of an output's set of conversations, having seen that it has as many as there are."""
    found = contents(output)
    lines = made.distinct if contender.deduplicates else made.qualifying
    if (found.lines, found.distinct) != (lines, made.distinct):
        raise RuntimeError(f"{contender.name} wrote {found}, expected {lines} lines, {made.distinct} different")
    return found.digest
