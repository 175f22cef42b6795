"""``streamer status --watch``: the same answer again and again, in its place or line by line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from streamer.base.lock import DatasetLock, lock_file
from streamer.store.views.snapshot import ledger_of
from tests.helpers.producer import add_outcome, dialogue, jsonl, make_traces, settings, work_off
from tests.helpers.terminal import WAIT, Session

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from streamer.config import Config


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Return the configuration of a daemon that has worked off one rollout."""
    config = settings(tmp_path)
    (tmp_path / "shards").mkdir()
    make_traces(tmp_path / "traces.db")
    play(tmp_path, "run-0")
    work_off(config)
    return config


def play(folder: Path, run: str) -> None:
    """Write a rollout of one turn as the producer does."""
    (folder / "shards" / f"sft_{run}.jsonl").write_bytes(jsonl(dialogue(run, 0, run)))
    add_outcome(folder / "traces.db", run, 1, seconds=10)


@pytest.fixture
def watching(config: Config) -> Iterator[subprocess.Popen[bytes]]:
    """Return the command as it writes JSON into a pipe."""
    command = [sys.executable, "-m", "streamer", "status", "--dataset", str(config.dataset.path)]
    pipe = subprocess.PIPE
    with subprocess.Popen([*command, "--json", "--watch", "0.1"], stdout=pipe, stderr=pipe) as process:
        yield process
        process.kill()


def test_a_terminal_shows_the_newest_answer_in_its_place(config: Config, tmp_path: Path) -> None:
    """The newest answer replaces the last one, and the terminal is restored at the end."""
    with Session("status", "--dataset", config.dataset.path, "--watch", "0.1", width=60, height=16) as terminal:
        terminal.until_shown("appended       1 from 1 rollout")
        play(tmp_path, "run-1")
        work_off(config)
        terminal.until_shown("appended       2 from 2 rollouts")
        assert "appended       1" not in terminal.text()
        with DatasetLock(lock_file(config.dataset.path)):
            terminal.until_shown("alive, pid")
        terminal.resize(20, 4)
        terminal.until(lambda: terminal.lines()[0] == "daemon           no…")
        terminal.press(b"\x03")
        assert terminal.ended() == 0
        assert terminal.settings == terminal.before
        assert not terminal.alternate


def test_a_ledger_that_cannot_be_read_is_an_answer_until_it_can(config: Config) -> None:
    """The error is shown, and the status again when the ledger is back."""
    ledger = ledger_of(config.dataset.path)
    kept = ledger.read_bytes()
    ledger.write_bytes(b"no database" * 1000)
    with Session("status", "--dataset", config.dataset.path, "--watch", "0.1") as terminal:
        terminal.until_shown("cannot read the ledger")
        ledger.write_bytes(kept)
        terminal.until_shown("appended       1 from 1 rollout")


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_pipe_gets_one_object_a_line(
    config: Config, tmp_path: Path, watching: subprocess.Popen[bytes], end: signal.Signals
) -> None:
    """A pipe gets one JSON object on each line, until a signal or its reader ends it."""
    assert watching.stdout is not None
    assert json.loads(watching.stdout.readline())["accounting"]["read"] == 1
    play(tmp_path, "run-1")
    work_off(config)
    while json.loads(watching.stdout.readline())["accounting"]["read"] != 2:
        pass
    watching.send_signal(end)
    _, complaints = watching.communicate(timeout=WAIT)
    assert (watching.returncode, complaints) == (0, b"")


@pytest.mark.slow
def test_it_ends_quietly_when_its_reader_has_gone(watching: subprocess.Popen[bytes]) -> None:
    """The command ends without an error when ``| head -1`` is gone."""
    assert watching.stdout is not None
    assert watching.stderr is not None
    watching.stdout.readline()
    watching.stdout.close()
    assert watching.wait(timeout=WAIT) == 0
    assert watching.stderr.read() == b""


def test_seconds_without_watch_are_wrong_usage(config: Config) -> None:
    """SECONDS without --watch would have no effect, so they are refused."""
    command = [sys.executable, "-m", "streamer", "status", "5", "--dataset", str(config.dataset.path)]
    result = subprocess.run(command, capture_output=True, timeout=WAIT, check=False)
    assert result.returncode == 2
    assert b"it goes with --watch" in result.stderr
