"""Many shards and many waiting rollouts (case 14). ``STREAMER_SCALE=1`` makes them as many as they can become."""

from __future__ import annotations

import os
import signal
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from streamer.store.views.snapshot import snapshot
from tests.helpers.producer import accounts, add_outcome, dialogue, jsonl, make_traces, messages, settings, work_off
from tests.suites.faults.process import Executable, eventually, lines

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
SCALE = os.environ.get("STREAMER_SCALE") == "1"
SHARDS = 100_000 if SCALE else 3_000
WAITING = 10_000 if SCALE else 2_000
OLD = 1_600_000_000


def peak_now(pid: int) -> int:
    """Return the most memory that a live process ever held."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="the memory of a process is read from /proc")
@pytest.mark.parametrize("folders", [1, 100], ids=["in one folder", "in many folders"])
def test_many_finished_shards_cost_little_memory_and_no_second_read(tmp_path: Path, folders: int) -> None:
    """Tiny and old; the daemon reads each once, stays small over many scans, and still finds the one that grows."""
    add_outcome(make_traces(tmp_path / "traces.db"), "run", 1, 9)
    executable = Executable(tmp_path, scan="2s")
    value = jsonl(messages("run", 0, "the same in all"))
    for number in range(SHARDS):
        folder = executable.shards / f"{number % folders}"
        folder.mkdir(exist_ok=True)
        path = folder / f"{number:08}-1841-495b-9580-d44ca8315a10_2026-01-01_00-00-00.jsonl"
        path.write_bytes(value)
        os.utime(path, (OLD, OLD))
    with executable.daemon() as daemon:
        eventually(lambda: executable.dataset.exists() and snapshot(executable.dataset).read == SHARDS, patience=300)
        path.write_bytes(value + jsonl(messages("run", 1, "new")))
        eventually(lambda: lines(executable.dataset) == 2, patience=60)
        assert peak_now(daemon.pid) < 150 * MIB
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(timeout=30) == 0
    seen = accounts(settings(tmp_path))
    assert seen.counts["appended"] == 2
    assert seen.counts["duplicate"] == SHARDS - 1
    assert seen.shards == SHARDS
    # The next one believes the ledger: no shard is read again.
    assert executable.start("--once").wait(timeout=120) == 0
    assert accounts(settings(tmp_path)).read == SHARDS + 1
    assert executable.peak_memory() < 150 * MIB


def test_many_waiting_rollouts_outlive_a_restart(tmp_path: Path) -> None:
    """Each gets its outcome after the restart; half of them are good."""
    (tmp_path / "shards").mkdir()
    traces = make_traces(tmp_path / "traces.db")
    config = settings(tmp_path)
    for start in range(0, WAITING, 100):
        values = [dialogue(f"run-{n}", 0, f"{n}", seconds=1) for n in range(start, start + 100)]
        (tmp_path / "shards" / f"{start}.jsonl").write_bytes(jsonl(*values))
    work_off(config)
    seen = accounts(config)
    assert (seen.counts["waiting"], seen.waiting_rollouts) == (WAITING, WAITING)
    add_outcomes(traces, range(WAITING))
    work_off(config)
    seen = accounts(config)
    assert seen.waiting_rollouts == 0
    assert (seen.counts["appended"], seen.counts["below_bar"]) == (WAITING // 2, WAITING // 2)


def add_outcomes(traces: Path, numbers: range) -> None:
    """Add an outcome for each number in one transaction: good ones for the even."""
    with closing(sqlite3.connect(traces)) as db, db:
        db.executemany(
            "INSERT INTO outcome_rewards (session_id, total_reward, achievements_count, total_steps, created_at)"
            " VALUES (?, ?, 1, 8, '2026-01-01T00:00:09+00:00')",
            [(f"run-{number}", number % 2 == 0) for number in numbers],
        )
