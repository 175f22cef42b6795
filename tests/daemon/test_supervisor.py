"""The life of one dataset among others: it fails, waits and recovers alone."""

from __future__ import annotations

import errno
import os
import signal
from typing import TYPE_CHECKING

import anyio
import msgspec
import pytest

from streamer.base.env import Env
from streamer.base.errors import UnavailableError
from streamer.base.events import Event, FailureBegan, FailureEnded, Started
from streamer.base.files import Files
from streamer.core.records.model import State
from streamer.daemon.daemon import Daemon, Listeners
from streamer.daemon.observers.health import Health, Healths
from streamer.daemon.observers.systemd import Notifier
from streamer.daemon.status import DatasetStatus, StatusText
from streamer.store.ledger.ledger import LineCounts
from tests.helpers.producer import accounts, add_outcome, dialogue, jsonl, make_traces, settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from streamer.base.events import Emit
    from streamer.config import Config

PATIENCE = 20.0


class HalfDisk(Files):
    """Real files; those below one folder cannot be written to while ``is_full``."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self.is_full = False

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """Write, or say that there is no room."""
        if self.is_full and os.readlink(f"/proc/self/fd/{fd}").startswith(self._folder):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(fd, data)


def config_of(folder: Path, name: str) -> Config:
    """Return the configuration for one of several datasets."""
    config = settings(folder)
    path = folder / name / "good.jsonl"
    dataset = msgspec.structs.replace(config.dataset, path=path, ledger=path.with_name("good.jsonl.ledger"))
    return msgspec.structs.replace(config, dataset=dataset)


def lines(config: Config) -> int:
    """Return how many lines a dataset has, if it is there."""
    path = config.dataset.path
    return path.read_bytes().count(b"\n") if path.exists() else 0


async def until(condition: Callable[[], object]) -> None:
    """Return as soon as a condition holds; fail if that takes too long."""
    with anyio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 - a thread makes it so
            await anyio.sleep(0.01)


@pytest.mark.parametrize("broken", ["a", "b"])
def test_a_disk_that_is_full_stops_one_dataset_and_no_other(tmp_path: Path, broken: str) -> None:
    """Whichever has its turn first. What it missed it reads alone; each is told of what is its own."""
    (tmp_path / "shards").mkdir()
    add_outcome(make_traces(tmp_path / "traces.db"), "run", 1, 9)
    configs = {name: config_of(tmp_path, name) for name in "ab"}
    told: dict[str, list[Event]] = {"a": [], "b": []}
    disk = HalfDisk(tmp_path / broken)
    fine = "b" if broken == "a" else "a"

    def of(config: Config) -> Emit:
        return told[config.dataset.path.parent.name].append

    def shard(name: str, *turns: int) -> None:
        (tmp_path / "shards" / name).write_bytes(jsonl(*(dialogue("run", turn, f"turn {turn}") for turn in turns)))

    async def main() -> None:
        daemon = Daemon(
            list(configs.values()),
            Env(files=disk),
            reload=lambda: list(configs.values()),
            notifier=Notifier({}),
            listeners=Listeners(emit_for=of),
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(daemon.run)
            shard("1.jsonl", 0, 1)
            await until(lambda: all(lines(config) == 2 for config in configs.values()))
            disk.is_full = True
            shard("2.jsonl", 2, 3, 4)
            await until(lambda: any(isinstance(event, FailureBegan) for event in told[broken]))
            await until(lambda: lines(configs[fine]) == 5)
            shard("3.jsonl", 5)
            await until(lambda: lines(configs[fine]) == 6)
            assert lines(configs[broken]) == 2
            disk.is_full = False
            await until(lambda: lines(configs[broken]) == 6)
            await until(lambda: any(isinstance(event, FailureEnded) for event in told[broken]))
            os.kill(os.getpid(), signal.SIGTERM)

    anyio.run(main)
    assert not any(isinstance(event, FailureBegan) for event in told[fine])
    for config in configs.values():
        assert accounts(config).counts["appended"] == 6


class TestText:
    """What the service manager is told of several datasets."""

    def test_of_one_it_is_what_it_was(self, tmp_path: Path) -> None:
        """In full."""
        texts: list[str] = []
        take = StatusText(texts.append).updater(tmp_path / "a.jsonl")
        take(status(3, 2, behind=0.04))
        assert texts == ["3 records from 1 rollout; 2 waiting; 40 ms behind"]

    def test_of_several_it_is_a_sum_with_what_does_not_work(self, tmp_path: Path) -> None:
        """Records are added up; all wait for the same outcomes."""
        texts: list[str] = []
        text = StatusText(texts.append)
        first, second = text.updater(tmp_path / "a.jsonl"), text.updater(tmp_path / "b.jsonl")
        first(status(3, 2, behind=0.04))
        second(status(4, 1, behind=0.5))
        error = UnavailableError("append to the dataset", "b.jsonl", "no room")
        second(DatasetStatus(None, None, error))
        assert texts == [
            "2 datasets: 3 records; 2 waiting; 40 ms behind",
            "2 datasets: 7 records; 2 waiting; 500 ms behind",
            "2 datasets: 3 records; 2 waiting; 40 ms behind; b.jsonl: cannot append to the dataset: no room",
        ]


def status(records: int, waiting: int, behind: float | None = None) -> DatasetStatus:
    """Return the status of a dataset."""
    return DatasetStatus(LineCounts(dict.fromkeys(State, 0) | {State.ACCEPTED: records}, waiting, 1), behind, None)


def test_the_health_of_several_datasets_is_that_of_the_worst() -> None:
    """Whoever asks reads its number, no path; the log has the rest."""
    healths = [Health(lambda: 0.0), Health(lambda: 0.0)]
    together = Healths(healths)
    assert len(together.missing()) == 2
    for health in healths:
        health(Started("x.jsonl", 0, "", "", ""))
        health.heartbeat()
    assert together.missing() == []
    healths[1](FailureBegan.of(UnavailableError("append to the dataset", "x.jsonl", "no room")))
    assert together.missing() == ["dataset 2: cannot append to the dataset: see the log"]
    assert not together.is_stuck
