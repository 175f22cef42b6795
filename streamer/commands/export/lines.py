"""The lines of a dataset as they are at one moment: what the ledger has committed, or all whole lines without one.

A dataset may consist of several files; the rest of the export sees (offset, line).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import msgspec
from blake3 import blake3

from streamer.base.errors import RefusedError, UnavailableError, translate_errors
from streamer.base.lines import BLOCK
from streamer.base.text import printable
from streamer.reader.scan import LONGEST_LINE, NumberedLine, check_is_dataset, numbered_lines
from streamer.store.ledger.files import committed_in
from streamer.store.parts.files import DatasetFiles, open_dataset
from streamer.store.views.snapshot import open_ledger


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
                self._files = self._stack.enter_context(open_dataset(path))
            self._ledger = _read_ledger(ledger, self._files)
            self.length = self._committed(self._files.length)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __iter__(self) -> Iterator[NumberedLine]:
        """Yield every line, from the first one on.

        Raises:
            UnavailableError: a file cannot be read.
        """
        self._digest, self._count = blake3(), 0
        with translate_errors("read the dataset", printable(str(self._path))):
            for line in numbered_lines(self._files, self.length, self._longest, sleep=None):
                self._count += 1
                self._add(line)
                yield line

    def _add(self, line: NumberedLine) -> None:
        """Add a line to the digest."""
        if line.data is not None:
            self._digest.update(line.data)
            return
        for position in range(line.position, line.stop, BLOCK):
            self._digest.update(self._files.read(min(BLOCK, line.stop - position), position))

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes of one line that was yielded.

        Raises:
            UnavailableError: the file cannot be read.
        """
        with translate_errors("read the dataset", printable(str(self._path))):
            data = self._files.read(length, offset)
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


def _read_ledger(path: Path, files: DatasetFiles) -> tuple[int, list[str], str] | None:
    """Return (committed bytes of these files, conditions, how duplicates were told), or None without a ledger."""
    with open_ledger(path) as db:
        if db is None:
            return None
        db.execute("BEGIN")
        (dedup,) = db.execute("SELECT keys FROM meta").fetchone()
        conditions = [sql for (sql,) in db.execute("SELECT DISTINCT sql FROM condition ORDER BY sql")]
        return committed_in(db, files), conditions, dedup.partition("/")[0]
