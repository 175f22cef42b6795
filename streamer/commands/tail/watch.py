"""A dataset and its ledger, looked at again and again: a look at what did not change costs a few system calls."""

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
"""After the ledger was asked, it is left alone for so many times what that took: sums over millions of spans cost
some tenths of a second."""

_LEAST_PAUSE = 0.5
_DAEMON_PAUSE = 1.0
_BEHIND = 64 << 20
"""Bytes. What is further behind the end of the dataset is passed over: the newest records are wanted."""

_KEPT = 400
"""Records that are kept: no terminal is higher."""

_PICKED_UP = 50
"""Records that are shown after some were passed over."""


class TailView(msgspec.Struct, frozen=True):
    """What there is to see at one moment.

    ``seen`` is of ``age`` seconds ago, ``stale`` if the ledger has changed since then; None while no ledger could be
    read, and then ``trouble`` says why.
    ``size`` is the dataset's in bytes, None while there is none. ``newest`` are its last records, oldest first,
    ``came`` those that were written since the beginning.
    """

    dataset: str
    size: int | None
    daemon: Holder | None
    seen: Snapshot | None
    age: float
    stale: bool
    trouble: str
    note: str
    came: int
    per_minute: float
    history: ArrivalHistory
    newest: tuple[LineSummary, ...]


class Watch:
    """Looks at one dataset. Use it as a context manager.

    Args:
        dataset: where it is, or will be.
        ledger: where its ledger is, or will be.
        last: how many of the records that are there already are shown.
        clock: monotonic seconds.
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
        """See what is new; say whether anything is.

        Raises:
            OSError: the dataset is there and cannot be read.
        """
        before = self._came
        fresh = self._read()
        self._newest.extend(fresh)
        self._history.add(self._clock(), self._came - before)
        return bool(fresh) | self._ledger.look()

    def view(self) -> TailView:
        """Return what was seen."""
        now = self._clock()
        seen = self._ledger.seen
        return TailView(
            dataset=str(self._dataset),
            size=seen.dataset_bytes if seen and seen.parts else _size(self._dataset),
            daemon=self._ledger.daemon,
            seen=self._ledger.seen,
            age=now - self._ledger.seen_at,
            stale=self._ledger.stale,
            trouble=self._ledger.trouble,
            note=self._note,
            came=self._came,
            per_minute=self._history.per_minute(now),
            history=self._history,
            newest=tuple(self._newest),
        )

    def _read(self) -> list[LineSummary]:
        """Return the newest of the records that came, and count all of them."""
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
    """What a ledger said when it was asked last. It is asked when its files have changed, and not too often."""

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
        self.trouble = ""

    def look(self) -> bool:
        """Ask for what may have changed; say whether anything did."""
        before = self.seen, self.daemon, self.trouble
        now = self._clock()
        try:
            if now >= self._next_daemon:
                self._next_daemon = now + _DAEMON_PAUSE
                self.daemon = holder(lock_file(self._dataset))
            self._read(now)
        except StreamerError as error:
            self.trouble = f"cannot {error.op}: {error.cause}"
        return before != (self.seen, self.daemon, self.trouble)

    def _read(self, now: float) -> None:
        files = [_state(path) for path in self._paths]
        self.stale = files != self._files
        if now < self._next_read or not (self.stale or self.trouble):
            return
        try:
            seen = snapshot(self._dataset, self._paths[0])
        finally:
            end = self._clock()
            self._next_read = end + max(_LEAST_PAUSE, SHARE * (end - now))
        self._files, self.stale, self.trouble = files, False, ""
        self.seen, self.seen_at = (seen if seen.ledger else None), end


def _state(path: Path) -> tuple[int, int, int] | None:
    """Return what changes with a file; None if it is empty or not there: the look of a reader leaves an empty log."""
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
