"""The supervisor of one dataset: its lock, pipeline after pipeline, its failures, its status, its next turn.

A failure ends the pipeline, never the supervisor: after a pause a new pipeline recovers, as after a crash. Supervisors
do not know each other. The daemon owns what they share (signals, notifications, the heartbeat) and gives them turns.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import NamedTuple, Self

from streamer import config as configuration
from streamer.base.env import Env
from streamer.base.errors import StreamerError, UnavailableError, translate_errors
from streamer.base.events import Reloaded, Started, Stopped
from streamer.base.failures import ActiveFailures, SourceFailures
from streamer.base.lock import DatasetLock, lock_file
from streamer.config import Config
from streamer.daemon.build import open_pipeline
from streamer.daemon.pipeline import Pipeline
from streamer.daemon.status import DaemonStatus, DatasetStatus
from streamer.sources.condition import check_condition
from streamer.sources.read_cache import ReadCache
from streamer.sources.wake_ups import PendingChanges

_SHARE = 300
"""Pause after a full scan, as a multiple of its duration."""


class Callbacks(NamedTuple):
    """Functions that a supervisor calls on changes that are not events.

    Args:
        status: Called with each new status of the dataset.
        opened: Called when its first pipeline is open.
        configured: Called with each configuration that is applied.
        wake: Called when a fleet has sent something for the next turn.
    """

    status: Callable[[DatasetStatus], None] = lambda _status: None
    opened: Callable[[], None] = lambda: None
    configured: Callable[[Config], None] = lambda _config: None
    wake: Callable[[], None] = lambda: None


class Supervisor:
    """Runs one dataset, a turn at a time. As a context manager, it closes the pipeline in the end.

    Args:
        config: Inputs, conditions and dataset.
        env: Files, clock, failpoints, and ``emit`` for the events of this dataset.
        callbacks: Called on changes that are not events.
        read_cache: Shards that other datasets have just read, and that they find here.

    ``next_turn_at`` is the time of the next turn in monotonic seconds; changes of the inputs can only advance it.
    """

    def __init__(
        self,
        config: Config,
        env: Env,
        callbacks: Callbacks,
        read_cache: ReadCache | None = None,
    ) -> None:
        self.config = config
        self.next_turn_at = 0.0
        self._env = env
        self._clock = env.clock
        self._emit = env.emit
        self._callbacks = callbacks
        self._read_cache = read_cache
        self._status = DaemonStatus(callbacks.status, env.clock)
        self._failures = ActiveFailures(env.emit)
        self._source_failures = SourceFailures(env.emit)
        self._pipeline: Pipeline | None = None
        self._stack = AsyncExitStack()
        self._next_scan = self._next_poll = 0.0
        self._announced = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close(kind, error, trace)

    @property
    def is_open(self) -> bool:
        """Whether a pipeline is open."""
        return self._pipeline is not None

    @property
    def error(self) -> UnavailableError | None:
        """Why inputs cannot be read or records not be delivered now; None if all works."""
        return self._pipeline.error if self._pipeline else None

    @property
    def idle_since(self) -> float:
        """The time of the last work in monotonic seconds; now, if no pipeline is open."""
        return self._status.idle_since if self._pipeline else self._clock.monotonic()

    def locked(self) -> DatasetLock:
        """Check the condition, make the dataset's folder, and return the lock.

        Raises:
            ConfigError: the condition is invalid.
            UnavailableError: the folder cannot be made.
        """
        check_condition(self.config.qualify.where)
        path = self.config.dataset.path
        with translate_errors("make the folder of the dataset", path.parent, "see its rights"):
            path.parent.mkdir(parents=True, exist_ok=True)
        return DatasetLock(lock_file(path))

    async def turn(self, changes: PendingChanges) -> bool:
        """Process one batch, or open a pipeline if none is open; return whether there may be more work at once.

        Raises:
            StreamerError: manual action is required.
        """
        if self._pipeline is None:
            return await self._guarded(self._open())
        return await self._guarded(self._process(self._pipeline, changes))

    async def _guarded(self, work: Awaitable[bool]) -> bool:
        """Return the result of work on the pipeline; if it fails, end the pipeline."""
        try:
            return await work
        except UnavailableError as error:
            await self._fail(error)
            return False
        except StreamerError as error:
            await self._close(type(error), error, error.__traceback__)
            raise

    def retry_after(self, error: StreamerError) -> None:
        """Schedule a new pipeline after a pause, longer with each failure."""
        self.next_turn_at = self._clock.monotonic() + self._failures.begin(error)
        self._status.blocked(error)

    async def catch_up(self) -> bool:
        """Process everything that can be read now; return whether that worked.

        Raises:
            StreamerError: manual action is required.
        """
        return self._pipeline is not None and await self._guarded(self._catch_up(self._pipeline))

    async def _catch_up(self, pipeline: Pipeline) -> bool:
        began = self._clock.monotonic()
        await pipeline.catch_up()
        self._status.turn(pipeline, began, worked=False)
        return True

    async def check(self, wanted: Config) -> None:
        """Check whether another configuration can be applied.

        Raises:
            StreamerError: it cannot.
        """
        check_condition(wanted.qualify.where)
        if self._pipeline is not None:
            await self._pipeline.outcomes.check(wanted.qualify.where, wanted.records.turn_rules)

    async def configure(self, wanted: Config) -> bool:
        """Apply another configuration, as far as it can change at run time; return whether that worked.

        Raises:
            StreamerError: manual action is required.
        """
        live, fixed = configuration.changes(self.config, wanted)
        self.config = configuration.reloaded(self.config, wanted)
        return await self._guarded(self._apply(Reloaded(", ".join(live), ", ".join(fixed))))

    async def _apply(self, event: Reloaded) -> bool:
        if self._pipeline is not None:
            self._pipeline.configure(self.config)
            await self._pipeline.backfill()
        self._callbacks.configured(self.config)
        self._emit(event)
        if self._pipeline is not None:
            await self._pipeline.describe()
        return True

    def reloaded(self) -> None:
        """Report the status again: the configuration was read again, applied or not."""
        self._status.reloaded()

    async def stop(self) -> None:
        """End the pipeline cleanly, if one is open."""
        if self._pipeline is None:
            return
        self._emit(Stopped(self._pipeline.dataset.length))
        try:
            await self._close()
        except UnavailableError as error:
            await self._fail(error)

    def opening(self) -> AbstractAsyncContextManager[Pipeline]:
        """Return a context manager that opens a new pipeline."""
        return open_pipeline(
            self.config,
            self._env,
            failures=self._source_failures,
            read_cache=self._read_cache,
            wake=self._callbacks.wake,
        )

    async def _open(self) -> bool:
        if self._clock.monotonic() < self.next_turn_at:
            return False
        async with AsyncExitStack() as stack:
            pipeline = await stack.enter_async_context(self.opening())
            self._announce(pipeline)
            self._stack = stack.pop_all()
        self._pipeline = pipeline
        self._next_scan = self._next_poll = self.next_turn_at = self._clock.monotonic()
        return True

    def _announce(self, pipeline: Pipeline) -> None:
        if self._announced:
            return
        self._announced = True
        config = self.config
        self._callbacks.opened()
        self._emit(
            Started(
                dataset=str(config.dataset.path),
                dataset_bytes=pipeline.dataset.length,
                shards=str(config.source.shards) if config.source.reads_shards else "",
                database=str(pipeline.outcomes.path),
                where=config.qualify.where,
            )
        )

    async def _process(self, pipeline: Pipeline, changes: PendingChanges) -> bool:
        more = False
        now = self._clock.monotonic()
        if changes.scan or now >= self._next_scan:
            await pipeline.scan()
            end = self._clock.monotonic()
            self._next_scan = end + max(pipeline.config.source.scan_interval, _SHARE * (end - now))
        pipeline.inbox.look(changes.paths)
        if changes.database:
            pipeline.outcomes.hurry()
        if changes.database or now >= self._next_poll:
            more = await pipeline.poll()
            self._next_poll = now if more else now + pipeline.poll_pause
        worked = await pipeline.step()
        self._failures.all_over()
        self._status.turn(pipeline, now, worked=worked or more)
        await self._status.report(pipeline)
        self.next_turn_at = min(self._next_scan, self._next_poll, self._status.next_report)
        return worked

    async def _fail(self, error: UnavailableError) -> None:
        """Close the pipeline, and schedule a new one after a pause."""
        try:
            await self._close(type(error), error, error.__traceback__)
        except UnavailableError as another:
            error = another
        self.retry_after(error)

    async def _close(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        stack, self._stack, self._pipeline = self._stack, AsyncExitStack(), None
        await stack.__aexit__(kind, error, trace)
