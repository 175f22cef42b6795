"""The daemon: supervisors that share one loop, notifications that wake it, signals that end it.

A failure ends one pipeline, never the daemon (``supervisor.py``). Only an error that requires manual action
(``RefusedError``, ``ConfigError``) ends it, and with several datasets only if all of them have one.
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
from streamer.config.database_url import locate
from streamer.daemon.observers.systemd import Notifier
from streamer.daemon.pipeline import drain
from streamer.daemon.status import StatusText
from streamer.daemon.supervisor import Callbacks, Supervisor
from streamer.daemon.watchdog import Heartbeat
from streamer.sources.read_cache import ReadCache
from streamer.sources.wake_ups import WakeUps, watch
from streamer.store.ledger.ledger import LineCounts

_ONCE_PAUSE = 0.2
"""Seconds between two checks of a single pass for progress of a fleet."""

_ONCE_PATIENCE = 10.0
"""Seconds for which a single pass waits for a busy trace database, or for progress of a fleet."""

_LONGEST_PAUSE = 10.0
"""Seconds after which an idle loop comes round, to show that it is not stuck."""


class Listeners(NamedTuple):
    """Functions that a daemon calls on changes that are not events.

    Args:
        configure: Called with each configuration that is applied.
        heartbeat: Called in each round of the loop and at each step of a recovery; when idle, every 10 s.
        emit_for: Returns the ``emit`` for the events of one dataset; by default, that of all others.
    """

    configure: Callable[[Config], None] = lambda _config: None
    heartbeat: Callable[[], None] = lambda: None
    emit_for: Callable[[Config], Emit] | None = None


class Daemon:
    """Gives the supervisors of its datasets turns until a signal ends it.

    Args:
        configs: One configuration for each dataset; settings that do not belong to a dataset are the same in all.
        env: Files, clock, failpoints, and ``emit`` for the events of no single dataset.
        reload: Reads the configurations again, for SIGHUP.
        notifier: Informs the service manager.
        listeners: Called on changes that are not events.
        until_idle: Idle seconds after which the daemon ends; None for never.
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
        self._heartbeat = Heartbeat(notifier, env.clock, self._listeners.heartbeat)
        database = locate(self._source.database) if self._source.is_local else None
        self._database_folder = database.parent if isinstance(database, Path) else None
        self._wake_ups = WakeUps(self._source.shards, database.name if isinstance(database, Path) else None)
        self._status_text = StatusText(notifier.status)
        self._read_cache = ReadCache() if len(configs) > 1 else None
        self._supervisors = [
            Supervisor(config, self._env_of(config), self._callbacks(config), self._read_cache) for config in configs
        ]
        self._watch_ended = anyio.Event()
        self._is_announced = False
        self._stopping = False
        self._reload = False
        self._idle_error: StreamerError | None = None
        self._refused: dict[Supervisor, StreamerError] = {}

    async def once(self) -> list[LineCounts]:
        """Process existing data, and return the counts of each dataset.

        Raises:
            StreamerError: an input is not available, or manual action is required.
        """
        async with AsyncExitStack() as stack:
            stack.enter_context(self._locked())
            pipelines = [await stack.enter_async_context(supervisor.opening()) for supervisor in self._supervisors]
            await drain(pipelines, self._read_cache)
            deadline, changes = self._clock.monotonic() + _ONCE_PATIENCE, -1
            while open_ := [one for one in pipelines if one.error is not None or not one.has_arrived]:
                now, first = self._clock.monotonic(), open_[0]
                if first.error is None and first.ledger.changes != changes:  # a fleet makes progress
                    deadline, changes = now + _ONCE_PATIENCE, first.ledger.changes
                if now >= deadline:
                    raise first.error or _unfinished(first.config)
                await self._clock.sleep(max(one.poll_pause if one.error else _ONCE_PAUSE for one in open_))
                await drain(pipelines, self._read_cache)
            return [await pipeline.ledger.counts() for pipeline in pipelines]

    async def run(self, beside: AbstractContextManager[object] | None = None) -> None:
        """Run until SIGTERM or SIGINT, or until the daemon was idle for long enough.

        Args:
            beside: Entered once the datasets are locked, left when everything has ended.

        Raises:
            StreamerError: manual action is required; or the daemon ends as idle while an input cannot be read.
        """
        with self._locked(), beside or nullcontext():
            failure: StreamerError | None = None
            async with anyio.create_task_group() as tasks:
                await tasks.start(self._listen)
                tasks.start_soon(self._heartbeat.run)
                self._watch(tasks)
                try:
                    await self._serve()
                except StreamerError as error:
                    failure = error  # raised below: a task group would wrap it
                self._watch_ended.set()
                tasks.cancel_scope.cancel()
            if failure is not None:
                raise failure

    def _locked(self) -> ExitStack:
        with ExitStack() as stack:
            for supervisor in self._supervisors:
                stack.enter_context(supervisor.locked())
            return stack.pop_all()

    async def _serve(self) -> None:
        async with AsyncExitStack() as stack:
            for supervisor in self._supervisors:
                await stack.enter_async_context(supervisor)
            while not self._stopping:
                await self._round()
            for supervisor in self._supervisors:
                await supervisor.stop()
        for error in (*self._refused.values(), self._idle_error):
            if error is not None:
                raise error

    async def _round(self) -> None:
        """Give each supervisor a turn, then wait for the next change or the next turn."""
        changes = self._wake_ups.take()
        worked = False
        for supervisor in self._supervisors:
            self._heartbeat.progress()
            worked |= await self._guarded(supervisor, supervisor.turn(changes))
        self._clear_read_cache()
        if self._reload and any(supervisor.is_open for supervisor in self._supervisors):
            await self._reconfigure()
        if not worked:
            self._stopping |= await self._has_idled_out()
            await self._pause(min(one.next_turn_at for one in self._supervisors) - self._clock.monotonic())

    def _clear_read_cache(self) -> None:
        if self._read_cache is not None:
            self._read_cache.clear()

    async def _guarded(self, supervisor: Supervisor, work: Awaitable[bool]) -> bool:
        """Return the result of a supervisor's work; after an error, let the supervisor retry later.

        Raises:
            StreamerError: all supervisors require manual action.
        """
        try:
            done = await work
        except StreamerError as error:
            self._refused[supervisor] = error
            if len(self._refused) == len(self._supervisors):
                raise
            supervisor.retry_after(error)
            return False
        if supervisor.is_open:
            self._refused.pop(supervisor, None)
        return done

    def _env_of(self, config: Config) -> Env:
        emit = self._listeners.emit_for(config) if self._listeners.emit_for else self._emit
        return msgspec.structs.replace(self._env, emit=emit, failpoint=self._failpoint)

    def _callbacks(self, config: Config) -> Callbacks:
        update = self._status_text.updater(config.dataset.path)
        return Callbacks(update, self._ready, self._listeners.configure, self._wake_ups.ring)

    def _ready(self) -> None:
        """Inform the service manager, once, that a pipeline is open."""
        if not self._is_announced:
            self._is_announced = True
            self._notifier.ready("working off what is there")

    async def _has_idled_out(self) -> bool:
        """Return whether the daemon was idle for long enough to end, after one last scan of everything."""
        if self._until_idle is None or self._clock.monotonic() < self._idle_end:
            return False
        for supervisor in self._running():
            await self._guarded(supervisor, supervisor.catch_up())
            self._clear_read_cache()
        if self._clock.monotonic() < self._idle_end:
            return False
        self._idle_error = next((supervisor.error for supervisor in self._supervisors if supervisor.error), None)
        self._emit(Idle(self._until_idle))
        return True

    @property
    def _idle_end(self) -> float:
        return max(supervisor.idle_since for supervisor in self._running()) + (self._until_idle or 0.0)

    def _running(self) -> list[Supervisor]:
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

    def _failpoint(self, point: str) -> None:
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
                self._watch_ended,
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
        """Apply the configuration that is there now to all supervisors, or to none."""
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
                await self._guarded(supervisor, supervisor.configure(config))
            if different := _different(self._supervisors, wanted):
                self._emit(Reloaded("", different))
        finally:
            self._notifier.ready("configuration read again")
            for supervisor in self._supervisors:
                supervisor.reloaded()


def _paired(supervisors: Sequence[Supervisor], wanted: Sequence[Config]) -> list[tuple[Supervisor, Config]]:
    """Return each supervisor with its new configuration; a single dataset matches whatever its path is now."""
    if len(supervisors) == len(wanted) == 1:
        return [(supervisors[0], wanted[0])]
    by_path = {real_path(config.dataset.path): config for config in wanted}
    found = [(supervisor, by_path.get(real_path(supervisor.config.dataset.path))) for supervisor in supervisors]
    return [(supervisor, config) for supervisor, config in found if config is not None]


def _different(supervisors: Sequence[Supervisor], wanted: Sequence[Config]) -> str:
    """Return the datasets that were added or removed, as text."""
    if len(supervisors) == len(wanted) == 1:
        return ""
    there = {real_path(supervisor.config.dataset.path): supervisor.config.dataset.path for supervisor in supervisors}
    then = {real_path(config.dataset.path): config.dataset.path for config in wanted}
    added = [f"dataset {then[path]} (new)" for path in then.keys() - there.keys()]
    return ", ".join(sorted([*added, *(f"dataset {there[path]} (gone)" for path in there.keys() - then.keys())]))


def _unfinished(config: Config) -> UnavailableError:
    """Return the error of a single pass that ends with undelivered records."""
    if config.source.is_local:
        cause, hint = "records wait in the outbox for a writer's receipt", "the next run delivers them"
    else:
        cause, hint = "records of the stream are not all here", "see `streamer fleet status`"
    return UnavailableError("work off the fleet", str(config.dataset.path), cause, hint)
