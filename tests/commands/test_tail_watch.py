"""The live view of ``streamer tail``: what stands on a real terminal, whatever happens to dataset and terminal."""

from __future__ import annotations

import json
import os
import re
import signal
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wcwidth import wcswidth

from streamer.base.lines import FileLine
from streamer.base.lock import DatasetLock, lock_file
from streamer.base.text import steady
from streamer.commands.tail.history import MOST, ArrivalHistory
from streamer.commands.tail.picture import picture
from streamer.commands.tail.watch import SHARE, TailView, Watch
from streamer.core.records.model import State
from streamer.reader.summary_line import summarize
from streamer.store.views.snapshot import Snapshot, ledger_of
from tests.helpers.producer import FakeClock, add_outcome, dialogue, jsonl, make_traces, settings, work_off
from tests.helpers.terminal import Session

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.config import Config

HOSTILE = (
    "\x1b[2J\x1b]0;x\x07\r\n\x9b31m[bold]x[/bold]\u202eabc\u2066 \u200b\u200d\ufe0f Z\u0301\u0302\u0303\u0304"
    " \U0001f468\u200d\U0001f469 漢字 \ue000"
)


def line(reply: str = "Go on.", **metadata: Any) -> bytes:
    """Return a dataset line with this reply."""
    messages = [{"role": "user", "content": "What now?"}, {"role": "assistant", "content": reply}]
    metadata = {"run_id": "run-a", "turn": 3, "total_reward": 7, "model": "gpt-x", **metadata}
    return json.dumps({"messages": messages, "metadata": metadata}).encode() + b"\n"


def append(path: Path, data: bytes) -> None:
    """Write at the end, as the daemon does."""
    with path.open("ab") as file:
        file.write(data)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the dataset will be."""
    return tmp_path / "good.jsonl"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Return the configuration of a daemon that has worked off three rollouts, one of them below the bar."""
    config = settings(tmp_path)
    (tmp_path / "shards").mkdir()
    make_traces(tmp_path / "traces.db")
    for number, reward in enumerate((2, 0, 5)):
        play(tmp_path, f"run-{number}", reward)
    work_off(config)
    return config


def play(folder: Path, run: str, reward: int) -> None:
    """Write a rollout of two turns as the producer does."""
    turns = [dialogue(run, turn, f"{run} {turn}") for turn in range(2)]
    (folder / "shards" / f"sft_{run}.jsonl").write_bytes(jsonl(*turns))
    add_outcome(folder / "traces.db", run, reward, seconds=10)


# -- on a terminal -----------------------------------------------------------------------------------------


def test_growth_flow_and_newest_records_stand_on_the_screen(config: Config, tmp_path: Path) -> None:
    """The counts add up, before and after new records."""
    with Session("tail", config.dataset.path, width=100) as terminal:
        terminal.until_shown("run-2")
        assert "4 records" in terminal.text()
        assert sums(terminal.text()) == (6, {"appended": 4, "below the bar": 2})
        assert "○ not running" in terminal.text()
        play(tmp_path, "run-3", 9)
        work_off(config)
        terminal.until_shown("run-3")
        terminal.until_shown("6 records")
        assert sums(terminal.text()) == (8, {"appended": 6, "below the bar": 2})
        assert "2 came while you look" in terminal.text()


def sums(text: str) -> tuple[int, dict[str, int]]:
    """Return the lines read and the counts that are not 0; they have to add up."""
    numbers = dict(re.findall(r"^ *(read|[a-z ]+?) +(\d+)  ", text, re.MULTILINE))
    read = int(numbers.pop("read"))
    counts = {name: int(number) for name, number in numbers.items() if int(number)}
    assert len(numbers) == 6
    assert sum(counts.values()) == read
    return read, counts


@pytest.mark.slow
def test_a_daemon_that_comes_and_goes_is_seen(config: Config) -> None:
    """The view shows the daemon while it holds the lock of the dataset."""
    with Session("tail", config.dataset.path) as terminal:
        terminal.until_shown("not running")
        with DatasetLock(lock_file(config.dataset.path)):
            terminal.until_shown(f"alive, pid {os.getpid()}")
        terminal.until_shown("not running")


def test_a_dataset_that_is_not_there_yet_is_waited_for(path: Path) -> None:
    """The view shows the dataset as soon as it exists; without a ledger the counts are unknown."""
    with Session("tail", path) as terminal:
        terminal.until_shown("it is not there yet")
        append(path, line("here I am"))
        terminal.until_shown("here I am")
        assert "no ledger beside the dataset" in terminal.text()


def test_a_dataset_that_is_truncated_or_replaced_is_shown_anew(path: Path) -> None:
    """The view starts again, with a note if whole lines were lost."""
    append(path, line("a first reply that is long"))
    with Session("tail", path) as terminal:
        terminal.until_shown("a first reply")
        path.write_bytes(line("second"))
        terminal.until_shown("second")
        terminal.until_shown("became shorter")
        assert "a first reply" not in terminal.text()
        new = path.with_name("new.jsonl")
        new.write_bytes(line("third"))
        new.rename(path)
        terminal.until_shown("third")


def test_a_ledger_that_cannot_be_read_is_told_and_the_records_go_on(path: Path) -> None:
    """The view shows the error and the records, and the counts when the ledger is back."""
    ledger_of(path).write_bytes(b"no database" * 100)
    append(path, line("one"))
    with Session("tail", path) as terminal:
        terminal.until_shown("cannot read the ledger")
        append(path, line("two"))
        terminal.until_shown("two")


def test_what_models_wrote_cannot_break_the_picture(path: Path) -> None:
    """No escape sequence of a model reaches the terminal, and each record stays on its line."""
    append(path, line(HOSTILE, run_id=HOSTILE, model=HOSTILE, turn=HOSTILE))
    append(path, line("漢" * 500, run_id="漢" * 50))
    append(path, b"\x1b[2J\n")
    append(path, line("the last one"))
    with Session("tail", path, width=120) as terminal:
        terminal.until_shown("the last one")
        assert terminal.screen.title == ""
        assert "good.jsonl" in terminal.lines()[0]
        assert terminal.lines()[-1] == "q or Ctrl-C ends"
        rows = [row for row in terminal.lines() if r"\x1b" in row]
        assert len(rows) == 1
        for hostile in ("\u202e", "\u2066", "\u200b", "\x9b"):
            assert hostile.encode() not in terminal.written
        (wide,) = (row for row in terminal.lines() if row.startswith("漢"))
        assert wide.endswith("…")
        (bad,) = (row for row in terminal.lines() if row.startswith("byte "))
        assert "not a record" in bad


@pytest.mark.slow
def test_it_follows_the_size_of_the_terminal(config: Config) -> None:
    """The picture fits sizes down to one cell, and back."""
    with Session("tail", config.dataset.path, width=100, height=30) as terminal:
        terminal.until_shown("dead letters")
        for width, height, first in (
            (40, 10, "…"),
            (1, 1, "…"),
            (200, 50, str(config.dataset.path)),
            (10, 3, "4 records…"),
        ):
            terminal.resize(width, height)
            terminal.screen.reset()
            terminal.until(partial(has, terminal, first))
            assert len(terminal.lines()) == height
        terminal.resize(80, 24)
        terminal.until(lambda: terminal.lines()[-1] == "q or Ctrl-C ends")
        terminal.press(b"q")
        assert terminal.ended() == 0


def has(terminal: Session, first: str) -> bool:
    """Say how the first line begins."""
    return terminal.lines()[0].startswith(first)


@pytest.mark.parametrize("end", [b"\x03", b"q", signal.SIGTERM, signal.SIGHUP])
def test_however_it_ends_the_terminal_is_as_it_was(path: Path, end: bytes | signal.Signals) -> None:
    """Echo, cursor, wrapping and screen are restored, and the exit code is 0."""
    append(path, line())
    with Session("tail", path) as terminal:
        terminal.until_shown("Go on.")
        assert terminal.alternate
        assert terminal.settings != terminal.before
        if isinstance(end, bytes):
            terminal.press(end)
        else:
            terminal.signal(end)
        assert terminal.ended() == 0
        assert terminal.settings == terminal.before
        assert not terminal.alternate
        assert {terminal.screen.WRAP, terminal.screen.CURSOR} <= terminal.screen.mode
        assert "0 records came while you looked" in "".join(terminal.lines())
        assert "Traceback" not in terminal.text()


def test_an_error_gives_the_terminal_back_before_it_is_told(path: Path) -> None:
    """An error restores the terminal as any other end does."""
    path.mkdir()
    with Session("tail", path) as terminal:
        assert terminal.ended() == 3
        assert not terminal.alternate
        assert "streamer: cannot read" in terminal.text()
        assert terminal.settings == terminal.before


def test_ctrl_z_gives_the_terminal_back_and_fg_takes_it_again(path: Path) -> None:
    """Ctrl-Z and fg work as with any full-screen program."""
    append(path, line())
    with Session("tail", path) as terminal:
        terminal.until_shown("Go on.")
        terminal.signal(signal.SIGTSTP)
        terminal.until(lambda: not terminal.alternate)
        _, status = os.waitpid(terminal.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        assert terminal.settings == terminal.before
        append(path, line("meanwhile"))
        terminal.signal(signal.SIGCONT)
        terminal.until_shown("meanwhile")
        assert terminal.alternate
        terminal.press(b"q")
        assert terminal.ended() == 0


def test_keys_do_not_appear_in_the_picture(path: Path) -> None:
    """Typed keys are not echoed, and do not scroll the picture."""
    append(path, line())
    with Session("tail", path) as terminal:
        terminal.until_shown("Go on.")
        terminal.press(b"xyzzy\n\n")
        append(path, line("after the keys"))
        terminal.until_shown("after the keys")
        assert "xyzzy" not in terminal.text()


def test_the_same_picture_is_not_written_twice() -> None:
    """An unchanged picture writes nothing to the terminal."""
    code = (
        "from rich.text import Text; from streamer.commands.tail.terminal import Terminal\n"
        "with Terminal() as terminal:\n"
        "    for _ in range(100): terminal.show(lambda width, height: [Text('the same')])\n"
        "    terminal.show(lambda width, height: [Text('another')])\n"
    )
    with Session(code=code) as terminal:
        assert terminal.ended() == 0
        assert terminal.written.count(b"the same") == 1
        assert terminal.written.count(b"another") == 1


def test_plain_lines_can_be_had_on_a_terminal(path: Path) -> None:
    """--plain prints lines, which stay in the scrollback."""
    append(path, line("one"))
    with Session("tail", path, "--plain") as terminal:
        terminal.until_shown("run-a  turn 3  reward 7  one")
        append(path, line("two"))
        terminal.until_shown("run-a  turn 3  reward 7  two")
        terminal.signal(signal.SIGINT)
        assert terminal.ended() == 0
        assert b"\x1b[?1049h" not in terminal.written


# -- what is looked at -------------------------------------------------------------------------------------


def test_a_look_that_takes_long_is_followed_by_a_long_pause(config: Config, tmp_path: Path) -> None:
    """Sums over millions of spans must not keep a core busy; outdated counts show their age."""
    clock = _Slow()
    with Watch(config.dataset.path, config.dataset.ledger, 10, clock) as watch:
        watch.look()
        assert counts(watch.view()) == 6
        play(tmp_path, "run-3", 1)
        work_off(config)
        clock.passed += SHARE * clock.each / 2
        watch.look()
        assert counts(watch.view()) == 6
        assert watch.view().stale
        clock.passed += SHARE * clock.each / 2
        watch.look()
        assert counts(watch.view()) == 8
        assert not watch.view().stale


class _Slow:
    """A clock on which each question takes its time, so that reading a ledger seems to."""

    each = 1.0

    def __init__(self) -> None:
        self.passed = 0.0

    def __call__(self) -> float:
        self.passed += self.each
        return self.passed


def counts(view: TailView) -> int:
    """Return the lines read, which the six counts add up to."""
    assert view.seen is not None
    assert sum(view.seen.counts.values()) == view.seen.read
    return view.seen.read


def test_nothing_is_new_where_nothing_changed(config: Config, clock: FakeClock) -> None:
    """Without a change, a look reads nothing and reports no change."""
    with Watch(config.dataset.path, config.dataset.ledger, 10, clock.monotonic) as watch:
        clock.advance(10)
        watch.look()
        seen = watch.view().seen
        for _ in range(5):
            clock.advance(10)
            assert not watch.look()
            assert watch.view().seen is seen


def test_what_is_far_behind_is_passed_over(path: Path, clock: FakeClock) -> None:
    """A view that is far behind skips to the newest records."""
    append(path, line("first"))
    with Watch(path, ledger_of(path), 10, clock.monotonic) as watch:
        with path.open("ab") as file:
            for _ in range(80):
                file.write(line("x" * (1 << 20)))
        append(path, line("last"))
        watch.look()
        assert watch.view().newest[-1].reply == "last"
        assert watch.view().came < 80


def test_history_keeps_all_of_a_long_time_in_bounded_memory() -> None:
    """Merged slots keep the sum of all records."""
    history = ArrivalHistory(0.0)
    for second in range(10_000):
        history.add(float(second), 3)
    for width in (1, 7, 80, 500):
        slots = history.slots(width)
        assert len(slots.records) <= min(width, MOST)
        assert sum(slots.records) == 30_000
    assert history.per_minute(9_999.0) == pytest.approx(180, rel=0.05)
    history.add(20_000.0, 0)
    assert history.per_minute(20_000.0) == 0


# -- the picture -------------------------------------------------------------------------------------------

texts = st.text(max_size=60) | st.just(HOSTILE)


@given(texts, texts, st.integers(1, 120), st.integers(1, 40), st.sampled_from(["known", "unknown"]))
def test_no_line_is_wider_and_no_picture_higher_than_the_terminal(
    name: str, reply: str, width: int, height: int, ledger: str
) -> None:
    """It holds for any text, by a count of cells that the code does not use."""
    data = line(reply, run_id=reply, model=reply)
    found = summarize(FileLine(0, len(data), data))
    path = f"/data/{name}.jsonl"
    seen = Snapshot({**dict.fromkeys(State, 0), "appended": 12_345}, {}, path, dataset_lines=12_345, ledger=True)
    view = TailView(
        dataset=path, size=10**9, daemon=None, seen=seen if ledger == "known" else None, age=1.0, stale=False,
        failure=reply, note=reply, came=3, per_minute=3.0, history=ArrivalHistory(0.0), newest=(found,) * 50,
    )  # fmt: skip
    lines = picture(view, width, height)
    assert len(lines) <= height
    for row in lines:
        assert "\n" not in row.plain
        assert 0 <= wcswidth(row.plain) <= width


@given(st.text())
def test_steady_text_is_printable_and_stays_as_it_is(text: str) -> None:
    """Steady text is unchanged by a second pass, and has one width on all terminals."""
    shown = steady(text)
    assert steady(shown) == shown
    assert wcswidth(shown) >= 0
