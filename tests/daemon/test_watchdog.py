"""The watchdog's beat: sent while work gets on, missed when it does not."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from streamer.base.env import Env
from streamer.base.files import Files, SystemClock
from streamer.daemon.daemon import Daemon
from streamer.daemon.observers.systemd import Notifier
from streamer.daemon.watchdog import Heartbeat
from tests.helpers.place import PATIENCE
from tests.helpers.producer import FakeClock, add_outcome, dialogue, jsonl, make_traces, records, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from streamer.config import Config


class Manager:
    """The service manager's end of the socket."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(0)
        self.environ = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "40000"}

    def beats(self) -> int:
        """Return how many beats have come since it was last asked."""
        return sum(message == b"WATCHDOG=1" for message in self._messages())

    def _messages(self) -> Iterator[bytes]:
        while True:
            try:
                yield self._socket.recv(4096)
            except BlockingIOError:
                return

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """Return a manager that wants to hear of the daemon 25 times a second."""
    made = Manager(tmp_path / "notify")
    yield made
    made.close()


class CountingClock(SystemClock):
    """The machine's clock, which counts how often the pulse has looked for progress."""

    looks = 0

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds``."""
        await super().sleep(seconds)
        self.looks += 1


class StuckDisk(Files):
    """A disk that stops to answer."""

    def __init__(self) -> None:
        self.is_stuck = threading.Event()
        self.answers = threading.Event()
        self.answers.set()

    def fdatasync(self, fd: int) -> None:
        """Return when the disk answers again."""
        if not self.answers.is_set():
            self.is_stuck.set()
        self.answers.wait()
        super().fdatasync(fd)


def test_a_beat_needs_progress_since_the_last_one(manager: Manager) -> None:
    """Whoever looks for it, however often."""

    async def main() -> None:
        clock = FakeClock()
        pulse = Heartbeat(Notifier(manager.environ), clock)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pulse.run)
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
            assert clock.passed > 0
            assert manager.beats() == 1  # the first one: it has begun
            pulse.progress()
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
            assert manager.beats() == 1
            tasks.cancel_scope.cancel()

    anyio.run(main)


def test_without_a_watchdog_there_is_no_pulse() -> None:
    """And nothing that wakes an idle process up."""
    pulse = Heartbeat(Notifier({}), FakeClock())
    anyio.run(pulse.run)
    assert pulse.interval is None


@pytest.mark.slow
def test_an_idle_daemon_sends_its_beats_and_one_whose_disk_hangs_does_not(tmp_path: Path, manager: Manager) -> None:
    """The loop is well, and the thread is stuck: only the beat can tell."""
    config = settings(tmp_path)
    config.source.shards.mkdir()
    add_outcome(make_traces(tmp_path / "traces.db"), "good", 3, 10)
    disk, clock = StuckDisk(), CountingClock()

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            env = Env(files=disk, clock=clock)
            daemon = Daemon([config], env, reload=lambda: [config], notifier=Notifier(manager.environ))
            tasks.start_soon(daemon.run)
            for _ in range(20):
                await until(manager.beats)
            disk.answers.clear()
            write(config, 1)
            await until(disk.is_stuck.is_set)
            await looked(clock, 2)  # what was under way is over
            manager.beats()
            await looked(clock, 20)
            assert manager.beats() == 0
            disk.answers.set()
            await until(lambda: len(records(config)) == 1)
            await until(manager.beats)
            tasks.cancel_scope.cancel()

    try:
        anyio.run(main)
    finally:
        disk.answers.set()


def write(config: Config, lines: int) -> None:
    """Write a shard."""
    values = (dialogue("good", turn, f"line {turn}") for turn in range(lines))
    (config.source.shards / "a.jsonl").write_bytes(jsonl(*values))


async def looked(clock: CountingClock, times: int) -> None:
    """Wait until the pulse has looked for progress so many times more."""
    goal = clock.looks + times
    await until(lambda: clock.looks >= goal)


async def until(condition: Callable[[], object]) -> None:
    """Return as soon as a condition holds; fail if that takes too long."""
    with anyio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 - another process or thread makes it so
            await anyio.sleep(0.01)
