"""The temporary state of one pass, on disk, because it may exceed memory.

It is in unnamed files: SQLite's temporary database (``SQLITE_TMPDIR``, else ``/var/tmp``), and for shuffled examples a
file in the folder of the output. A killed pass leaves none of them behind.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Self

import msgspec

from streamer.base.errors import translate_errors
from streamer.commands.filter.conditions import Session

_TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -16384;
CREATE TABLE chosen (created_us INTEGER, row INTEGER, session BLOB, PRIMARY KEY (created_us, row)) WITHOUT ROWID;
CREATE TABLE seen (key BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE shuffled (rank BLOB, key BLOB, start INTEGER, length INTEGER, PRIMARY KEY (rank, key)) WITHOUT ROWID;
"""
_NEVER = 1 << 62
_PAGE = 1000
_encode = msgspec.json.Encoder().encode  # JSON, because sessions come from JSON, with integers of any size
_decode = msgspec.json.Decoder(Session).decode


class Scratch:
    """The chosen sessions, the keys seen so far, and the examples to shuffle.

    Args:
        folder: The folder for the examples to shuffle.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._disk = translate_errors(
            "keep what is to be sorted", folder, "see `df` of that folder and of /var/tmp", (OSError, sqlite3.Error)
        )
        self._open = ExitStack()
        self._lines = -1
        self._length = 0

    def __enter__(self) -> Self:
        with self._disk:
            self._db = self._open.enter_context(closing(sqlite3.connect("", isolation_level=None)))
            self._db.executescript(_TABLES)
            self._db.execute("BEGIN")  # one transaction, never committed: nothing outlives the pass
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def choose(self, session: Session) -> None:
        """Keep a session that meets all conditions."""
        created = _NEVER if session.created_us is None else session.created_us
        with self._disk:
            self._db.execute("INSERT OR IGNORE INTO chosen VALUES (?, ?, ?)", (created, session.row, _encode(session)))

    def chosen(self) -> Iterator[Session]:
        """Yield the chosen sessions by creation time; those without a time come last."""
        last = (-_NEVER, -_NEVER)
        sql = "SELECT created_us, row, session FROM chosen WHERE (created_us, row) > (?, ?) ORDER BY 1, 2 LIMIT ?"
        while rows := self._db.execute(sql, (*last, _PAGE)).fetchall():
            for created, row, session in rows:
                yield _decode(session)
                last = created, row

    def is_new(self, key: bytes) -> bool:
        """Return whether an example is new, and remember its key."""
        with self._disk:
            return self._db.execute("INSERT OR IGNORE INTO seen VALUES (?)", (key,)).rowcount == 1

    def shuffle_in(self, rank: bytes, key: bytes, line: bytes) -> None:
        """Keep a line; :meth:`shuffled` yields all of them by rank."""
        with self._disk:
            if self._lines < 0:
                file = self._open.enter_context(tempfile.TemporaryFile(dir=self._folder, buffering=0))  # noqa: SIM115
                self._lines = file.fileno()
            rest = memoryview(line)
            while rest:
                rest = rest[os.write(self._lines, rest) :]
            self._db.execute("INSERT INTO shuffled VALUES (?, ?, ?, ?)", (rank, key, self._length, len(line)))
        self._length += len(line)

    def shuffled(self) -> Iterator[bytes]:
        """Yield all kept lines by rank."""
        with self._disk:
            for start, length in self._db.execute("SELECT start, length FROM shuffled ORDER BY rank, key"):
                yield os.pread(self._lines, length, start)
