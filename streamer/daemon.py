"""The daemon's life: one lock, one pipeline at a time, hints that wake it, signals that end it.

A failure ends the pipeline, never the daemon: after a pause a new pipeline recovers, as after a crash.
Only what a person has to decide (``RefusedError``, ``ConfigError``) ends the daemon.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

import anyio
from anyio.abc import TaskGroup, TaskStatus

from streamer import config as configuration
from streamer.config import Config
from streamer.errors import StreamerError, UnavailableError
from streamer.events import Emit, Idle, Reloaded, ReloadFailed, Started, Stopped
from streamer.files import Clock, Files
from streamer.ledger import Accounts
from streamer.lock import DatasetLock, lock_file
from streamer.observers.systemd import Notifier
from streamer.pipeline import Pipeline, nowhere
from streamer.pulse import Pulse
from streamer.sources.hints import Hints, watch
from streamer.sources.outcomes import check_condition
from streamer.sources.trace_db import locate
from streamer.standing import Standing
from streamer.troubles import SourceTroubles, Troubles

_ONCE_PATIENCE = 10.0
"""Seconds for which a single pass waits for a trace database that is busy."""

_LONGEST_PAUSE = 10.0
"""Seconds after which the loop comes round although nothing is to be done, to show that it can."""

_SHARE = 300
"""A look at everything is followed by a pause of so many times its own duration."""


class Listeners(NamedTuple):
    """Who is told of what is no event.

    ``configure`` gets a configuration that is in force from now on; ``beat`` is called whenever the loop has come round
    or recovery is a step further, at rest every 10 s.
    """

    configure: Callable[[Config], None] = lambda _config: None
    beat: Callable[[], None] = lambda: None


class Daemon:
    """Runs pipelines for one dataset until it is told to stop.

    Args:
        config: what to read, how to judge, where to write.
        reload: reads the configuration again, for SIGHUP.
        listeners: told of what is no event of the log.
        until_idle: after so many seconds without anything new the daemon ends; None for never.
        at: called with the name of each point at which a crash must be harmless.
    """

    def __init__(
        self,
        config: Config,
        *,
        emit: Emit,
        reload: Callable[[], Config],
        notifier: Notifier,
        files: Files,
        clock: Clock,
        listeners: Listeners | None = None,
        until_idle: float | None = None,
        at: Callable[[str], None] = nowhere,
    ) -> None:
        self._config = config
        self._emit = emit
        self._read_config = reload
        self._listeners = listeners or Listeners()
        self._notifier = notifier
        self._files = files
        self._clock = clock
        self._at = at
        self._until_idle = until_idle
        self._pulse = Pulse(notifier, clock, self._listeners.beat)
        self._standing = Standing(notifier, clock)
        database = locate(config.source.database)
        self._database_folder = database.parent if isinstance(database, Path) else None
        self._hints = Hints(config.source.shards, database.name if isinstance(database, Path) else None)
        self._troubles = Troubles(emit)
        self._source_troubles = SourceTroubles(emit)
        self._watch_no_more = anyio.Event()
        self._greeted = False
        self._stopping = False
        self._reload = False
        self._unread: UnavailableError | None = None

    async def once(self) -> Accounts:
        """Work off what is there and return the accounts.

        Raises:
            StreamerError: something that is needed is not there.
        """
        with self._locked():
            async with self._open() as pipeline:
                await pipeline.drain()
                deadline = self._clock.monotonic() + _ONCE_PATIENCE
                while pipeline.error is not None:
                    if self._clock.monotonic() >= deadline:
                        raise pipeline.error
                    await self._clock.sleep(pipeline.poll_pause)
                    await pipeline.drain()
                return await pipeline.ledger.accounts()

    async def run(self, beside: AbstractContextManager[object] | None = None) -> None:
        """Run until SIGTERM or SIGINT, or until nothing new has come for long enough.

        Args:
            beside: entered when the dataset is ours, left when everything has ended.

        Raises:
            StreamerError: a person has to decide something first; or the daemon would end as idle, but something that
                it reads could not be read all the time.
        """
        with self._locked(), beside or nullcontext():
            failure: StreamerError | None = None
            async with anyio.create_task_group() as tasks:
                await tasks.start(self._listen)
                tasks.start_soon(self._pulse.run)
                self._watch(tasks)
                try:
                    await self._lives()
                except StreamerError as error:
                    failure = error  # raised below: a task group would wrap it
                self._watch_no_more.set()
                tasks.cancel_scope.cancel()
            if failure is not None:
                raise failure

    def _locked(self) -> DatasetLock:
        check_condition(self._config.qualify.where)
        path = self._config.dataset.path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UnavailableError(
                "make the folder of the dataset", str(path.parent), error.strerror or str(error), "see its rights"
            ) from error
        return DatasetLock(lock_file(path))

    def _open(self) -> AbstractAsyncContextManager[Pipeline]:
        return Pipeline.open(self._config, self._files, self._clock, self._emit, self._pass, self._source_troubles)

    async def _lives(self) -> None:
        while not self._stopping:
            try:
                async with self._open() as pipeline:
                    self._greet(pipeline)
                    await self._live(pipeline)
                    self._emit(Stopped(pipeline.dataset.length))
            except UnavailableError as error:
                pause = self._troubles.begin(error)
                self._standing.waits(error)
                await self._pause(pause)
        if self._unread is not None:
            raise self._unread

    def _greet(self, pipeline: Pipeline) -> None:
        if self._greeted:
            return
        self._greeted = True
        config = self._config
        self._notifier.ready("working off what is there")
        self._emit(
            Started(
                dataset=str(config.dataset.path),
                dataset_bytes=pipeline.dataset.length,
                shards=str(config.source.shards) if config.source.reads_shards else "",
                database=str(pipeline.outcomes.path),
                where=config.qualify.where,
            )
        )

    async def _live(self, pipeline: Pipeline) -> None:
        next_scan = next_poll = self._clock.monotonic()
        while not self._stopping:
            self._pulse.progress()
            more = False
            now = self._clock.monotonic()
            if self._hints.take_scan() or now >= next_scan:
                await pipeline.scan()
                end = self._clock.monotonic()
                next_scan = end + max(pipeline.config.source.scan_interval, _SHARE * (end - now))
            pipeline.inbox.look(self._hints.take_paths())
            if hinted := self._hints.take_database():
                pipeline.outcomes.hurry()
            if hinted or now >= next_poll:
                more = await pipeline.poll()
                next_poll = now if more else now + pipeline.poll_pause
            worked = await pipeline.step()
            self._troubles.all_over()
            self._standing.turn(pipeline, now, worked=worked or more)
            await self._standing.tell(pipeline)
            if self._reload:
                await self._reconfigure(pipeline)
            if not worked:
                self._stopping |= await self._is_over(pipeline)
                await self._pause(min(next_scan, next_poll, self._standing.next_text) - self._clock.monotonic())

    async def _is_over(self, pipeline: Pipeline) -> bool:
        """Say whether nothing has come for so long that the daemon ends, after one more look at everything."""
        if self._until_idle is None or self._clock.monotonic() < self._idle_end:
            return False
        began = self._clock.monotonic()
        await pipeline.catch_up()
        self._standing.turn(pipeline, began, worked=False)
        if self._clock.monotonic() < self._idle_end:
            return False
        self._unread = pipeline.error
        self._emit(Idle(self._until_idle))
        return True

    @property
    def _idle_end(self) -> float:
        return self._standing.idle_since + (self._until_idle or 0.0)

    async def _pause(self, seconds: float) -> None:
        seconds = min(seconds, _LONGEST_PAUSE)
        interval = self._pulse.interval
        if interval is not None:
            seconds = min(seconds, interval)
        if self._until_idle is not None:
            seconds = min(seconds, self._idle_end - self._clock.monotonic())
        if seconds > 0 and not self._stopping:
            await self._hints.wait(seconds)
        self._pulse.progress()

    def _pass(self, point: str) -> None:
        self._pulse.progress()
        self._at(point)

    def _watch(self, tasks: TaskGroup) -> None:
        source = self._config.source
        watched = [(source.shards, self._hints.shard, True)] if source.reads_shards else []
        if self._database_folder is not None:
            watched.append((self._database_folder, self._hints.database, False))
        for folder, on_change, recursive in watched:
            tasks.start_soon(
                partial(watch, recursive=recursive, force_polling=source.force_polling),
                folder,
                on_change,
                self._emit,
                self._watch_no_more,
            )

    async def _listen(self, *, task_status: TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            task_status.started()
            async for number in signals:
                if number == signal.SIGHUP:
                    self._reload = True
                else:
                    self._stopping = True
                    self._notifier.stopping("finishing the batch")
                self._hints.ring()

    async def _reconfigure(self, pipeline: Pipeline) -> None:
        self._reload = False
        self._notifier.reloading()
        try:
            wanted = self._read_config()
            check_condition(wanted.qualify.where)
            await pipeline.outcomes.check(wanted.qualify.where, wanted.records.turn_rules)
        except StreamerError as error:
            self._emit(ReloadFailed(str(error)))
        else:
            live, fixed = configuration.changes(self._config, wanted)
            self._config = configuration.reloaded(self._config, wanted)
            pipeline.configure(self._config)
            await pipeline.take_up()
            self._listeners.configure(self._config)
            self._emit(Reloaded(", ".join(live), ", ".join(fixed)))
            await pipeline.describe()
        finally:
            self._standing.reloaded()
