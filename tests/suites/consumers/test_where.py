"""Conditions on the metadata: what they can say, and what they cannot do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from streamer.base.errors import ConfigError
from streamer.commands.export.run import EXCLUDED
from tests.helpers.exports import lines, record, rollouts, run, write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a dataset of ten rollouts with three records each; the reward of each is its number."""
    return write(tmp_path / "good.jsonl", *rollouts(10), record("odd", 0, None, more={"env": "crafter"}, model="gpt"))


@pytest.mark.parametrize(
    ("where", "records"),
    [
        ("total_reward >= 8", 6),
        ("total_reward >= 8 and turn = 0", 2),
        ("run_id = 'run-3'", 3),
        ("total_reward is null", 1),
        ("extra->>'$.more.env' = 'crafter'", 1),
        ("model like 'gpt-5%' -- a comment", 30),
        ("total_reward > (select avg(total_reward) from metadata)", 15),
        ("total_reward >= (select quantile_cont(total_reward, 0.9) from metadata)", 3),
        ("run_id in (select run_id from metadata group by 1 having count(*) = 1)", 1),
        ("not has_image", 31),
        ("line <= 2", 2),
    ],
)
def test_a_condition_chooses_records(path: Path, where: str, records: int) -> None:
    """Of one record, or of one among all."""
    folder, report = run(path, "jsonl", where=where)
    assert report.written == records
    assert report.excluded == ({"where": 31 - records} if records < 31 else {})
    assert (folder / EXCLUDED).read_bytes() == b""


def test_what_a_condition_leaves_is_what_others_choose_from(path: Path) -> None:
    """The top is that of the records which meet it."""
    folder, report = run(path, "jsonl", where="total_reward < 5", top_rollouts=1)
    assert {value["metadata"]["run_id"] for value in lines(folder / "train.jsonl")} == {"run-4"}
    assert report.excluded == {"below_top": 12, "where": 16}


@pytest.mark.parametrize(
    "where",
    [
        "",
        "nonsense = 1",
        "total_reward >",
        "true) ; drop table metadata; select (true",
        "turn = 1; select 1",
        "sum(total_reward) > 1",
        "run_id",
        "cast(run_id as integer) = 1",
        "(select count(*) from read_text('{outside}')) > 0",
        "(select count(*) from '{outside}') > 0",
        "(select count(*) from read_csv('{outside}')) > 0",
        "(select count(*) from glob('/*')) > 0",
        "turn in (select * from query('copy metadata to ''{outside}'''))",
        "getenv('HOME') is not null",
        "(select count(*) from sqlite_scan('{outside}', 'x')) > 0",
        "(select count(*) from 'https://example.org/x.parquet') > 0",
        "(select count(*) from secret) > 0",
    ],
)
def test_a_condition_can_ask_the_metadata_and_nothing_else(path: Path, where: str) -> None:
    """No file, no network, no second statement; what is wrong is said, and nothing is written."""
    outside = path.with_name("secret")
    outside.write_text("a\n1\n")
    secret = object()  # a variable of the program is no table either
    before = sorted(os.listdir(path.parent))
    with pytest.raises(ConfigError, match="evaluate --where"):
        run(path, "jsonl", path.with_name("out"), where=where.format(outside=outside))
    assert sorted(os.listdir(path.parent)) == before
    assert outside.read_text() == "a\n1\n"
    assert secret


def test_a_condition_that_fails_on_one_record_is_named(path: Path) -> None:
    """It is a person's own, so it ends the export."""
    with pytest.raises(ConfigError, match="Could not convert string"):
        run(path, "jsonl", path.with_name("out"), where="run_id::INT = 1")


def test_hostile_metadata_are_values(tmp_path: Path) -> None:
    """And never SQL."""
    values = [record("'; drop table metadata; --", 0, 1), record('"\\u0000', 1, 2), record("\U0001f600\u2028", 2, 3)]
    path = write(tmp_path / "good.jsonl", *values)
    folder, report = run(path, "jsonl", where="total_reward >= 1")
    assert report.written == 3
    folder, _ = run(path, "jsonl", where="run_id like '%drop table%'")
    assert lines(folder / "train.jsonl") == values[:1]


def test_many_records_are_asked_in_pages(tmp_path: Path) -> None:
    """In the same order, each once."""
    path = write(tmp_path / "good.jsonl", *(record(f"run-{i}", 0, i, note="x" * 2000) for i in range(12_000)))
    folder, report = run(path, "jsonl", where="total_reward % 2 = 0")
    found = [value["metadata"]["total_reward"] for value in lines(folder / "train.jsonl")]
    assert found == list(range(0, 12_000, 2))
    assert report.excluded == {"where": 6000}


def test_a_condition_goes_through_the_executable(path: Path) -> None:
    """As a person gives it, and its error as a person reads it."""
    command = [sys.executable, "-m", "streamer", "export", str(path), "--to", "parquet", "--out", "out", "--where"]
    wrong = subprocess.run([*command, "nonsense > 1"], cwd=path.parent, capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "cannot evaluate --where: nonsense > 1" in wrong.stderr
    assert "what to do: the columns are run_id, turn" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    right = subprocess.run([*command, "turn > 0"], cwd=path.parent, capture_output=True, text=True, check=False)
    assert right.stdout.splitlines()[1:3] == ["20 in train, from 10 rollouts", "11 left out: where"]
