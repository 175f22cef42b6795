"""Follow a dataset that grows, rotates and is mended while it is read.

Invariants
- Only whole lines are returned, each once, in order; ``offset`` is the file offset of the next one.
- Bytes before ``offset`` are never read again: whole lines of a dataset do not change.
- Bytes after it may still be cut back, so nothing of an unterminated line is kept in memory; it is read again when the
  file has changed.

::

    0 ...... returned ...... offset ....... unterminated ....... size
             never changes  │ may grow, end with a newline, or be cut back to ``offset``

Rotation renames the live file to a part, after its last line was written, and puts a new file at the path. So the old
file is read to its end through the open descriptor. Next is the part with the next higher number, or else the live
file; a file that was live only between two reads is one of those parts. If the live file is replaced in another way,
the new file at its path is next.

A part that is compacted while it is open is read to its end as it was.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Self

import anyio
import anyio.lowlevel

from streamer.base.lines import BLOCK, FileLine, line_ends_before, next_lines
from streamer.store.parts.files import open_live, open_to_read
from streamer.store.parts.parts import closed_numbers, newest_number, part_path

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from pathlib import Path

POLL = 0.1
"""Seconds between two reads."""

_NO_FILE = -1


class Follower:
    """Reads a dataset forward from one position. Use it as a context manager, or ``close`` it.

    Args:
        path: Where the live file is, or will be.
        part: Number of the closed part to begin with, which must exist; the live file without it.
        start: File offset of the first line, if the file exists now.
        last: Begin with this many lines from the end of the dataset instead, if the dataset exists now.
        on_restart: Called when the file is shorter than what was read of it: another file, read from its start.
        block: Bytes to read at a time. Memory holds one block, or one longer line.
    """

    def __init__(
        self,
        path: Path,
        *,
        part: int | None = None,
        start: int = 0,
        last: int | None = None,
        on_restart: Callable[[], None] = lambda: None,
        block: int = BLOCK,
    ) -> None:
        self._begin()
        self._path = path
        self._on_restart = on_restart
        self._block = block
        self._fd = _NO_FILE
        self._is_part = False
        self._number = 0  # of the open file as a part, even if it is still live
        if last is not None:
            self._open_at_last(last)
        elif self._open(part):
            self.offset = start
        if self._fd == _NO_FILE:  # every later file is wanted
            self._number = newest_number(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor."""
        if self._fd != _NO_FILE:
            os.close(self._fd)
            self._fd = _NO_FILE

    def read(self) -> list[FileLine]:
        """Return the next whole lines, about one block of them; empty if there are none now.

        Raises:
            OSError: The file exists and cannot be read.
        """
        while True:
            if self._fd == _NO_FILE and not self._open_next():
                return []
            # Asked before reading: the old file has all its lines when the new one exists.
            is_over = self._is_part or self._replaced()
            lines = self._next_lines()
            if lines or not is_over:
                return lines
            self.close()  # and continue: the next part may be empty after compaction

    def before(self, size: int) -> bytes:
        """Return up to ``size`` bytes right before ``offset``; none without a file."""
        if self._fd == _NO_FILE:
            return b""
        start = max(0, self.offset - size)
        return os.pread(self._fd, self.offset - start, start)

    def size(self) -> int:
        """Return the length of the file in bytes; 0 without a file."""
        return 0 if self._fd == _NO_FILE else os.fstat(self._fd).st_size

    def _open(self, part: int | None) -> bool:
        if part is None:
            live = open_live(self._path)
            if live is None:
                return False
            self._fd, self._number = live.fd, live.number
        else:
            try:
                self._fd, self._number = open_to_read(part_path(self._path, part)), part
            except FileNotFoundError:
                return False
        self._is_part = part is not None
        self._begin()
        return True

    def _open_next(self) -> bool:
        """Open the file after number ``_number``: the next part, or the live file."""
        before = self._number
        while (part := self._next_part(before)) is not None:
            if self._open(part):
                return True
        if not self._open(None):
            return False  # there is none for a moment
        part = self._next_part(before)
        if part is None or part >= self._number:
            return True
        self.close()  # parts were closed meanwhile: they come first
        self._number = before
        return self._open_next()

    def _next_part(self, before: int) -> int | None:
        """Return the number of the next closed part, None if the live file is next."""
        return next((number for number in closed_numbers(self._path) if number > before), None)

    def _open_at_last(self, lines: int) -> None:
        """Open the file in which the last lines of the dataset begin, and set ``offset`` to their start.

        ``offset`` is 0 only at the start of the dataset: a token there would identify nothing.
        """
        found, newest = 0, None
        if self._open(None):
            self.offset, found = _start_of_last(self._fd, lines, self._block)
            newest = self._number
        for part in reversed(closed_numbers(self._path)):
            if self.offset and found >= lines:
                return
            later = self._fd
            if (newest is None or part < newest) and self._open(part):
                if later != _NO_FILE:
                    os.close(later)
                self.offset, more = _start_of_last(self._fd, lines - found, self._block)
                found += more

    def _begin(self) -> None:
        """Go to the start of a file; up to ``_unended`` it is known to have no newline after ``offset``."""
        self.offset = 0
        self._unended = 0

    def _replaced(self) -> bool:
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False
        return not os.path.samestat(there, os.fstat(self._fd))

    def _next_lines(self) -> list[FileLine]:
        size = os.fstat(self._fd).st_size
        if size < self.offset:
            self._begin()
            self._on_restart()
        if not self._may_have_lines(size):
            return []
        lines = next_lines(partial(os.pread, self._fd), self.offset, size, block=self._block)
        if lines:
            self.offset = lines[-1].stop
        else:
            self._unended = size
        return lines

    def _may_have_lines(self, size: int) -> bool:
        """Say whether to read: a torn tail that stays for hours is not read again and again.

        If a tail was cut back and grew to the same length, with a newline before its end, the next byte shows it.
        """
        if size == self.offset:
            return False
        return size != self._unended or os.pread(self._fd, 1, size - 1) == b"\n"


async def follow(
    path: Path,
    *,
    start: int = 0,
    last: int | None = None,
    on_restart: Callable[[], None] = lambda: None,
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    poll: float = POLL,
) -> AsyncGenerator[FileLine, None]:
    """Yield the whole lines of a dataset, present and future, for ever.

    Args:
        path: As for ``Follower``, like ``start``, ``last`` and ``on_restart``.
        start: File offset of the first line.
        last: Begin with this many lines from the end instead.
        on_restart: Called when another file is read from its start.
        sleep: Waits this many seconds; called only when all present lines were yielded.
        poll: Seconds between two reads.

    Raises:
        OSError: The file exists and cannot be read.
    """
    with Follower(path, start=start, last=last, on_restart=on_restart) as follower:
        while True:
            while lines := follower.read():
                for line in lines:
                    yield line
                await anyio.lowlevel.checkpoint()
            await sleep(poll)


def _start_of_last(fd: int, lines: int, block: int) -> tuple[int, int]:
    """Return the offset at which the last ``lines`` whole lines of a file begin, and how many there are."""
    ends = 0
    for end in line_ends_before(partial(os.pread, fd), os.fstat(fd).st_size, block=block):
        ends += 1
        if ends > lines:
            return end, lines  # here ends the line before them
    return 0, ends
