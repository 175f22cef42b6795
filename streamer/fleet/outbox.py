"""Reader of an outbox: lines by log offset, while the dataset grows, rotates and loses parts."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec
from anyio import to_thread

from streamer.base.errors import UnavailableError
from streamer.base.files import Files
from streamer.store.ledger.cuts import cuts_in
from streamer.store.ledger.ledger import Ledger
from streamer.store.parts.cuts import Cut, Places
from streamer.store.parts.parts import closed_numbers, part_path

_BLOCK = 1 << 20


class OutboxLine(msgspec.Struct, frozen=True, gc=False):
    """A line with its newline, and its log offset."""

    offset: int
    data: bytes


class _Read(msgspec.Struct, frozen=True):
    """Some lines, and the log offset after them. There are none if ``missing`` bytes before it were removed."""

    lines: Sequence[OutboxLine]
    after: int
    missing: int = 0


class _File(msgspec.Struct, frozen=True):
    """The part that holds a log offset: its number, its first log offset, and its end (None while it grows)."""

    number: int
    start: int
    stop: int | None
    cuts: tuple[Cut, ...] = ()


class Outbox:
    """Reads committed lines of a dataset.

    Args:
        path: The live file.
        ledger: Maps log offsets to parts.
        files: The system calls.
    """

    def __init__(self, path: Path, ledger: Ledger, files: Files) -> None:
        self._path = path
        self._ledger = ledger
        self._files = files

    async def read(self, offset: int, stop: int) -> _Read:
        """Return lines from a log offset on, before ``stop``, and about a MiB at most.

        Raises:
            UnavailableError: The outbox cannot be read now.
        """
        file = await self._ledger.look(partial(_file_at, offset=offset))
        return await to_thread.run_sync(self._read, file, offset, stop)

    def _read(self, file: _File, offset: int, stop: int) -> _Read:
        end = stop if file.stop is None else min(stop, file.stop)
        places = Places(file.start, file.cuts)
        file_offset = places.offset(offset)
        try:
            fd = self._open(file)
            try:
                data = self._lines(fd, file_offset, places.offset(end))
            finally:
                self._files.close(fd)
        except FileNotFoundError:
            if file.stop is None:
                raise self._unavailable("it is not there") from None
            return _Read((), file.stop, missing=file.stop - offset)
        except OSError as error:
            raise self._unavailable(error.strerror or str(error)) from error
        lines: list[OutboxLine] = []
        for line in data.split(b"\n")[:-1]:
            lines.append(OutboxLine(places.place(file_offset), line + b"\n"))
            file_offset += len(line) + 1
        return _Read(lines, lines[-1].offset + len(lines[-1].data) if lines else end)

    def _open(self, file: _File) -> int:
        """Open a part, even if it was closed since the ledger was read."""
        closed = part_path(self._path, file.number)
        if file.stop is not None:
            return self._files.open(closed, os.O_RDONLY)
        fd = self._files.open(self._path, os.O_RDONLY)
        if file.number in closed_numbers(self._path):  # it was rotated before we opened: this is the next one
            self._files.close(fd)
            return self._files.open(closed, os.O_RDONLY)
        return fd

    def _lines(self, fd: int, start: int, stop: int) -> bytes:
        """Return complete lines between two line ends, given as file offsets."""
        data = b""
        while start + len(data) < stop:
            block = self._files.pread(fd, min(_BLOCK, stop - start - len(data)), start + len(data))
            if not block:
                raise OSError(f"it ends before {stop}")
            data += block
            if (end := data.rfind(b"\n")) >= 0:
                return data[: end + 1]
        return data

    def _unavailable(self, cause: str) -> UnavailableError:
        return UnavailableError("read the outbox", str(self._path), cause, "see the dataset's folder; it is retried")


def _file_at(db: sqlite3.Connection, offset: int) -> _File:
    row = db.execute("SELECT number, start, stop FROM part WHERE start <= ? AND stop > ?", (offset, offset)).fetchone()
    if row is not None:
        number, start, stop = row
        return _File(number, start, stop, cuts_in(db).get(number, ()))
    row = db.execute("SELECT coalesce(max(number), 0) + 1, coalesce(max(stop), 0) FROM part WHERE stop").fetchone()
    live = db.execute("SELECT number FROM part WHERE stop IS NULL").fetchone()
    return _File(row[0] if live is None else live[0], row[1], None)
