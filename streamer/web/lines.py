"""Lines by their places: one, or the ones before a place. Nothing of a file is kept.

The places of a dataset are those of its ledger: they stay when the live file is closed, when old parts are removed, and
when records are taken out of parts. What is read counts bytes through all files instead: *positions*.
A dataset grows at its end and may be cut back there while it is read: a line without its newline is no line.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from streamer.config import Dataset
from streamer.store.parts.cuts import Places
from streamer.store.parts.parts import opened
from streamer.store.views.snapshot import open_ledger, places_of
from streamer.web.errors import RefusedRequestError, not_found

_LONGEST_LINE = 32 << 20
"""Bytes. A longer line is not shown."""

_LONGEST_LISTED = 8 << 20
_LISTED_BYTES = 16 << 20
"""So much is read for one list, but always one line."""

_BLOCK = 256 << 10
_SEARCHED = 4 << 20


class _PlacedLine(msgspec.Struct, frozen=True):
    """A line with its newline; ``data`` is None if it is too long to be listed."""

    offset: int
    length: int
    data: bytes | None


class _Stretch:
    """Files that are open for reading, as one stretch of bytes, which ends at ``stop``.

    Args:
        files: descriptors, in order; at least one.
        places: which places each of them holds; without it, positions are places.
    """

    def __init__(self, files: Sequence[int], places: Sequence[Places] = ()) -> None:
        self._files: list[tuple[int, int, int, Places]] = []
        self.stop = 0
        for number, fd in enumerate(files):
            size = os.fstat(fd).st_size
            holds = places[number] if places else Places(self.stop)
            self._files.append((self.stop, self.stop + size, fd, holds))
            self.stop += size

    def read(self, length: int, position: int) -> bytes:
        """Return the bytes from ``position`` on, fewer only at the end."""
        found: list[bytes] = []
        for start, stop, fd, _ in self._files:
            if start <= position < stop and length:
                found.append(os.pread(fd, min(length, stop - position), position - start))
                position += len(found[-1])
                length -= len(found[-1])
        return b"".join(found)

    def place(self, position: int) -> int:
        """Return the place of the line that begins at a position; at the end, of the next one to come."""
        start, places = next(
            ((start, places) for start, stop, _, places in self._files if position < stop),
            (self._files[-1][0], self._files[-1][3]),
        )
        return places.place(position - start)

    def position(self, place: int) -> int:
        """Return the position of the line with this place; if it is gone, that of the next one."""
        for start, stop, _, places in self._files:
            position = start + places.offset(max(place, places.start))
            if position < stop:
                return position
        return self.stop


@contextmanager
def file_stretch(path: str | Path) -> Iterator[_Stretch]:
    """Open one file; a pipe in its place does not block.

    Raises:
        FileNotFoundError: it is not there.
        RefusedRequestError: it cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _cannot_read(error) from error
    try:
        yield _Stretch([fd])
    except OSError as error:
        raise _cannot_read(error) from error
    finally:
        os.close(fd)


@contextmanager
def dataset_stretch(target: Dataset) -> Iterator[_Stretch]:
    """Open all files of a dataset.

    Raises:
        FileNotFoundError: there is none.
        RefusedRequestError: it cannot be read.
    """
    with ExitStack() as stack:
        try:
            pieces = stack.enter_context(opened(target.path))
            with open_ledger(target.ledger) as db:
                places = places_of(db, pieces) if db is not None else []
            stretch = _Stretch([piece.file.fileno() for piece in pieces], places)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _cannot_read(error) from error
        try:
            yield stretch
        except OSError as error:
            raise _cannot_read(error) from error


def _cannot_read(error: OSError) -> RefusedRequestError:
    return RefusedRequestError(503, f"the file cannot be read: {error.strerror}")


def line_at(stretch: _Stretch, place: int, longest: int = _LONGEST_LINE) -> bytes:
    """Return the line that begins at ``place``, with its newline.

    Raises:
        RefusedRequestError: no line begins there, it has no end yet, or it is longer than ``longest`` bytes.
    """
    position = stretch.position(place)
    if stretch.place(position) != place or not _is_start(stretch, position):
        raise not_found(f"no line begins at byte {place}")
    blocks: list[bytes] = []
    read = 0
    while read <= longest:
        block = stretch.read(_BLOCK, position)
        if not block:
            raise not_found(f"the line at byte {place} has no end yet")
        end = block.find(b"\n") + 1
        blocks.append(block[:end] if end else block)
        read += len(blocks[-1])
        position += len(block)
        if end:
            break
    if read > longest:
        raise RefusedRequestError(413, f"the line at byte {place} is longer than {longest:,} bytes")
    return b"".join(blocks)


def lines_before(stretch: _Stretch, before: int | None, limit: int) -> list[_PlacedLine]:
    """Return up to ``limit`` lines that end at or before a line's start, newest first; fewer if they are long.

    Args:
        stretch: where the lines are.
        before: the place where a line begins, be it gone by now, or the last one ends; None for the end.
        limit: at least 1.

    Raises:
        RefusedRequestError: ``before`` is neither.
    """
    stop = stretch.stop if before is None else stretch.position(before)
    if before is not None and (before > stretch.place(stretch.stop) or (stop and stretch.read(1, stop - 1) != b"\n")):
        raise not_found(f"no line begins at byte {before}")
    return list(_listed(stretch, stop, limit))


def lines_with(stretch: _Stretch, text: bytes, most: int) -> Iterator[tuple[int, bytes]]:
    """Yield the place and the bytes of lines that hold a text, oldest first, within the newest ``most`` bytes."""
    position = max(0, stretch.stop - most)
    rest = b""
    while block := stretch.read(_SEARCHED, position + len(rest)):
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            # The first line after a position in the middle is a part of one.
            if text in line and _is_start(stretch, position):
                yield stretch.place(position), line
            position += len(line) + 1
        if len(rest) > _LONGEST_LINE:
            return


def _listed(stretch: _Stretch, stop: int, limit: int) -> Iterator[_PlacedLine]:
    read = 0
    starts = _starts(stretch, stop)
    end = next(starts, 0)  # what lies after it has no newline
    for listed, start in enumerate(starts):
        length = end - start
        if listed == limit or (listed and read + length > _LISTED_BYTES):
            return
        data = stretch.read(length, start) if length <= _LONGEST_LISTED else None
        if data is not None and not (len(data) == length and data.endswith(b"\n")):
            return  # cut back while it was read
        read += length if data is not None else 0
        yield _PlacedLine(stretch.place(start), length, data)
        end = start


def _starts(stretch: _Stretch, stop: int) -> Iterator[int]:
    """Yield the ends of the whole lines before ``stop``, the last one first, and the start of all."""
    while stop > 0:
        begin = max(0, stop - _BLOCK)
        block = stretch.read(stop - begin, begin)
        end = len(block)
        while (found := block.rfind(b"\n", 0, end)) >= 0:
            yield begin + found + 1
            end = found
        stop = begin
    yield 0


def _is_start(stretch: _Stretch, position: int) -> bool:
    if not 0 <= position < stretch.stop:
        return False
    return position == 0 or stretch.read(1, position - 1) == b"\n"
