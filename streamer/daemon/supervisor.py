"""The life of one dataset: its lock, pipeline after pipeline, its troubles, how it stands, when it is next due.

A failure ends the pipeline, never the life: after a pause a new pipeline recovers, as after a crash. Lives know nothing
of each other. What they share (signals, notifications, the beat, the end) is the daemon's, which lets them take turns.
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
from streamer.daemon.status import DaemonStatus, Stand
from streamer.sources.outcomes import check_condition
from streamer.sources.read_cache import ReadCache
from streamer.sources.wake_ups import PendingChanges

_SHARE = 300
"""A look at everything is followed by a pause of so many times its own duration."""


class Callbacks(NamedTuple):
    """Who is told what of a life.

    ``event`` gets every event; ``stand`` how it stands, whenever that is another; ``opened`` is called when its first
    pipeline is open; ``configured`` gets a configuration that is in force from now on; ``wake`` is called when
    something has come by itself, so that there is a turn to be taken.
    """

    stand: Callable[[Stand], None] = lambda _stand: None
    opened: Callable[[], None] = lambda: None
    configured: Callable[[Config], None] = lambda _config: None
    wake: Callable[[], None] = lambda: None


class Supervisor:
    """One dataset, a turn at a time. As a context manager it closes in the end what is open.

    Args:
        config: what to read, how to judge, where to write.
        env: The machine, and where the events of this dataset go.
        callbacks: Called on changes that are not events.
        read_cache: what other lives have just read, and where they find what is read here.

    ``due`` is the time in monotonic seconds at which there is something to do, whether or not there are news.
    """

    def __init__(
        self,
        config: Config,
        env: Env,
        callbacks: Callbacks,
        read_cache: ReadCache | None = None,
    ) -> None:
        self.config = config
        self.due = 0.0
        self._env = env
        self._clock = env.clock
        self._emit = env.emit
        self._callbacks = callbacks
        self._read_cache = read_cache
        self._standing = DaemonStatus(callbacks.stand, env.clock)
        self._failures = ActiveFailures(env.emit)
        self._source_failures = SourceFailures(env.emit)
        self._pipeline: Pipeline | None = None
        self._stack = AsyncExitStack()
        self._next_scan = self._next_poll = 0.0
        self._greeted = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close(kind, error, trace)

    @property
    def is_open(self) -> bool:
        """Say whether there is a pipeline now."""
        return self._pipeline is not None

    @property
    def error(self) -> UnavailableError | None:
        """Why something that is read cannot be read now, None if it can."""
        return self._pipeline.error if self._pipeline else None

    @property
    def idle_since(self) -> float:
        """The time in monotonic seconds at which there was last something to do; without a pipeline there is, now."""
        return self._standing.idle_since if self._pipeline else self._clock.monotonic()

    def locked(self) -> DatasetLock:
        """Return the lock of the dataset, after looking whether there is a folder for it, and a condition.

        Raises:
            ConfigError: the condition is none.
            UnavailableError: there is no such folder, and it cannot be made.
        """
        check_condition(self.config.qualify.where)
        path = self.config.dataset.path
        with translate_errors("make the folder of the dataset", path.parent, "see its rights"):
            path.parent.mkdir(parents=True, exist_ok=True)
        return DatasetLock(lock_file(path))

    async def turn(self, news: PendingChanges) -> bool:
        """Take one batch, or open a pipeline if there is none; say whether there may be more to do at once.

        Raises:
            StreamerError: a person has to decide something first.
        """
        if self._pipeline is None:
            return await self._guarded(self._begin())
        return await self._guarded(self._take(self._pipeline, news))

    async def _guarded(self, doing: Awaitable[bool]) -> bool:
        """Do something, and end the pipeline if that fails; say what came of it."""
        try:
            return await doing
        except UnavailableError as error:
            await self._fail(error)
            return False
        except StreamerError as error:
            await self._close(type(error), error, error.__traceback__)
            raise

    def wait_for(self, error: StreamerError) -> None:
        """Try again in a while. Something outside may be there then; or a person may have put something right."""
        self.due = self._clock.monotonic() + self._failures.begin(error)
        self._standing.waits(error)

    async def look_again(self) -> bool:
        """Take everything that is there now and can be taken now; say whether that could be done.

        Raises:
            StreamerError: a person has to decide something first.
        """
        return self._pipeline is not None and await self._guarded(self._catch_up(self._pipeline))

    async def _catch_up(self, pipeline: Pipeline) -> bool:
        began = self._clock.monotonic()
        await pipeline.catch_up()
        self._standing.turn(pipeline, began, worked=False)
        return True

    async def check(self, wanted: Config) -> None:
        """See whether another configuration could be taken.

        Raises:
            StreamerError: it could not.
        """
        check_condition(wanted.qualify.where)
        if self._pipeline is not None:
            await self._pipeline.outcomes.check(wanted.qualify.where, wanted.records.turn_rules)

    async def configure(self, wanted: Config) -> bool:
        """Go on by another configuration, as far as that can change at run time; say whether that could be done now.

        Raises:
            StreamerError: a person has to decide something first.
        """
        live, fixed = configuration.changes(self.config, wanted)
        self.config = configuration.reloaded(self.config, wanted)
        return await self._guarded(self._go_on(Reloaded(", ".join(live), ", ".join(fixed))))

    async def _go_on(self, event: Reloaded) -> bool:
        if self._pipeline is not None:
            self._pipeline.configure(self.config)
            await self._pipeline.backfill()
        self._callbacks.configured(self.config)
        self._emit(event)
        if self._pipeline is not None:
            await self._pipeline.describe()
        return True

    def reloaded(self) -> None:
        """Take note that the configuration was read again, whether or not it could be taken."""
        self._standing.reloaded()

    async def stop(self) -> None:
        """End the pipeline cleanly, if there is one."""
        if self._pipeline is None:
            return
        self._emit(Stopped(self._pipeline.dataset.length))
        try:
            await self._close()
        except UnavailableError as error:
            await self._fail(error)

    def opening(self) -> AbstractAsyncContextManager[Pipeline]:
        """Return a new pipeline, as a context manager."""
        return open_pipeline(
            self.config,
            self._env,
            failures=self._source_failures,
            read_cache=self._read_cache,
            wake=self._callbacks.wake,
        )

    async def _begin(self) -> bool:
        if self._clock.monotonic() < self.due:
            return False
        async with AsyncExitStack() as stack:
            pipeline = await stack.enter_async_context(self.opening())
            self._greet(pipeline)
            self._stack = stack.pop_all()
        self._pipeline = pipeline
        self._next_scan = self._next_poll = self.due = self._clock.monotonic()
        return True

    def _greet(self, pipeline: Pipeline) -> None:
        if self._greeted:
            return
        self._greeted = True
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

    async def _take(self, pipeline: Pipeline, news: PendingChanges) -> bool:
        more = False
        now = self._clock.monotonic()
        if news.scan or now >= self._next_scan:
            await pipeline.scan()
            end = self._clock.monotonic()
            self._next_scan = end + max(pipeline.config.source.scan_interval, _SHARE * (end - now))
        pipeline.inbox.look(news.paths)
        if news.database:
            pipeline.outcomes.hurry()
        if news.database or now >= self._next_poll:
            more = await pipeline.poll()
            self._next_poll = now if more else now + pipeline.poll_pause
        worked = await pipeline.step()
        self._failures.all_over()
        self._standing.turn(pipeline, now, worked=worked or more)
        await self._standing.tell(pipeline)
        self.due = min(self._next_scan, self._next_poll, self._standing.next_text)
        return worked

    async def _fail(self, error: UnavailableError) -> None:
        """End the pipeline, and begin a new one after a pause."""
        try:
            await self._close(type(error), error, error.__traceback__)
        except UnavailableError as another:
            error = another
        self.wait_for(error)

    async def _close(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        stack, self._stack, self._pipeline = self._stack, AsyncExitStack(), None
        await stack.__aexit__(kind, error, trace)
