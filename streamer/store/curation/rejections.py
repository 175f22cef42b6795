"""Why lines were left out that resemble a record, or that a cap had no room for: what ``explain`` tells of each."""

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
    """Why one line was left out.

    ``offset`` is where a line of the dataset begins: the one that it resembles, by ``similarity``; or the last of the
    ``records`` that have its ``value``, of which a cap takes ``most``.
    """

    shard_id: int
    start: int
    offset: int
    similarity: float | None = None
    most: int | None = None
    records: int | None = None
    value: str | None = None


def prepare(db: sqlite3.Connection) -> None:
    """Make the table if there is none yet."""
    db.execute(_SCHEMA)


def write(db: sqlite3.Connection, lines: Iterable[Rejection]) -> None:
    """Remember why lines were left out, in place of what was known of them."""
    db.executemany(
        f"INSERT OR REPLACE INTO refused ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",
        [msgspec.structs.astuple(line) for line in lines],
    )


def rejections_in(db: sqlite3.Connection, shard_id: int, start: int, stop: int) -> Iterator[Rejection]:
    """Yield why the lines between two offsets of a shard were left out, in order.

    The ledger has to be one that a line was left out of.
    """
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM refused WHERE shard = ? AND start >= ? AND start < ? ORDER BY start",
        (shard_id, start, stop),
    )
    return (Rejection(*row) for row in rows)
