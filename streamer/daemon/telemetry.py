"""Timing and events of batches: how long each step took, and how many lines got which verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice

from streamer.base.env import Env
from streamer.base.events import Committed, DeadLettered, Quiet
from streamer.core.records.layouts import MalformedError
from streamer.core.records.model import Outcome, State
from streamer.core.verdicts.judge import Item, Settled, count

_MOST_RUNS = 100
"""Rollouts that one event names at most."""


class Telemetry:
    """Times the steps of each batch, and reports the batch once it is committed."""

    def __init__(self, env: Env) -> None:
        self._clock = env.clock
        self._emit = env.emit
        self._seconds: dict[str, float] = {}

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Measure one step of the present batch: ``sync`` or ``commit``."""
        began = self._clock.monotonic()
        yield
        self._seconds[step] = round(self._clock.monotonic() - began, 6)

    def report(self, settled: Settled, outcomes: Mapping[str, Sequence[Outcome]], dataset_bytes: int) -> None:
        """Emit the events of a batch that is committed.

        Args:
            settled: The verdicts of its lines.
            outcomes: The outcome rows that it was judged by, by session.
            dataset_bytes: Length of the dataset now.
        """
        counts = count(settled.spans)
        accepted = dict.fromkeys(span.session for span in settled.spans if span.state is State.ACCEPTED)
        event = Committed if accepted else Quiet
        self._emit(
            event(
                read=sum(counts.values()),
                appended=counts[State.ACCEPTED],
                duplicate=counts[State.DUPLICATE],
                below_bar=counts[State.REJECTED],
                waiting=counts[State.WAITING],
                dead_lettered=counts[State.DEAD_LETTERED],
                appended_bytes=len(settled.dataset),
                dataset_bytes=dataset_bytes,
                runs=tuple(islice(accepted, _MOST_RUNS)),
                sync_seconds=self._seconds.pop("sync", None),
                commit_seconds=self._seconds.pop("commit"),
                latencies=self._latencies(settled, outcomes),
            )
        )
        self._report_dead(settled.dead)

    def _latencies(self, settled: Settled, outcomes: Mapping[str, Sequence[Outcome]]) -> tuple[float, ...]:
        """Return the ages in seconds of the outcomes by which records were accepted, as far as they are known."""
        if not settled.appended:
            return ()
        now = self._clock.now()
        refs = {span.outcome for span in settled.spans if span.state is State.ACCEPTED}
        rows = (row for session in outcomes.values() for row in session if row.ref in refs)
        return tuple(max(0.0, now - row.created_us / 1e6) for row in rows if row.created_us is not None)

    def _report_dead(self, dead: Sequence[Item]) -> None:
        """Emit one event for each shard and reason of dead letters."""
        first: dict[tuple[str, str], int] = {}
        lines: Counter[tuple[str, str]] = Counter()
        for item in dead:
            if isinstance(item.content, MalformedError):
                group = (item.line.shard, item.content.reason)
                first.setdefault(group, item.line.number)
                lines[group] += 1
        for (shard, reason), line in first.items():
            self._emit(DeadLettered(shard, line, reason, lines[shard, reason]))
