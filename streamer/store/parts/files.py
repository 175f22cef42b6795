"""The files of a dataset, opened for reading while a daemon closes, compacts and removes parts."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import msgspec

from streamer.base.files import Files
from streamer.base.lines import FileLine, whole_lines
from streamer.store.parts.cuts import OffsetMap
from streamer.store.parts.parts import closed_numbers, newest_number, part_path


class DatasetFile(msgspec.Struct, frozen=True):
    """One open file. ``number`` is that of a closed part, None for the live file; ``size`` was taken at opening."""

    path: Path
    fd: int
    number: int | None
    size: int

    def read(self, size: int, offset: int) -> bytes:
        """Return up to ``size`` bytes at an offset, none at the end of the file."""
        return os.pread(self.fd, size, offset)

    def lines(self) -> Iterator[FileLine]:
        """Yield the whole lines."""
        return whole_lines(self.read, 0, self.size)


class DatasetFiles:
    """Open files as one run of bytes. A *position* counts bytes through all of them, as they are now.

    Args:
        files: In order.
        maps: The log offsets that each file holds; without it, positions are log offsets.
    """

    def __init__(self, files: Sequence[DatasetFile], maps: Sequence[OffsetMap] = ()) -> None:
        self.files = files
        self.length = 0
        self._spans: list[tuple[int, int, DatasetFile, OffsetMap]] = []
        for index, file in enumerate(files):
            start, self.length = self.length, self.length + file.size
            self._spans.append((start, self.length, file, maps[index] if maps else OffsetMap(start)))

    def read(self, size: int, position: int) -> bytes:
        """Return the bytes from ``position`` on, fewer only at the end."""
        found: list[bytes] = []
        for start, stop, file, _ in self._spans:
            if start <= position < stop and size:
                found.append(file.read(min(size, stop - position), position - start))
                position += len(found[-1])
                size -= len(found[-1])
        return b"".join(found)

    def log_offset(self, position: int) -> int:
        """Return the log offset of the line at a position; at the end, that of the next line to come."""
        start, holds = next(
            ((start, holds) for start, stop, _, holds in self._spans if position < stop),
            (self._spans[-1][0], self._spans[-1][3]),
        )
        return holds.log_offset(position - start)

    def position(self, log_offset: int) -> int:
        """Return the position of the line with this log offset; if it is gone, that of the next line."""
        for start, stop, _, holds in self._spans:
            position = start + holds.file_offset(max(log_offset, holds.start))
            if position < stop:
                return position
        return self.length


class LiveFile(msgspec.Struct, frozen=True):
    """The live file, open. ``number`` is the one it has, or will get, as a closed part."""

    fd: int
    number: int
    is_closed: bool


def open_to_read(path: str | Path) -> int:
    """Open a file; a pipe in its place does not block."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)


def open_live(dataset: Path) -> LiveFile | None:
    """Open the live file, None if there is none now.

    Raises:
        OSError: The file cannot be opened.
    """
    while True:
        newest = newest_number(dataset)
        try:
            fd = open_to_read(dataset)
        except FileNotFoundError:
            return None
        closed = _number_of(fd, dataset)
        if closed is not None or newest_number(dataset) == newest:
            return LiveFile(fd, closed or newest + 1, closed is not None)
        os.close(fd)  # it was closed and compacted since: no name leads to it any more


def open_by_number(dataset: Path, number: int, files: Files, *, is_closed: bool) -> int:
    """Open the file with this number; ``is_closed`` is what the ledger knew of it, so it may be closed by now.

    Raises:
        OSError: The file cannot be opened, or is not there.
    """
    closed = part_path(dataset, number)
    if is_closed:
        return files.open(closed, os.O_RDONLY)
    fd = files.open(dataset, os.O_RDONLY)
    if number not in closed_numbers(dataset):
        return fd
    files.close(fd)  # it was closed before we opened, so that is the next one
    return files.open(closed, os.O_RDONLY)


@contextmanager
def open_dataset(dataset: Path) -> Iterator[DatasetFiles]:
    """Open every file of a dataset: all lines that are there now, none twice.

    Raises:
        OSError: One of them cannot be opened.
    """
    with ExitStack() as stack:
        live = open_live(dataset)
        if live is not None:
            stack.callback(os.close, live.fd)
        files: list[DatasetFile] = []
        for number in closed_numbers(dataset):
            if live is None or number < live.number:
                with suppress(FileNotFoundError):  # removed since
                    fd = open_to_read(part_path(dataset, number))
                    stack.callback(os.close, fd)
                    files.append(_opened(part_path(dataset, number), fd, number))
        if live is not None and live.is_closed:
            files.append(_opened(part_path(dataset, live.number), live.fd, live.number))
        elif live is not None:
            files.append(_opened(dataset, live.fd, None))
        if not files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(dataset))
        yield DatasetFiles(files)


@contextmanager
def open_alone(path: Path) -> Iterator[DatasetFiles]:
    """Open one file that has no parts.

    Raises:
        OSError: It cannot be opened.
    """
    fd = open_to_read(path)
    try:
        yield DatasetFiles([_opened(path, fd, None)])
    finally:
        os.close(fd)


def _opened(path: Path, fd: int, number: int | None) -> DatasetFile:
    return DatasetFile(path, fd, number, os.fstat(fd).st_size)


def _number_of(fd: int, dataset: Path) -> int | None:
    """Return the number of the closed part that an open file is by now, None if it is none."""
    mine = os.fstat(fd)
    for number in reversed(closed_numbers(dataset)):
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(part_path(dataset, number)), mine):
                return number
    return None
