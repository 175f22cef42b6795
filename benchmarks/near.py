"""Near-duplicates: how many are found, of how many that there are, and what a record costs.

``found``: texts of 200 words, half of them an earlier one with some words changed, so that similarities of all sizes
occur. Each is compared with those that were kept before, by signatures, and by the sets of runs of words themselves.

``cost``: starts of a process when the ledger remembers many records, and what each step takes for a new one. The many
are made up: random signatures, put in by SQL, as it takes long to sign a million texts.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from time import process_time

import msgspec

from benchmarks.contenders import OUTPUT, streamer_config
from benchmarks.conversations import Kind, conversation
from benchmarks.measure import STREAMER, measure
from benchmarks.results import Measured, Near, NearCost, NearFound, NearSteps
from benchmarks.sizes import Sizes, say
from streamer.commands.simulation.trace import connect
from streamer.core.verdicts.near import rules
from streamer.core.verdicts.near.signature import SLOTS
from streamer.core.verdicts.near.words import shingles
from streamer.store.curation.near_index import NearIndex

_THRESHOLDS = (0.7, 0.8, 0.9)
_THRESHOLD = 0.8
_PROMPT_BYTES = 1500
_BATCH = 2000
_CLEAR = 0.05
"""So far from the threshold a pair is a clear case: twice the standard error of an estimate."""

_WORDS = 200
_VOCABULARY = 5_000
_MOST_CHANGED = 30
_NGRAM = 5
_LEDGER = f"{OUTPUT}.ledger"


def run(sizes: Sizes, work: Path) -> list[Near]:
    """Measure both."""
    found = [_found(sizes.near_texts, threshold, sizes.seed) for threshold in _THRESHOLDS]
    return [Near(sizes.near_texts, found, _cost(sizes, work))]


def _found(texts: int, threshold: float, seed: int) -> NearFound:
    index = NearIndex(rules.Near(threshold=threshold, ngram=_NGRAM, scope=rules.Scope.USER))
    exact = _Exact()
    near = flagged = right = clear = clear_found = clearly_wrong = 0
    with closing(sqlite3.connect(":memory:")) as db:
        index.prepare(db, forget=True)
        for text in _texts(texts, seed):
            line = msgspec.json.encode({"messages": [{"role": "user", "content": text}]})
            signature = index.sign(line)
            if signature is None:
                raise AssertionError("a text of so many words has a signature")
            is_found = index.resembled(signature, index.fetch(db, index.related([signature]))) is not None
            runs = frozenset(shingles(text, _NGRAM))
            truly = exact.highest(runs)
            near += truly >= threshold
            flagged += is_found
            right += is_found and truly >= threshold
            clear += truly >= threshold + _CLEAR
            clear_found += is_found and truly >= threshold + _CLEAR
            clearly_wrong += is_found and truly < threshold - _CLEAR
            if not is_found:
                index.add(signature, exact.add(runs))
                index.write(db)
    say(f"near: {threshold}: recall {right / near:.3f}, precision {right / flagged:.3f}")
    return NearFound(threshold, near, flagged, right, clear, clear_found, clearly_wrong)


class _Exact:
    """The sets of those that were kept, and how alike the most alike of them is."""

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._places: dict[str, list[int]] = {}

    def highest(self, runs: frozenset[str]) -> float:
        """Return the highest Jaccard similarity."""
        shared = Counter(number for one in runs for number in self._places.get(one, ()))
        return max((n / (len(runs) + self._sizes[number] - n) for number, n in shared.items()), default=0.0)

    def add(self, runs: frozenset[str]) -> int:
        """Keep one; return its number."""
        for one in runs:
            self._places.setdefault(one, []).append(len(self._sizes))
        self._sizes.append(len(runs))
        return len(self._sizes) - 1


def _texts(count: int, seed: int) -> Iterator[str]:
    rng = random.Random(seed)
    vocabulary = [f"word{number}" for number in range(_VOCABULARY)]
    seen: list[list[str]] = []
    for _ in range(count):
        if seen and rng.random() < 1 / 2:
            words = list(rng.choice(seen))
            for place in rng.sample(range(_WORDS), rng.randint(0, _MOST_CHANGED)):
                words[place] = rng.choice(vocabulary)
        else:
            words = rng.choices(vocabulary, k=_WORDS)
        seen.append(words)
        yield " ".join(words)


def _cost(sizes: Sizes, work: Path) -> list[NearCost]:
    nothing = work / "nothing"
    (nothing / "shards").mkdir(parents=True)
    connect(nothing / "traces.db").close()
    ledgers = {known: _ledger(work, nothing, known, sizes.seed) for known in (None, *sizes.near_known)}
    starts: dict[int | None, list[Measured]] = {known: [] for known in ledgers}
    for _ in range(sizes.rounds):
        for known, ledger in ledgers.items():
            starts[known].append(_start(nothing, ledger, work / "out", known))
            say(f"near: {known} known: started in {starts[known][-1].cpu:.2f} s CPU")
    found = [
        NearCost(known, ledger.stat().st_size, starts[known], None if known is None else _steps(ledger, known, sizes))
        for known, ledger in ledgers.items()
    ]
    shutil.rmtree(work)
    return found


def _ledger(work: Path, nothing: Path, known: int | None, seed: int) -> Path:
    """Make a ledger that remembers so many records; with None one that knows nothing of near-duplicates."""
    path = work / f"{known}.ledger"
    _start(nothing, path, work / "out", known)
    if not known:
        return path
    rng = random.Random(seed)
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA synchronous=OFF")
        with db:
            db.executemany(
                "INSERT INTO near_record (offset, slots, images) VALUES (0, ?, x'')",
                ((rng.randbytes(SLOTS),) for _ in range(known)),
            )
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


def _start(nothing: Path, ledger: Path, out: Path, known: int | None) -> Measured:
    """Measure a pass over nothing, which leaves the ledger where it was, or there."""
    out.mkdir()
    if ledger.exists():
        shutil.move(ledger, out / _LEDGER)
    config = streamer_config(nothing, out)
    if known is not None:
        with config.open("a") as file:
            file.write(f"[near]\nthreshold = {_THRESHOLD}\nkeep = {_keep(known)}\n")
    measured = measure([*STREAMER, "run", "--once", "--config", str(config)], out / "log")
    shutil.move(out / _LEDGER, ledger)
    shutil.rmtree(out)
    return measured


def _keep(known: int) -> int:
    return max(known, 100_000)


def _steps(ledger: Path, known: int, sizes: Sizes) -> NearSteps:
    """Measure what batches of new records cost, in CPU time of this process: nothing else that runs counts."""
    rng = random.Random(sizes.seed)
    lines = [
        msgspec.json.encode({"messages": conversation(Kind.TEXT, rng, _PROMPT_BYTES)})
        for _ in range(sizes.further_records)
    ]
    index = NearIndex(rules.Near(threshold=_THRESHOLD, keep=_keep(known)))
    sign = compare = remember = 0.0
    with closing(sqlite3.connect(ledger)) as db:
        index.prepare(db, forget=False)
        while index.load(db):
            pass
        for first in range(0, len(lines), _BATCH):
            start = process_time()
            signatures = [index.sign(line) for line in lines[first : first + _BATCH]]
            signed = process_time()
            related = index.fetch(db, index.related(signatures))
            sign, compare = sign + signed - start, compare + process_time() - signed
            for number, signature in enumerate(filter(None, signatures)):
                start = process_time()
                index.resembled(signature, related)
                compared = process_time()
                index.add(signature, number)
                compare, remember = compare + compared - start, remember + process_time() - compared
            start = process_time()
            with db:
                index.write(db)
            remember += process_time() - start
    return NearSteps(sign / len(lines), compare / len(lines), remember / len(lines))
