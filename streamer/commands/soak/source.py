"""The producer's process: started, killed, started again."""

from __future__ import annotations

import signal
import time

from streamer.commands.soak.agenda import Script
from streamer.commands.soak.child import Children, SoakProcess
from streamer.commands.soak.place import SoakPlace
from streamer.commands.soak.problem import BrokenPromise, Complain

_PATIENCE = 30.0
_LOOK = 0.02


class SoakSource:
    """One producer after the other."""

    def __init__(self, place: SoakPlace, seed: int, children: Children, complain: Complain) -> None:
        self._place = place
        self._seed = seed
        self._children = children
        self._complain = complain
        self._generation = 0
        self._child: SoakProcess | None = None

    def start(self) -> None:
        """Start the next producer; what the last one left unfinished stays so."""
        options = ["--folder", str(self._place.folder), "--seed", str(self._seed)]
        which = ["--generation", str(self._generation)]
        self._child = self._children.start("producer", ["streamer.commands.soak.producer", *options, *which])
        self._generation += 1

    def check(self) -> None:
        """See that it runs, if it should."""
        if self._child is not None and self._child.status is not None:
            self._complain(
                BrokenPromise("producer_ended", str(self._child.log), f"it ended by itself\n{self._child.said()}")
            )
            self._child = None

    def kill(self) -> None:
        """Kill it."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def stop(self) -> Script:
        """End it between two acts: what it was about to do does not come any more, but for a last judge."""
        child, self._child = self._child, None
        if child is None:
            return
        child.signal(signal.SIGTERM)
        deadline = time.monotonic() + _PATIENCE
        while child.status is None and time.monotonic() < deadline:
            yield _LOOK
        if child.status not in (0, -signal.SIGTERM):  # the latter if it had hardly started
            child.kill()
            self._complain(BrokenPromise("producer_ended", str(child.log), f"status {child.status}\n{child.said()}"))
