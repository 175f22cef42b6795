"""The producer's own writes while a daemon polls its database (case 15, rule 7)."""

from __future__ import annotations

import os
import sqlite3
import statistics
import sys
import time
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING

import pytest

from tests.helpers.producer import accounts, dialogue, iso, jsonl, make_traces, settings, work_off
from tests.suites.faults.process import Executable, eventually, lines

if TYPE_CHECKING:
    from pathlib import Path

COMMITS = 400 if os.environ.get("STREAMER_SCALE") == "1" else 150
BUSY_SECONDS = 5.0
"""What the real producer's driver waits for a lock before it gives up, and loses the row."""


def commit_many(traces: Path, shards: Path, name: str) -> list[float]:
    """Write rollouts as the task app does, each row in a commit of its own; return the milliseconds of each."""
    took = []
    with closing(sqlite3.connect(traces, timeout=BUSY_SECONDS, isolation_level=None)) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        for number in range(COMMITS):
            run = f"{name}-{number}"
            start = time.perf_counter()
            db.execute("BEGIN IMMEDIATE")
            db.execute("INSERT INTO session_traces VALUES (?, ?, 8, 8, 16, '{}', NULL, NULL)", (run, iso(9)))
            db.execute("INSERT INTO outcome_rewards VALUES (NULL, ?, 1, 1, 8, ?, '{}')", (run, f"{iso(9)}+00:00"))
            db.execute("COMMIT")  # raises "database is locked" after BUSY_SECONDS
            took.append(1000 * (time.perf_counter() - start))
            (shards / f"{run}_2026-01-01_00-00-00.jsonl").write_bytes(jsonl(dialogue(run, 0, run)))
    return took


def shown(took: list[float]) -> str:
    """Return median and 99th percentile."""
    return f"median {statistics.median(took):.2f} ms, p99 {statistics.quantiles(took, n=100)[98]:.2f} ms"


@pytest.mark.parametrize("rows", [0, 20_000], ids=["a new database", "a large database"])
def test_a_producer_is_never_locked_out_by_a_daemon_that_polls(
    tmp_path: Path, rows: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """At the rate of the default settings, with every commit a chance to collide; how long they took is printed."""
    traces = make_traces(tmp_path / "traces.db")
    with closing(sqlite3.connect(traces)) as db, db:
        db.executemany(
            "INSERT INTO outcome_rewards VALUES (NULL, ?, 1, 1, 8, ?, '{}')",
            [(f"old-{number}", f"{iso(9)}+00:00") for number in range(rows)],
        )
    executable = Executable(tmp_path)
    took = {}
    for name in ("without", "with"):
        with executable.daemon() if name == "with" else nullcontext():
            if name == "with":
                eventually(lambda: lines(executable.dataset) == COMMITS)
            took[name] = commit_many(traces, executable.shards, name)
            if name == "with":
                eventually(lambda: lines(executable.dataset) == 2 * COMMITS)
    with capsys.disabled():
        sys.stdout.write(f"\na commit of the producer, with {rows} rows there before: {shown(took['without'])};")
        sys.stdout.write(f" while a daemon polls: {shown(took['with'])}\n")
    assert not executable.events("stopped")
    work_off(settings(tmp_path))
    assert accounts(settings(tmp_path)).counts["appended"] == 2 * COMMITS
