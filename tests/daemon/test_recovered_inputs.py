"""Inputs that were away, or lied about themselves, and came back: nothing waits for a restart."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from streamer.base.env import Env
from streamer.daemon.build import open_pipeline
from streamer.store.dataset.dead_letters import dead_letters_path
from tests.helpers.producer import FakeClock, accounts, add_outcome, dialogue, jsonl, make_traces, settings, work_off


def test_lines_whose_shard_was_away_when_their_outcome_came_are_taken_when_it_is_back(tmp_path: Path) -> None:
    """Without a restart, though the shard is the very same as before."""
    make_traces(tmp_path / "traces.db")
    folder = tmp_path / "shards" / "sub"
    folder.mkdir(parents=True)
    (folder / "a.jsonl").write_bytes(jsonl(dialogue("a", 0, "a")))
    os.utime(folder / "a.jsonl", (1, 1))
    config, clock = settings(tmp_path), FakeClock()
    clock.advance(10**10)

    async def main() -> None:
        async with open_pipeline(config, Env(clock=clock)) as pipeline:
            await pipeline.drain()
            folder.rename(tmp_path / "away")
            add_outcome(tmp_path / "traces.db", "a", 1, 9)
            await pipeline.poll()
            await pipeline.step()
            assert accounts(config).reasons["waiting"] == {"unreadable": 1}
            await pipeline.drain()
            (tmp_path / "away").rename(folder)
            await pipeline.drain()

    anyio.run(main)
    assert accounts(config).counts["appended"] == 1


@pytest.mark.parametrize("when", [99_999_999_999, -1, 1 << 40])
def test_a_shard_may_claim_any_time(tmp_path: Path, when: int) -> None:
    """Whoever may write a shard may also date it."""
    make_traces(tmp_path / "traces.db")
    (tmp_path / "shards").mkdir()
    path = tmp_path / "shards" / "a.jsonl"
    path.write_bytes(jsonl(dialogue("a", 0, "a")))
    try:
        os.utime(path, (when, when))
    except (OSError, OverflowError):
        pytest.skip("this file system keeps no such times")
    add_outcome(tmp_path / "traces.db", "a", 1, 9)
    work_off(settings(tmp_path))
    work_off(settings(tmp_path))
    assert accounts(settings(tmp_path)).counts["appended"] == 1


def test_a_session_that_stands_twice_in_session_traces_has_one_outcome(tmp_path: Path) -> None:
    """A table without the producer's primary key."""
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "a.jsonl").write_bytes(jsonl(dialogue("a", 0, "a")))
    with closing(sqlite3.connect(tmp_path / "traces.db")) as db:
        db.executescript(
            "CREATE TABLE outcome_rewards (id TEXT, session_id, total_reward, created_at);"
            "CREATE TABLE session_traces (session_id, metadata);"
            "INSERT INTO session_traces VALUES ('a', 1), ('a', 2);"
            "INSERT INTO outcome_rewards VALUES ('x', 'a', 1, '2030-01-01');"
        )
    for _ in range(2):
        work_off(settings(tmp_path))
    assert accounts(settings(tmp_path)).counts["appended"] == 1


def test_dead_letters_go_on_in_a_new_file_when_a_person_removes_theirs(tmp_path: Path) -> None:
    """While the pipeline runs."""
    make_traces(tmp_path / "traces.db")
    (tmp_path / "shards").mkdir()
    config = settings(tmp_path)
    dead = dead_letters_path(config.dataset.path)

    async def main() -> None:
        async with open_pipeline(config, Env(clock=FakeClock())) as pipeline:
            for name in ("a", "b"):
                (tmp_path / "shards" / f"{name}.jsonl").write_bytes(b"bad\n")
                await pipeline.drain()
                assert dead.read_bytes().count(b"\n") == 1
                dead.unlink()

    anyio.run(main)
