"""The state at the top of the web UI: line counts, rates, active failures."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from streamer import __version__
from streamer.base.events import Failure
from streamer.config import Config
from streamer.config.database_url import locate
from streamer.core.records.model import State
from streamer.daemon.observers.health import Health
from streamer.sources.lag import Lag, measure
from streamer.store.ledger.history import Point, held_at, points
from streamer.store.views.snapshot import LedgerStatus, Snapshot, ledger_status, open_ledger, snapshot
from streamer.web.comparisons import ColumnComparison, comparisons
from streamer.web.fleet import FleetNow, FleetReader
from streamer.web.recent import Latency, RecentActivity
from streamer.web.throttled import Throttled

_WAITING_SHOWN = 20
_RATE_SECONDS = 60
_READ_OUTCOMES = "read outcomes"
"""The daemon's operation that fails if the trace database does."""

_ORDER = (
    State.ACCEPTED,
    State.DUPLICATE,
    State.REJECTED,
    State.WAITING,
    State.EXPIRED,
    State.DEAD_LETTERED,
)


class _Daemon(msgspec.Struct, frozen=True):
    """The process. All times of the web UI are seconds since 1970."""

    pid: int
    version: str
    host: str
    alive_since: float


class _DatasetNow(msgspec.Struct, frozen=True):
    """The dataset at the last commit."""

    path: str
    name: str
    records: int
    bytes: int
    rollouts: int
    last_append_at: float | None


class _Rate(msgspec.Struct, frozen=True):
    """Lines read and records appended within the last ``seconds``."""

    seconds: int
    lines: int
    records: int


class _Flow(msgspec.Struct, frozen=True):
    """Lines by state, and by reason within each; ``read`` is their sum."""

    read: int
    states: list[_FlowState]


class _FlowState(msgspec.Struct, frozen=True):
    """The lines in one state."""

    state: State
    lines: int
    reasons: dict[str, int]


class _Sources(msgspec.Struct, frozen=True):
    """The sources, and the numbers of shards, of trace database sessions and of fleet partitions read."""

    shards: int
    sessions: int
    streams: int
    shard_folder: str
    database: str
    conversations: str


class _LagNow(msgspec.Struct, frozen=True):
    """Unread bytes in the shard folder."""

    bytes: int
    shards: int


class _WaitingRollout(msgspec.Struct, frozen=True):
    """A rollout without an outcome yet."""

    session: str
    lines: int
    since: float


class _Waiting(msgspec.Struct, frozen=True):
    """Waiting rollouts: their number, and the oldest ones."""

    rollouts: int
    oldest_since: float | None
    oldest: list[_WaitingRollout]


class _Outcomes(msgspec.Struct, frozen=True):
    """Outcome rows seen, and rollouts that were retracted after their records had been written."""

    rows: int
    withdrawn: int


class _Condition(msgspec.Struct, frozen=True):
    """The condition on outcomes."""

    where: str
    bars: list[ColumnComparison]


class _ActiveFailure(msgspec.Struct, frozen=True):
    """An active failure."""

    op: str
    where: str
    cause: str
    hint: str


class _TraceDatabaseNow(msgspec.Struct, frozen=True):
    """Whether outcomes can be read."""

    place: str
    state: str
    cause: str


class DatasetLink(msgspec.Struct, frozen=True):
    """The URL of a dataset of the same daemon; ``here`` marks the current one."""

    name: str
    path: str
    address: str
    here: bool


class WebState(msgspec.Struct, frozen=True):
    """All data at the top of the web UI, at one moment.

    ``revision`` changes with any value but ``at``. ``datasets`` are all datasets of the daemon, empty if there is only
    one. ``fleet`` is the status of a collector or a writer, None for any other daemon.
    """

    at: float
    revision: str
    daemon: _Daemon
    dataset: _DatasetNow
    rate: _Rate
    flow: _Flow
    sources: _Sources
    lag: _LagNow | None
    latency: Latency | None
    waiting: _Waiting
    outcomes: _Outcomes
    condition: _Condition
    failures: list[_ActiveFailure] = msgspec.field(name="troubles")
    trace_database: _TraceDatabaseNow
    datasets: list[DatasetLink] = []
    fleet: FleetNow | None = None


class _Columns(msgspec.Struct, frozen=True):
    """History as columns for plots; every value holds until the next one."""

    at: list[float]
    records: list[int]
    rollouts: list[int]
    bytes: list[int]
    appended: list[int]
    duplicate: list[int]
    below_bar: list[int]
    waiting: list[int]
    never_scored: list[int]
    dead_lettered: list[int]


class StateReader:
    """Reads the state, in threads of the web UI, never in the daemon's.

    Args:
        config: The current configuration.
        activity: The recent activity of the daemon.
        health: The active failures.
        links: The links to all datasets of the daemon, if there are several.
        now: Returns seconds since 1970.
    """

    def __init__(
        self,
        config: Config,
        activity: RecentActivity,
        health: Health,
        links: Sequence[DatasetLink] = (),
        now: Callable[[], float] = time.time,
    ) -> None:
        self.config = config
        self._links = [
            msgspec.structs.replace(link, here=link.path == str(config.dataset.path.absolute())) for link in links
        ]
        self._activity = activity
        self._health = health
        self._now = now
        target = config.dataset
        self._sums: Throttled[Snapshot] = Throttled(lambda: snapshot(target.path, target.ledger), time.monotonic)
        self._lag: Throttled[_LagNow] = Throttled(self._measure, time.monotonic, pause=2.0)
        self._oldest: Throttled[list[_WaitingRollout]] = Throttled(self._longest_waiting, time.monotonic)
        self._fleet = FleetReader(config, now)
        self._daemon = _Daemon(os.getpid(), __version__, socket.gethostname(), now())

    def read(self) -> WebState:
        """Return the current state.

        Raises:
            StreamerError: The ledger cannot be read.
        """
        config, sums, now = self.config, self._sums.get(), self._now()
        status = ledger_status(config.dataset.ledger)
        flow = _flow(status)
        return WebState(
            at=now,
            revision="",
            daemon=self._daemon,
            dataset=_dataset(config.dataset.path, status, sums.appended_rollouts),
            rate=self._rate(flow.read, status.dataset_lines, now),
            flow=flow,
            sources=self._sources(sums),
            lag=self._lag.get() if config.source.reads_shards else None,
            latency=self._activity.latency(),
            waiting=_Waiting(status.waiting_rollouts, status.waiting_since, self._oldest.get()),
            outcomes=_Outcomes(sums.outcomes, sums.withdrawn_rollouts),
            condition=_Condition(config.qualify.where, comparisons(config.qualify.where)),
            failures=[_ActiveFailure(t.op, t.where, t.cause, t.hint) for t in self._health.failures.values()],
            trace_database=_database(config, self._health.failures),
            datasets=self._links,
            fleet=self._fleet.read(status, self._health.failures),
        )

    def history(self, since: float) -> _Columns:
        """Return the growth of the dataset after ``since``, up to now.

        Raises:
            StreamerError: The ledger cannot be read.
        """
        now = self.read()  # first, so that a batch in between is missing in both
        with open_ledger(self.config.dataset.ledger) as db:
            past = [point for point in points(db, since) if point.at < now.at] if db else []
        present = Point(
            now.at,
            now.dataset.records,
            now.dataset.rollouts,
            now.dataset.bytes,
            {state.state: state.lines for state in now.flow.states},
        )
        # The present values hold since the last batch.
        last = self._activity.last_batch or now.dataset.last_append_at
        if last is not None and max((since, *(point.at for point in past[-1:]))) < last < now.at:
            past.append(msgspec.structs.replace(present, at=last))
        return _columns([*past, present])

    def _rate(self, read: int, records: int, now: float) -> _Rate:
        begin = now - _RATE_SECONDS
        last = self._activity.last_batch
        if last is None or last <= begin:
            return _Rate(_RATE_SECONDS, 0, 0)
        with open_ledger(self.config.dataset.ledger) as db:
            then = held_at(db, begin) if db is not None else None
        if then is None:
            return _Rate(_RATE_SECONDS, 0, 0)
        lines = sum(then.lines.values())
        return _Rate(_RATE_SECONDS, max(0, read - lines), max(0, records - then.records))

    def _sources(self, sums: Snapshot) -> _Sources:
        source = self.config.source
        folder = str(source.shards.absolute()) if source.reads_shards else ""
        return _Sources(sums.shards, sums.sessions, sums.streams, folder, _place(self.config), source.conversations)

    def _measure(self) -> _LagNow:
        target = self.config.dataset
        found: Lag = measure(target.ledger, self._sums.get(), self.config.others)
        return _LagNow(found.unread_bytes, found.unread_shards)

    def _longest_waiting(self) -> list[_WaitingRollout]:
        with open_ledger(self.config.dataset.ledger) as db:
            if db is None:
                return []
            rows: list[tuple[Any, ...]] = db.execute(
                "SELECT session, sum(lines), min(since) FROM span WHERE state = 'waiting'"
                " GROUP BY session ORDER BY min(since), session LIMIT ?",
                (_WAITING_SHOWN,),
            ).fetchall()
        return [_WaitingRollout(*row) for row in rows]


def _columns(found: list[Point]) -> _Columns:
    counts = {str(state): [point.lines[state] for point in found] for state in State}
    return _Columns(
        at=[point.at for point in found],
        records=[point.records for point in found],
        rollouts=[point.rollouts for point in found],
        bytes=[point.bytes for point in found],
        **counts,
    )


def _dataset(path: Path, status: LedgerStatus, rollouts: int) -> _DatasetNow:
    return _DatasetNow(
        str(path.absolute()), path.name, status.dataset_lines, status.dataset_bytes, rollouts, status.appended_at
    )


def _flow(status: LedgerStatus) -> _Flow:
    states = [_FlowState(state, sum(status.reasons[state].values()), status.reasons[state]) for state in _ORDER]
    return _Flow(sum(state.lines for state in states), states)


def _database(config: Config, failures: Mapping[str, Failure]) -> _TraceDatabaseNow:
    failure = failures.get(_READ_OUTCOMES)
    return _TraceDatabaseNow(_place(config), "trouble" if failure else "ok", failure.cause if failure else "")


def _place(config: Config) -> str:
    return str(locate(config.source.database, config.source.token)) if config.source.is_local else ""
