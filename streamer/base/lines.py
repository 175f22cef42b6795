"""Lines of a file that may grow, read block by block: the one loop over newlines.

Nothing is kept of a line that has no newline yet: it may be cut back, so it is read again once it is whole.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import msgspec

from streamer.base.files import Files

BLOCK = 1 << 20
"""Bytes that are read at a time."""

Read = Callable[[int, int], bytes]
"""Called with (size, offset): returns up to so many bytes, none at the end of the file."""


class FileLine(msgspec.Struct, frozen=True, gc=False):
    """One whole line. ``data`` ends with its newline, and is empty if the line is longer than the reader allows.

    ``offset`` is that in its file, or the log offset where a reader says so.
    """

    offset: int
    length: int
    data: bytes

    @property
    def stop(self) -> int:
        """Offset of the next line."""
        return self.offset + self.length


def next_lines(read: Read, start: int, stop: int, *, block: int = BLOCK, longest: int = sys.maxsize) -> list[FileLine]:
    """Return the whole lines of the next block, or one line that is longer than a block; none if no line ends.

    Args:
        read: Reads the file.
        start: Offset at which a line begins.
        stop: Offset at which to end; bytes from there on are not read.
        block: Bytes to read at a time. Memory holds one block, or one line that is longer.
        longest: Bytes; a longer line comes without its data.
    """
    data = read(min(block, stop - start), start) if start < stop else b""
    lines: list[FileLine] = []
    at = 0
    while end := data.find(b"\n", at) + 1:
        lines.append(FileLine(start + at, end - at, data[at:end] if end - at <= longest else b""))
        at = end
    if lines or not data:
        return lines
    end = _line_end(read, start + len(data), stop, block)
    if not end:
        return []
    if end - start > longest:
        return [FileLine(start, end - start, b"")]
    line = read_span(read, start, end)
    was_cut = line.find(b"\n") != end - start - 1
    return [] if was_cut else [FileLine(start, end - start, line)]


def whole_lines(
    read: Read, start: int, stop: int, *, block: int = BLOCK, longest: int = sys.maxsize
) -> Iterator[FileLine]:
    """Yield the whole lines between two offsets; see ``next_lines``."""
    while lines := next_lines(read, start, stop, block=block, longest=longest):
        yield from lines
        start = lines[-1].stop


def line_ends_before(read: Read, stop: int, floor: int = 0, *, block: int = BLOCK) -> Iterator[int]:
    """Yield the offset after each newline between ``floor`` and ``stop``, the last one first."""
    while stop > floor:
        start = max(floor, stop - block)
        data = read(stop - start, start)
        end = len(data)
        while (found := data.rfind(b"\n", 0, end)) >= 0:
            yield start + found + 1
            end = found
        stop = start


def read_span(read: Read, start: int, stop: int) -> bytes:
    """Return the bytes between two offsets, fewer only at the end of the file."""
    blocks: list[bytes] = []
    while start < stop and (data := read(stop - start, start)):
        blocks.append(data)
        start += len(data)
    return blocks[0] if len(blocks) == 1 else b"".join(blocks)


def complete_read(files: Files, fd: int, stop: int) -> Read:
    """Return a function that reads an open file, and fails if the file ends before ``stop``."""

    def read(size: int, offset: int) -> bytes:
        data = files.pread(fd, size, offset)
        if not data:
            raise OSError(f"it ends at {offset}, before {stop}")
        return data

    return read


def _line_end(read: Read, position: int, stop: int, block: int) -> int:
    """Return the offset after the next newline, 0 if there is none before ``stop``."""
    while position < stop and (data := read(min(block, stop - position), position)):
        if end := data.find(b"\n") + 1:
            return position + end
        position += len(data)
    return 0
