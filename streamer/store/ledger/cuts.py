"""Compactions in the ledger: the bytes taken out of each part, and the shard lines that they came from.

The tables are created when a ledger is opened for writing; a reader may find none.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

import msgspec

from streamer.core.records.model import Span
from streamer.store.parts.cuts import Cut

SCHEMA = """
CREATE TABLE IF NOT EXISTS cut (
  part INTEGER, number INTEGER, at REAL NOT NULL, removed TEXT NOT NULL, bytes INTEGER NOT NULL, tokens BLOB NOT NULL,
  PRIMARY KEY (part, number)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS taken_out (
  shard INTEGER, start INTEGER, stop INTEGER NOT NULL, at REAL NOT NULL, PRIMARY KEY (shard, start)
) WITHOUT ROWID;
"""

_removed = msgspec.json.Decoder(tuple[tuple[int, int], ...]).decode


def cuts_in(db: sqlite3.Connection) -> dict[int, tuple[Cut, ...]]:
    """Return the cuts of each part by its number; whole parts have no entry."""
    found: dict[int, tuple[Cut, ...]] = {}
    if _is_there(db):
        for part, removed, tokens in db.execute("SELECT part, removed, tokens FROM cut ORDER BY part, number"):
            found[part] = (*found.get(part, ()), Cut(_removed(removed), tokens))
    return found


def cut_bytes(db: sqlite3.Connection) -> int:
    """Return the number of bytes taken out of the kept parts."""
    if not _is_there(db):
        return 0
    sql = "SELECT coalesce(sum(bytes), 0) FROM cut WHERE part NOT IN (SELECT number FROM part WHERE removed)"
    (taken,) = db.execute(sql).fetchone()
    return int(taken)


def put_cut(db: sqlite3.Connection, part: int, cut: Cut, at: float) -> None:
    """Store a cut of a part; ``at`` is its time in seconds since 1970."""
    removed = msgspec.json.encode(cut.removed).decode()
    db.execute(
        "INSERT INTO cut SELECT ?, coalesce(max(number), 0) + 1, ?, ?, ?, ? FROM cut WHERE part = ?",
        (part, at, removed, cut.size, cut.tokens, part),
    )


def put_taken_out(db: sqlite3.Connection, spans: Iterable[Span], at: float) -> None:
    """Store that the records of these lines were taken out; ``at`` is the time in seconds since 1970."""
    db.executemany(
        "INSERT OR REPLACE INTO taken_out VALUES (?, ?, ?, ?)",
        [(span.shard_id, span.start, span.stop, at) for span in spans],
    )


def taken_out_at(db: sqlite3.Connection, shard_id: int, start: int, stop: int) -> float | None:
    """Return when the records of lines between two offsets of a shard were last taken out, None if they were not."""
    if not _is_there(db):
        return None
    (at,) = db.execute(
        "SELECT max(at) FROM taken_out WHERE shard = ? AND start < ? AND stop > ?", (shard_id, stop, start)
    ).fetchone()
    return None if at is None else float(at)


def _is_there(db: sqlite3.Connection) -> bool:
    """Say whether the tables exist: not in a ledger of a streamer without compaction."""
    return bool(db.execute("SELECT 1 FROM sqlite_master WHERE name = 'cut'").fetchone())
