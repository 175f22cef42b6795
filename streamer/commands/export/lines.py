"""The lines of a dataset as they are at one moment: what the ledger has committed, or all whole lines without one.

A dataset may consist of several files; the rest of the export sees (offset, line).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Self

import msgspec
from blake3 import blake3

from streamer.base.errors import RefusedError, UnavailableError, translate_errors
from streamer.base.text import printable
from streamer.reader.scan import BLOCK, LONGEST_LINE, check_is_dataset, length_of, read_at
from streamer.store.parts.parts import Piece, opened
from streamer.store.views.snapshot import committed_in, open_ledger


class ExportLine(msgspec.Struct, frozen=True, gc=False):
    """One line. ``data`` ends with its newline; it is None if the line is too long to look into.

    ``number`` starts at 1, ``offset`` at 0, and both are counted through all files of the dataset. ``finished`` is
    False for what lies after the last newline of a file without a ledger.
    """

    number: int
    offset: int
    length: int
    data: bytes | None
    finished: bool = True


class DatasetOrigin(msgspec.Struct, frozen=True):
    """Where the lines come from: what a dataset card says of it.

    ``conditions`` are the SQL conditions of the daemon, ``dedup`` is how it told duplicates (both empty without a
    ledger), ``digest`` is the BLAKE3 of the bytes that were read.
    """

    name: str
    lines: int
    bytes: int
    digest: str
    conditions: list[str] = []
    dedup: str = ""


class Lines:
    """The lines of one dataset, up to where it was committed when it was opened. Use it as a context manager.

    Args:
        path: the dataset.
        ledger: its ledger, which need not be there.
        longest: bytes; a longer line has no ``data``.

    Raises:
        ConfigError: there is no such file.
        RefusedError: the dataset is shorter than its ledger says.
        UnavailableError: the files or the ledger cannot be read now.
    """

    def __init__(self, path: Path, ledger: Path, *, longest: int = LONGEST_LINE) -> None:
        self._path = path
        self._longest = longest
        self._digest = blake3()
        self._count = 0
        check_is_dataset("export", path)
        self._stack = ExitStack()
        try:
            with translate_errors("read the dataset", printable(str(path))):
                self._pieces = self._stack.enter_context(opened(path, BLOCK))
                size = length_of(self._pieces)
            self._ledger = _read_ledger(ledger, self._pieces)
            self.length = self._committed(size)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __iter__(self) -> Iterator[ExportLine]:
        """Yield every line, from the first one on.

        Raises:
            UnavailableError: a file cannot be read.
        """
        self._digest, self._count = blake3(), 0
        with translate_errors("read the dataset", printable(str(self._path))):
            before = 0
            for piece in self._pieces:
                stop = min(os.fstat(piece.file.fileno()).st_size, self.length - before)
                piece.file.seek(0)
                offset = 0
                while offset < stop:
                    line = self._next(piece.file, before + offset, stop - offset)
                    self._count += 1
                    yield line
                    offset += line.length
                before += stop

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes of one line that was yielded.

        Raises:
            UnavailableError: the file cannot be read.
        """
        with translate_errors("read the dataset", printable(str(self._path))):
            data = read_at(self._pieces, offset, length)
        if len(data) != length:
            raise UnavailableError("read the dataset", printable(str(self._path)), "it was cut while it was read")
        return data

    def origin(self) -> DatasetOrigin:
        """Return what was read, after all lines were."""
        _, conditions, dedup = self._ledger or (0, [], "")
        name = printable(self._path.name)
        return DatasetOrigin(name, self._count, self.length, self._digest.hexdigest(), conditions, dedup)

    def _committed(self, size: int) -> int:
        if self._ledger is None:
            return size
        committed = self._ledger[0]
        if size < committed:
            raise RefusedError(
                "export the dataset",
                printable(str(self._path)),
                f"it has {size:,} bytes, and its ledger says {committed:,}",
                "`streamer doctor` says more; without its ledger beside it, a copy can be exported as it is",
            )
        return committed

    def _next(self, file: BinaryIO, offset: int, most: int) -> ExportLine:
        data = file.readline(min(most, self._longest))
        self._digest.update(data)
        number = self._count + 1
        if data.endswith(b"\n"):
            return ExportLine(number, offset, len(data), data)
        if len(data) == most or not data:
            return ExportLine(number, offset, most, None, finished=False)
        length, last = len(data), b""
        while last != b"\n" and length < most and (block := file.readline(min(BLOCK, most - length))):
            self._digest.update(block)
            length, last = length + len(block), block[-1:]
        return ExportLine(number, offset, length, None, finished=last == b"\n")


def _read_ledger(path: Path, pieces: Sequence[Piece]) -> tuple[int, list[str], str] | None:
    """Return (committed bytes of these files, conditions, how duplicates were told), or None without a ledger."""
    with open_ledger(path) as db:
        if db is None:
            return None
        db.execute("BEGIN")
        (dedup,) = db.execute("SELECT keys FROM meta").fetchone()
        conditions = [sql for (sql,) in db.execute("SELECT DISTINCT sql FROM condition ORDER BY sql")]
        return committed_in(db, pieces), conditions, dedup.partition("/")[0]
