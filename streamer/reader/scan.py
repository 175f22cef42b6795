"""The lines of a dataset that may grow meanwhile, in order, one of them in memory at a time."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from streamer.base.errors import ConfigError
from streamer.base.text import printable
from streamer.store.parts.parts import closed_numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from streamer.store.parts.parts import Piece

LONGEST_LINE = 1 << 30
"""Bytes. What is below is held in memory, the JSON of it too."""

BLOCK = 1 << 20
"""Bytes that are read at a time."""

_LOOKS = 10
_PAUSE = 0.1
"""An unterminated last line is looked at so often, after so many seconds, before it is handed over as it is."""


class NumberedLine(msgspec.Struct, frozen=True):
    """A line as it lies in its file. ``data`` is None if it is too long to look into.

    ``number`` counts from 1 through all files of the dataset. ``before`` are the bytes of the files before its own.
    """

    file: str
    number: int
    before: int
    offset: int
    length: int
    data: bytes | None
    terminated: bool

    @property
    def crosses_block(self) -> bool:
        """Whether it ends in another block than it begins: the time to say how far one is."""
        return self.offset // BLOCK != (self.offset + self.length) // BLOCK


def check_is_dataset(op: str, path: Path) -> None:
    """Refuse what is no file; a pipe too: its length is not known, so it would be an empty dataset.

    Args:
        op: what is to be done, which is a command of the same first word.
        path: the live file, which is not there for a moment while a part is closed.

    Raises:
        ConfigError: it is none, or is not there.
    """
    if not path.is_file() and (path.exists() or not closed_numbers(path)):
        cause = "it is not a file" if path.exists() else "there is no such file"
        raise ConfigError(op, printable(str(path)), cause, f"streamer {op.partition(' ')[0]} DATASET")


def length_of(pieces: Sequence[Piece]) -> int:
    """Return how many bytes the files of a dataset hold now."""
    return sum(os.fstat(piece.file.fileno()).st_size for piece in pieces)


def numbered_lines(
    pieces: Sequence[Piece], size: int, longest: int = LONGEST_LINE, sleep: Callable[[float], None] = time.sleep
) -> Iterator[NumberedLine]:
    """Yield the lines that begin before byte ``size``, through all files.

    Args:
        pieces: the files of the dataset, open for reading in blocks.
        size: where to end.
        longest: bytes; of a longer line only the length is told.
        sleep: waits so many seconds for the end of an unterminated last line.
    """
    before = number = 0
    for piece in pieces:
        end = min(os.fstat(piece.file.fileno()).st_size, size - before)
        offset = 0
        # Nothing before ``end`` means that a daemon which has just started cut a torn last line.
        while offset < end and (data := _settled(piece.file, offset, longest, sleep)):
            number += 1
            length, last = len(data), data[-1:]
            if length == longest and last != b"\n":
                extra, last = _skip_line(piece.file)
                length += extra
            whole = data if length == len(data) else None
            yield NumberedLine(piece.path.name, number, before, offset, length, whole, last == b"\n")
            offset += length
        before += end


def read_at(pieces: Sequence[Piece], place: int, length: int) -> bytes:
    """Return bytes of a dataset, ``place`` being counted through all files."""
    for piece in pieces:
        size = os.fstat(piece.file.fileno()).st_size
        if place < size:
            return os.pread(piece.file.fileno(), length, place)
        place -= size
    return b""


def _settled(file: BinaryIO, offset: int, longest: int, sleep: Callable[[float], None]) -> bytes:
    """Read the line at ``offset``; give a daemon that is in the middle of writing it the time to end it."""
    data = file.readline(longest)
    for _ in range(_LOOKS):
        if data.endswith(b"\n") or len(data) == longest:
            break
        sleep(_PAUSE)
        # By way of the end, as a seek inside the buffer would show what was there before the tail was mended.
        file.seek(0, os.SEEK_END)
        file.seek(offset)
        data = file.readline(longest)
    return data


def _skip_line(file: BinaryIO) -> tuple[int, bytes]:
    """Read to the end of the line; return how many bytes that was and the last of them."""
    length, last = 0, b""
    while last != b"\n" and (block := file.readline(BLOCK)):
        length, last = length + len(block), block[-1:]
    return length, last
