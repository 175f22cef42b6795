"""Notifications of the file system, as hints: they make things quick, nothing depends on them."""

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

_STEPS = ((1.0, 2), (60.0, 40))
_RESTING_STEP_MS = 200
"""The watcher looks every so many milliseconds whether something came, and returns one step later: a small step costs
a process that wakes up all the time. So steps are small only for so many seconds after a change."""

_DEBOUNCE_MS = 1
_TIMEOUT_MS = 5_000
_POLL_DELAY_MS = 300
_RETRY_SECONDS = 5.0
_MANY = 10_000
"""More paths than this are not kept: the whole folder is looked at instead."""


class PendingChanges(NamedTuple):
    """What has changed: paths below the shard folder, the whole of it (``scan``), the trace database."""

    paths: AbstractSet[str] = frozenset()
    scan: bool = False
    database: bool = False


class WakeUps:
    """What has changed since it was last asked, and a bell that rings at every change.

    Args:
        shards: the shard folder.
        database_name: the name of the trace database's file. None if it is on a server, which notifies nobody: there
            a new shard is the sign of a new outcome, as a rollout that ends writes both.
    """

    def __init__(self, shards: Path, database_name: str | None) -> None:
        self._shards = shards
        self._database_name = database_name
        self._paths: set[str] = set()
        self._scan = False
        self._database = False
        self._bell = anyio.Event()

    def shard(self, path: str) -> None:
        """Note a change below the shard folder; "" stands for anything."""
        if not path or os.path.isdir(path) or len(self._paths) >= _MANY:
            self._scan = True
        else:
            self._paths.add(os.path.relpath(path, self._shards))
        self._database |= self._database_name is None
        self.ring()

    def database(self, path: str) -> None:
        """Note a change beside the trace database; its journals bear its name. "" stands for anything."""
        if not path or os.path.basename(path).startswith(self._database_name or ""):
            self._database = True
            self.ring()

    def ring(self) -> None:
        """End the wait that is under way, or the next one."""
        self._bell.set()

    def take(self) -> PendingChanges:
        """Return what has changed, and forget it."""
        news = PendingChanges(self._paths, self._scan, self._database)
        self._paths, self._scan, self._database = set(), False, False
        return news

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
    """Call ``on_change`` with the path of everything that changes in ``folder``, until ``stop`` is set.

    When watching fails (no such folder, watch limit, a name that cannot be decoded, a folder that was
    replaced), ``on_change`` is called with "" and watching starts anew: whatever was missed, a scan finds.
    """
    told = False
    while not stop.is_set():
        cause = await _watch_once(folder, on_change, stop, recursive=recursive, force_polling=force_polling)
        if stop.is_set():
            return
        if not told:
            emit(NotificationsLost(str(folder), cause))
        told = True
        on_change("")
        with anyio.move_on_after(_RETRY_SECONDS):
            await stop.wait()


async def _watch_once(
    folder: Path, on_change: Callable[[str], None], stop: anyio.Event, *, recursive: bool, force_polling: bool
) -> str:
    identity = _identity(folder)
    try:
        with RustNotify([str(folder)], False, force_polling, _POLL_DELAY_MS, recursive, False) as watcher:  # noqa: FBT003
            last = anyio.current_time() - _STEPS[0][0]
            while True:
                step, timeout = _pace(anyio.current_time() - last)
                # Its thread cannot be cancelled; it looks at the event instead.
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
    """Return the step, and after how many milliseconds without a change the watcher comes back to ask again.

    Args:
        quiet: seconds since the last change.
    """
    for until, step in _STEPS:
        if quiet < until:
            return step, min(_TIMEOUT_MS, max(step, int((until - quiet) * 1000)))
    return _RESTING_STEP_MS, _TIMEOUT_MS


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        state = os.stat(folder)
    except OSError:
        return None
    return state.st_dev, state.st_ino
