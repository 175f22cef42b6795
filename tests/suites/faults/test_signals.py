"""SIGTERM and SIGHUP at every point of the path, and a clock that is set (case 13)."""

from __future__ import annotations

import os
import signal
import socket
import threading
import types
from functools import partial
from typing import TYPE_CHECKING

import anyio
import pytest

from streamer.base.events import Committed, Reloaded
from streamer.base.files import Files
from streamer.core.records.model import State
from streamer.store.views.snapshot import snapshot
from tests.helpers.producer import (
    FakeClock,
    accounts,
    add_outcome,
    conversations,
    dialogue,
    jsonl,
    make_traces,
    messages,
    records,
    settings,
    work_off,
)
from tests.suites.faults.process import PATIENCE, child, daemon_of, die, drive, eventually, lines, live

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from pathlib import Path
    from typing import Any

    from streamer.base.events import Event
    from streamer.config import Config
    from streamer.daemon.pipeline import Pipeline

POINTS = (
    "recovery: tail mended", "recovery: some lines adopted", "read", "dead letters written", "appended", "synced",
    "committed",
)  # fmt: skip
ADOPTED = 2100
"""Lines that the dataset is ahead of its ledger, so that a recovery passes every point."""


def values(start: int, stop: int) -> list[dict[str, Any]]:
    """Return records of one run."""
    return [messages("run", turn, f"{turn}") for turn in range(start, stop)]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Return the settings of a folder where a daemon died after a sync, and more has come since."""
    (tmp_path / "shards").mkdir()
    add_outcome(make_traces(tmp_path / "traces.db"), "run", 1, 9)
    shard = tmp_path / "shards" / "sft_run.jsonl"
    shard.write_bytes(jsonl(*values(0, ADOPTED)))
    config = settings(tmp_path, batch=5000)
    with child(partial(work_off, config, failpoint=lambda at: die() if at == "synced" else None)) as process:
        assert process.wait() == -signal.SIGKILL
    shard.write_bytes(jsonl(*values(0, ADOPTED)) + b"nonsense\n" + jsonl(*values(ADOPTED, ADOPTED + 20)))
    return settings(tmp_path, batch=1000)


class ToMyself:
    """Sends this process a signal at the n-th pass of a point."""

    def __init__(self, point: str, number: signal.Signals, times: int = 1) -> None:
        self._point = point
        self._number = number
        self._left = times

    def __call__(self, point: str) -> None:
        """Pass a point."""
        if point == self._point:
            self._left -= 1
            if not self._left:
                os.kill(os.getpid(), self._number)


def is_whole(config: Config) -> None:
    """See that everything is there, once."""
    assert conversations(records(config)) == conversations(values(0, ADOPTED + 20))
    seen = accounts(config)
    assert (seen.counts["appended"], seen.counts["dead_lettered"], seen.adopted) == (ADOPTED + 20, 1, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("point", POINTS)
def test_a_daemon_that_is_told_to_stop_anywhere_finishes_its_batch_and_ends_cleanly(
    config: Config, point: str, number: signal.Signals
) -> None:
    """Exit code 0, and a ledger that agrees with the dataset to the byte; the next one has nothing to mend."""
    with child(partial(live, config, failpoint=ToMyself(point, number))) as process:
        assert process.wait() == 0
    assert not list(config.dataset.path.parent.glob("*-wal"))  # before anyone looks
    seen = snapshot(config.dataset.path)
    assert seen.dataset_bytes == config.dataset.path.stat().st_size
    assert seen.dataset_lines == lines(config.dataset.path)
    assert seen.pid is None
    if seen.read:
        accounts(config)
    work_off(config)
    is_whole(config)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("point", POINTS)
def test_a_daemon_that_is_told_to_reload_anywhere_goes_on(config: Config, point: str, times: int) -> None:
    """It says so, works everything off, and still ends cleanly."""
    log = config.dataset.path.parent / "events"

    def emit(event: Event) -> None:
        with log.open("a") as file:
            file.write(f"{event.name}\n")

    at = ToMyself(point, signal.SIGHUP, times)
    with child(partial(live, config, emit=emit, failpoint=at)) as process:
        eventually(lambda: lines(config.dataset.path) == ADOPTED + 20)
        eventually(lambda: snapshot(config.dataset.path).counts["appended"] == ADOPTED + 20)
        if times == 1:
            eventually(lambda: "reloaded\n" in log.read_text())
        process.kill(signal.SIGTERM)
        assert process.wait() == 0
    assert log.read_text().count("reloaded\n") <= 1
    assert log.read_text().endswith("stopped\n")
    is_whole(config)


# -- at every await ----------------------------------------------------------------------------------------

FEW = 14
"""Lines that are read in batches of three, after as many were adopted."""


@types.coroutine
def told_of_each_await(work: Coroutine[Any, Any, None], suspended: Callable[[], None]) -> Generator[Any, Any, None]:
    """Do some work, and call ``suspended`` each time that it waits for something, before it waits."""
    steps = work.__await__()
    go_on: Callable[[], Any] = partial(next, steps)
    while True:
        try:
            waits_for = go_on()
        except StopIteration:
            return
        suspended()
        try:
            yield waits_for
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the work's
            go_on = partial(steps.throw, error)
        else:
            go_on = partial(next, steps)


class Interrupted:
    """A daemon's life in which a signal comes at the n-th await; ``often`` at every later one, too.

    What was signalled and whether all lines were committed before stands in ``report`` afterwards.
    """

    def __init__(self, config: Config, number: signal.Signals, times: int, *, often: bool = False) -> None:
        self._config = config
        self._number = number
        self._times = times
        self._often = often
        self._awaits = 0
        self._callbacks: list[Event] = []
        self._stopped = False
        self.report = config.dataset.path.with_name("report")

    def live(self) -> None:
        """Be that daemon."""
        daemon = daemon_of(self._config, self._callbacks.append)
        anyio.run(told_of_each_await, daemon.run(), self._suspended)

    def _suspended(self) -> None:
        self._awaits += 1
        done = sum(event.read for event in self._callbacks if isinstance(event, Committed)) >= FEW + 1
        if self._awaits == self._times or (self._often and self._awaits > self._times):
            if self._awaits == self._times:
                self.report.write_text("late" if done else "in time")
            os.kill(os.getpid(), self._number)
        reloaded = sum(isinstance(event, Reloaded) for event in self._callbacks)
        assert reloaded <= 1
        if self._number == signal.SIGHUP and done and reloaded and not self._stopped:
            self._stopped = True
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Return the settings of a folder as in ``config``, with few lines, of which some are to be adopted."""
    folder = tmp_path_factory.mktemp("few")
    (folder / "shards").mkdir()
    add_outcome(make_traces(folder / "traces.db"), "run", 1, 9)
    shard = folder / "shards" / "sft_run.jsonl"
    shard.write_bytes(jsonl(*values(0, FEW // 2)))
    config = settings(folder, batch=3)
    with child(partial(work_off, config, failpoint=lambda at: die() if at == "synced" else None)) as process:
        assert process.wait() == -signal.SIGKILL
    shard.write_bytes(jsonl(*values(0, FEW)) + b"nonsense\n")
    return config


def begun_again(config: Config) -> Callable[[], None]:
    """Return what lays the dataset, and all that lies beside it, as it is now, there again."""
    there = {path: path.read_bytes() for path in config.dataset.path.parent.iterdir()}

    def begin_again() -> None:
        for path in config.dataset.path.parent.iterdir():
            path.unlink()
        for path, data in there.items():
            path.write_bytes(data)

    return begin_again


@pytest.mark.parametrize("signals", ["SIGTERM", "SIGTERM again and again", "SIGHUP"])
def test_a_signal_at_any_await_loses_nothing_and_doubles_nothing(few: Config, signals: str) -> None:
    """From the first await of a daemon's life to its last; told to stop it ends cleanly, told to reload it goes on."""
    number, often = signal.Signals[signals.split(maxsplit=1)[0]], " " in signals
    begin_again = begun_again(few)
    before = few.dataset.path.read_bytes()
    late = times = 0
    while late < 5:
        begin_again()
        times += 1
        life = Interrupted(few, number, times, often=often)
        with child(life.live) as process:
            code = process.wait()
        now = few.dataset.path.read_bytes()
        assert now.startswith(before)
        assert code == 0 or (code == -number and (times <= 2 or often)), (times, code)
        if code and not often:
            assert now == before  # no one listened yet, and nothing was done yet
        elif not code:
            assert not list(few.dataset.path.parent.glob("*-wal"))
        late += life.report.read_text() == "late"
        life.report.unlink()
        work_off(few)
        assert conversations(records(few)) == conversations(values(0, FEW))
        seen = accounts(few)
        assert (seen.counts["appended"], seen.counts["dead_lettered"], seen.adopted) == (FEW, 1, 0)
    begin_again()
    assert times > 50


# -- a stop that takes too long ----------------------------------------------------------------------------


class Stuck(Files):
    """A disk that does not come back from a call: the n-th sync, or the write before it, waits for ever."""

    def __init__(self, call: str, times: int, stuck: Path) -> None:
        self._call = call
        self._left = times
        self._stuck = stuck

    def _wait_for_ever(self, call: str) -> None:
        self._left -= call == self._call
        if call == self._call and not self._left:
            self._stuck.touch()
            threading.Event().wait()

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """Write half of it, and no more."""
        if self._call == "write" and self._left == 1:
            super().write(fd, data[: len(data) // 2])
        self._wait_for_ever("write")
        return super().write(fd, data)

    def fdatasync(self, fd: int) -> None:
        """Sync, or never come back."""
        self._wait_for_ever("sync")
        super().fdatasync(fd)


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("call", ["write", "sync"])
def test_a_daemon_that_cannot_stop_in_time_is_killed_and_loses_nothing(tmp_path: Path, call: str, times: int) -> None:
    """``TimeoutStopSec`` runs out: SIGTERM is heard, the disk does not answer, and SIGKILL comes."""
    (tmp_path / "shards").mkdir()
    add_outcome(make_traces(tmp_path / "traces.db"), "run", 1, 9)
    (tmp_path / "shards" / "sft_run.jsonl").write_bytes(jsonl(*values(0, 20)))
    config = settings(tmp_path, batch=4)
    stuck = tmp_path / "stuck"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{tmp_path.name}-{os.getpid()}")
        manager.settimeout(PATIENCE)
        name = f"@{tmp_path.name}-{os.getpid()}"
        with child(partial(live, config, files=Stuck(call, times, stuck), manager=name)) as process:
            while b"READY=1" not in manager.recv(1 << 16):
                pass
            eventually(stuck.exists)
            process.kill(signal.SIGTERM)
            while b"STOPPING=1" not in manager.recv(1 << 16):
                pass
            assert not process.ended()
            process.kill(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
    before = config.dataset.path.read_bytes()
    work_off(config)
    assert config.dataset.path.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    assert conversations(records(config)) == conversations(values(0, 20))
    assert accounts(config).adopted == 0


# -- clocks ------------------------------------------------------------------------------------------------


class SetClock(FakeClock):
    """A clock whose wall time someone sets; what is monotonic stays so."""

    def __init__(self) -> None:
        super().__init__()
        self.set_by = 0.0

    def now(self) -> float:
        """Return seconds since 1970-01-01 UTC, as someone set them."""
        return super().now() + self.set_by


@pytest.mark.parametrize("days", [-1, -400, 1, 400])
def test_a_clock_that_is_set_changes_no_verdict(tmp_path: Path, days: int) -> None:
    """Back or forth, between any two looks: late outcomes, corrections and new shards are all noticed."""
    (tmp_path / "shards").mkdir()
    traces = make_traces(tmp_path / "traces.db")
    add_outcome(traces, "run", 1, 9)
    config = settings(tmp_path)
    clock = SetClock()
    expected = []

    async def test(pipeline: Pipeline, clock: FakeClock) -> None:
        assert isinstance(clock, SetClock)
        for turn in range(4):
            run = f"late-{turn}"
            some = [dialogue("run", turn, f"run {turn}"), dialogue(run, 0, run)]
            (config.source.shards / f"{turn}.jsonl").write_bytes(jsonl(*some))
            await pipeline.drain()
            clock.set_by = days * 86_400.0 if turn % 2 == 0 else 0.0
            await pipeline.drain()
            seen = accounts(config)
            assert seen.counts[State.WAITING] + seen.counts[State.EXPIRED] == 1
            assert (seen.oldest_waiting_seconds or 0.0) >= 0.0
            add_outcome(traces, run, 1, 9)
            for _ in range(2):
                clock.advance(60.0)
                await pipeline.drain()
            expected.extend(some)
            assert conversations(records(config)) == conversations(expected)

    drive(config, test, clock)
    assert accounts(config).counts["appended"] == len(expected)
