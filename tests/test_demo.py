"""The command ``streamer demo`` from end to end, as a user types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("crafter", reason="the demo plays real Crafter episodes: pip install 'streamer[demo]'")

COMMAND = [sys.executable, "-m", "streamer", "demo", "--rollouts", "6", "--pace", "0"]
SECONDS = 90


def test_demo_grows_a_dataset_and_adds_up(tmp_path: Path) -> None:
    """Every fate is there, the summary adds up, and the dataset holds what it says."""
    done = subprocess.run(
        [*COMMAND, "--folder", str(tmp_path)], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    read, fates = _accounts(done.stdout)
    assert read == sum(fates.values()) == _lines(*(tmp_path / "shards").glob("*.jsonl"))
    assert fates["waiting"] == 0
    assert min(fates["appended"], fates["duplicate"], fates["below the bar"]) > 0
    assert _lines(tmp_path / "high_reward.jsonl") == fates["appended"]
    assert f"streamer verify {tmp_path / 'high_reward.jsonl'}" in done.stdout


def test_demo_refuses_a_folder_with_something_in_it(tmp_path: Path) -> None:
    """Counts of an earlier run would mix with those of this one."""
    (tmp_path / "precious").touch()
    done = subprocess.run(
        [*COMMAND, "--folder", str(tmp_path)], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 2
    assert "not empty" in done.stderr


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for children in /proc")
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_no_child_survives_the_demo(tmp_path: Path, ending: signal.Signals) -> None:
    """Neither Ctrl-C nor a crash leaves a daemon or a producer behind."""
    with subprocess.Popen(
        [*COMMAND, "--folder", str(tmp_path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as demo:
        _wait_for(lambda: len(_mentioning(tmp_path)) == 3)
        demo.send_signal(ending)
        demo.wait(SECONDS)
    _wait_for(lambda: not _mentioning(tmp_path))


def _accounts(stdout: str) -> tuple[int, dict[str, int]]:
    """Read the last ``read N = name n + ...`` of the output."""
    line = next(line for line in reversed(stdout.splitlines()) if line.startswith("read "))
    read, _, sum_ = line.removeprefix("read ").partition(" = ")
    fates = (part.rpartition(" ") for part in sum_.split(" + "))
    return int(read), {name: int(count) for name, _, count in fates}


def _lines(*paths: Path) -> int:
    return sum(1 for path in paths for line in path.read_bytes().splitlines() if json.loads(line))


def _mentioning(folder: Path) -> list[int]:
    """Return the processes that have the folder in their command line."""
    return [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and _mentions(pid, folder)]


def _mentions(pid: str, folder: Path) -> bool:
    try:
        return os.fsencode(folder) in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _wait_for(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
