"""The daemon: lives that take turns, hints that wake them, signals that end them.

A failure ends the pipeline of one life, never the daemon (``supervisor.py``). Only what a person has to decide
(``RefusedError``, ``ConfigError``) ends it, and of several datasets only when it is so with all of them.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

import anyio
import msgspec
from anyio.abc import TaskGroup, TaskStatus

from streamer.base.env import Env
from streamer.base.errors import StreamerError, UnavailableError
from streamer.base.events import Emit, Idle, Reloaded, ReloadFailed
from streamer.config import Config, real_path
from streamer.daemon.observers.systemd import Notifier
from streamer.daemon.pipeline import drain
from streamer.daemon.status import Stands
from streamer.daemon.supervisor import Callbacks, Supervisor
from streamer.daemon.watchdog import Heartbeat
from streamer.sources.read_cache import ReadCache
from streamer.sources.trace_db import locate
from streamer.sources.wake_ups import WakeUps, watch
from streamer.store.ledger.ledger import Accounts

_ONCE_PAUSE = 0.2
"""Seconds between two looks of a single pass at whether a fleet has got on."""

_ONCE_PATIENCE = 10.0
"""Seconds for which a single pass waits for a trace database that is busy."""

_LONGEST_PAUSE = 10.0
"""Seconds after which the loop comes round although nothing is to be done, to show that it can."""


class Listeners(NamedTuple):
    """Who is told of what is no event.

    ``configure`` gets a configuration that is in force from now on; ``beat`` is called whenever the loop has come round
    or recovery is a step further, at rest every 10 s. ``of`` returns who is told of the events of one dataset; without
    it, who is told of all others.
    """

    configure: Callable[[Config], None] = lambda _config: None
    beat: Callable[[], None] = lambda: None
    of: Callable[[Config], Emit] | None = None


class Daemon:
    """Lets the lives of datasets take turns until it is told to stop.

    Args:
        configs: one for each dataset: what to read, how to judge, where to write. What is no matter of a single dataset
            is the same in all.
        env: The machine; its ``emit`` gets the events that belong to no single dataset.
        reload: reads the configurations again, for SIGHUP.
        notifier: tells the service manager.
        listeners: told of what is no event of the log.
        until_idle: after so many seconds without anything new the daemon ends; None for never.
    """

    def __init__(
        self,
        configs: Sequence[Config],
        env: Env,
        *,
        reload: Callable[[], Sequence[Config]],
        notifier: Notifier,
        listeners: Listeners | None = None,
        until_idle: float | None = None,
    ) -> None:
        self._source = configs[0].source
        self._env = env
        self._emit = env.emit
        self._read_configs = reload
        self._listeners = listeners or Listeners()
        self._notifier = notifier
        self._clock = env.clock
        self._until_idle = until_idle
        self._heartbeat = Heartbeat(notifier, env.clock, self._listeners.beat)
        database = locate(self._source.database) if self._source.is_local else None
        self._database_folder = database.parent if isinstance(database, Path) else None
        self._wake_ups = WakeUps(self._source.shards, database.name if isinstance(database, Path) else None)
        self._stands = Stands(notifier.status)
        self._read_cache = ReadCache() if len(configs) > 1 else None
        self._supervisors = [
            Supervisor(config, self._env_of(config), self._callbacks(config), self._read_cache) for config in configs
        ]
        self._watch_no_more = anyio.Event()
        self._greeted = False
        self._stopping = False
        self._reload = False
        self._unread: StreamerError | None = None
        self._refused: dict[Supervisor, StreamerError] = {}

    async def once(self) -> list[Accounts]:
        """Work off what is there and return the accounts of each dataset.

        Raises:
            StreamerError: something that is needed is not there.
        """
        async with AsyncExitStack() as stack:
            stack.enter_context(self._locked())
            pipelines = [await stack.enter_async_context(supervisor.opening()) for supervisor in self._supervisors]
            await drain(pipelines, self._read_cache)
            deadline, changes = self._clock.monotonic() + _ONCE_PATIENCE, -1
            while open_ := [one for one in pipelines if one.error is not None or not one.has_arrived]:
                now, first = self._clock.monotonic(), open_[0]
                if first.error is None and first.ledger.changes != changes:  # a fleet takes its time, and gets on
                    deadline, changes = now + _ONCE_PATIENCE, first.ledger.changes
                if now >= deadline:
                    raise first.error or _unfinished(first.config)
                await self._clock.sleep(max(one.poll_pause if one.error else _ONCE_PAUSE for one in open_))
                await drain(pipelines, self._read_cache)
            return [await pipeline.ledger.accounts() for pipeline in pipelines]

    async def run(self, beside: AbstractContextManager[object] | None = None) -> None:
        """Run until SIGTERM or SIGINT, or until nothing new has come for long enough.

        Args:
            beside: entered when the datasets are ours, left when everything has ended.

        Raises:
            StreamerError: a person has to decide something first; or the daemon would end as idle, but something that
                it reads could not be read all the time.
        """
        with self._locked(), beside or nullcontext():
            failure: StreamerError | None = None
            async with anyio.create_task_group() as tasks:
                await tasks.start(self._listen)
                tasks.start_soon(self._heartbeat.run)
                self._watch(tasks)
                try:
                    await self._live()
                except StreamerError as error:
                    failure = error  # raised below: a task group would wrap it
                self._watch_no_more.set()
                tasks.cancel_scope.cancel()
            if failure is not None:
                raise failure

    def _locked(self) -> ExitStack:
        with ExitStack() as stack:
            for supervisor in self._supervisors:
                stack.enter_context(supervisor.locked())
            return stack.pop_all()

    async def _live(self) -> None:
        async with AsyncExitStack() as stack:
            for supervisor in self._supervisors:
                await stack.enter_async_context(supervisor)
            while not self._stopping:
                await self._round()
            for supervisor in self._supervisors:
                await supervisor.stop()
        for error in (*self._refused.values(), self._unread):
            if error is not None:
                raise error

    async def _round(self) -> None:
        """Give each life a turn, then wait until one of them has something to do."""
        news = self._wake_ups.take()
        worked = False
        for supervisor in self._supervisors:
            self._heartbeat.progress()
            worked |= await self._let(supervisor, supervisor.turn(news))
        self._forget_reads()
        if self._reload and any(supervisor.is_open for supervisor in self._supervisors):
            await self._reconfigure()
        if not worked:
            self._stopping |= await self._is_over()
            await self._pause(min(supervisor.due for supervisor in self._supervisors) - self._clock.monotonic())

    def _forget_reads(self) -> None:
        if self._read_cache is not None:
            self._read_cache.clear()

    async def _let(self, supervisor: Supervisor, doing: Awaitable[bool]) -> bool:
        """Let a life do something; say what came of it. What a person has to decide ends the daemon if all wait for it.

        Raises:
            StreamerError: so it is.
        """
        try:
            done = await doing
        except StreamerError as error:
            self._refused[supervisor] = error
            if len(self._refused) == len(self._supervisors):
                raise
            supervisor.wait_for(error)
            return False
        if supervisor.is_open:
            self._refused.pop(supervisor, None)
        return done

    def _env_of(self, config: Config) -> Env:
        emit = self._listeners.of(config) if self._listeners.of else self._emit
        return msgspec.structs.replace(self._env, emit=emit, failpoint=self._pass)

    def _callbacks(self, config: Config) -> Callbacks:
        stand = self._stands.of(config.dataset.path)
        return Callbacks(stand, self._ready, self._listeners.configure, self._wake_ups.ring)

    def _ready(self) -> None:
        """Tell the manager that a pipeline is open, once."""
        if not self._greeted:
            self._greeted = True
            self._notifier.ready("working off what is there")

    async def _is_over(self) -> bool:
        """Say whether nothing has come for so long that the daemon ends, after one more look at everything."""
        if self._until_idle is None or self._clock.monotonic() < self._idle_end:
            return False
        for supervisor in self._others_than_refused():
            await self._let(supervisor, supervisor.look_again())
            self._forget_reads()
        if self._clock.monotonic() < self._idle_end:
            return False
        self._unread = next((supervisor.error for supervisor in self._supervisors if supervisor.error), None)
        self._emit(Idle(self._until_idle))
        return True

    @property
    def _idle_end(self) -> float:
        return max(supervisor.idle_since for supervisor in self._others_than_refused()) + (self._until_idle or 0.0)

    def _others_than_refused(self) -> list[Supervisor]:
        return [supervisor for supervisor in self._supervisors if supervisor not in self._refused]

    async def _pause(self, seconds: float) -> None:
        seconds = min(seconds, _LONGEST_PAUSE)
        interval = self._heartbeat.interval
        if interval is not None:
            seconds = min(seconds, interval)
        if self._until_idle is not None:
            seconds = min(seconds, self._idle_end - self._clock.monotonic())
        if seconds > 0 and not self._stopping:
            await self._wake_ups.wait(seconds)
        self._heartbeat.progress()

    def _pass(self, point: str) -> None:
        self._heartbeat.progress()
        self._env.failpoint(point)

    def _watch(self, tasks: TaskGroup) -> None:
        source = self._source
        watched = [(source.shards, self._wake_ups.shard, True)] if source.reads_shards else []
        if self._database_folder is not None:
            watched.append((self._database_folder, self._wake_ups.database, False))
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
                self._wake_ups.ring()

    async def _reconfigure(self) -> None:
        """Take the configuration that is there now: in all lives, or in none."""
        self._reload = False
        self._notifier.reloading()
        try:
            wanted = self._read_configs()
            pairs = _paired(self._supervisors, wanted)
            for supervisor, config in pairs:
                await supervisor.check(config)
        except StreamerError as error:
            self._emit(ReloadFailed(str(error)))
        else:
            for supervisor, config in pairs:
                await self._let(supervisor, supervisor.configure(config))
            if different := _different(self._supervisors, wanted):
                self._emit(Reloaded("", different))
        finally:
            self._notifier.ready("configuration read again")
            for supervisor in self._supervisors:
                supervisor.reloaded()


def _paired(supervisors: Sequence[Supervisor], wanted: Sequence[Config]) -> list[tuple[Supervisor, Config]]:
    """Return the lives with what is wanted of each; a single dataset is the same one even if its path is another."""
    if len(supervisors) == len(wanted) == 1:
        return [(supervisors[0], wanted[0])]
    by_path = {real_path(config.dataset.path): config for config in wanted}
    found = [(supervisor, by_path.get(real_path(supervisor.config.dataset.path))) for supervisor in supervisors]
    return [(supervisor, config) for supervisor, config in found if config is not None]


def _different(supervisors: Sequence[Supervisor], wanted: Sequence[Config]) -> str:
    """Return which datasets are wanted and not there, or there and not wanted."""
    if len(supervisors) == len(wanted) == 1:
        return ""
    there = {real_path(supervisor.config.dataset.path): supervisor.config.dataset.path for supervisor in supervisors}
    then = {real_path(config.dataset.path): config.dataset.path for config in wanted}
    added = [f"dataset {then[path]} (new)" for path in then.keys() - there.keys()]
    return ", ".join(sorted([*added, *(f"dataset {there[path]} (gone)" for path in there.keys() - then.keys())]))


def _unfinished(config: Config) -> UnavailableError:
    """Return the error of a single pass after which records wait, although nothing fails."""
    if config.source.is_local:
        cause, hint = "records wait in the outbox for a writer's receipt", "the next run delivers them"
    else:
        cause, hint = "records of the stream are not all here", "see `streamer fleet status`"
    return UnavailableError("work off the fleet", str(config.dataset.path), cause, hint)
