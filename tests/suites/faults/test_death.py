"""SIGKILL where it hurts most: inside the calls that write, and at any moment of a live run (case 1)."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from contextlib import closing
from functools import partial
from random import Random
from typing import TYPE_CHECKING

import pytest

from streamer.base.files import Files
from tests.helpers.producer import (
    accounts,
    add_outcome,
    conversations,
    dialogue,
    iso,
    jsonl,
    make_traces,
    messages,
    records,
    settings,
    work_off,
)
from tests.suites.faults import vfs
from tests.suites.faults.process import Child, Executable, child, die, eventually, lines, live

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from streamer.config import Config

KILLS = int(os.environ.get("STREAMER_KILLS", "10"))
"""How often a live daemon is killed at random."""

RUNS = max(1, KILLS // 20)
"""How many live runs share these kills."""

BATCH = 8


class DyingFiles(Files):
    """Real files; the n-th call of one kind is the last thing that the process does."""

    def __init__(self, call: str, times: int) -> None:
        self._call = call
        self._left = times
        self._dataset = -1

    def _ends(self, call: str) -> bool:
        self._left -= call == self._call
        return call == self._call and self._left == 0

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """Write all, or but one byte, and die."""
        if self._ends("all but one byte of an append"):
            super().write(fd, data[:-1])
            die()
        if self._ends("one byte of an append"):
            super().write(fd, data[:1])
            die()
        return super().write(fd, data)

    def fdatasync(self, fd: int) -> None:
        """Sync, or die just before or just after it."""
        if self._ends("before a sync"):
            die()
        super().fdatasync(fd)
        if self._ends("after a sync"):
            die()


class DyingLedger:
    """SQLite's files; the n-th write to the ledger is the last thing that the process does."""

    def __init__(self, times: int) -> None:
        self._left = times

    def watches(self, path: str) -> bool:
        """Watch the ledger and what lies beside it."""
        return ".ledger" in path

    def db_write(self, _path: str, _data: bytes, _offset: int) -> tuple[int, int]:
        """Write, or die in the middle of a transaction."""
        self._left -= 1
        if not self._left:
            die()
        return vfs.OK, 0

    def db_read(self, _path: str) -> int:
        """Read."""
        return vfs.OK

    def db_sync(self, _path: str) -> int:
        """Sync."""
        return vfs.OK

    def db_truncate(self, _path: str, _size: int) -> int:
        """Cut."""
        return vfs.OK

    def db_delete(self, _path: str) -> int:
        """Delete."""
        return vfs.OK


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Return the settings of a folder with 40 good records, 20 bad ones, and one line that is none."""
    (tmp_path / "shards").mkdir()
    traces = make_traces(tmp_path / "traces.db")
    for run, reward in (("good", 3), ("fine", 1), ("bad", 0)):
        add_outcome(traces, run, reward, 9)
        values = [dialogue(run, turn, f"{run} {turn}") for turn in range(20)]
        (tmp_path / "shards" / f"sft_{run}.jsonl").write_bytes(jsonl(*values) + b"nonsense\n" * (run == "bad"))
    return settings(tmp_path, batch=BATCH)


def is_whole(config: Config) -> None:
    """Work off what the dead left, and see that it is as if nothing had happened."""
    before = config.dataset.path.read_bytes() if config.dataset.path.exists() else b""
    work_off(config)
    seen = accounts(config)
    assert config.dataset.path.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    assert seen.counts == {
        "appended": 40, "below_bar": 20, "dead_lettered": 1, "duplicate": 0, "waiting": 0, "never_scored": 0,
    }  # fmt: skip
    assert seen.adopted == 0
    written = [dialogue(run, turn, f"{run} {turn}") for run in ("good", "fine") for turn in range(20)]
    assert conversations(records(config)) == conversations(written)


def killed(work: Callable[[], object]) -> bool:
    """Do something in another process, and say whether that was killed; else it came to its end."""
    with child(work) as process:
        code = process.wait()
    assert code in {0, -signal.SIGKILL}
    return code != 0


CALLS = ("one byte of an append", "all but one byte of an append", "before a sync", "after a sync")


@pytest.mark.parametrize("times", [1, 2, 4])
@pytest.mark.parametrize("call", CALLS)
def test_a_death_inside_a_call_loses_nothing_and_doubles_nothing(config: Config, call: str, times: int) -> None:
    """A line torn after one byte or before its newline; a sync that no one knows the end of."""
    assert killed(partial(work_off, config, files=DyingFiles(call, times)))
    is_whole(config)


@pytest.mark.skipif(not vfs.available(), reason="this SQLite cannot be reached from outside")
@pytest.mark.parametrize("first", [1, 4])
def test_a_death_inside_any_write_to_the_ledger_loses_nothing_and_doubles_nothing(config: Config, first: int) -> None:
    """While it is created, in the middle of a commit, in a checkpoint, and in the recovery from such a death."""
    times = first

    def work(times: int) -> None:
        with vfs.sqlite_asks(DyingLedger(times)):
            work_off(config)

    while killed(partial(work, times)):
        times += 7
    assert times > first + 50  # it did die in many places
    is_whole(config)


@pytest.mark.parametrize("point", ["recovery: tail mended", "recovery: some lines adopted"])
def test_a_death_in_a_recovery_loses_nothing_and_doubles_nothing(tmp_path: Path, point: str) -> None:
    """The dataset is thousands of lines ahead of its ledger, and the recovery is killed, too, twice."""
    (tmp_path / "shards").mkdir()
    add_outcome(make_traces(tmp_path / "traces.db"), "run", 1, 9)
    values = [messages("run", turn, f"{turn}") for turn in range(4500)]
    (tmp_path / "shards" / "sft_run.jsonl").write_bytes(jsonl(*values))
    config = settings(tmp_path, batch=5000)
    assert killed(partial(work_off, config, failpoint=lambda at: die() if at == "synced" else None))
    for _ in range(2):
        assert killed(partial(work_off, config, failpoint=lambda at: die() if at == point else None))
    work_off(config)
    assert accounts(config).adopted == 0
    assert conversations(records(config)) == conversations(values)


# -- a live run --------------------------------------------------------------------------------------------


def produce(folder: Path, seed: int) -> None:
    """Write rollouts for ever, in either layout and order, whole or in parts; note each in ``journal``."""
    rng = Random(seed)
    with (folder / "journal").open("ab", buffering=0) as journal, closing(sqlite3.connect(folder / "traces.db")) as db:
        for number in range(1_000_000):
            run, reward, make = f"run-{number}", rng.choice((0, 1, 2)), rng.choice((dialogue, messages))
            data = jsonl(*(make(run, turn, f"{run} {turn}") for turn in range(rng.randint(1, 6))))
            steps: list[Callable[[], object]] = [
                partial(_score, db, run, reward),
                partial(
                    _write, folder / "shards" / f"{run}_2026-01-01_00-00-00.jsonl", data, rng.randint(0, len(data))
                ),
            ]
            journal.write(json.dumps([run, reward, data.count(b"\n")]).encode() + b"\n")
            for step in rng.sample(steps, 2):
                step()
            time.sleep(rng.choice((0.0, 0.005, 0.02)))


def _score(db: sqlite3.Connection, run: str, reward: int) -> None:
    with db:
        db.execute(
            "INSERT INTO outcome_rewards (session_id, total_reward, achievements_count, total_steps, created_at)"
            " VALUES (?, ?, 1, 8, ?)",
            (run, reward, f"{iso(9)}+00:00"),
        )


def _write(path: Path, data: bytes, cut: int) -> None:
    with path.open("wb", buffering=0) as file:
        file.write(data[:cut])
        file.write(data[cut:])


def produced(folder: Path) -> tuple[set[str], int]:
    """Return the texts of all good records that the producer wrote, and how many lines it wrote in all."""
    journal = [json.loads(line) for line in (folder / "journal").read_bytes().splitlines()]
    texts, total = set(), 0
    with closing(sqlite3.connect(folder / "traces.db")) as db:
        scored = {run for (run,) in db.execute("SELECT session_id FROM outcome_rewards")}
    for run, reward, _ in journal:
        path = folder / "shards" / f"{run}_2026-01-01_00-00-00.jsonl"
        finished = lines(path)
        total += finished
        if run in scored and reward > 0:
            texts |= {f"{run} {turn}" for turn in range(finished)}
    return texts, total


@pytest.mark.parametrize("seed", range(RUNS))
def test_a_live_daemon_that_is_killed_at_random_moments_loses_nothing_and_doubles_nothing(
    tmp_path: Path, seed: int
) -> None:
    """Rules 1 to 4; ``STREAMER_KILLS`` says how often. What a reader has seen is never taken back."""
    executable = Executable(tmp_path, more="[batch]\nrecords = 20\n")
    make_traces(tmp_path / "traces.db")
    config = settings(tmp_path, batch=20)
    rng = Random(seed)
    seen = b""
    with child(partial(produce, tmp_path, seed=seed)) as producer:
        eventually(lambda: lines(tmp_path / "journal"))
        for number in range(KILLS // RUNS):
            # Most are forks of this process, which costs less; some are the executable itself.
            daemon = executable.start() if number % 8 == 1 else Child(partial(live, config))
            try:
                if number % 4 != 2:  # else it is killed while it starts, or recovers from the death before
                    eventually(lambda: lines(config.dataset.path) > seen.count(b"\n"))  # noqa: B023
                time.sleep(rng.random() / 8)  # the moment is not to be a chosen one
            finally:
                daemon.kill()
                assert daemon.wait() == -signal.SIGKILL
            data = config.dataset.path.read_bytes()
            assert data.startswith(seen)
            seen = data[: data.rfind(b"\n") + 1]
        producer.kill()
    # First: a producer that died within a commit leaves a hot journal, which only a writer such as its next life, or
    # this look, can roll back. Until then nobody can read the database.
    texts, total = produced(tmp_path)
    work_off(config)
    assert config.dataset.path.read_bytes().startswith(seen)
    assert sorted(value["messages"][1]["content"] for value in records(config)) == sorted(texts)
    counts = accounts(config)
    assert counts.read == total
    assert counts.adopted == counts.overwritten == 0
