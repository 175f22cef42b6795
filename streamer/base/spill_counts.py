"""Counts and keys of any number in constant memory: a private SQLite database without a name.

SQLite keeps it in its page cache and spills it into a temporary file that no other process can open and that
disappears with the process; ``SQLITE_TMPDIR`` or ``TMPDIR`` name its folder.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

_Name = str | bytes | float
"""A name that is counted; all names of one ``what`` have one type."""

_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -65536;
CREATE TABLE tally (what TEXT, name, times INTEGER NOT NULL, PRIMARY KEY (what, name)) WITHOUT ROWID;
CREATE TABLE seen (key BLOB PRIMARY KEY, line INTEGER NOT NULL) WITHOUT ROWID;
BEGIN;
"""

_UPSERT = """
INSERT INTO tally VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET times = times + excluded.times
"""

_PENDING = 10_000
"""Distinct counts in memory before they go to the database."""


class Tally:
    """Counts by ``what`` and name, and the first line of each key.

    Every method raises ``sqlite3.Error`` when the temporary file cannot be written.
    """

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.executescript(_SCHEMA)
        self._pending: Counter[tuple[str, _Name]] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def add(self, what: str, name: _Name) -> None:
        """Count one more ``name``."""
        self._pending[what, name] += 1
        if len(self._pending) >= _PENDING:
            self._flush()

    def first_line(self, key: bytes, line: int) -> int:
        """Return the first line with this key; that is ``line`` itself if the key is new."""
        if self._db.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (key, line)).rowcount:
            return line
        found: int = self._db.execute("SELECT line FROM seen WHERE key = ?", (key,)).fetchone()[0]
        return found

    def distinct(self, what: str) -> int:
        """Return the number of distinct names."""
        self._flush()
        found: int = self._db.execute("SELECT count(*) FROM tally WHERE what = ?", (what,)).fetchone()[0]
        return found

    def total(self, what: str) -> int:
        """Return the number of all names, repeated ones included."""
        self._flush()
        query = "SELECT coalesce(sum(times), 0) FROM tally WHERE what = ?"
        found: int = self._db.execute(query, (what,)).fetchone()[0]
        return found

    def top(self, what: str, most: int) -> dict[str, int]:
        """Return the ``most`` frequent names with their counts, the most frequent first."""
        self._flush()
        query = "SELECT name, times FROM tally WHERE what = ? ORDER BY times DESC, name LIMIT ?"
        return dict(self._db.execute(query, (what, most)))

    def times(self, what: str, name: _Name) -> int:
        """Return the count of a name."""
        self._flush()
        query = "SELECT coalesce(sum(times), 0) FROM tally WHERE what = ? AND name = ?"
        found: int = self._db.execute(query, (what, name)).fetchone()[0]
        return found

    def range(self, what: str) -> tuple[float, float]:
        """Return the smallest and the largest number; (0, 0) without numbers."""
        self._flush()
        query = "SELECT coalesce(min(name), 0), coalesce(max(name), 0) FROM tally WHERE what = ?"
        low, high = self._db.execute(query, (what,)).fetchone()
        return low, high

    def in_order(self, what: str) -> Iterator[tuple[float, int]]:
        """Yield the numbers with their counts, ascending."""
        self._flush()
        yield from self._db.execute("SELECT name, times FROM tally WHERE what = ? ORDER BY name", (what,))

    def _flush(self) -> None:
        self._db.executemany(_UPSERT, ((*key, times) for key, times in self._pending.items()))
        self._pending.clear()
