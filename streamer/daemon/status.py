"""Status of a daemon: its text for the service manager, its latency, and the time since it was last busy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from streamer.base.errors import StreamerError
from streamer.base.files import Clock
from streamer.base.text import counted
from streamer.core.records.model import State
from streamer.daemon.pipeline import Pipeline
from streamer.store.ledger.ledger import LineCounts

_PAUSE = 1.0
"""Seconds between two status texts."""

_SHARE = 300
"""Pause after a count of all lines, as a multiple of its duration."""

_NEVER = float("inf")


class DatasetStatus(NamedTuple):
    """Status of one dataset.

    Args:
        accounts: Lines and rollouts; None while the daemon cannot work at all.
        behind: Seconds from noticing a change until it was in the dataset; None before the first change.
        error: What fails now.
        undelivered: Records of a collector without a writer's receipt; None for other daemons.
    """

    accounts: LineCounts | None
    behind: float | None
    error: StreamerError | None
    undelivered: int | None = None


class DaemonStatus:
    """Reports the status of a dataset, and knows since when it has been idle.

    Idle means that the ledger did not change (no new byte of a shard, no new or changed outcome row) and that no work
    is left. Lines that wait for an outcome do not count: it may never come.

    Args:
        report: Called with each new status.
        clock: Pauses between two reports.
    """

    def __init__(self, report: Callable[[DatasetStatus], None], clock: Clock) -> None:
        self._report = report
        self._clock = clock
        self._seen: tuple[Pipeline, int] | None = None
        self._error = str(None)
        self._burst: float | None = None
        self._behind: float | None = None
        self._is_pending = True
        self._next_report = 0.0
        self._last_work = clock.monotonic()

    def blocked(self, error: StreamerError) -> None:
        """Report an error without whose end no work is possible."""
        self._report(DatasetStatus(None, None, error))
        self._changed()

    def reloaded(self) -> None:
        """Report the status again, and start a new idle period: the configuration was read again."""
        self._changed()

    def _changed(self) -> None:
        self._is_pending = True
        self._last_work = self._clock.monotonic()

    def turn(self, pipeline: Pipeline, began: float, *, worked: bool) -> None:
        """Record one turn of the loop.

        Args:
            pipeline: The pipeline that had the turn.
            began: Start of the turn in monotonic seconds.
            worked: Whether there was work, so that there may be more.
        """
        now = self._clock.monotonic()
        seen = pipeline, pipeline.ledger.changes
        if worked and self._burst is None:
            self._burst = began
        if seen != self._seen:
            self._changed()
            if self._burst is not None:
                self._behind = now - self._burst
        elif not pipeline.is_at_rest:
            self._last_work = now
        if not worked:
            self._burst = None
        self._is_pending |= str(pipeline.error) != self._error
        self._seen, self._error = seen, str(pipeline.error)

    async def report(self, pipeline: Pipeline) -> None:
        """Report the status if it has changed, but not too often."""
        start = self._clock.monotonic()
        if not self._is_pending or start < self._next_report:
            return
        self._is_pending = False
        undelivered = await pipeline.uplink.undelivered()
        self._report(DatasetStatus(await pipeline.ledger.counts(), self._behind, pipeline.error, undelivered))
        end = self._clock.monotonic()
        self._next_report = end + max(_PAUSE, _SHARE * (end - start))

    @property
    def next_report(self) -> float:
        """The time of the next report in monotonic seconds; infinite if none is pending."""
        return self._next_report if self._is_pending else _NEVER

    @property
    def idle_since(self) -> float:
        """The time of the last work in monotonic seconds."""
        return self._last_work


class StatusText:
    """Keeps the service manager's status text current: the status of one dataset, or the sum of several.

    Args:
        show: Called with each new text.
    """

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._known: dict[Path, DatasetStatus | None] = {}

    def updater(self, dataset: Path) -> Callable[[DatasetStatus], None]:
        """Return the function to call with each status of a dataset."""
        self._known[dataset] = None

        def update(status: DatasetStatus) -> None:
            self._known[dataset] = status
            self._show(_text(status) if len(self._known) == 1 else _text_of_several(self._known))

        return update


def _text_of_several(statuses: Mapping[Path, DatasetStatus | None]) -> str:
    """Return the status text of several datasets: all records, the longest latency, and each error.

    All datasets wait for the same outcomes, so waiting rollouts are not added up.
    """
    known = {path: status for path, status in statuses.items() if status is not None}
    accounts = [status.accounts for status in known.values() if status.accounts is not None]
    records = sum(one.lines[State.ACCEPTED] for one in accounts)
    parts = [f"{len(statuses)} datasets: {counted(records, 'record')}"]
    if accounts:
        parts.append(f"{max(one.waiting_rollouts for one in accounts):,} waiting")
    behind = [status.behind for status in known.values() if status.behind is not None]
    if behind:
        parts.append(f"{_duration(max(behind))} behind")
    if dead := max((one.lines[State.DEAD_LETTERED] for one in accounts), default=0):
        parts.append(counted(dead, "dead letter"))
    parts += [
        f"{path.name}: cannot {status.error.op}: {status.error.cause}" for path, status in known.items() if status.error
    ]
    return "; ".join(parts)


def _text(status: DatasetStatus) -> str:
    """Return the status text of one dataset: records, waiting rollouts, latency, and the error."""
    accounts, behind, error, undelivered = status
    if accounts is None:
        return f"waiting: cannot {error.op}: {error.cause}" if error else "waiting"
    lines = accounts.lines
    parts = [
        f"{counted(lines[State.ACCEPTED], 'record')} from {counted(accounts.appended_rollouts, 'rollout')}",
        f"{accounts.waiting_rollouts:,} waiting",
    ]
    if behind is not None:
        parts.append(f"{_duration(behind)} behind")
    if undelivered is not None:
        parts.append(f"{undelivered:,} not delivered")
    if lines[State.DEAD_LETTERED]:
        parts.append(counted(lines[State.DEAD_LETTERED], "dead letter"))
    if error is not None:
        parts.append(f"cannot {error.op}: {error.cause}")
    return "; ".join(parts)


def _duration(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min"), (1, "s")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds * 1000:.0f} ms"
