"""What may not be read or written: the real executable, as a user whom permissions bind."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.helpers.producer import accounts, add_outcome, conversations, jsonl, make_traces, messages, records, settings
from tests.helpers.unprivileged import UNPRIVILEGED

if TYPE_CHECKING:
    from pathlib import Path

VALUES = [messages("run", 0, "one"), messages("run", 1, "other")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with two shards, their outcome, and a configuration."""
    (tmp_path / "shards").mkdir()
    (tmp_path / "out").mkdir()
    add_outcome(make_traces(tmp_path / "traces.db"), "run", 1, 9)
    for name, value in zip(("a", "b"), VALUES, strict=True):
        (tmp_path / "shards" / f"{name}.jsonl").write_bytes(jsonl(value))
    (tmp_path / "config.toml").write_text(
        '[source]\nshards = "shards"\ndatabase = "traces.db"\n[dataset]\npath = "out/good.jsonl"\n'
    )
    return tmp_path


def call(folder: Path, *arguments: str, code: int = 0) -> str:
    """Run a command of streamer, and return all that it said."""
    command = [*UNPRIVILEGED, sys.executable, "-m", "streamer", *arguments, "--config", str(folder / "config.toml")]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False, text=True)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def is_whole(folder: Path) -> None:
    """See that the dataset has every record."""
    call(folder, "run", "--once")
    assert conversations(records(settings(folder))) == conversations(VALUES)
    accounts(settings(folder))


def test_permissions_bind_whoever_runs_these_tests(tmp_path: Path) -> None:
    """Without this the other tests would prove nothing."""
    file = tmp_path / "secret"
    file.touch(mode=0)
    read = [*UNPRIVILEGED, sys.executable, "-c", "import sys; open(sys.argv[1])", str(file)]
    assert "PermissionError" in subprocess.run(read, capture_output=True, check=False, text=True).stderr


@pytest.mark.slow
def test_a_shard_that_may_not_be_read_is_named_and_read_later(folder: Path) -> None:
    """The others do not wait for it."""
    shard = folder / "shards" / "b.jsonl"
    shard.chmod(0)
    assert "b.jsonl cannot be read: Permission denied" in call(folder, "run", "--once")
    assert conversations(records(settings(folder))) == conversations(VALUES[:1])
    shard.chmod(0o600)
    is_whole(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mode", "said"),
    [
        ("shards", 0o000, "cannot list the shard folder"),
        ("traces.db", 0o000, "unable to open database file"),
        ("out", 0o555, "Permission denied"),
    ],
)
def test_what_may_not_be_used_is_named_and_used_later(folder: Path, name: str, mode: int, said: str) -> None:
    """Nothing is lost, and the exit code says that it may pass."""
    before = (folder / name).stat().st_mode
    (folder / name).chmod(mode)
    told = call(folder, "run", "--once", code=3)
    (folder / name).chmod(before)
    assert said in told
    assert name in told
    is_whole(folder)


@pytest.mark.parametrize(
    ("name", "mode", "said"),
    [
        ("shards", 0o000, "cannot be read"),
        ("traces.db", 0o000, "cannot read outcomes"),
        ("out", 0o555, "cannot be written"),
    ],
)
def test_doctor_names_what_has_the_wrong_permissions(folder: Path, name: str, mode: int, said: str) -> None:
    """As a problem, with a way out, and nothing else."""
    before = (folder / name).stat().st_mode
    (folder / name).chmod(mode)
    told = call(folder, "doctor", code=1)
    (folder / name).chmod(before)
    problem = next(line for line in told.splitlines() if line.startswith("PROBLEM") and said in line and name in line)
    assert "->" in told[told.index(problem) :]
    assert "Traceback" not in told


@pytest.mark.slow
def test_those_who_only_look_need_no_permission_to_write(folder: Path) -> None:
    """Nothing is created beside a dataset at rest."""
    is_whole(folder)
    out = folder / "out"
    there = sorted(path.name for path in out.iterdir())
    out.chmod(0o555)
    assert "2 records" in call(folder, "status")
    assert "appended" in call(folder, "explain", "run")
    assert sorted(path.name for path in out.iterdir()) == there
    out.chmod(0o700)


@pytest.mark.slow
def test_a_ledger_that_may_not_be_read_is_named(folder: Path) -> None:
    """With what to look at."""
    is_whole(folder)
    ledger = settings(folder).dataset.ledger
    ledger.chmod(0)
    told = call(folder, "status", code=3)
    ledger.chmod(0o600)
    assert str(ledger) in told
    assert "see its rights" in told
