"""What the page shows at its top: how all lines stand, how fast they come, what does not work."""

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
from streamer.store.views.snapshot import LedgerStatus, Snapshot, open_ledger, snapshot, standing
from streamer.web.board import Board, Latency
from streamer.web.condition import Bar, bars
from streamer.web.fleet import FleetNow, FleetReader
from streamer.web.seldom import Seldom

_WAITING_SHOWN = 20
_RATE_SECONDS = 60
_OUTCOMES = "read outcomes"
"""What the daemon is doing when its trace database fails it."""

_ORDER = (
    State.ACCEPTED,
    State.DUPLICATE,
    State.REJECTED,
    State.WAITING,
    State.EXPIRED,
    State.DEAD_LETTERED,
)


class _Daemon(msgspec.Struct, frozen=True):
    """The process. Here as everywhere in the page, times are seconds since 1970."""

    pid: int
    version: str
    host: str
    alive_since: float


class _DatasetNow(msgspec.Struct, frozen=True):
    """The dataset as last committed."""

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
    """What is read, and how many shards, sessions of the trace database, and buckets of a fleet that were."""

    shards: int
    sessions: int
    streams: int
    shard_folder: str
    database: str
    conversations: str


class _LagNow(msgspec.Struct, frozen=True):
    """Bytes that lie in the shard folder and were not read."""

    bytes: int
    shards: int


class _WaitingRollout(msgspec.Struct, frozen=True):
    """A rollout whose outcome is still to come."""

    session: str
    lines: int
    since: float


class _Waiting(msgspec.Struct, frozen=True):
    """Rollouts that wait, and those that have waited longest."""

    rollouts: int
    oldest_since: float | None
    oldest: list[_WaitingRollout]


class _Outcomes(msgspec.Struct, frozen=True):
    """Outcome rows seen, and those that were corrected after their records had been written."""

    rows: int
    withdrawn: int


class _Condition(msgspec.Struct, frozen=True):
    """What an outcome has to meet."""

    where: str
    bars: list[Bar]


class _TroubleNow(msgspec.Struct, frozen=True):
    """Something that does not work at present."""

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
    """Where another dataset of the same daemon is shown; ``here`` for this one."""

    name: str
    path: str
    address: str
    here: bool


class PageState(msgspec.Struct, frozen=True):
    """Everything that the top of the page shows, at one moment.

    ``revision`` is another text whenever anything but the moment differs. ``datasets`` are all that the daemon writes,
    empty if that is one. ``fleet`` is how a collector or a writer stands, None for any other daemon.
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
    failures: list[_TroubleNow] = msgspec.field(name="troubles")
    trace_database: _TraceDatabaseNow
    datasets: list[DatasetLink] = []
    fleet: FleetNow | None = None


class _Columns(msgspec.Struct, frozen=True):
    """History as columns, as plots take it; every value holds until the next one."""

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
    """Reads the state; from the threads of the page, never from the daemon's.

    Args:
        config: the present configuration.
        board: what the daemon's events said.
        health: the troubles of the present.
        links: to all datasets of the daemon, if there are several.
        now: returns seconds since 1970.
    """

    def __init__(
        self,
        config: Config,
        board: Board,
        health: Health,
        links: Sequence[DatasetLink] = (),
        now: Callable[[], float] = time.time,
    ) -> None:
        self.config = config
        self._links = [
            msgspec.structs.replace(link, here=link.path == str(config.dataset.path.absolute())) for link in links
        ]
        self._board = board
        self._health = health
        self._now = now
        target = config.dataset
        self._sums: Seldom[Snapshot] = Seldom(lambda: snapshot(target.path, target.ledger), time.monotonic)
        self._lag: Seldom[_LagNow] = Seldom(self._measure, time.monotonic, pause=2.0)
        self._oldest: Seldom[list[_WaitingRollout]] = Seldom(self._longest_waiting, time.monotonic)
        self._fleet = FleetReader(config, now)
        self._daemon = _Daemon(os.getpid(), __version__, socket.gethostname(), now())

    def read(self) -> PageState:
        """Return the state now.

        Raises:
            StreamerError: the ledger cannot be read.
        """
        config, sums, now = self.config, self._sums.get(), self._now()
        stand = standing(config.dataset.ledger)
        flow = _flow(stand)
        return PageState(
            at=now,
            revision="",
            daemon=self._daemon,
            dataset=_dataset(config.dataset.path, stand, sums.appended_rollouts),
            rate=self._rate(flow.read, stand.dataset_lines, now),
            flow=flow,
            sources=self._sources(sums),
            lag=self._lag.get() if config.source.reads_shards else None,
            latency=self._board.latency(),
            waiting=_Waiting(stand.waiting_rollouts, stand.waiting_since, self._oldest.get()),
            outcomes=_Outcomes(sums.outcomes, sums.withdrawn_rollouts),
            condition=_Condition(config.qualify.where, bars(config.qualify.where)),
            failures=[_TroubleNow(t.op, t.where, t.cause, t.hint) for t in self._health.failures.values()],
            trace_database=_database(config, self._health.failures),
            datasets=self._links,
            fleet=self._fleet.read(stand, self._health.failures),
        )

    def history(self, since: float) -> _Columns:
        """Return how the dataset grew after ``since``, and how it is now.

        Raises:
            StreamerError: the ledger cannot be read.
        """
        now = self.read()  # first: a batch in between is then in neither, and not in one of both
        with open_ledger(self.config.dataset.ledger) as db:
            past = [point for point in points(db, since) if point.at < now.at] if db else []
        present = Point(
            now.at,
            now.dataset.records,
            now.dataset.rollouts,
            now.dataset.bytes,
            {state.state: state.lines for state in now.flow.states},
        )
        # What holds now has held since the last batch.
        last = self._board.last_batch or now.dataset.last_append_at
        if last is not None and max((since, *(point.at for point in past[-1:]))) < last < now.at:
            past.append(msgspec.structs.replace(present, at=last))
        return _columns([*past, present])

    def _rate(self, read: int, records: int, now: float) -> _Rate:
        begin = now - _RATE_SECONDS
        last = self._board.last_batch
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


def _dataset(path: Path, stand: LedgerStatus, rollouts: int) -> _DatasetNow:
    return _DatasetNow(
        str(path.absolute()), path.name, stand.dataset_lines, stand.dataset_bytes, rollouts, stand.appended_at
    )


def _flow(stand: LedgerStatus) -> _Flow:
    states = [_FlowState(state, sum(stand.reasons[state].values()), stand.reasons[state]) for state in _ORDER]
    return _Flow(sum(state.lines for state in states), states)


def _database(config: Config, failures: Mapping[str, Failure]) -> _TraceDatabaseNow:
    trouble = failures.get(_OUTCOMES)

    return _TraceDatabaseNow(_place(config), "trouble" if trouble else "ok", trouble.cause if trouble else "")


def _place(config: Config) -> str:
    return str(locate(config.source.database, config.source.token)) if config.source.is_local else ""
