"""Shards are read once for datasets that are equally far; the others read for themselves, and nothing depends on it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import anyio
import msgspec
import pytest

from streamer.base.env import Env
from streamer.base.files import Files
from streamer.core.records.model import Cursor, Line, Span, State
from streamer.daemon.daemon import Daemon
from streamer.daemon.observers.systemd import Notifier
from streamer.sources.read_cache import CachedLines, ReadCache, of_read, of_span
from streamer.sources.reader import Budget
from streamer.sources.shards import ShardFolder
from tests.helpers.producer import FakeClock, accounts, add_outcome, dialogue, jsonl, make_traces, records, settings

if TYPE_CHECKING:
    from os import PathLike
    from pathlib import Path

    from streamer.config import Config

SHARDS, LINES = 40, 12


class CountingFiles(Files):
    """Real files that count the opened shards and the bytes read of them."""

    def __init__(self) -> None:
        self.opened = Counter[str]()
        self.bytes = 0
        self._shards: set[int] = set()

    def open_beneath(self, root: str | PathLike[str], path: str, flags: int) -> int:
        """Open a shard, and count that."""
        self.opened[path] += 1
        fd = super().open_beneath(root, path, flags)
        self._shards.add(fd)
        return fd

    def close(self, fd: int) -> None:
        """Close a file."""
        self._shards.discard(fd)
        super().close(fd)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """Read, and count the bytes of shards."""
        data = super().pread(fd, size, offset)
        self.bytes += len(data) if fd in self._shards else 0
        return data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with shards of rollouts, every other of them good."""
    make_traces(tmp_path / "traces.db")
    (tmp_path / "shards").mkdir()
    for run in range(SHARDS):
        add_outcome(tmp_path / "traces.db", f"run-{run}", run % 2, 9)
        values = (dialogue(f"run-{run}", turn, f"r{run}t{turn}") for turn in range(LINES))
        (tmp_path / "shards" / f"run-{run:02}.jsonl").write_bytes(jsonl(*values))
    return tmp_path


def config_of(folder: Path, name: str, where: str = "total_reward > 0") -> Config:
    """Return the configuration for one of several datasets, with small batches."""
    config = settings(folder, where=where, batch=100)
    path = folder / name / "good.jsonl"
    dataset = msgspec.structs.replace(config.dataset, path=path, ledger=path.with_name("good.jsonl.ledger"))
    return msgspec.structs.replace(config, dataset=dataset)


def once(*configs: Config) -> CountingFiles:
    """Process existing data for all datasets with one daemon; return the counted reads."""
    files = CountingFiles()
    clock = FakeClock()
    clock.passed = 3600.0  # no shard was written a moment ago, however fast the machine is
    daemon = Daemon(configs, Env(files=files, clock=clock), reload=lambda: configs, notifier=Notifier({}))
    anyio.run(daemon.once)
    for config in configs:
        accounts(config)
    return files


def test_three_datasets_read_as_much_as_one(folder: Path) -> None:
    """No shard is opened or read more often; each dataset equals that of a daemon of its own."""
    alone = once(config_of(folder, "alone"))
    wheres = {"a": "total_reward > 0", "b": "total_reward = 0", "c": "1"}
    together = once(*(config_of(folder, name, where) for name, where in wheres.items()))
    assert alone.opened.total() >= SHARDS
    assert together.opened == alone.opened
    assert together.bytes == alone.bytes
    for name, where in wheres.items():
        other = config_of(folder, f"{name}-alone", where)
        once(other)
        assert records(config_of(folder, name)) == records(other)
    assert [len(records(config_of(folder, name))) for name in wheres] == [240, 240, 480]


def test_waiting_lines_that_are_due_are_read_again_once(folder: Path) -> None:
    """All datasets wait for the same outcomes."""
    for run in range(SHARDS, SHARDS + 6):
        (folder / "shards" / f"run-{run}.jsonl").write_bytes(jsonl(dialogue(f"run-{run}", 0, f"late {run}")))
    configs = [config_of(folder, name) for name in "ab"]
    alone = config_of(folder, "alone")
    once(*configs)
    once(alone)
    for run in range(SHARDS, SHARDS + 6):
        add_outcome(folder / "traces.db", f"run-{run}", 3, 9)
    assert once(*configs).opened == once(alone).opened
    assert len(records(configs[0])) == len(records(configs[1])) == len(records(alone)) == 246


def test_a_dataset_that_is_added_later_catches_up_alone(folder: Path) -> None:
    """It reads all shards, the earlier one reads none again, and from then on both share their reads."""
    first, later = config_of(folder, "first"), config_of(folder, "later")
    clean = config_of(folder, "clean")
    once(first)
    once(clean)
    files = once(first, later)
    assert files.opened.keys() == {f"run-{run:02}.jsonl" for run in range(SHARDS)}
    assert records(later) == records(first)
    (folder / "shards" / "run-99.jsonl").write_bytes(jsonl(dialogue("run-1", 50, "new")))
    assert once(first, later).opened == once(clean).opened
    assert len(records(later)) == len(records(first)) == len(records(clean)) == 241


def line(number: int, size: int = 10) -> Line:
    """Return some line."""
    return Line("a.jsonl", number, 0, size + 1, b"x" * size)


class TestWhatIsKept:
    """The cache is bounded, lasts one round, and answers only for the same key."""

    def test_another_place_or_budget_is_another_question(self) -> None:
        """The number that a ledger has for a shard is no part of it."""
        read_cache = ReadCache()
        cursor, budget = Cursor("a.jsonl", id=7, offset=5, lines=1), Budget(10, 1000)
        read_cache.keep(of_read(cursor, budget), CachedLines([line(1)], [], cursor))
        found = read_cache.find(of_read(msgspec.structs.replace(cursor, id=8), Budget(10, 1000)), budget)
        assert found is not None
        assert (budget.lines, budget.size) == (9, 990)
        for other in ({"offset": 6}, {"path": "b"}, {"fingerprint": b"x"}, {"stat": (1, 1, 1, 1, 1)}, {"scanned": 9}):
            assert read_cache.find(of_read(msgspec.structs.replace(cursor, **other), Budget(10, 1000)), budget) is None
        assert read_cache.find(of_read(cursor, Budget(9, 1000)), budget) is None
        span = Span(7, 5, 9, 2, 1, "run", State.WAITING)
        assert read_cache.find(of_span(cursor, span, Budget(10, 1000)), budget) is None
        read_cache.clear()
        assert read_cache.find(of_read(cursor, Budget(10, 1000)), budget) is None

    def test_no_more_than_a_batch_is_kept(self) -> None:
        """Beyond the limit, each dataset reads for itself."""
        read_cache = ReadCache()
        budget = Budget(1000, 1 << 30)
        for number in range(4):
            read_cache.keep(number, CachedLines([line(1, 4 << 20)], []))
        assert [read_cache.find(number, budget) is not None for number in range(4)] == [True, True, False, False]

    def test_a_folder_is_listed_once_a_round(self, folder: Path) -> None:
        """And again in the next one."""
        read_cache = ReadCache()
        shards = ShardFolder(folder / "shards", "*.jsonl", lambda _name, _path: False)
        before = list(read_cache.listed(shards))
        (folder / "shards" / "new.jsonl").write_bytes(b"")
        assert list(read_cache.listed(shards)) == before
        read_cache.clear()
        assert len(list(read_cache.listed(shards))) == len(before) + 1
