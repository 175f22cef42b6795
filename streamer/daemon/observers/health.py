"""Whether the daemon's loop comes round, and what keeps it from reading and writing.

It is told in the daemon's thread and asked in any other: each change is one assignment of a new value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from streamer.base.events import Event, Failure, FailureEnded, Started, Stopped

STUCK_AFTER = 60.0
"""Seconds without a beat after which the loop counts as stuck: ``WatchdogSec`` of the systemd units."""


class Health:
    """An observer that knows how the daemon is.

    Args:
        monotonic: returns seconds that never go back, as the daemon's clock does.

    ``troubles`` are the failures that are not over, by what was being done.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._beat_at = monotonic()
        self._recovered = False
        self._reading = False
        self.failures: Mapping[str, Failure] = {}

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        if isinstance(event, Failure):
            self.failures = {**self.failures, event.op: event}
        elif isinstance(event, FailureEnded):
            self.failures = {op: trouble for op, trouble in self.failures.items() if op != event.op}
        elif isinstance(event, Started):
            self._recovered = True
        elif isinstance(event, Stopped):
            self._recovered = self._reading = False

    def beat(self) -> None:
        """Take note that the loop has come round, or that recovery is a step further."""
        self._beat_at = self._monotonic()
        self._reading = self._recovered

    @property
    def silence(self) -> float:
        """Seconds since the last beat."""
        return self._monotonic() - self._beat_at

    @property
    def is_stuck(self) -> bool:
        """Say whether the last beat is too long ago."""
        return self.silence > STUCK_AFTER

    def stuck(self) -> str:
        """Say since when the loop has not come round."""
        return f"the loop has not come round for {self.silence:.0f} s, the limit is {STUCK_AFTER:.0f} s"

    def missing(self) -> list[str]:
        """Return what is missing for rollouts to become dataset lines, in words; nothing if they do.

        Whoever asks may read it: it names no path and no cause. The log does.
        """
        found = [f"cannot {op}: see the log" for op in self.failures]
        if self.is_stuck:
            found.append(self.stuck())
        if not found and not self._reading:
            found.append("dataset and ledger are being recovered")
        return found


class Healths:
    """The health of a daemon with several datasets: as good as the worst of them."""

    def __init__(self, each: Sequence[Health]) -> None:
        self._each = each

    @property
    def is_stuck(self) -> bool:
        """Say whether the last beat is too long ago."""
        return self._each[0].is_stuck

    def stuck(self) -> str:
        """Say since when the loop has not come round."""
        return self._each[0].stuck()

    def missing(self) -> list[str]:
        """Return what is missing for any of them, by their place in the configuration; nothing if all is there."""
        if self.is_stuck:
            return [self.stuck()]
        return [f"dataset {number}: {what}" for number, health in enumerate(self._each, 1) for what in health.missing()]
