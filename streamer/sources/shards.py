"""The shard folder: find shards, recognise them, read their finished lines.

Invariants
- A cursor is a saving, never a proof: before bytes after it are read, the bytes before it are compared
  with the cursor's fingerprint. If they differ, the shard was overwritten and is read from its start.
- A shard is passed over unopened only when its (dev, ino, size, mtime, ctime) are those under which it
  was read to its end, and its last change lay further back than the clock of the file system is coarse.
- Only regular files are opened, and none through a symbolic link unless that is configured.

Everything here is plain blocking code: the pipeline calls it in a worker thread.
"""

from __future__ import annotations

import fnmatch
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
from blake3 import blake3

from streamer.dead_letters import HEAD_BYTES
from streamer.files import Clock, Files
from streamer.model import Cursor, Line, Span

_BLOCK = 1 << 20
_FULL_FINGERPRINT = 1 << 20
"""Prefixes up to this many bytes are compared whole, longer ones in evenly spaced windows."""

_WINDOWS = 16
_WINDOW = _FULL_FINGERPRINT // _WINDOWS
_63_BITS = (1 << 63) - 1
_COARSE_NS = 1_000_000_000
"""A change this recent may be followed by another one with the same times."""

Stat = tuple[int, int, int, int, int]
"""(dev, ino, size, mtime_ns, ctime_ns)"""


class Found(msgspec.Struct, frozen=True, gc=False):
    """One shard as a scan saw it."""

    path: str
    stat: Stat


class Budget(msgspec.Struct):
    """How much one batch may still read: lines, bytes, time. A single line may overdraw it."""

    lines: int
    size: int
    late: Callable[[], bool] = lambda: False

    def spend(self, line: Line) -> None:
        """Count a line."""
        self.lines -= 1
        self.size -= len(line.data) if line.data is not None else 0

    @property
    def spent(self) -> bool:
        """Say whether the batch is full."""
        return self.lines <= 0 or self.size <= 0 or self.late()


class ShardRead(msgspec.Struct, frozen=True):
    """Finished lines of one shard and the cursor after them.

    ``more`` when the budget ended the read, which it never does before the first line.
    """

    cursor: Cursor
    lines: Sequence[Line]
    more: bool


class Overwritten(msgspec.Struct, frozen=True):
    """The shard at this cursor holds other bytes now than those that were read."""

    cursor: Cursor


class Unreadable(msgspec.Struct, frozen=True):
    """The shard cannot be read now; ``gone`` when nothing stands at its path."""

    path: str
    cause: str
    gone: bool


class ShardFolder:
    """All shards below ``root`` whose file name fits ``pattern``, but for the files in ``ours``."""

    def __init__(
        self,
        root: Path,
        pattern: str,
        ours: frozenset[Path],
        max_line: int,
        files: Files,
        clock: Clock,
        *,
        follow_symlinks: bool = False,
    ) -> None:
        self.root = root
        self._pattern = pattern
        self._ours = {os.path.realpath(path) for path in ours}
        self._our_names = {os.path.basename(path) for path in ours} | {os.path.basename(path) for path in self._ours}
        self._follow = follow_symlinks
        self._max_line = max_line
        self._files = files
        self._clock = clock

    def scan(self) -> Iterator[Found]:
        """Yield every shard, in order of path.

        Raises:
            OSError: the folder itself cannot be listed. Sub-folders that cannot are passed over.
        """
        root = os.stat(self.root)
        yield from self._scan_folder("", os.scandir(self.root), frozenset({(root.st_dev, root.st_ino)}))

    def find(self, path: str) -> Found | None:
        """Return the shard at ``path`` below the folder, if there is one."""
        if not self._is_shard(os.path.basename(path)) or (not self._follow and self._leads_through_link(path)):
            return None
        try:
            state = os.stat(self.root / path, follow_symlinks=self._follow)
        except (OSError, ValueError):
            return None
        return self._found(path, state)

    def _leads_through_link(self, path: str) -> bool:
        folder = os.path.dirname(path)
        while folder:
            if os.path.islink(self.root / folder):
                return True
            folder = os.path.dirname(folder)
        return False

    def _scan_folder(
        self, prefix: str, entries: os._ScandirIterator[str], above: frozenset[tuple[int, int]]
    ) -> Iterator[Found]:
        """Yield the shards in one folder; ``above`` are the folders that lead here, as links can form loops."""
        with entries:
            listed = sorted(entries, key=lambda entry: entry.name)
        for entry in listed:
            path = prefix + entry.name
            try:
                if entry.is_dir(follow_symlinks=self._follow):
                    state = entry.stat(follow_symlinks=self._follow)
                    folder = state.st_dev, state.st_ino
                    if folder not in above:
                        yield from self._scan_folder(f"{path}/", os.scandir(self.root / path), above | {folder})
                elif self._is_shard(entry.name):
                    found = self._found(path, entry.stat(follow_symlinks=self._follow))
                    if found is not None:
                        yield found
            except OSError:  # gone since it was listed, or not ours to read: the next scan sees
                continue

    def _is_shard(self, name: str) -> bool:
        return fnmatch.fnmatchcase(name, self._pattern)

    def _found(self, path: str, state: os.stat_result) -> Found | None:
        if not stat.S_ISREG(state.st_mode):
            return None
        if os.path.basename(path) in self._our_names and os.path.realpath(self.root / path) in self._ours:
            return None
        return Found(path, _stat(state))

    def read(self, cursor: Cursor, budget: Budget) -> ShardRead | Overwritten | Unreadable:
        """Read finished lines after ``cursor`` until the budget is spent or none is left."""
        try:
            with self._opened(cursor.path) as fd:
                return self._read(fd, cursor, budget)
        except OSError as error:
            return _unreadable(cursor.path, error)

    def read_span(self, cursor: Cursor, span: Span, budget: Budget) -> list[Line] | Overwritten | Unreadable:
        """Read the lines of a span again, as many as the budget allows."""
        try:
            with self._opened(cursor.path) as fd:
                if _stat(self._files.fstat(fd)) != cursor.stat and not self._same_prefix(fd, cursor):
                    return Overwritten(cursor)
                lines: list[Line] = []
                for line in self._lines(fd, cursor.path, span.start, span.start, span.stop, span.line):
                    lines.append(line)
                    budget.spend(line)
                    if budget.spent:
                        break
                return lines or Overwritten(cursor)  # no line where there were some: the fingerprint missed it
        except OSError as error:
            return _unreadable(cursor.path, error)

    def recognises(self, cursor: Cursor, found: Found) -> bool:
        """Say whether the shard found begins with the very bytes that ``cursor`` has read."""
        try:
            with self._opened(found.path) as fd:
                return cursor.offset > 0 and self._same_prefix(fd, cursor)
        except OSError:
            return False

    @contextmanager
    def _opened(self, path: str) -> Iterator[int]:
        # O_NONBLOCK: a FIFO put in place of a shard must not hang the daemon.
        no_link = 0 if self._follow else os.O_NOFOLLOW
        fd = self._files.open(self.root / path, os.O_RDONLY | os.O_NONBLOCK | no_link)
        try:
            if not stat.S_ISREG(self._files.fstat(fd).st_mode):
                raise OSError("not a regular file")
            yield fd
        finally:
            self._files.close(fd)

    def _read(self, fd: int, cursor: Cursor, budget: Budget) -> ShardRead | Overwritten:
        before = self._files.fstat(fd)
        if not self._same_prefix(fd, cursor):
            return Overwritten(cursor)
        size = before.st_size
        lines: list[Line] = []
        more = False
        for line in self._lines(fd, cursor.path, cursor.offset, self._searched(cursor, size), size, cursor.lines + 1):
            lines.append(line)
            budget.spend(line)
            more = budget.spent
            if more:
                break
        offset = lines[-1].stop if lines else cursor.offset
        after = self._files.fstat(fd)
        if _stat(after) != _stat(before) and not self._still_there(fd, lines):
            return ShardRead(cursor, (), more=False)  # being overwritten: its next change brings us back
        settled = not more and _stat(after) == _stat(before) and not self._is_recent(before)
        return ShardRead(
            Cursor(
                path=cursor.path,
                id=cursor.id,
                offset=offset,
                lines=lines[-1].number if lines else cursor.lines,
                scanned=offset if more else size,
                fingerprint=self._fingerprint(fd, offset),
                stat=_stat(before) if settled else (*_stat(before)[:2], 0, 0, 0),
            ),
            lines,
            more,
        )

    def _searched(self, cursor: Cursor, size: int) -> int:
        """Return up to where the tail need not be searched for a newline again.

        A tail may be rewritten while it is unfinished, so it is searched anew each time; but not one that
        is too long to be taken anyway: a line of gigabytes that grows must not be read over and over.
        """
        too_long = cursor.scanned - cursor.offset > self._max_line
        return cursor.scanned if too_long and cursor.scanned <= size else cursor.offset

    def _same_prefix(self, fd: int, cursor: Cursor) -> bool:
        if self._files.fstat(fd).st_size < cursor.offset:
            return False
        return not cursor.offset or self._fingerprint(fd, cursor.offset) == cursor.fingerprint

    def _is_recent(self, state: os.stat_result) -> bool:
        return abs(int(self._clock.now() * 1e9) - max(state.st_mtime_ns, state.st_ctime_ns)) < _COARSE_NS

    def _still_there(self, fd: int, lines: Sequence[Line]) -> bool:
        """Compare what was read with the file again, which something changed in between."""
        return all(
            self._files.pread(fd, len(line.data) + 1, line.start) == line.data + b"\n"
            for line in lines
            if line.data is not None
        )

    def _fingerprint(self, fd: int, length: int) -> bytes:
        digest = blake3(length.to_bytes(8, "big"))
        if length <= _FULL_FINGERPRINT:
            digest.update(self._files.pread(fd, length, 0))
        else:
            for i in range(_WINDOWS):
                digest.update(self._files.pread(fd, _WINDOW, i * (length - _WINDOW) // (_WINDOWS - 1)))
        return digest.digest(16)

    def _lines(self, fd: int, path: str, start: int, scanned: int, size: int, number: int) -> Iterator[Line]:
        """Yield the finished lines in [start, size); bytes in [start, scanned) hold no newline."""
        position = max(start, scanned)
        while position < size:
            block = self._files.pread(fd, min(_BLOCK, size - position), position)
            if not block:
                return
            at = 0
            while (found := block.find(b"\n", at)) >= 0:
                stop = position + found + 1
                data = block[at:found] if start == position + at else self._long_line(fd, start, stop)
                yield self._line(fd, path, start, stop, number, data)
                start, at, number = stop, found + 1, number + 1
            position += len(block)

    def _long_line(self, fd: int, start: int, stop: int) -> bytes | None:
        """Read a line that lies across blocks, unless it is longer than the limit."""
        if stop - start - 1 > self._max_line:
            return None
        return self._files.pread(fd, stop - start - 1, start)

    def _line(self, fd: int, path: str, start: int, stop: int, number: int, data: bytes | None) -> Line:
        if data is not None and len(data) > self._max_line:
            data = None
        head = self._files.pread(fd, HEAD_BYTES, start) if data is None else data[:HEAD_BYTES]
        return Line(path, number, start, stop, data, head)


def _stat(state: os.stat_result) -> Stat:
    # A file may claim any time and some file systems any inode: folded into what SQLite can store.
    numbers = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    dev, ino, size, mtime_ns, ctime_ns = (number & _63_BITS for number in numbers)
    return dev, ino, size, mtime_ns, ctime_ns


def _unreadable(path: str, error: OSError) -> Unreadable:
    return Unreadable(path, error.strerror or str(error), isinstance(error, FileNotFoundError))
