"""Health of the daemon: whether its loop comes round, and its active failures.

The daemon's thread writes and any other reads: each change is one assignment of a new value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from streamer.base.events import Event, Failure, FailureEnded, Started, Stopped

STUCK_AFTER = 60.0
"""Seconds without a heartbeat after which the loop counts as stuck: ``WatchdogSec`` of the systemd units."""


class Health:
    """An observer of events that knows the daemon's health.

    Args:
        monotonic: Returns seconds that never go back, as the daemon's clock does.

    ``failures`` are the active failures by operation.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._last_heartbeat = monotonic()
        self._recovered = False
        self._reading = False
        self.failures: Mapping[str, Failure] = {}

    def __call__(self, event: Event) -> None:
        """Update the health by an event."""
        if isinstance(event, Failure):
            self.failures = {**self.failures, event.op: event}
        elif isinstance(event, FailureEnded):
            self.failures = {op: failure for op, failure in self.failures.items() if op != event.op}
        elif isinstance(event, Started):
            self._recovered = True
        elif isinstance(event, Stopped):
            self._recovered = self._reading = False

    def heartbeat(self) -> None:
        """Record that the loop has come round, or that a recovery has made a step."""
        self._last_heartbeat = self._monotonic()
        self._reading = self._recovered

    @property
    def silence(self) -> float:
        """Seconds since the last heartbeat."""
        return self._monotonic() - self._last_heartbeat

    @property
    def is_stuck(self) -> bool:
        """Whether the last heartbeat is too long ago."""
        return self.silence > STUCK_AFTER

    def stuck(self) -> str:
        """Return since when the loop is stuck, as text."""
        return f"the loop has not come round for {self.silence:.0f} s, the limit is {STUCK_AFTER:.0f} s"

    def missing(self) -> list[str]:
        """Return why rollouts do not become dataset lines, as texts; empty if they do.

        Anyone may read the texts: they name no path and no cause. The log does.
        """
        found = [f"cannot {op}: see the log" for op in self.failures]
        if self.is_stuck:
            found.append(self.stuck())
        if not found and not self._reading:
            found.append("dataset and ledger are being recovered")
        return found


class Healths:
    """Health of a daemon with several datasets: as good as the worst of them."""

    def __init__(self, each: Sequence[Health]) -> None:
        self._each = each

    @property
    def is_stuck(self) -> bool:
        """Whether the last heartbeat is too long ago."""
        return self._each[0].is_stuck

    def stuck(self) -> str:
        """Return since when the loop is stuck, as text."""
        return self._each[0].stuck()

    def missing(self) -> list[str]:
        """Return the reasons of each dataset, by its number in the configuration; empty if all are well."""
        if self.is_stuck:
            return [self.stuck()]
        return [f"dataset {number}: {text}" for number, health in enumerate(self._each, 1) for text in health.missing()]
