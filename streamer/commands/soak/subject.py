"""The daemon under test: started, ended, and never trusted."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence

from streamer.commands.soak.agenda import Script
from streamer.commands.soak.child import Children, SoakProcess
from streamer.commands.soak.conversations import LONGEST_LINE
from streamer.commands.soak.place import SoakPlace
from streamer.commands.soak.problem import BrokenPromise, Complain

_PATIENCE = 60.0
"""Seconds for anything that a daemon is asked to do: generous, as a soak may run on a slow disk."""

_LOOK = 0.02
_BATCHES = ((2000, 50), (20, 1), (7, 5), (200, 200))
"""Lines and milliseconds of a batch; SIGHUP goes from one to the next."""

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


class Subject:
    """The daemon, one process after the other. Whatever it does that it should not becomes a problem."""

    def __init__(self, place: SoakPlace, children: Children, complain: Complain) -> None:
        self._place = place
        self._children = children
        self._complain = complain
        self._child: SoakProcess | None = None
        self._reloads = 0
        self._configure()

    def start(self) -> None:
        """Start it; it may take a while until it is up."""
        self._child = self._children.start("daemon", self.command())

    def command(self) -> Sequence[str]:
        """Return what runs a daemon on this dataset."""
        place = self._place
        paths = ["--shards", str(place.shards), "--database", str(place.database), "--dataset", str(place.dataset)]
        return ["streamer", "run", "--config", str(place.config), *paths]

    def check(self) -> None:
        """See that it runs, if it should."""
        if self._child is not None and self._child.status is not None:
            self._fault("daemon_ended", self._child, f"it ended by itself with status {self._child.status}")
            self._child = None

    def up(self) -> Script:
        """Wait until it has recovered and listens to signals."""
        if (child := self._child) is not None:
            yield from self._until(lambda: _logged(child, "started") > 0, child, "come up")

    def kill(self) -> Script:
        """Kill it."""
        if self._child is not None:
            self._child.kill()
            self._child = None
        yield 0.0

    def stop(self) -> Script:
        """End it as a service manager does."""
        yield from self.up()
        if (child := self._child) is not None:
            self._child = None
            child.signal(signal.SIGTERM)
            yield from self._ended(child, "end after SIGTERM", 0)

    def pause(self, seconds: float) -> Script:
        """Stop it in its tracks for a moment."""
        if (child := self._child) is not None:
            child.signal(signal.SIGSTOP)
            yield seconds
            child.signal(signal.SIGCONT)

    def reload(self) -> Script:
        """Change its configuration and tell it."""
        yield from self.up()
        if (child := self._child) is not None:
            before = _logged(child, "reloaded")
            self._reloads += 1
            self._configure()
            child.signal(signal.SIGHUP)
            yield from self._until(lambda: _logged(child, "reloaded") > before, child, "read its configuration again")

    def second(self) -> Script:
        """Start another daemon on the same dataset: it has to leave with status 4."""
        yield from self.up()
        if self._child is not None:
            yield from self._ended(self._children.start("second-daemon", self.command()), "refuse to be the second", 4)

    def _ended(self, child: SoakProcess, what: str, status: int) -> Script:
        yield from self._until(lambda: child.status is not None, child, what)
        if child.status is None:
            child.kill()
        elif child.status != status:
            self._fault("daemon_exit", child, f"it did not {what} with status {status}, but with {child.status}")

    def _until(self, done: Callable[[], bool], child: SoakProcess, what: str) -> Script:
        deadline = time.monotonic() + _PATIENCE
        while not done() and not (child is self._child and child.status is not None):
            if time.monotonic() > deadline:
                self._fault("daemon_stuck", child, f"it did not {what} within {_PATIENCE:g} s")
                return
            yield _LOOK

    def _fault(self, kind: str, child: SoakProcess, what: str) -> None:
        self._complain(BrokenPromise(kind, str(child.log), f"{what}\n{child.said()}"))

    def _configure(self) -> None:
        records, milliseconds = _BATCHES[self._reloads % len(_BATCHES)]
        new = self._place.config.with_suffix(".new")
        new.write_text(_CONFIG.format(longest=LONGEST_LINE, records=records, milliseconds=milliseconds), "utf-8")
        os.replace(new, self._place.config)


def _logged(child: SoakProcess, event: str) -> int:
    """Count an event in a daemon's log."""
    return child.log.read_bytes().count(b'"event": "%b"' % event.encode())
