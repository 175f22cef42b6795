"""SIGTERM and SIGHUP at every point of the path, and a clock that is set (case 13)."""

from __future__ import annotations

import os
import signal
from functools import partial
from typing import TYPE_CHECKING

import pytest

from streamer.model import State
from streamer.snapshot import snapshot
from tests.faults.process import child, drive, eventually, lines, live
from tests.producer import (
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

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from streamer.config import Config
    from streamer.events import Event
    from streamer.pipeline import Pipeline

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
    with child(partial(work_off, config, at=lambda at: os.abort() if at == "synced" else None)) as process:
        assert process.wait() == -signal.SIGABRT
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
    with child(partial(live, config, at=ToMyself(point, number))) as process:
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
    with child(partial(live, config, emit=emit, at=at)) as process:
        eventually(lambda: lines(config.dataset.path) == ADOPTED + 20)
        eventually(lambda: snapshot(config.dataset.path).counts["appended"] == ADOPTED + 20)
        if times == 1:
            eventually(lambda: "reloaded\n" in log.read_text())
        process.kill(signal.SIGTERM)
        assert process.wait() == 0
    assert log.read_text().count("reloaded\n") <= 1
    assert log.read_text().endswith("stopped\n")
    is_whole(config)


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
            assert seen.counts[State.WAITING] + seen.counts[State.NEVER_SCORED] == 1
            assert (seen.oldest_waiting_seconds or 0.0) >= 0.0
            add_outcome(traces, run, 1, 9)
            for _ in range(2):
                clock.advance(60.0)
                await pipeline.drain()
            expected.extend(some)
            assert conversations(records(config)) == conversations(expected)

    drive(config, test, clock)
    assert accounts(config).counts["appended"] == len(expected)
