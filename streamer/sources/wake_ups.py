"""File system notifications as wake-ups: they reduce latency, correctness never depends on them."""

from __future__ import annotations

import os
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import NamedTuple

import anyio
from anyio import to_thread
from watchfiles._rust_notify import RustNotify

from streamer.base.events import Emit, NotificationsLost

_STEPS_AFTER_CHANGE = ((1.0, 2), (60.0, 40))
_RESTING_STEP_MS = 200
"""The watcher checks for changes once per step, and returns one step later. A small step (milliseconds) wakes the
process all the time, so it is used only until some seconds have passed since the last change."""

_DEBOUNCE_MS = 1
_TIMEOUT_MS = 5_000
_POLL_DELAY_MS = 300
_RETRY_SECONDS = 5.0
_MAX_PATHS = 10_000
"""Maximum number of paths kept; beyond it the whole folder is scanned."""


class PendingChanges(NamedTuple):
    """Changes since the last call: paths below the shard folder, all of it (``scan``), the trace database."""

    paths: AbstractSet[str] = frozenset()
    scan: bool = False
    database: bool = False


class WakeUps:
    """Collects pending changes, and wakes the daemon at every change.

    Args:
        shards: The shard folder.
        database_name: The file name of the trace database. None if it is on a server, which sends no notifications:
            then a new shard implies a new outcome, as a rollout writes both when it ends.
    """

    def __init__(self, shards: Path, database_name: str | None) -> None:
        self._shards = shards
        self._database_name = database_name
        self._paths: set[str] = set()
        self._scan = False
        self._database = False
        self._bell = anyio.Event()

    def shard(self, path: str) -> None:
        """Record a change below the shard folder; "" means the whole folder."""
        if not path or os.path.isdir(path) or len(self._paths) >= _MAX_PATHS:
            self._scan = True
        else:
            self._paths.add(os.path.relpath(path, self._shards))
        self._database |= self._database_name is None
        self.ring()

    def database(self, path: str) -> None:
        """Record a change beside the trace database, whose journals share its name; "" means any file."""
        if not path or os.path.basename(path).startswith(self._database_name or ""):
            self._database = True
            self.ring()

    def ring(self) -> None:
        """End the current wait, or the next one."""
        self._bell.set()

    def take(self) -> PendingChanges:
        """Return the pending changes, and reset them."""
        pending = PendingChanges(self._paths, self._scan, self._database)
        self._paths, self._scan, self._database = set(), False, False
        return pending

    async def wait(self, seconds: float) -> None:
        """Return at the next change, or after ``seconds``."""
        with anyio.move_on_after(seconds):
            await self._bell.wait()
        self._bell = anyio.Event()


async def watch(
    folder: Path,
    on_change: Callable[[str], None],
    emit: Emit,
    stop: anyio.Event,
    *,
    recursive: bool,
    force_polling: bool,
) -> None:
    """Call ``on_change`` with each path that changes in ``folder``, until ``stop`` is set.

    When watching fails (missing folder, watch limit, a name that cannot be decoded, a replaced folder),
    ``on_change`` is called with "" and watching restarts: a scan finds the changes that were missed.
    """
    reported = False
    while not stop.is_set():
        cause = await _watch_once(folder, on_change, stop, recursive=recursive, force_polling=force_polling)
        if stop.is_set():
            return
        if not reported:
            emit(NotificationsLost(str(folder), cause))
        reported = True
        on_change("")
        with anyio.move_on_after(_RETRY_SECONDS):
            await stop.wait()


async def _watch_once(
    folder: Path, on_change: Callable[[str], None], stop: anyio.Event, *, recursive: bool, force_polling: bool
) -> str:
    identity = _identity(folder)
    try:
        with RustNotify([str(folder)], False, force_polling, _POLL_DELAY_MS, recursive, False) as watcher:  # noqa: FBT003
            last = anyio.current_time() - _STEPS_AFTER_CHANGE[0][0]
            while True:
                step, timeout = _pace(anyio.current_time() - last)
                # The watcher's thread cannot be cancelled; it checks the event instead.
                changes = await to_thread.run_sync(watcher.watch, _DEBOUNCE_MS, step, timeout, stop)
                if _identity(folder) != identity:
                    return "the folder was replaced"
                if isinstance(changes, set):
                    last = anyio.current_time()
                    for _, path in changes:
                        on_change(path)
                elif changes != "timeout":
                    return "the watcher ended"
    except (OSError, RuntimeError) as error:
        return str(error)


def _pace(quiet: float) -> tuple[int, int]:
    """Return the step and the timeout of the watcher, both in milliseconds.

    Args:
        quiet: Seconds since the last change.
    """
    for until, step in _STEPS_AFTER_CHANGE:
        if quiet < until:
            return step, min(_TIMEOUT_MS, max(step, int((until - quiet) * 1000)))
    return _RESTING_STEP_MS, _TIMEOUT_MS


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        state = os.stat(folder)
    except OSError:
        return None
    return state.st_dev, state.st_ino
