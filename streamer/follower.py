"""Follow a dataset that grows, rolls and is mended under its reader.

Invariants
- Only whole lines are handed over, each once, in order; ``offset`` is where the next one begins.
- What lies before ``offset`` is never looked at again: whole lines of a dataset do not change.
- What lies after it may still be cut back, so nothing of an unterminated line is kept in memory or
  believed; it is read again when the file has changed.

::

    0 ...... handed over ...... offset ....... unterminated ....... size
             never changes     │ may grow, end with a newline, or be cut back to ``offset``

A roll gives the path a new file. Whoever rolls has written the last line of the old file by then, so the
old one is read to its end through the open descriptor before the new one is begun. A file that was there
only between two looks is not seen.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Self

import anyio
import anyio.lowlevel
import msgspec

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
    from pathlib import Path

POLL = 0.1
"""Seconds between two looks."""

_BLOCK = 1 << 20
_NO_FILE = -1


class DatasetLine(msgspec.Struct, frozen=True, gc=False):
    """One whole line. ``data`` ends with its newline, so ``offset + len(data)`` is where the next begins."""

    offset: int
    data: bytes


class Follower:
    """One reader's place in a dataset. Use it as a context manager, or ``close`` it.

    Args:
        path: where the live file is, or will be.
        start: byte offset of the first line wanted, if the file is there now.
        last: begin with so many lines from the end instead; all of a file that comes later.
        on_restart: called when the file is shorter than the lines handed over: another one stands there
            and is read from its start.
        block: bytes that are read at a time. Memory holds one block, or one line if that is longer.
    """

    def __init__(
        self,
        path: Path,
        *,
        start: int = 0,
        last: int | None = None,
        on_restart: Callable[[], None] = lambda: None,
        block: int = _BLOCK,
    ) -> None:
        self._begin()
        self._path = path
        self._on_restart = on_restart
        self._block = block
        self._fd = _NO_FILE
        if self._open():
            self.offset = start if last is None else _start_of_last(self._fd, last, block)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the descriptor up."""
        if self._fd != _NO_FILE:
            os.close(self._fd)
            self._fd = _NO_FILE

    def read(self) -> list[DatasetLine]:
        """Return the next whole lines, about one block of them; empty if there is nothing new now.

        Raises:
            OSError: the file is there and cannot be read.
        """
        if self._fd == _NO_FILE and not self._open():
            return []
        # Asked before reading: the old file has all its lines when the new one is there.
        replaced = self._replaced()
        lines = self._next_lines()
        if lines or not replaced:
            return lines
        self.close()
        return self._next_lines() if self._open() else []

    def before(self, size: int) -> bytes:
        """Return up to ``size`` bytes that stand right before ``offset``; nothing if the file is not there."""
        if self._fd == _NO_FILE:
            return b""
        start = max(0, self.offset - size)
        return os.pread(self._fd, self.offset - start, start)

    def size(self) -> int:
        """Return the length of the file in bytes; 0 if it is not there."""
        return 0 if self._fd == _NO_FILE else os.fstat(self._fd).st_size

    def _open(self) -> bool:
        try:
            # A pipe without a writer would block.
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return False
        self._begin()
        return True

    def _begin(self) -> None:
        """Stand at the start of a file; ``_unended`` is how far it is known to have no end of a line."""
        self.offset = 0
        self._unended = 0

    def _replaced(self) -> bool:
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False
        return not os.path.samestat(there, os.fstat(self._fd))

    def _next_lines(self) -> list[DatasetLine]:
        size = os.fstat(self._fd).st_size
        if size < self.offset:
            self._begin()
            self._on_restart()
        if not self._may_have_lines(size):
            return []
        block = os.pread(self._fd, self._block, self.offset)
        lines = list(_split(block if b"\n" in block else self._long_line(), self.offset))
        if lines:
            self.offset = lines[-1].offset + len(lines[-1].data)
        return lines

    def _may_have_lines(self, size: int) -> bool:
        """Say whether a look is worth it: a torn tail that lies there for hours is not read all the time.

        A tail that was cut back and grew to the very same length, but now holds a newline before its end,
        is seen with the next byte.
        """
        if size == self.offset:
            return False
        return size != self._unended or os.pread(self._fd, 1, size - 1) == b"\n"

    def _long_line(self) -> bytes:
        """Return the line at ``offset``, which does not end within a block; nothing if it has no end yet."""
        position = self.offset
        while block := os.pread(self._fd, self._block, position):
            end = block.find(b"\n") + 1
            if end:
                return _read_span(self._fd, self.offset, position + end)
            position += len(block)
        self._unended = position
        return b""


async def follow(
    path: Path,
    *,
    start: int = 0,
    last: int | None = None,
    on_restart: Callable[[], None] = lambda: None,
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    poll: float = POLL,
) -> AsyncGenerator[DatasetLine, None]:
    """Yield the whole lines of a dataset, those that are there and those to come, for ever.

    Args:
        path: where the live file is, or will be.
        start: byte offset of the first line wanted, if the file is there now.
        last: begin with so many lines from the end instead.
        on_restart: called when the file became shorter than what was yielded and is read from its start.
        sleep: waits so many seconds; called only when everything there is has been yielded.
        poll: seconds between two looks.

    Raises:
        OSError: the file is there and cannot be read.
    """
    with Follower(path, start=start, last=last, on_restart=on_restart) as follower:
        while True:
            while lines := follower.read():
                for line in lines:
                    yield line
                await anyio.lowlevel.checkpoint()
            await sleep(poll)


def _split(data: bytes, offset: int) -> Iterator[DatasetLine]:
    """Yield the lines of ``data`` that have their newline."""
    start = 0
    while stop := data.find(b"\n", start) + 1:
        yield DatasetLine(offset + start, data[start:stop])
        start = stop


def _read_span(fd: int, start: int, stop: int) -> bytes:
    blocks = []
    while start < stop and (block := os.pread(fd, stop - start, start)):
        blocks.append(block)
        start += len(block)
    return b"".join(blocks)


def _start_of_last(fd: int, lines: int, block: int) -> int:
    """Return the byte offset at which the last ``lines`` whole lines of a file begin."""
    newlines = lines + 1  # the last one ends them, the first one ends the line before them
    stop = os.fstat(fd).st_size
    while stop:
        start = max(0, stop - block)
        data = os.pread(fd, stop - start, start)
        end = len(data)
        while (found := data.rfind(b"\n", 0, end)) >= 0:
            newlines -= 1
            if not newlines:
                return start + found + 1
            end = found
        stop = start
    return 0
