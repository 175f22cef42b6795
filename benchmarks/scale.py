"""Scale: what a further record costs when the ledger knows many already.

The ledgers are streamer's own, made by a pass over nothing; then random keys are put in by SQL, as many as asked
for. Their dataset is empty: only keys are looked up, the lines behind them are not read.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from benchmarks.contenders import OUTPUT, streamer_config
from benchmarks.conversations import Kind
from benchmarks.corpus import Corpus, Layout
from benchmarks.measure import STREAMER, measure, warm
from benchmarks.results import Measured, Scale
from benchmarks.sizes import Sizes, say
from streamer.commands.simulation.trace import connect
from streamer.core.records.key import KEY_BYTES

_PREFIX = 2
_LEDGER = f"{OUTPUT}.ledger"


def run(sizes: Sizes, work: Path) -> list[Scale]:
    """Measure the same backlog over ledgers of all sizes, in turn, round by round."""
    records = sizes.further_records
    corpus = work / "corpus"
    Corpus(Kind.TEXT, Layout.TASKAPP, records=records, shards=records // 100, seed=sizes.seed).write(corpus)
    warm(corpus)
    _pass_over_nothing(work / "nothing")
    ledgers = {keys: _ledger(work, keys, sizes.seed) for keys in sizes.keys}
    runs: dict[int, list[Measured]] = {keys: [] for keys in ledgers}
    for _ in range(sizes.rounds):
        for keys, ledger in ledgers.items():
            runs[keys].append(_further(corpus, ledger, work / "out"))
            say(f"scale: {keys:,} keys: {runs[keys][-1].wall:.2f} s, {runs[keys][-1].cpu:.2f} s CPU")
    found = [Scale(keys, records, ledgers[keys].stat().st_size, seen) for keys, seen in runs.items()]
    shutil.rmtree(work)
    return found


def _pass_over_nothing(folder: Path) -> None:
    (folder / "shards").mkdir(parents=True)
    connect(folder / "traces.db").close()
    measure([*STREAMER, "run", "--once", "--config", str(streamer_config(folder, folder))], folder / "log")


def _ledger(work: Path, keys: int, seed: int) -> Path:
    path = work / f"{keys}.ledger"
    shutil.copy(work / "nothing" / _LEDGER, path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA synchronous=OFF")
        with db:
            db.executemany("INSERT INTO record (key, offset, claimed) VALUES (?, 0, 1)", _keys(keys, seed))
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


def _keys(count: int, seed: int) -> Iterator[tuple[bytes]]:
    """Yield random keys in order, which SQLite takes fastest, without holding them all."""
    rng = random.Random(seed)
    prefixes = 1 << 8 * _PREFIX
    for prefix in range(prefixes):
        start = prefix.to_bytes(_PREFIX, "big")
        size = (prefix + 1) * count // prefixes - prefix * count // prefixes
        yield from sorted((start + rng.randbytes(KEY_BYTES - _PREFIX),) for _ in range(size))


def _further(corpus: Path, ledger: Path, out: Path) -> Measured:
    out.mkdir()
    shutil.copy(ledger, out / _LEDGER)
    measured = measure([*STREAMER, "run", "--once", "--config", str(streamer_config(corpus, out))], out / "log")
    shutil.rmtree(out)
    return measured
