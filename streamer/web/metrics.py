"""Metrics for Prometheus: counts and durations of this process, and the line counts of the ledger.

Each scrape reads the line counts from the ledger, over a read-only connection of its own. So they equal those of
``streamer status``, at any moment and across restarts, and nothing is counted twice. Figures whose cost grows with
the dataset (they need a scan of the shard folder) are measured rarely.

Labels contain only phrases of the code: states, reasons, operations, names of events.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from streamer import __version__
from streamer.base.errors import StreamerError
from streamer.base.events import Committed, Event, Failure, LinesExpired, OutcomesSeen
from streamer.config import Dataset
from streamer.core.records.model import State
from streamer.daemon.observers.health import Health
from streamer.sources.lag import Lag, measure
from streamer.store.ledger.delivery import Delivery
from streamer.store.views.snapshot import Snapshot, ledger_status, snapshot
from streamer.web.throttled import Throttled

_DISK_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LATENCY_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600, 21600, 86400)
_BATCH_LINES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
_BATCH_BYTES = tuple(1 << bits for bits in range(10, 28, 2))

_WARNING_LEVELS = frozenset({"warning", "error"})


class Metrics:
    """An observer that counts events, and the registry of all metrics.

    Args:
        dataset: The dataset file.
        ledger: Its ledger, which is read at each scrape.
        health: The active failures, and the time of the loop's last pass.
        monotonic: Returns seconds that never go back.
        others: Further datasets whose files may lie in the shard folder.
    """

    def __init__(
        self,
        dataset: Path,
        ledger: Path,
        health: Health,
        monotonic: Callable[[], float] = time.monotonic,
        others: Sequence[Dataset] = (),
    ) -> None:
        self.registry = CollectorRegistry()
        self._judged = Counter(
            "streamer_judged_lines",
            "Lines judged since the start, by verdict. A line that waited is judged again when its outcome comes.",
            ["state"],
            registry=self.registry,
        )
        for state in State:
            self._judged.labels(state)
        self._outcomes = Counter(
            "streamer_outcomes_seen",
            "Outcome rows since the start that were new or had changed, by whether they qualify.",
            ["qualifies"],
            registry=self.registry,
        )
        for qualifies in ("true", "false"):
            self._outcomes.labels(qualifies)
        self._failures = Counter(
            "streamer_failures",
            "Tries since the start that failed and are made again, by what was being done.",
            ["op"],
            registry=self.registry,
        )
        self._failures.labels("read outcomes")
        self._warnings = Counter(
            "streamer_warnings",
            "Events since the start that a person should know of, by name.",
            ["event"],
            registry=self.registry,
        )
        self._batch_lines = self._histogram("streamer_batch_lines", "Lines in a batch.", _BATCH_LINES)
        self._batch_bytes = self._histogram(
            "streamer_batch_appended_bytes",
            "Bytes that a batch appended to the dataset, of those that did.",
            _BATCH_BYTES,
        )
        self._sync = self._histogram(
            "streamer_dataset_sync_seconds", "Duration of an fdatasync of the dataset.", _DISK_SECONDS
        )
        self._commit = self._histogram(
            "streamer_ledger_commit_seconds", "Duration of a transaction of the ledger.", _DISK_SECONDS
        )
        self._latency = self._histogram(
            "streamer_outcome_latency_seconds",
            "Time from the creation of an outcome until a batch with records of its rollout was durable.",
            _LATENCY_SECONDS,
        )
        self.registry.register(_LineCounts(ledger))
        self.registry.register(_SlowMetrics(dataset, ledger, monotonic, others))
        self.registry.register(_DaemonState(dataset, ledger, health))
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Iterable[float]) -> Histogram:
        return Histogram(name, text, registry=self.registry, buckets=tuple(buckets))

    def __call__(self, event: Event) -> None:
        """Count an event; a batch of any size costs some ten microseconds."""
        if isinstance(event, Committed):
            self._count_batch(event)
        elif isinstance(event, Failure):
            self._failures.labels(event.op).inc()
        elif isinstance(event, OutcomesSeen):
            self._outcomes.labels("true").inc(event.qualifying)
            self._outcomes.labels("false").inc(event.rows - event.qualifying)
        elif isinstance(event, LinesExpired):
            self._judged.labels(State.EXPIRED).inc(event.lines)
        if event.level in _WARNING_LEVELS:
            self._warnings.labels(event.name).inc()

    def _count_batch(self, batch: Committed) -> None:
        self._judged.labels(State.ACCEPTED).inc(batch.appended)
        self._judged.labels(State.DUPLICATE).inc(batch.duplicate)
        self._judged.labels(State.REJECTED).inc(batch.below_bar)
        self._judged.labels(State.WAITING).inc(batch.waiting)
        self._judged.labels(State.DEAD_LETTERED).inc(batch.dead_lettered)
        self._batch_lines.observe(batch.read)
        self._commit.observe(batch.commit_seconds)
        if batch.sync_seconds is not None:
            self._batch_bytes.observe(batch.appended_bytes)
            self._sync.observe(batch.sync_seconds)
        for seconds in batch.latencies:
            self._latency.observe(seconds)


class _LineCounts(Collector):
    """Line counts by state, read from the ledger at each scrape."""

    def __init__(self, ledger: Path) -> None:
        self._ledger = ledger

    def collect(self) -> Iterator[Metric]:
        """Yield the line counts; if the ledger cannot be read now, only that metric."""
        readable = "streamer_ledger_readable", "Whether the ledger could be read for this scrape."
        try:
            stand = ledger_status(self._ledger)
        except StreamerError:
            yield GaugeMetricFamily(*readable, 0)
            return
        yield GaugeMetricFamily(*readable, 1)
        lines = GaugeMetricFamily(
            "streamer_lines",
            "Lines that were read, by where they stand and why. Their sum is the lines read.",
            labels=["state", "reason"],
        )
        for state, split in stand.reasons.items():
            for reason, number in {"": 0, **split}.items():
                lines.add_metric([state, reason], number)
        yield lines
        yield GaugeMetricFamily("streamer_dataset_lines", "Lines in the dataset.", stand.dataset_lines)
        yield GaugeMetricFamily("streamer_dataset_bytes", "Length of the dataset.", stand.dataset_bytes)
        yield GaugeMetricFamily(
            "streamer_last_append_timestamp_seconds",
            "When records were appended last, 0 if never.",
            stand.appended_at or 0,
        )
        yield GaugeMetricFamily(
            "streamer_waiting_rollouts", "Rollouts with lines that wait for an outcome.", stand.waiting_rollouts
        )
        yield GaugeMetricFamily(
            "streamer_waiting_since_timestamp_seconds",
            "When the line was read that has waited longest, 0 if none waits.",
            stand.waiting_since or 0,
        )
        yield CounterMetricFamily(
            "streamer_overwritten_lines",
            "Lines that the producer overwrote before their outcome came. They are no lines read any more.",
            stand.overwritten,
        )
        yield from _delivery(stand.delivery)


def _delivery(stand: Delivery | None) -> Iterator[Metric]:
    """Yield the delivery counts of a collector; for other daemons, families without samples."""
    delivered = CounterMetricFamily("streamer_delivered_lines", "Lines of a collector that a writer's ledger holds.")
    waiting = GaugeMetricFamily(
        "streamer_undelivered_lines", "Lines of a collector that no writer has said to hold yet."
    )
    aside = GaugeMetricFamily(
        "streamer_undeliverable_lines", "Lines of a collector that cannot be delivered, by why.", labels=["reason"]
    )
    messages = CounterMetricFamily(
        "streamer_sent_messages",
        "Messages that the stream has taken; again: of lines that were lost.",
        labels=["again"],
    )
    if stand is not None:
        delivered.add_metric([], stand.delivered)
        waiting.add_metric([], stand.waiting)
        for reason, lines in stand.undeliverable.items():
            aside.add_metric([reason], lines)
        messages.add_metric(["false"], stand.sent)
        messages.add_metric(["true"], stand.again)
    yield from (delivered, waiting, aside, messages)


class _SlowMetrics(Collector):
    """Metrics whose cost grows with the dataset: measured for a small share of the time."""

    def __init__(self, dataset: Path, ledger: Path, monotonic: Callable[[], float], others: Sequence[Dataset]) -> None:
        def find() -> tuple[Snapshot, Lag]:
            seen = snapshot(dataset, ledger)
            return seen, measure(ledger, seen, others)

        self._found = Throttled(find, monotonic)

    def collect(self) -> Iterator[Metric]:
        """Yield the last measurement; nothing if the ledger cannot be read."""
        try:
            seen, lag = self._found.get()
        except StreamerError:
            return
        yield GaugeMetricFamily("streamer_lag_bytes", "Bytes in the shard folder that were not read.", lag.unread_bytes)
        yield GaugeMetricFamily("streamer_lag_shards", "Shards with bytes that were not read.", lag.unread_shards)
        yield GaugeMetricFamily("streamer_shards", "Shards that were read.", seen.shards)
        yield GaugeMetricFamily("streamer_sessions", "Sessions read from the trace database.", seen.sessions)
        yield GaugeMetricFamily("streamer_outcomes", "Outcome rows that are known.", seen.outcomes)
        yield GaugeMetricFamily(
            "streamer_appended_rollouts", "Rollouts with records in the dataset.", seen.appended_rollouts
        )
        yield GaugeMetricFamily(
            "streamer_withdrawn_rollouts",
            "Rollouts in the dataset whose outcome was corrected below the bar later.",
            seen.withdrawn_rollouts,
        )


class _DaemonState(Collector):
    """The current state of the daemon, its files and its disks."""

    def __init__(self, dataset: Path, ledger: Path, health: Health) -> None:
        self._dataset = dataset
        self._ledger = ledger
        self._health = health

    def collect(self) -> Iterator[Metric]:
        """Yield the current metrics."""
        yield InfoMetricFamily("streamer_build", "The streamer that runs.", {"version": __version__})
        yield GaugeMetricFamily(
            "streamer_loop_silence_seconds", "Time since the loop came round; at rest at most 10.", self._health.silence
        )
        yield GaugeMetricFamily(
            "streamer_ready", "Whether everything is there that is read and written.", not self._health.missing()
        )
        failures = GaugeMetricFamily(
            "streamer_trouble", "1 for each thing that cannot be done at present, and is tried again.", labels=["op"]
        )
        for op in self._health.failures:
            failures.add_metric([op], 1)
        yield failures
        wal = self._ledger.with_name(f"{self._ledger.name}-wal")
        yield GaugeMetricFamily(
            "streamer_ledger_bytes", "Size of the ledger with its write-ahead log.", _size(self._ledger) + _size(wal)
        )
        free = GaugeMetricFamily(
            "streamer_disk_free_bytes", "Free room for the daemon's user where a file lies.", labels=["file"]
        )
        for file, path in (("dataset", self._dataset), ("ledger", self._ledger)):
            with suppress(OSError):
                disk = os.statvfs(path.parent)
                free.add_metric([file], disk.f_bavail * disk.f_frsize)
        yield free


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
