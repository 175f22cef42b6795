"""The two processes of a soak: the daemon under test, and the producer that it reads from. Neither is trusted."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from signal import SIGCONT, SIGHUP, SIGKILL, SIGSTOP, SIGTERM

from streamer.commands.simulation.process import MODULE, ChildProcess
from streamer.commands.soak.agenda import Script
from streamer.commands.soak.conversations import LONGEST_LINE
from streamer.commands.soak.problem import BrokenPromise, Complain
from streamer.commands.soak.workspace import SoakWorkspace

_PATIENCE = 60.0
"""Seconds for anything that a process is asked to do: generous, as a soak may run on a slow disk."""

_POLL_SECONDS = 0.02
_BATCHES = ((2000, 50), (20, 1), (7, 5), (200, 200))
"""Records and milliseconds of a batch; each SIGHUP goes on to the next one."""

_CONFIG = """\
[source]
scan_interval = "1s"
max_line_bytes = {longest}
[join]
never_scored_after = "3s"
[batch]
records = {records}
milliseconds = {milliseconds}
[log]
format = "json"
"""


class Children(ExitStack):
    """Starts modules of streamer as processes and, as a context manager, kills all of them in the end.

    Args:
        logs: Folder for the logs, one file for each process.
    """

    def __init__(self, logs: Path) -> None:
        super().__init__()
        self._logs = logs
        self._started = 0

    def start(self, name: str, arguments: Sequence[str]) -> ChildProcess:
        """Start a module."""
        self._started += 1
        log = self._logs / f"{self._started:05}-{name}.log"
        # SIGKILL, as a paused process would not react to anything milder.
        child = ChildProcess([*MODULE, *arguments], log, at_parent_death=SIGKILL)
        self.callback(child.kill)
        return child


class _Subject:
    """One process after the other. Anything that a process does wrong becomes a broken promise.

    Args:
        name: The process in logs and in the kinds of broken promises.
        workspace: Paths of the soak.
        children: Starts the processes.
        complain: Called with every broken promise.
    """

    def __init__(self, name: str, workspace: SoakWorkspace, children: Children, complain: Complain) -> None:
        self._name = name
        self._workspace = workspace
        self._children = children
        self._complain = complain
        self._child: ChildProcess | None = None

    def check(self) -> None:
        """Complain if the process has ended by itself."""
        if self._child is not None and self._child.status is not None:
            self._fault("ended", self._child, f"it ended by itself with status {self._child.status}")
            self._child = None

    def kill(self) -> None:
        """Kill the process."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def _start(self, arguments: Sequence[str]) -> None:
        self._child = self._children.start(self._name, arguments)

    def _stop(self, *statuses: int) -> Script:
        """End the process as a service manager does."""
        child, self._child = self._child, None
        if child is not None:
            child.signal(SIGTERM)
            yield from self._await_end(child, "end after SIGTERM", *statuses)

    def _await_end(self, child: ChildProcess, act: str, *statuses: int) -> Script:
        yield from self._until(lambda: child.status is not None, child, act)
        if child.status is None:
            child.kill()
        elif child.status not in statuses:
            self._fault("exit", child, f"it did not {act} with status {statuses[0]}, but with {child.status}")

    def _until(self, done: Callable[[], bool], child: ChildProcess, act: str) -> Script:
        deadline = time.monotonic() + _PATIENCE
        while not done() and not (child is self._child and child.status is not None):
            if time.monotonic() > deadline:
                self._fault("stuck", child, f"it did not {act} within {_PATIENCE:g} s")
                return
            yield _POLL_SECONDS

    def _fault(self, kind: str, child: ChildProcess, what: str) -> None:
        text = "\n".join([what, *child.last_lines()])
        self._complain(BrokenPromise(f"{self._name}_{kind}", str(child.log), text))


class SoakSource(_Subject):
    """The producers of a soak; ``seed`` decides what they write."""

    def __init__(self, workspace: SoakWorkspace, seed: int, children: Children, complain: Complain) -> None:
        super().__init__("producer", workspace, children, complain)
        self._options = ("--folder", str(workspace.folder), "--seed", str(seed))
        self._generation = 0

    def start(self) -> None:
        """Start the next producer; unfinished work of the one before stays unfinished."""
        generation = ("--generation", str(self._generation))
        self._start(["streamer.commands.soak.producer", *self._options, *generation])
        self._generation += 1

    def stop(self) -> Script:
        """Stop the producer between two acts; before it ends, it corrects the newest outcomes."""
        return self._stop(0, -SIGTERM)  # the latter if it had hardly started


class DaemonUnderTest(_Subject):
    """The daemons of a soak."""

    def __init__(self, workspace: SoakWorkspace, children: Children, complain: Complain) -> None:
        super().__init__("daemon", workspace, children, complain)
        self._reloads = 0
        self._configure()

    def start(self) -> None:
        """Start a daemon, without waiting until it is up."""
        self._start(self._command())

    def up(self) -> Script:
        """Wait until the daemon has recovered and handles signals."""
        if (child := self._child) is not None:
            yield from self._until(lambda: _logged(child, "started") > 0, child, "come up")

    def stop(self) -> Script:
        """Stop the daemon as a service manager does."""
        yield from self.up()
        yield from self._stop(0)

    def pause(self, seconds: float) -> Script:
        """Freeze the daemon for a moment."""
        if (child := self._child) is not None:
            child.signal(SIGSTOP)
            yield seconds
            child.signal(SIGCONT)

    def reload(self) -> Script:
        """Change the daemon's configuration and let it reload."""
        yield from self.up()
        if (child := self._child) is not None:
            before = _logged(child, "reloaded")
            self._reloads += 1
            self._configure()
            child.signal(SIGHUP)
            yield from self._until(lambda: _logged(child, "reloaded") > before, child, "read its configuration again")

    def second(self) -> Script:
        """Start another daemon on the same dataset: it has to exit with status 4."""
        yield from self.up()
        if self._child is not None:
            second = self._children.start("second-daemon", self._command())
            yield from self._await_end(second, "refuse to be the second", 4)

    def _command(self) -> Sequence[str]:
        return ["streamer", "run", "--config", str(self._workspace.config), *self._workspace.options()]

    def _configure(self) -> None:
        records, milliseconds = _BATCHES[self._reloads % len(_BATCHES)]
        new = self._workspace.config.with_suffix(".new")
        new.write_text(_CONFIG.format(longest=LONGEST_LINE, records=records, milliseconds=milliseconds), "utf-8")
        os.replace(new, self._workspace.config)


def _logged(child: ChildProcess, event: str) -> int:
    """Return how often an event stands in a daemon's log."""
    return child.log.read_bytes().count(b'"event": "%b"' % event.encode())
