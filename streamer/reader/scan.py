"""The lines of a dataset that may grow meanwhile, in order, one of them in memory at a time."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

import msgspec

from streamer.base.errors import ConfigError
from streamer.base.lines import BLOCK, FileLine, next_lines
from streamer.base.text import printable
from streamer.store.parts.parts import closed_numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from streamer.store.parts.files import DatasetFile, DatasetFiles

LONGEST_LINE = 1 << 30
"""Bytes. A line up to this length is held in memory, and so is its JSON."""

_LOOKS = 10
_PAUSE = 0.1
"""How often an unterminated last line is read again, and the seconds before each time."""


class NumberedLine(msgspec.Struct, frozen=True):
    """A line and where it lies. ``data`` is None if the line is too long, or has no newline (``terminated``).

    ``number`` counts from 1 and ``position`` from 0 through all files of the dataset, ``offset`` from 0 in ``file``.
    """

    file: str
    number: int
    position: int
    offset: int
    length: int
    data: bytes | None
    terminated: bool = True

    @property
    def stop(self) -> int:
        """Position of the next line."""
        return self.position + self.length

    @property
    def crosses_block(self) -> bool:
        """Whether it ends in another block than it begins: the time to report progress."""
        return self.offset // BLOCK != (self.offset + self.length) // BLOCK


def check_is_dataset(op: str, path: Path) -> None:
    """Refuse a path that is no file; a pipe too: its length is unknown, so it would be an empty dataset.

    Args:
        op: The operation; its first word is the command.
        path: The live file, which is not there for a moment while a part is closed.

    Raises:
        ConfigError: There is no file at the path.
    """
    if not path.is_file() and (path.exists() or not closed_numbers(path)):
        cause = "it is not a file" if path.exists() else "there is no such file"
        raise ConfigError(op, printable(str(path)), cause, f"streamer {op.partition(' ')[0]} DATASET")


def numbered_lines(
    dataset: DatasetFiles,
    size: int,
    longest: int = LONGEST_LINE,
    sleep: Callable[[float], None] | None = time.sleep,
) -> Iterator[NumberedLine]:
    """Yield the lines that begin before position ``size``, through all files.

    Args:
        dataset: The open files.
        size: Position to end at.
        longest: Bytes; a longer line comes without its data.
        sleep: Waits this many seconds for the end of an unterminated last line; None: such a line ends at ``size``.
    """
    before = number = 0
    for file in dataset.files:
        end = min(file.size, size - before)
        offset = 0
        while offset < end:
            lines, terminated = next_lines(file.read, offset, end, longest=longest), True
            if not lines:
                lines, terminated = _last_line(file, offset, end, longest, sleep)
            if not lines:  # a daemon that has just started cut a torn last line
                break
            for line in lines:
                number += 1
                data = line.data or None
                yield NumberedLine(
                    file.path.name, number, before + line.offset, line.offset, line.length, data, terminated
                )
            offset = lines[-1].stop
        before += end


def _last_line(
    file: DatasetFile, offset: int, end: int, longest: int, sleep: Callable[[float], None] | None
) -> tuple[list[FileLine], bool]:
    """Return the line that has no newline before ``end``, and whether it has one by now; see ``numbered_lines``."""
    if sleep is None:
        return [FileLine(offset, end - offset, b"")], False
    for look in range(_LOOKS + 1):
        if look:
            sleep(_PAUSE)
        found = next_lines(file.read, offset, sys.maxsize, longest=longest)
        if found:
            return found[:1], True
        length = os.fstat(file.fd).st_size - offset
        if length >= longest:
            break
    return ([FileLine(offset, length, b"")] if length > 0 else []), False
