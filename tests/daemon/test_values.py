"""Values of the trace database that are not what they must be: converted by a rule, or counted with a reason."""

import sqlite3
import struct
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from streamer.base.events import NumberConverted, OutcomeProblem
from streamer.config import Config
from streamer.core.verdicts.join import JoinRule
from streamer.store.views.explain import explain
from tests.helpers.producer import accounts, add_outcome, dialogue, jsonl, make_traces, records, settings, work_off

ZERO, THREE = struct.pack("<q", 0), struct.pack("<q", 3)
"""numpy integers as sqlite3 stores them."""

REWARDS: dict[str, Any] = {
    "int": 3,
    "numpy": THREE,
    "text": "3",
    "spaced": " 3.0 ",
    "zero": 0,
    "numpy-zero": ZERO,
    "text-zero": "0.0",
    "failed": "failed",
    "empty": "",
    "nan": "nan",
    "blob": b"3",
    "hex": "0x10",
}
GOOD = {"int", "numpy", "text", "spaced"}
NO_NUMBERS = {"failed", "empty", "nan", "blob", "hex"}


@pytest.fixture(params=["INTEGER", "TEXT", "BLOB"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Config:
    """Rollouts with rewards of all kinds, in a column of each declared type."""
    traces = make_traces(tmp_path / "traces.db")
    with closing(sqlite3.connect(traces)) as db, db:
        db.execute("DROP TABLE outcome_rewards")
        db.execute(
            f"CREATE TABLE outcome_rewards (id INTEGER PRIMARY KEY, session_id TEXT, total_reward {request.param},"
            " achievements_count INTEGER, total_steps INTEGER, created_at TEXT, reward_metadata TEXT)"
        )
    (tmp_path / "shards").mkdir()
    for name, reward in REWARDS.items():
        add_outcome(traces, name, reward, 9)
        (tmp_path / "shards" / f"{name}.jsonl").write_bytes(jsonl(dialogue(name, 0, name)))
    return settings(tmp_path)


def test_a_reward_becomes_a_number_or_its_rollout_does_not_qualify(config: Config) -> None:
    """Whatever type the column declares: no text and no BLOB is more than a number."""
    events = work_off(config)
    taken = {record["metadata"]["run_id"]: record["metadata"]["total_reward"] for record in records(config)}
    assert taken == dict.fromkeys(GOOD, 3)
    seen = accounts(config)
    assert seen.reasons["below_bar"] == {
        "not_a_number": len(NO_NUMBERS),
        "where": len(REWARDS) - len(GOOD | NO_NUMBERS),
    }
    assert [event.column for event in events if isinstance(event, OutcomeProblem)] == ["total_reward"]
    assert [event.column for event in events if isinstance(event, NumberConverted)] == ["total_reward"]


def test_explain_names_a_reward_that_is_no_number(config: Config) -> None:
    """And does not claim that it failed the condition."""
    work_off(config)
    found = explain(config.dataset.ledger, config.dataset.path, "failed")
    assert found is not None
    assert [reason.reason for reason in found.reasons] == ["not_a_number"]
    assert "a reward or count in that row is no number" in found.reasons[0].because


def test_the_highest_reward_of_a_session_is_a_number(tmp_path: Path) -> None:
    """`join.rule = "max"` compares numbers: 10 is more than 9, and "failed" is nothing."""
    traces = make_traces(tmp_path / "traces.db")
    for seconds, reward in enumerate(("9", "10", "failed"), 9):
        add_outcome(traces, "a", reward, seconds)
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "a.jsonl").write_bytes(jsonl(dialogue("a")))
    config = settings(tmp_path, join=JoinRule.MAX)
    work_off(config)
    assert [record["metadata"]["total_reward"] for record in records(config)] == [10]


def test_only_the_rows_of_the_objective_are_outcomes(tmp_path: Path) -> None:
    """A session of synth-ai 0.4 has a row for its latency, too, which is to be minimised."""
    traces = make_traces(tmp_path / "traces.db")
    with closing(sqlite3.connect(traces)) as db, db:
        db.execute("ALTER TABLE outcome_rewards ADD COLUMN objective_key TEXT NOT NULL DEFAULT 'reward'")
    (tmp_path / "shards").mkdir()
    for name, reward in (("good", 1), ("bad", 0)):
        add_outcome(traces, name, reward, 9)
        latency = add_outcome(traces, name, 812.5, 9)
        with closing(sqlite3.connect(traces)) as db, db:
            db.execute("UPDATE outcome_rewards SET objective_key = 'latency_ms' WHERE id = ?", (latency,))
        (tmp_path / "shards" / f"{name}.jsonl").write_bytes(jsonl(dialogue(name, 0, name)))
    config = settings(tmp_path)
    work_off(config)
    found = [(record["metadata"]["run_id"], record["metadata"]["total_reward"]) for record in records(config)]
    assert found == [("good", 1)]
    assert accounts(config).reasons["below_bar"] == {"where": 1}


@pytest.mark.parametrize(("created_at", "taken"), [("2026-01-01 00:00:05", 3), ("2026-01-01 00:00:05.000", 2)])
def test_a_time_without_a_fraction_stands_for_its_whole_second(tmp_path: Path, created_at: str, taken: int) -> None:
    """CURRENT_TIMESTAMP has none: the last turn of the rollout lies in the same second."""
    traces = make_traces(tmp_path / "traces.db")
    row = add_outcome(traces, "a", 1, 5)
    with closing(sqlite3.connect(traces)) as db, db:
        db.execute("UPDATE outcome_rewards SET created_at = ? WHERE id = ?", (created_at, row))
    (tmp_path / "shards").mkdir()
    times = ["2026-01-01T00:00:04.1", "2026-01-01T00:00:05.0", "2026-01-01T00:00:05.9", "2026-01-01T00:00:06.0"]
    lines = [dialogue("a", turn, f"{turn}", seconds=None, timestamp=time) for turn, time in enumerate(times)]
    (tmp_path / "shards" / "a.jsonl").write_bytes(jsonl(*lines))
    config = settings(tmp_path)
    work_off(config)
    assert len(records(config)) == taken
    assert accounts(config).counts["waiting"] == len(times) - taken
