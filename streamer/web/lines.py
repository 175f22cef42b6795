"""Lines by their places: one, or the ones before a place. Nothing of a file is kept.

The places of a dataset are those of its ledger: they stay when the live file is closed, when old parts are removed, and
when records are taken out of parts. What is read counts bytes through all files instead: *positions*.
A dataset grows at its end and may be cut back there while it is read: a line without its newline is no line.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

from streamer.base.lines import FileLine, line_ends_before, next_lines, whole_lines
from streamer.config import Dataset
from streamer.store.ledger.files import with_log_offsets
from streamer.store.parts.files import DatasetFiles, open_alone, open_dataset
from streamer.store.views.snapshot import open_ledger
from streamer.web.errors import RefusedRequestError, not_found

_LONGEST_LINE = 32 << 20
"""Bytes. A longer line is not shown."""

_LONGEST_LISTED = 8 << 20
_LISTED_BYTES = 16 << 20
"""So much is read for one list, but always one line."""

_BLOCK = 256 << 10
_SEARCHED = 4 << 20


@contextmanager
def file_stretch(path: Path) -> Iterator[DatasetFiles]:
    """Open one file; a pipe in its place does not block.

    Raises:
        FileNotFoundError: There is none.
        RefusedRequestError: It cannot be read.
    """
    with _reading(), open_alone(path) as files:
        yield files


@contextmanager
def dataset_stretch(target: Dataset) -> Iterator[DatasetFiles]:
    """Open all files of a dataset, with the log offsets that its ledger knows.

    Raises:
        FileNotFoundError: There is none.
        RefusedRequestError: It cannot be read.
    """
    with _reading(), open_dataset(target.path) as files:
        with open_ledger(target.ledger) as db:
            placed = with_log_offsets(db, files) if db is not None else files
        yield placed


@contextmanager
def _reading() -> Iterator[None]:
    """Refuse the request if a file is there and cannot be read."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RefusedRequestError(503, f"the file cannot be read: {error.strerror}") from error


def line_at(stretch: DatasetFiles, place: int, longest: int = _LONGEST_LINE) -> bytes:
    """Return the line that begins at ``place``, with its newline.

    Raises:
        RefusedRequestError: no line begins there, it has no end yet, or it is longer than ``longest`` bytes.
    """
    position = stretch.position(place)
    if stretch.log_offset(position) != place or not _is_start(stretch, position):
        raise not_found(f"no line begins at byte {place}")
    stop = min(stretch.length, position + longest)
    if found := next_lines(stretch.read, position, stop, block=_BLOCK):
        return found[0].data
    if stop < stretch.length:
        raise RefusedRequestError(413, f"the line at byte {place} is longer than {longest:,} bytes")
    raise not_found(f"the line at byte {place} has no end yet")


def lines_before(stretch: DatasetFiles, before: int | None, limit: int) -> list[FileLine]:
    """Return up to ``limit`` lines that end at or before a line's start, newest first; fewer if they are long.

    Args:
        stretch: where the lines are.
        before: the place where a line begins, be it gone by now, or the last one ends; None for the end.
        limit: at least 1.

    Raises:
        RefusedRequestError: ``before`` is neither.
    """
    stop = stretch.length if before is None else stretch.position(before)
    if before is not None and (
        before > stretch.log_offset(stretch.length) or (stop and stretch.read(1, stop - 1) != b"\n")
    ):
        raise not_found(f"no line begins at byte {before}")
    return list(_listed(stretch, stop, limit))


def lines_with(stretch: DatasetFiles, text: bytes, most: int) -> Iterator[tuple[int, bytes]]:
    """Yield the place and the bytes of lines that hold a text, oldest first, within the newest ``most`` bytes."""
    start = max(0, stretch.length - most)
    for line in whole_lines(stretch.read, start, stretch.length, block=_SEARCHED, longest=_LONGEST_LINE):
        # The first line after a position in the middle is a part of one.
        if text in line.data and _is_start(stretch, line.offset):
            yield stretch.log_offset(line.offset), line.data


def _listed(stretch: DatasetFiles, stop: int, limit: int) -> Iterator[FileLine]:
    read = 0
    starts = chain(line_ends_before(stretch.read, stop, block=_BLOCK), (0,))
    end = next(starts, 0)  # what lies after it has no newline
    for listed, start in enumerate(starts):
        length = end - start
        if listed == limit or (listed and read + length > _LISTED_BYTES):
            return
        is_listed = length <= _LONGEST_LISTED
        data = stretch.read(length, start) if is_listed else b""
        if is_listed and not (len(data) == length and data.endswith(b"\n")):
            return  # cut back while it was read
        read += len(data)
        yield FileLine(stretch.log_offset(start), length, data)
        end = start


def _is_start(stretch: DatasetFiles, position: int) -> bool:
    if not 0 <= position < stretch.length:
        return False
    return position == 0 or stretch.read(1, position - 1) == b"\n"
