"""The command ``streamer demo`` from end to end, as a user types it."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from streamer.base.lock import DatasetLock, lock_file
from streamer.commands.demo.show import Show, newest
from streamer.commands.demo.view import DemoView, growth
from streamer.commands.simulation.workspace import Workspace
from streamer.store.views.snapshot import snapshot
from tests.helpers.processes import mentioning, wait_for

pytest.importorskip("crafter", reason="the demo plays real Crafter episodes: pip install 'streamer[demo]'")

COMMAND = [sys.executable, "-m", "streamer", "demo", "--rollouts", "6", "--pace", "0"]
SECONDS = 90


@pytest.mark.slow
def test_demo_grows_a_dataset_and_adds_up(tmp_path: Path) -> None:
    """Every outcome of a line happens, the summary adds up, and the dataset agrees with it."""
    done = subprocess.run(
        [*COMMAND, "--folder", str(tmp_path)], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    read, fates = _accounts(done.stdout)
    assert read == sum(fates.values()) == _lines(*(tmp_path / "shards").glob("*.jsonl"))
    assert fates["waiting"] == 0
    assert min(fates["appended"], fates["duplicate"], fates["below the bar"]) > 0
    assert _lines(tmp_path / "high_reward.jsonl") == fates["appended"]
    assert "watch it grow: http://127.0.0.1:" in done.stdout
    assert '"page_served"' in (tmp_path / "daemon.log").read_text()
    assert f"streamer verify {tmp_path / 'high_reward.jsonl'}" in done.stdout
    assert f"streamer report {tmp_path / 'high_reward.jsonl'} --html report.html" in done.stdout


@pytest.mark.slow
def test_demo_refuses_a_folder_with_something_in_it(tmp_path: Path) -> None:
    """Its counts would mix with those of this run, so the folder must be empty."""
    (tmp_path / "precious").touch()
    done = subprocess.run(
        [*COMMAND, "--folder", str(tmp_path)], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 2
    assert "not empty" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for children in /proc")
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_no_child_survives_the_demo(tmp_path: Path, ending: signal.Signals) -> None:
    """Neither Ctrl-C nor a crash leaves a daemon or a producer behind, and the dataset stays whole."""
    dataset = tmp_path / "high_reward.jsonl"
    with subprocess.Popen(
        [*COMMAND, "--folder", str(tmp_path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as demo:
        wait_for(lambda: dataset.exists() and dataset.stat().st_size > 0)
        assert len(mentioning(tmp_path)) == 3
        demo.send_signal(ending)
        assert demo.wait(SECONDS) == (130 if ending is signal.SIGINT else -ending)
    wait_for(lambda: not mentioning(tmp_path))
    assert dataset.read_bytes().endswith(b"\n")
    assert _lines(dataset) > 0


@pytest.mark.slow
def test_a_daemon_that_dies_fails_the_demo_with_the_end_of_its_log(tmp_path: Path) -> None:
    """A daemon that cannot lock its dataset must fail the demo."""
    show = Show(Workspace(tmp_path, "high_reward.jsonl"), rollouts=5, seed=7, pace=0)
    (tmp_path / "shards").mkdir()
    with DatasetLock(lock_file(show.workspace.dataset)):
        (fault,) = show.run()
    assert fault.startswith("the daemon ended with status 4\n")
    assert "high_reward.jsonl" in fault
    assert not mentioning(tmp_path)


def test_newest_replies_are_those_of_whole_lines(tmp_path: Path) -> None:
    """A line that is still being written must be left for the next look."""
    assert newest(tmp_path / "missing") == ()
    dataset = tmp_path / "dataset.jsonl"
    dataset.write_text("".join(_dataset_line(turn) for turn in range(9)) + '{"mess', "utf-8")
    assert newest(dataset) == tuple(f"reward 2  turn {turn}  do noop  I \x1b[2J it" for turn in (5, 6, 7, 8))


def test_a_reply_cannot_steer_the_terminal(tmp_path: Path) -> None:
    """A reply of a model must be shown with escaped control characters, and never as markup."""
    dataset = tmp_path / "dataset.jsonl"
    dataset.write_text(_dataset_line(1, "\x1b[2J [red]bold[/red]"), "utf-8")
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    console.print(DemoView(1.0, 6, 1, snapshot(dataset), (0, 1), newest(dataset)).picture())
    assert isinstance(console.file, io.StringIO)
    assert "\\x1b[2J [red]bold[/red]" in console.file.getvalue()


def test_growth_shows_all_of_the_history_in_its_width() -> None:
    """The first value is on the left, the newest on the right, and the highest is a full bar."""
    assert growth([0]) == "▁"
    assert growth([0, 7, 7, 14]) == "▁▄▄█"
    assert len(growth(range(1000))) == 40
    assert growth(range(1000))[-1] == "█"


def _dataset_line(turn: int, said: str = "I \x1b[2J it") -> str:
    call = {"function": {"name": "interact_many", "arguments": '{"actions": ["do", "noop"]}'}}
    message = {"role": "assistant", "content": said, "tool_calls": [call]}
    return json.dumps({"messages": [message], "metadata": {"turn": turn, "total_reward": 2}}) + "\n"


def _accounts(stdout: str) -> tuple[int, dict[str, int]]:
    """Read the last ``read N = name n + ...`` of the output."""
    line = next(line for line in reversed(stdout.splitlines()) if line.startswith("read "))
    read, _, sum_ = line.removeprefix("read ").partition(" = ")
    fates = (part.rpartition(" ") for part in sum_.split(" + "))
    return int(read), {name: int(count) for name, _, count in fates}


def _lines(*paths: Path) -> int:
    return sum(1 for path in paths for line in path.read_bytes().splitlines() if json.loads(line))
