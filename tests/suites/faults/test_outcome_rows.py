"""Outcome rows that come late, change, go away, go back in time, or cannot be read, end to end (case 11)."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from streamer.base.events import DatabaseReplaced, FailureBegan, FailureEnded
from tests.helpers.producer import (
    accounts,
    add_outcome,
    correct_outcome,
    dialogue,
    iso,
    jsonl,
    make_traces,
    messages,
    records,
    settings,
    work_off,
)
from tests.suites.faults.process import drive

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.config import Config
    from streamer.daemon.pipeline import Pipeline
    from tests.helpers.producer import FakeClock


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Return the settings of a folder with an empty trace database."""
    (tmp_path / "shards").mkdir()
    make_traces(tmp_path / "traces.db")
    return settings(tmp_path)


def traces(config: Config) -> Path:
    """Return where the trace database is."""
    return config.source.shards.parent / "traces.db"


def execute(path: Path, sql: str, *values: object) -> None:
    """Run one statement on a database."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(sql, values)


def shard(config: Config, run: str, seconds: float | None = 5.0) -> None:
    """Write a record of a run, in a shard of its own, with a time or without."""
    value = messages(run, 0, run) if seconds is None else dialogue(run, 0, run, seconds=seconds)
    (config.source.shards / f"sft_{run}.jsonl").write_bytes(jsonl(value))


def runs(config: Config) -> set[str]:
    """Return the runs whose records are in the dataset, after seeing that the accounts add up."""
    accounts(config)
    return {record["metadata"]["run_id"] for record in records(config)}


def test_rows_whose_ids_are_far_apart_are_all_read(config: Config) -> None:
    """From the first one to the last that SQLite can number, with more than a page of others between."""
    numbers = [1, 2, 1 << 31, (1 << 53) + 1, (1 << 63) - 1]
    for number in numbers:
        execute(traces(config), "INSERT INTO outcome_rewards VALUES (?, ?, 1, 1, 8, ?, '{}')", number, f"r{number}",
                iso(9))  # fmt: skip
        shard(config, f"r{number}")
    with closing(sqlite3.connect(traces(config))) as db, db:
        db.executemany(
            "INSERT INTO outcome_rewards VALUES (?, 'other', 1, 1, 8, ?, '{}')",
            [(number * 1000, iso(9)) for number in range(1, 1200)],
        )
    work_off(config)
    assert runs(config) == {f"r{number}" for number in numbers}


@pytest.mark.parametrize("late", [True, False], ids=["one by one", "at once"])
def test_of_several_rows_at_one_instant_the_first_counts_for_a_time_and_the_last_without(
    config: Config, *, late: bool
) -> None:
    """The order of their ids decides, and it does not matter when they are seen."""
    for run, rewards in {"up": (0, 3), "down": (3, 0)}.items():
        for number, reward in enumerate(rewards):
            add_outcome(traces(config), run, reward, 9)
            if late and not number:
                work_off(config)
    for run in ("up", "down"):
        (config.source.shards / f"sft_{run}.jsonl").write_bytes(
            jsonl(dialogue(run, 0, f"{run} timed", seconds=5), messages(run, 1, f"{run} untimed"))
        )
    work_off(config)
    texts = {record["messages"][1]["content"] for record in records(config)}
    assert texts == {"down timed", "up untimed"}
    accounts(config)


def test_a_row_that_is_corrected_up_lets_its_records_in(config: Config) -> None:
    """While the daemon runs, and after a long time."""
    row = add_outcome(traces(config), "run", 0, 9)
    shard(config, "run")

    async def test(pipeline: Pipeline, clock: FakeClock) -> None:
        await pipeline.drain()
        clock.advance(30 * 86_400.0)
        correct_outcome(traces(config), row, 1)
        for _ in range(2):
            await pipeline.drain()
            clock.advance(60.0)

    drive(config, test)
    assert runs(config) == {"run"}
    assert accounts(config).counts["below_bar"] == 0


def test_a_row_that_is_corrected_down_keeps_out_what_comes_later(config: Config) -> None:
    """What was written stays, and the ledger knows that its rollout was withdrawn; corrected up again, it forgets."""
    row = add_outcome(traces(config), "run", 3, 9)
    shard(config, "run")
    work_off(config)
    correct_outcome(traces(config), row, 0)
    work_off(config)
    assert runs(config) == {"run"}
    assert accounts(config).withdrawn_rollouts == 1
    (config.source.shards / "sft_more.jsonl").write_bytes(jsonl(dialogue("run", 1, "more", seconds=5)))
    work_off(config)
    assert accounts(config).counts == {
        "appended": 1, "below_bar": 1, "dead_lettered": 0, "duplicate": 0, "waiting": 0, "never_scored": 0,
    }  # fmt: skip
    correct_outcome(traces(config), row, 2)
    work_off(config)
    assert accounts(config).counts["appended"] == 2
    assert accounts(config).withdrawn_rollouts == 0


def test_a_row_that_is_deleted_takes_nothing_back(config: Config) -> None:
    """What it said is remembered, for the records that were written and for those that come."""
    add_outcome(traces(config), "run", 3, 9)
    add_outcome(traces(config), "bad", 0, 9)
    shard(config, "run")
    work_off(config)
    execute(traces(config), "DELETE FROM outcome_rewards")
    work_off(config)
    (config.source.shards / "sft_more.jsonl").write_bytes(jsonl(dialogue("run", 1, "more", seconds=5)))
    shard(config, "bad")
    work_off(config)
    assert len(records(config)) == 2
    assert accounts(config).counts["below_bar"] == 1
    assert accounts(config).withdrawn_rollouts == 0


@pytest.mark.parametrize("up", [True, False], ids=["daemon up", "daemon down"])
def test_a_database_that_is_replaced_by_an_older_copy_goes_on_from_there(config: Config, *, up: bool) -> None:
    """Ids that were given once are given again, to other rollouts; old and new ones are all joined."""
    add_outcome(traces(config), "first", 1, 9)
    older = traces(config).with_name("older.db")
    shutil.copyfile(traces(config), older)
    for run in ("second", "third"):
        add_outcome(traces(config), run, 1, 9)
    for run in ("first", "second"):
        shard(config, run)

    def replace() -> None:
        older.rename(traces(config))
        assert add_outcome(traces(config), "fourth", 1, 9) == 2  # the number of the second one
        add_outcome(traces(config), "fifth", 0, 9)
        for run in ("third", "fourth", "fifth"):
            shard(config, run)

    async def test(pipeline: Pipeline, clock: FakeClock) -> None:
        await pipeline.drain()
        replace()
        for _ in range(3):
            clock.advance(60.0)
            await pipeline.drain()

    if up:
        assert [event for event in drive(config, test) if isinstance(event, DatabaseReplaced)]
    else:
        work_off(config)
        replace()
        work_off(config)
    assert runs(config) == {"first", "second", "third", "fourth"}
    assert accounts(config).counts["below_bar"] == 1


def test_a_database_that_is_busy_for_a_day_holds_up_no_shard(config: Config) -> None:
    """Said once; lines are read and wait; when the writer is through, they are judged."""
    for run in ("early", "late"):
        add_outcome(traces(config), run, 1, 9)
    shard(config, "early")

    async def test(pipeline: Pipeline, clock: FakeClock) -> None:
        with closing(sqlite3.connect(traces(config), isolation_level=None)) as writer:
            writer.execute("BEGIN EXCLUSIVE")
            for _ in range(3):
                clock.advance(8 * 3600.0)
                await pipeline.drain()
                shard(config, "late")
            assert accounts(config).counts["waiting"] == 2
            writer.execute("ROLLBACK")
        clock.advance(60.0)
        await pipeline.drain()

    told = drive(config, test)
    assert [event.op for event in told if isinstance(event, FailureBegan)] == ["read outcomes"]
    assert [event.op for event in told if isinstance(event, FailureEnded)] == ["read outcomes"]
    assert runs(config) == {"early", "late"}


@pytest.mark.parametrize("column", ["achievements_count", "total_steps", "created_at", "reward_metadata"])
def test_a_schema_without_an_optional_column_is_read(config: Config, column: str) -> None:
    """Its key is in every dataset line all the same."""
    add_outcome(traces(config), "run", 2, 9)
    execute(traces(config), f"ALTER TABLE outcome_rewards DROP COLUMN {column}")
    execute(traces(config), "DROP TABLE session_traces")
    shard(config, "run")
    work_off(config)
    assert runs(config) == {"run"}
    (record,) = records(config)
    assert {"total_reward", "achievements_count", "total_steps"} <= set(record["metadata"])


@pytest.mark.parametrize("column", ["session_id", "total_reward"])
def test_a_schema_without_a_column_that_is_needed_is_waited_for(config: Config, column: str) -> None:
    """Said once, with the column's name; shards are read meanwhile, and judged as soon as it is there."""
    add_outcome(traces(config), "run", 2, 9)
    shard(config, "run")
    rename = "ALTER TABLE outcome_rewards RENAME COLUMN {} TO {}"
    execute(traces(config), rename.format(column, "other"))

    async def test(pipeline: Pipeline, clock: FakeClock) -> None:
        for _ in range(3):
            clock.advance(60.0)
            await pipeline.drain()
        assert accounts(config).counts["waiting"] == 1
        execute(traces(config), rename.format("other", column))
        clock.advance(60.0)
        await pipeline.drain()

    told = drive(config, test)
    assert [column in event.cause for event in told if isinstance(event, FailureBegan)] == [True]
    assert [event.op for event in told if isinstance(event, FailureEnded)] == ["read outcomes"]
    assert runs(config) == {"run"}


def test_rows_of_odd_types_stop_no_other(config: Config) -> None:
    """NULL, texts, blobs, infinity, numbers for names: SQLite holds anything in any column."""
    odd = [None, "three", b"\xff", float("inf"), float("-inf"), 1e308, -0.0, (1 << 63) - 1, ""]
    for number, value in enumerate(odd):
        for column in ("session_id", "total_reward", "achievements_count", "total_steps", "created_at"):
            row = {"session_id": f"odd{number}", "total_reward": 1, "achievements_count": 1, "total_steps": 8,
                   "created_at": iso(9)} | {column: value}  # fmt: skip
            with closing(sqlite3.connect(traces(config))) as db, db:
                # The table as an older version made it, without NOT NULL.
                db.execute("CREATE TABLE IF NOT EXISTS loose AS SELECT * FROM outcome_rewards")
                db.execute("INSERT INTO loose VALUES ((SELECT count(*) + 1 FROM loose), ?, ?, ?, ?, ?, NULL)",
                           tuple(row.values()))  # fmt: skip
        shard(config, f"odd{number}", None)
    execute(traces(config), "DROP TABLE outcome_rewards")
    execute(traces(config), "ALTER TABLE loose RENAME TO outcome_rewards")
    with closing(sqlite3.connect(traces(config))) as db, db:
        db.execute("INSERT INTO outcome_rewards VALUES (1000, 'plain', 1, 1, 8, ?, NULL)", (iso(9),))
    shard(config, "plain")
    work_off(config)
    assert "plain" in runs(config)
    assert accounts(config).read == len(odd) + 1
