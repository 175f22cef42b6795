"""At rest: everything is taken and nothing happens, and waiting has its price."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from benchmarks import procfs
from benchmarks.contenders import Command
from benchmarks.conversations import Kind
from benchmarks.corpus import Corpus, Layout
from benchmarks.results import Rest
from benchmarks.running import Place, live_contenders, started
from benchmarks.sizes import Sizes, say


def run(sizes: Sizes, work: Path) -> list[Rest]:
    """Measure every contender that can follow, at rest over the same finished shards of one record each."""
    shards = sizes.rest_shards
    place = Place(Corpus(Kind.TEXT, Layout.TASKAPP, records=shards, shards=shards, seed=sizes.seed, plain=True), work)
    place.corpus.write(work)
    found = [_one(sizes, name, command, place.make()) for name, command in live_contenders()]
    shutil.rmtree(work)
    return found


def _one(sizes: Sizes, name: str, command: Command, place: Place) -> Rest:
    with started(command(place.folder, place.out), place.folder / "log") as process:
        place.wait_for_lines(sizes.rest_shards)
        time.sleep(sizes.settle_seconds)
        cpu, switches, start = procfs.cpu_seconds(process.pid), procfs.switches(process.pid), time.monotonic()
        time.sleep(sizes.rest_seconds)
        seconds = time.monotonic() - start
        cpu, switches = procfs.cpu_seconds(process.pid) - cpu, procfs.switches(process.pid) - switches
        rss = procfs.rss(process.pid)
    shutil.rmtree(place.out)
    say(f"rest: {name}: {cpu / seconds:.2%} of a core")
    return Rest(name, sizes.rest_shards, seconds, cpu / seconds, rss, switches / seconds)
