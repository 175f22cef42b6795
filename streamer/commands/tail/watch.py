"""Watches a dataset and its ledger. A look costs a few system calls if nothing has changed."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Self

import msgspec

from streamer.base.errors import StreamerError
from streamer.base.lock import Holder, holder, lock_file
from streamer.commands.tail.history import ArrivalHistory
from streamer.reader.summary_line import LineSummary, summarize
from streamer.reader.tail import Follower
from streamer.store.views.snapshot import Snapshot, snapshot

SHARE = 20
"""The pause after a query of the ledger, in durations of the query: sums over millions of spans take some tenths of a
second."""

_LEAST_PAUSE = 0.5
_DAEMON_PAUSE = 1.0
_BEHIND = 64 << 20
"""Bytes behind the end of the dataset from which on records are skipped, to show the newest ones."""

_KEPT = 400
"""The most records that are kept: no terminal has more lines."""

_PICKED_UP = 50
"""Records that are shown after some were skipped."""


class TailView(msgspec.Struct, frozen=True):
    """The state of a dataset at one moment.

    ``seen`` is the last snapshot of the ledger, ``age`` seconds old, and ``stale`` if the ledger has changed since. It
    is None while no ledger could be read; ``failure`` is the reason. ``size`` is the dataset's in bytes, None while the
    dataset is missing. ``newest`` has its last records, oldest first; ``came`` counts the records since the start.
    """

    dataset: str
    size: int | None
    daemon: Holder | None
    seen: Snapshot | None
    age: float
    stale: bool
    failure: str
    note: str
    came: int
    per_minute: float
    history: ArrivalHistory
    newest: tuple[LineSummary, ...]


class Watch:
    """Watches one dataset. Use it as a context manager.

    Args:
        dataset: The path of the dataset, which may be missing.
        ledger: The path of its ledger, which may be missing.
        last: The number of existing records to show.
        clock: Returns monotonic seconds.
    """

    def __init__(self, dataset: Path, ledger: Path, last: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._dataset = dataset
        self._ledger = _Ledger(dataset, ledger, clock)
        self._clock = clock
        self._newest: deque[LineSummary] = deque(maxlen=_KEPT)
        self._came = 0
        self._note = ""
        self._history = ArrivalHistory(clock())
        self._follower = self._follow(last)
        for found in self._read():
            self._newest.append(found)
        self._came = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._follower.close()

    def look(self) -> bool:
        """Look for changes, and return whether there are any.

        Raises:
            OSError: the dataset exists and cannot be read.
        """
        before = self._came
        fresh = self._read()
        self._newest.extend(fresh)
        self._history.add(self._clock(), self._came - before)
        return bool(fresh) | self._ledger.look()

    def view(self) -> TailView:
        """Return the state at the last look."""
        now = self._clock()
        seen = self._ledger.seen
        return TailView(
            dataset=str(self._dataset),
            size=seen.dataset_bytes if seen and seen.parts else _size(self._dataset),
            daemon=self._ledger.daemon,
            seen=self._ledger.seen,
            age=now - self._ledger.seen_at,
            stale=self._ledger.stale,
            failure=self._ledger.failure,
            note=self._note,
            came=self._came,
            per_minute=self._history.per_minute(now),
            history=self._history,
            newest=tuple(self._newest),
        )

    def _read(self) -> list[LineSummary]:
        """Count all new records, and return the newest of them."""
        size = _size(self._dataset)
        if size is not None and size - self._follower.offset > _BEHIND:
            self._follower.close()
            self._follower = self._follow(_PICKED_UP)
        newest: deque[LineSummary] = deque(maxlen=_KEPT)
        while lines := self._follower.read():
            self._came += len(lines)
            newest.extend(map(summarize, lines[-_KEPT:]))
        return list(newest)

    def _follow(self, last: int) -> Follower:
        return Follower(self._dataset, last=last, on_restart=self._restarted)

    def _restarted(self) -> None:
        self._note = "the dataset became shorter: this is another file, from its start"
        self._newest.clear()


class _Ledger:
    """The last snapshot of a ledger, which is taken again when its files have changed, but not too often."""

    def __init__(self, dataset: Path, ledger: Path, clock: Callable[[], float]) -> None:
        self._dataset = dataset
        self._paths = ledger, ledger.with_name(f"{ledger.name}-wal")
        self._clock = clock
        self._files: object = None
        self._next_read = self._next_daemon = clock()
        self.seen: Snapshot | None = None
        self.seen_at = clock()
        self.daemon: Holder | None = None
        self.stale = False
        self.failure = ""

    def look(self) -> bool:
        """Take a new snapshot if it is due, and return whether anything has changed."""
        before = self.seen, self.daemon, self.failure
        now = self._clock()
        try:
            if now >= self._next_daemon:
                self._next_daemon = now + _DAEMON_PAUSE
                self.daemon = holder(lock_file(self._dataset))
            self._read(now)
        except StreamerError as error:
            self.failure = f"cannot {error.op}: {error.cause}"
        return before != (self.seen, self.daemon, self.failure)

    def _read(self, now: float) -> None:
        files = [_state(path) for path in self._paths]
        self.stale = files != self._files
        if now < self._next_read or not (self.stale or self.failure):
            return
        try:
            seen = snapshot(self._dataset, self._paths[0])
        finally:
            end = self._clock()
            self._next_read = end + max(_LEAST_PAUSE, SHARE * (end - now))
        self._files, self.stale, self.failure = files, False, ""
        self.seen, self.seen_at = (seen if seen.ledger else None), end


def _state(path: Path) -> tuple[int, int, int] | None:
    """Return values that change with a file; None if it is missing or empty, as the log that a reader leaves behind."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_ino, found.st_size, found.st_mtime_ns) if found.st_size else None


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
