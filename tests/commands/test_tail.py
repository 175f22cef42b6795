"""``streamer tail``: its output on a terminal and in a pipe, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer
from rich.cells import cell_len
from typer.testing import CliRunner

import streamer
from streamer.base.errors import ConfigError, UnavailableError
from streamer.commands.tail.cli import tail

if TYPE_CHECKING:
    from collections.abc import Iterator

APP = typer.Typer()
APP.command()(tail)

CODE = "import typer, streamer.commands.tail.cli as t; typer.run(t.tail)"
WAIT = 30
"""Seconds after which a test gives up; none of them waits for time to pass."""


def line(reply: object = "Go on.", calls: list[object] | None = None, **metadata: Any) -> bytes:
    """Return a dataset line with this reply."""
    answer = {"role": "assistant", "content": reply} | ({"tool_calls": calls} if calls else {})
    messages = [{"role": "user", "content": "What now?"}, answer]
    metadata = {"run_id": "run-a", "turn": 3, "total_reward": 7, **metadata}
    return json.dumps({"messages": messages, "metadata": metadata}).encode() + b"\n"


def call(name: object = "act", arguments: object = '{"do": "collect"}') -> dict[str, Any]:
    """Return a tool call."""
    return {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of the dataset."""
    return tmp_path / "dataset.jsonl"


def run(*arguments: object) -> str:
    """Run the command up to the end of the dataset; return what it printed."""
    result = CliRunner().invoke(APP, ["--no-follow", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def environment() -> dict[str, str]:
    """Return the environment of a command in its own process."""
    home = Path(streamer.__file__).parents[1]
    return os.environ | {"PYTHONPATH": str(home), "TERM": "xterm", "COLUMNS": "60"}


@pytest.fixture
def following(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Return the process of the command, which follows the dataset into a pipe with --raw."""
    command = [sys.executable, "-c", CODE, str(path), "--raw"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, env=environment()) as process:
        yield process
        process.kill()


def append(path: Path, data: bytes) -> None:
    """Write at the end, as the daemon does."""
    with path.open("ab") as file:
        file.write(data)


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (line(), "run-a  turn 3  reward 7  Go on."),
        (line("Go\n\t on."), "run-a  turn 3  reward 7  Go on."),
        (line("", [call()]), 'run-a  turn 3  reward 7  act({"do": "collect"})'),
        (line(None, [call(), call("look", "")]), 'run-a  turn 3  reward 7  act({"do": "collect"}) look()'),
        (line("Well:", [call("act", "{}")]), "run-a  turn 3  reward 7  Well: act({})"),
        (
            line([{"type": "text", "text": "Go."}, {"type": "image_url"}]),
            "run-a  turn 3  reward 7  Go. [image_url]",
        ),
        (line(run_id=None, turn=None, total_reward=0.5), "-  turn -  reward 0.5  Go on."),
        (line(run_id=17, turn={}, total_reward=[]), "17  turn an object  reward a list  Go on."),
        (line(7, [{"function": {"name": 1}}, 5]), "run-a  turn 3  reward 7  ()"),
        (b"\n", "byte 0: not a record: not_json: an empty line"),
        (b"[]\n", "byte 0: not a record: not_object: a JSON list, not an object"),
        (b"{}\n", "byte 0: not a record: bad_keys: missing: messages, metadata"),
        (
            b'{"messages": [1], "metadata": 5}\n',
            "byte 0: not a record: bad_metadata: metadata is not an object",
        ),
    ],
)
def test_a_record_is_one_line_and_what_is_none_is_shown_as_such(path: Path, data: bytes, shown: str) -> None:
    """Each line has run id, turn, reward, and the start of the reply."""
    path.write_bytes(data)
    assert run(path) == f"{shown}\n"


def test_the_last_ten_records_are_shown_unless_told_otherwise(path: Path) -> None:
    """The default is ten records, as for ``tail``."""
    path.write_bytes(b"".join(line(turn=turn) for turn in range(30)) + b'{"torn')
    assert [row.split("  ")[1] for row in run(path).splitlines()] == [f"turn {i}" for i in range(20, 30)]
    assert run(path, "-n", 2).count("\n") == 2
    assert run(path, "-n", 0) == ""
    assert run(path, "-n", 99).count("\n") == 30


def test_raw_lines_are_those_of_the_dataset(path: Path) -> None:
    """--raw writes every line byte for byte."""
    lines = [line("\u202e"), b"\xff\x00\x1b\r\n", b"\n", line("x" * 5000)]
    path.write_bytes(b"".join(lines) + b"torn")
    result = CliRunner().invoke(APP, ["--no-follow", "--raw", "-n", "3", str(path)])
    assert result.stdout_bytes == b"".join(lines[1:])


@pytest.mark.parametrize(
    "data",
    [
        line("\x1b[2J\u202e\u009b0m\x07"),
        line("", [call("\x1b[2J\u202e", "\x1b[2J\u009b")]),
        line([{"type": "\x1b[2J\u202e"}]),
        line(run_id="\x1b[2J\u202e", turn="\x1b", total_reward="\u009b"),
        line().replace(b'"user"', rb'"\u001b[2J\u202e"'),
        b'{"messages": [], "metadata": {}, "\x1b\xe2\x80\xae": 1}\n',
    ],
)
def test_text_of_the_dataset_cannot_steer_a_terminal(path: Path, data: bytes) -> None:
    """Control characters and overrides of direction are escaped."""
    path.write_bytes(data)
    output = run(path)
    assert not set("\x1b\u009b\u202e\x07") & set(output)
    assert output.count("\n") == 1


def test_a_reply_of_any_length_is_cut(path: Path) -> None:
    """A pipe, which has no width, gets a few hundred characters."""
    path.write_bytes(line("x" * 100_000, run_id="r" * 100_000))
    assert len(run(path)) < 1000


def test_a_missing_dataset_is_wrong_usage_if_nothing_is_waited_for(path: Path) -> None:
    """A folder is no dataset either."""
    with pytest.raises(ConfigError, match="there is no such file"):
        run(path)
    with pytest.raises(UnavailableError):
        run(path.parent)


def test_the_dataset_can_be_named_in_several_ways(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dataset is an argument, a flag, or in the environment, but is not given twice."""
    path.write_bytes(line())
    assert run(path) == run("--dataset", path)
    assert CliRunner().invoke(APP, [str(path), "--dataset", str(path)]).exit_code == 2
    monkeypatch.setenv("STREAMER_DATASET", str(path))
    assert run() == run(path)


def test_new_records_are_shown_as_they_come(path: Path, following: subprocess.Popen[bytes]) -> None:
    """If the dataset is missing, the command waits, and starts with its first record."""
    assert following.stdout is not None
    assert following.stderr is not None
    assert following.stderr.readline() == f"streamer tail: waiting for {path}\n".encode()
    for turn in range(3):
        append(path, line(turn=turn))
        assert following.stdout.readline() == line(turn=turn)


def test_a_dataset_that_is_replaced_by_a_shorter_one_is_told(path: Path, following: subprocess.Popen[bytes]) -> None:
    """The note is on stderr, so that a pipe gets only lines."""
    assert following.stdout is not None
    assert following.stderr is not None
    following.stderr.readline()
    append(path, line("a long reply"))
    assert following.stdout.readline() == line("a long reply")
    path.write_bytes(line())
    assert following.stdout.readline() == line()
    assert b"became shorter" in following.stderr.readline()


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_it_quietly(path: Path, following: subprocess.Popen[bytes], end: signal.Signals) -> None:
    """Ctrl-C and SIGTERM end the command without an error."""
    assert following.stdout is not None
    append(path, line())
    assert following.stdout.readline() == line()
    following.send_signal(end)
    _, complaints = following.communicate(timeout=WAIT)
    assert following.returncode == 0
    assert b"Traceback" not in complaints


def test_it_ends_quietly_when_its_reader_has_gone(path: Path, following: subprocess.Popen[bytes]) -> None:
    """The command ends when ``| head -1`` is gone, even if no further record comes."""
    assert following.stdout is not None
    assert following.stderr is not None
    append(path, line())
    assert following.stdout.readline() == line()
    following.stdout.close()
    assert following.wait(timeout=WAIT) == 0
    assert b"Broken" not in following.stderr.read()


def test_head_can_close_the_pipe_in_the_middle_of_a_backlog(path: Path) -> None:
    """The next write fails, which ends the command."""
    path.write_bytes(line("x" * 5000) * 500)
    command = f"'{sys.executable}' -c '{CODE}' '{path}' -n 500 --raw --no-follow | head -1; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], env=environment(), capture_output=True, timeout=WAIT, check=True)
    assert result.stdout == line("x" * 5000) + b"0\n"
    assert result.stderr == b""


def in_terminal(*arguments: object) -> str:
    """Run the command on a terminal of 60 columns and return its output."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", CODE, "--no-follow", *map(str, arguments)]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment()):
        os.close(theirs)
        shown = b""
        while block := _read_terminal(ours):
            shown += block
    os.close(ours)
    return shown.decode()


def _read_terminal(fd: int) -> bytes:
    try:
        return os.read(fd, 1 << 16)
    except OSError:  # Linux says so at the end of a terminal
        return b""


def test_on_a_terminal_a_record_is_cut_to_its_width(path: Path) -> None:
    """Markup and escapes in a reply are shown as text."""
    reply = "[bold]x[/bold] \x1b[2J" + "漢" * 500
    path.write_bytes(line(reply, run_id="01ea029b-fcfa-4a68-a0f5-bf1141d1dfbd"))
    (shown,) = in_terminal(path).splitlines()
    assert "\x1b[36m" in shown
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert plain == r"01ea029b-fcfa-…  turn 3  reward 7  [bold]x[/bold] \x1b[2J漢…"
    assert cell_len(plain) <= 60
