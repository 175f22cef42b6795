"""Daemons that tests can watch, stop and kill: in this process, in a fork of it, or the executable itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import anyio

from streamer.base.env import Env, no_failpoints
from streamer.base.events import Started
from streamer.base.files import Files, SystemClock
from streamer.daemon.build import open_pipeline
from streamer.daemon.daemon import Daemon
from streamer.daemon.observers.systemd import Notifier
from streamer.daemon.pipeline import Pipeline
from tests.helpers.producer import FakeClock, jsonl

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
    from pathlib import Path

    from streamer.base.events import Emit, Event
    from streamer.base.files import Clock
    from streamer.config import Config

PATIENCE = 30.0
"""Seconds after which something that should happen at once has not happened."""

_OURS = ("STREAMER", "TASKAPP", "SFT", "TURSO", "SQLD", "NOTIFY", "WATCHDOG", "JOURNAL")


def eventually(
    condition: Callable[[], object], what: str = "it did not come to that", *, patience: float = PATIENCE
) -> None:
    """Return as soon as a condition holds; fail if that takes too long."""
    deadline = time.monotonic() + patience
    pause = 0.002
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(pause)
        pause = min(2 * pause, 0.03)


async def soon(condition: Callable[[], object], what: str = "it did not come to that") -> None:
    """As ``eventually``, and let a daemon of this process run meanwhile."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        await anyio.sleep(0.005)


def lines(path: Path) -> int:
    """Return how many whole lines a file has."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def drive(
    config: Config, test: Callable[[Pipeline, FakeClock], Awaitable[None]], clock: FakeClock | None = None
) -> list[Event]:
    """Let a test drive a pipeline that stays open, in a time that stands still; return what it told."""
    told: list[Event] = []
    clock = clock or FakeClock()

    async def main() -> None:
        async with open_pipeline(config, Env(clock=clock, emit=told.append)) as pipeline:
            await test(pipeline, clock)

    anyio.run(main)
    return told


def daemon_of(
    config: Config,
    emit: Emit,
    *,
    files: Files | None = None,
    clock: Clock | None = None,
    failpoint: Callable[[str], None] = no_failpoints,
    kind: type[Daemon] = Daemon,
    manager: str = "",
) -> Daemon:
    """Return a daemon that is told nothing by its environment; ``manager`` is a socket that it tells its state."""
    return kind(
        [config],
        Env(files=files or Files(), clock=clock or SystemClock(), emit=emit, failpoint=failpoint),
        reload=lambda: [config],
        notifier=Notifier({"NOTIFY_SOCKET": manager} if manager else {}),
    )


@asynccontextmanager
async def running(
    config: Config, *, files: Files | None = None, clock: Clock | None = None, kind: type[Daemon] = Daemon
) -> AsyncIterator[list[Event]]:
    """Run a daemon in this process, from its greeting to a clean end by SIGTERM; give what it tells."""
    told: list[Event] = []
    ended = False

    async def run() -> None:
        nonlocal ended
        try:
            await daemon_of(config, told.append, files=files, clock=clock, kind=kind).run()
        finally:
            ended = True

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await soon(lambda: any(isinstance(event, Started) for event in told))
        yield told
        if not ended:  # else there is no one to take the signal
            os.kill(os.getpid(), signal.SIGTERM)


def die() -> None:
    """End this process as a power switch would."""
    os.kill(os.getpid(), signal.SIGKILL)


class Child:
    """A fork of this process that does one thing."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.pid = os.fork()
        self._status: int | None = None
        if not self.pid:
            _do_and_exit(work)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal, unless it has ended."""
        if not self.ended():
            os.kill(self.pid, number)

    def ended(self) -> bool:
        """Say whether it has ended."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = status if pid else None
        return self._status is not None

    def wait(self) -> int:
        """Return its exit code, or minus the number of the signal that ended it."""
        eventually(self.ended, "the child does not end")
        assert self._status is not None
        return os.waitstatus_to_exitcode(self._status)


def _do_and_exit(work: Callable[[], object]) -> None:
    code = 1
    try:
        work()
        code = 0
    except BaseException:  # noqa: BLE001 - a fork must never go on as its parent
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


@contextmanager
def child(work: Callable[[], object]) -> Iterator[Child]:
    """Do something in a fork, which is killed in the end if it still runs."""
    process = Child(work)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def live(config: Config, emit: Emit = lambda _event: None, **more: Any) -> None:
    """Be a daemon until a signal ends it."""
    anyio.run(daemon_of(config, emit, **more).run)


class Executable:
    """The real executable in a folder with ``shards`` and ``traces.db``.

    Args:
        folder: where it works; the dataset lies in ``out``, which may be a link to somewhere else.
        source: more lines for the table [source] of its configuration.
        more: more tables.
        under: a command that runs it.
        scan: how often it looks through the folder.
    """

    def __init__(
        self, folder: Path, source: str = "", more: str = "", under: Sequence[str] = (), scan: str = "200ms"
    ) -> None:
        self.folder = folder
        self._under = under
        self.shards = folder / "shards"
        self.dataset = folder / "out" / "good.jsonl"
        self.log = folder / "log"
        self._config = folder / "config.toml"
        self.shards.mkdir(exist_ok=True)
        self._config.write_text(
            f'[source]\nshards = "shards"\ndatabase = "traces.db"\nscan_interval = "{scan}"\n{source}\n'
            f'[dataset]\npath = "out/good.jsonl"\n[log]\nformat = "json"\nlevel = "debug"\n{more}\n'
        )

    def shard(self, name: str, *values: Any) -> None:
        """Append lines to a shard."""
        with (self.shards / name).open("ab") as file:
            file.write(jsonl(*values))

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start it; its log goes to ``log``."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self._command(*arguments), cwd=self.folder, env=_environment(), stdout=subprocess.DEVNULL, stderr=log
            )

    @contextmanager
    def daemon(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run the daemon until the test is through with it."""
        process = self.start()
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the events of one name from the log."""
        text = self.log.read_text() if self.log.exists() else ""
        found = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines() if line.startswith("{")]
        return [event for event in found if event["event"] == name]

    def peak_memory(self, *arguments: str) -> int:
        """Run it to its end, and return the most bytes that it ever held in memory."""
        # A process begins with the peak of the one that started it: let that be a small one.
        measure = (sys.executable, "-c", _MEASURE)
        done = subprocess.run(
            [*measure, *self._command("--once", *arguments)], cwd=self.folder, env=_environment(),
            capture_output=True, check=True, text=True,
        )  # fmt: skip
        self.log.write_text(done.stderr)
        return int(done.stdout.splitlines()[-1]) * 1024

    def _command(self, *arguments: str) -> list[str]:
        return [*self._under, sys.executable, "-m", "streamer", "run", "--config", str(self._config), *arguments]


_MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith(_OURS)}
