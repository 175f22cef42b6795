"""Rejections of near-duplicates and of lines beyond a cap, stored for ``explain``."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator

import msgspec

_SCHEMA = """
CREATE TABLE IF NOT EXISTS refused (
  shard INTEGER, start INTEGER, offset INTEGER NOT NULL, similarity REAL, most INTEGER, records INTEGER, value TEXT,
  PRIMARY KEY (shard, start)
) WITHOUT ROWID
"""
_COLUMNS = "shard, start, offset, similarity, most, records, value"


class Rejection(msgspec.Struct, frozen=True, gc=False):
    """The reason why one line was rejected.

    ``offset`` is the log offset of a dataset line: the one that it resembles, by ``similarity``; or the last of the
    ``records`` with the same ``value``, of which a cap admits ``most``.
    """

    shard_id: int
    start: int
    offset: int
    similarity: float | None = None
    most: int | None = None
    records: int | None = None
    value: str | None = None


def prepare(db: sqlite3.Connection) -> None:
    """Create the table if it is missing."""
    db.execute(_SCHEMA)


def write(db: sqlite3.Connection, lines: Iterable[Rejection]) -> None:
    """Store rejections, and replace older ones of the same lines."""
    db.executemany(
        f"INSERT OR REPLACE INTO refused ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",
        [msgspec.structs.astuple(line) for line in lines],
    )


def rejections_in(db: sqlite3.Connection, shard_id: int, start: int, stop: int) -> Iterator[Rejection]:
    """Yield the rejections of the lines between two offsets of a shard, in order.

    The table must exist.
    """
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM refused WHERE shard = ? AND start >= ? AND start < ? ORDER BY start",
        (shard_id, start, stop),
    )
    return (Rejection(*row) for row in rows)
