"""Read the finished lines of shards, and recognise a shard by the bytes already read.

Invariants
- A cursor is a saving, never a proof: before the reader goes on from it, it compares the bytes before it
  with the cursor's fingerprint. If they differ, the shard was overwritten and is read from its start.
- A fingerprint covers the bytes that were read, not those in the file by then. Bytes that were read while
  the producer could still be writing are compared with the file once more.
- A shard is skipped unopened only when its (dev, ino, size, mtime, ctime) are those under which it was read
  to its end, and its last change is older than the resolution of the file system's clock.

All of this is blocking code: the pipeline calls it in a worker thread.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
from blake3 import blake3

from streamer.base.env import Env
from streamer.base.files import path_text
from streamer.core.records.dead_letter import HEAD_BYTES
from streamer.core.records.model import Cursor, Line, Span
from streamer.sources.shards import Stat, stat_of

_BLOCK = 1 << 20
_WHOLE = 8 << 20
"""Shards up to this size in bytes are read and compared whole, longer ones in evenly spaced windows."""

_WINDOWS = 16
_WINDOW = 64 << 10
_LENGTH_BYTES = 8
"""Length of the head of a fingerprint, which holds the number of bytes that it covers."""

_COARSE_NS = 1_000_000_000
"""A change this recent may be followed by another one with the same file times."""


class Budget(msgspec.Struct):
    """Lines, bytes and time that one batch may still use. A single line may overdraw it."""

    lines: int
    size: int
    late: Callable[[], bool] = lambda: False

    def spend(self, line: Line) -> bool:
        """Charge a line; return whether the batch is full."""
        self.lines -= 1
        if line.data is not None:
            self.size -= len(line.data)
        return self.spent

    @property
    def spent(self) -> bool:
        """Whether the batch is full."""
        return self.lines <= 0 or self.size <= 0 or self.late()


class ShardRead(msgspec.Struct, frozen=True):
    """Finished lines of one shard and the cursor after them.

    ``more`` says that the budget ended the read, never before the first line.
    """

    cursor: Cursor
    lines: list[Line]
    more: bool


class Overwritten(msgspec.Struct, frozen=True):
    """The shard no longer holds the bytes that were read before this cursor."""

    cursor: Cursor


class Unreadable(msgspec.Struct, frozen=True):
    """The shard cannot be read now; ``gone`` says that its path does not exist."""

    path: str
    cause: str
    gone: bool


class _Content(msgspec.Struct, frozen=True):
    """The bytes of an open shard: a small one is read in one call, a long one on demand."""

    size: int
    read: Callable[[int, int], bytes]
    block: int


class ShardReader:
    """Reads lines of the shards below ``root``; of one longer than ``max_line`` bytes only the head."""

    def __init__(self, root: Path, max_line: int, env: Env, *, follow_symlinks: bool = False) -> None:
        self._root = root
        self._max_line = max_line
        self._files = env.files
        self._clock = env.clock
        self._follow = follow_symlinks

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
                return self._read_span(fd, cursor, span, budget)
        except OSError as error:
            return _unreadable(cursor.path, error)

    def recognises(self, cursor: Cursor, path: str) -> bool:
        """Return whether the shard at ``path`` begins with the bytes that ``cursor`` covers."""
        try:
            with self._opened(path) as fd:
                content = self._content(fd, self._files.fstat(fd).st_size)
                return cursor.offset > 0 and _has_fingerprint(content, cursor.fingerprint)
        except OSError:
            return False

    @contextmanager
    def _opened(self, path: str) -> Iterator[int]:
        # O_NONBLOCK: a FIFO put in place of a shard must not hang the daemon.
        flags = os.O_RDONLY | os.O_NONBLOCK
        if self._follow:
            fd = self._files.open(self._root / path, flags)
        else:
            fd = self._files.open_beneath(self._root, path, flags)
        try:
            if not stat.S_ISREG(self._files.fstat(fd).st_mode):
                raise OSError("not a regular file")
            yield fd
        finally:
            self._files.close(fd)

    def _content(self, fd: int, size: int) -> _Content:
        if size > _WHOLE:
            return _Content(size, lambda size, at: self._files.pread(fd, size, at), _BLOCK)
        data = self._files.pread(fd, size, 0) if size else b""
        return _Content(len(data), lambda size, at: data[at : at + size], _WHOLE)

    def _read(self, fd: int, cursor: Cursor, budget: Budget) -> ShardRead | Overwritten:
        before = self._files.fstat(fd)
        state = stat_of(before)
        content = self._content(fd, before.st_size)
        if not _is_same(content, state, cursor):
            return Overwritten(cursor)
        search_from = max(cursor.offset, _covered_bytes(cursor.fingerprint))
        lines = self._lines(content, cursor, search_from, content.size, budget)
        more = bool(lines) and budget.spent
        offset = lines[-1].stop if lines else cursor.offset
        scanned = offset if more else content.size
        # A tail above the maximum length is not search_from again, so the fingerprint must cover it.
        fingerprint = _fingerprint(content, scanned if scanned - offset > self._max_line else offset)
        is_quiet = stat_of(self._files.fstat(fd)) == state and not self._is_recent(before)
        if not (is_quiet or self._is_still_there(fd, cursor, lines)):
            return ShardRead(cursor, [], more=False)  # being overwritten: read again after its next change
        return ShardRead(
            Cursor(
                path=cursor.path,
                id=cursor.id,
                offset=offset,
                lines=lines[-1].number if lines else cursor.lines,
                scanned=scanned,
                fingerprint=fingerprint,
                stat=state if is_quiet and not more else (*state[:4], 0),
            ),
            lines,
            more,
        )

    def _read_span(self, fd: int, cursor: Cursor, span: Span, budget: Budget) -> list[Line] | Overwritten:
        before = self._files.fstat(fd)
        state = stat_of(before)
        content = self._content(fd, before.st_size)
        if state != cursor.stat and not _is_same(content, state, cursor):
            return Overwritten(cursor)
        before_span = msgspec.structs.replace(cursor, offset=span.start, lines=span.line - 1)
        lines = self._lines(content, before_span, span.start, min(span.stop, content.size), budget)
        is_quiet = stat_of(self._files.fstat(fd)) == state and not self._is_recent(before)
        if not (is_quiet or self._is_still_there(fd, cursor, lines)):
            return Overwritten(cursor)
        return lines or Overwritten(cursor)  # the lines are gone: the fingerprint missed the change

    def _is_still_there(self, fd: int, cursor: Cursor, lines: Sequence[Line]) -> bool:
        """Compare the cursor and the lines read after it with the shard once more."""
        state = stat_of(self._files.fstat(fd))
        content = self._content(fd, state[2])
        return _is_same(content, state, cursor) and all(
            content.read(len(line.data) + 1, line.start) == line.data + b"\n" for line in lines if line.data is not None
        )

    def _is_recent(self, state: os.stat_result) -> bool:
        return abs(int(self._clock.now() * 1e9) - max(state.st_mtime_ns, state.st_ctime_ns)) < _COARSE_NS

    def _lines(self, content: _Content, cursor: Cursor, search_from: int, end: int, budget: Budget) -> list[Line]:
        """Return finished lines from the cursor to ``end``; no newline lies between the cursor and ``search_from``."""
        lines: list[Line] = []
        shard, start, number, position = path_text(cursor.path), cursor.offset, cursor.lines + 1, search_from
        while position < end:
            block = content.read(min(content.block, end - position), position)
            if not block:
                break
            at = 0
            while (found := block.find(b"\n", at)) >= 0:
                stop = position + found + 1
                if stop - start - 1 > self._max_line:
                    line = Line(shard, number, start, stop, None, content.read(HEAD_BYTES, start))
                elif start == position + at:
                    line = Line(shard, number, start, stop, block[at:found])
                else:  # it spans several blocks
                    line = Line(shard, number, start, stop, content.read(stop - start - 1, start))
                lines.append(line)
                if budget.spend(line):
                    return lines
                start, at, number = stop, found + 1, number + 1
            position += len(block)
        return lines


def _is_same(content: _Content, state: Stat, cursor: Cursor) -> bool:
    """Return whether the shard still begins with the bytes that ``cursor`` covers.

    Windows prove that the file was not replaced, not that no byte changed. So a long shard counts as the same
    only if it just grew: another file, or one that was written to without growing, is read again.
    """
    if _covered_bytes(cursor.fingerprint) > _WHOLE:
        dev_ino, size, mtime_ns = cursor.stat[:2], cursor.stat[2], cursor.stat[3]
        if state[:2] != dev_ino or (state[2] <= size and state[3] != mtime_ns):
            return False
    return _has_fingerprint(content, cursor.fingerprint)


def _has_fingerprint(content: _Content, fingerprint: bytes) -> bool:
    covers = _covered_bytes(fingerprint)
    return not covers or (covers <= content.size and _fingerprint(content, covers) == fingerprint)


def _covered_bytes(fingerprint: bytes) -> int:
    """Return the number of bytes of the shard that a fingerprint covers."""
    return int.from_bytes(fingerprint[:_LENGTH_BYTES], "big")


def _fingerprint(content: _Content, length: int) -> bytes:
    digest = blake3()
    if length <= _WHOLE:
        digest.update(content.read(length, 0))
    else:
        for i in range(_WINDOWS):
            digest.update(content.read(_WINDOW, i * (length - _WINDOW) // (_WINDOWS - 1)))
    return length.to_bytes(_LENGTH_BYTES, "big") + digest.digest(16)


def _unreadable(path: str, error: OSError) -> Unreadable:
    return Unreadable(path, error.strerror or str(error), isinstance(error, FileNotFoundError))
