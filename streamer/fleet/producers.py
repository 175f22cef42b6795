"""Lines that a writer holds of each collector, in two tables of its ledger; receipts are made from them.

Each collector numbers its lines from 1 in each partition of each epoch; an epoch is one start of it. Sequences arrive
in order except after a loss or a redelivery, so a few ranges cover all of them. A range that does not fit is forgotten:
its lines are sent again then, and found to be held.

Tables, created when they are first needed
- ``origin``        ranges of sequences, by collector, partition and epoch
- ``writer``        one row: the name of this writer
- ``owned_bucket``  see ``owners``
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

import msgspec

from streamer.fleet.message import MessageId

_SCHEMA = """
CREATE TABLE IF NOT EXISTS origin (
  id INTEGER PRIMARY KEY, origin TEXT NOT NULL, bucket INTEGER NOT NULL, life TEXT NOT NULL, numbers TEXT NOT NULL,
  records INTEGER NOT NULL, seen REAL NOT NULL, UNIQUE (origin, bucket, life)
)
"""
_WRITER = "CREATE TABLE IF NOT EXISTS writer (one INTEGER PRIMARY KEY CHECK (one = 1), name TEXT NOT NULL)"
MOST_RANGES = 100
_EPOCHS = 16
"""Latest epochs of one collector remembered in a partition; earlier ones have no message on its way any more."""

LONGEST_PRODUCER = 100

Ranges = tuple[tuple[int, int], ...]
"""(first, last) sequence of each range, in order, with a gap between any two of them."""


class Held(msgspec.Struct, frozen=True):
    """A message of a batch. Its line counts as held if ``key`` is None or is a key of the ledger.

    ``key`` is None if the message held its line, or was skipped.
    """

    id: MessageId
    partition: int
    key: bytes | None = None


class _Activity(msgspec.Struct, frozen=True):
    """A collector: when its last message was taken (seconds since 1970), and the records of its remembered epochs."""

    producer: str
    seen: float
    records: int


def extended(ranges: Ranges, sequences: Iterable[int]) -> Ranges:
    """Return ranges with some sequences added; ranges that do not fit are forgotten, the highest first."""
    return _united(ranges, ((sequence, sequence) for sequence in sequences))


def _united(ranges: Ranges, more: Iterable[tuple[int, int]]) -> Ranges:
    """Return the union of ranges; those that do not fit are forgotten, the highest first."""
    pieces = sorted([*ranges, *more])
    merged: list[tuple[int, int]] = []
    for first, last in pieces:
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return tuple(merged[:MOST_RANGES])


def high_watermark(ranges: Ranges) -> int:
    """Return the sequence up to which there is no gap."""
    return ranges[0][1] if ranges and ranges[0][0] == 1 else 0


def prepare(db: sqlite3.Connection) -> None:
    """Create the tables if they do not exist."""
    db.execute(_SCHEMA)
    db.execute(_WRITER)


def name_writer(db: sqlite3.Connection, new: str) -> str:
    """Return the name of this writer, ``new`` for the first time: two writers on one host have two names."""
    db.execute("INSERT OR IGNORE INTO writer (one, name) VALUES (1, ?)", (new,))
    return str(db.execute("SELECT name FROM writer").fetchone()[0])


def held_up_to(db: sqlite3.Connection, producer: str, partition: int, epoch: str) -> int:
    """Return the sequence up to which all lines of an epoch in a partition are held."""
    return high_watermark(_ranges(db, producer, partition, epoch))


def already_held(db: sqlite3.Connection, ids: Iterable[tuple[int, MessageId]]) -> set[tuple[int, MessageId]]:
    """Return the (partition, id) pairs whose lines are held."""
    known: dict[tuple[str, int, str], Ranges] = {}
    found: set[tuple[int, MessageId]] = set()
    for partition, one in ids:
        whose = one.producer, partition, one.epoch
        if whose not in known:
            known[whose] = _ranges(db, *whose)
        if any(first <= one.sequence <= last for first, last in known[whose]):
            found.add((partition, one))
    return found


def store(db: sqlite3.Connection, held: Sequence[Held], now: float) -> dict[tuple[str, int, str], int]:
    """Store the messages of a batch in its transaction; return the new high watermark of each of its epochs.

    Args:
        db: The ledger, with the keys of the batch.
        held: The messages of the batch.
        now: Seconds since 1970; shown to users only.

    Returns: (producer, partition, epoch) -> sequence.
    """
    sequences: dict[tuple[str, int, str], list[int]] = {}
    for one in held:
        found = sequences.setdefault((one.id.producer, one.partition, one.id.epoch), [])
        if one.key is None or db.execute("SELECT 1 FROM record WHERE key = ?", (one.key,)).fetchone():
            found.append(one.id.sequence)
    return {whose: _extend(db, whose, found, now) for whose, found in sequences.items()}


def _extend(db: sqlite3.Connection, whose: tuple[str, int, str], sequences: Sequence[int], now: float) -> int:
    before = _ranges(db, *whose)
    ranges = extended(before, sequences)
    more = sum(last - first + 1 for first, last in ranges) - sum(last - first + 1 for first, last in before)
    db.execute(
        "INSERT INTO origin (origin, bucket, life, numbers, records, seen) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (origin, bucket, life) DO UPDATE SET numbers = excluded.numbers,"
        " records = records + excluded.records, seen = excluded.seen",
        (*whose, msgspec.json.encode(ranges).decode(), more, now),
    )
    if not before:
        _forget_epochs(db, *whose[:2])
    return high_watermark(ranges)


def rows_of(db: sqlite3.Connection, partition: int) -> list[tuple[str, str, str, int, float]]:
    """Return the rows of table ``origin`` for a partition, to hand them to its next writer."""
    if not _has(db, "origin"):
        return []
    return db.execute(
        "SELECT origin, life, numbers, records, seen FROM origin WHERE bucket = ? ORDER BY id", (partition,)
    ).fetchall()


def merge_rows(db: sqlite3.Connection, partition: int, rows: Iterable[tuple[str, str, str, int, float]]) -> None:
    """Merge the rows of a partition's previous writer into those kept from an earlier ownership.

    A row that cannot be decoded is ignored: its lines are sent again.
    """
    for producer, epoch, ranges, records, seen in rows:
        try:
            theirs = msgspec.json.decode(ranges, type=Ranges)
        except msgspec.MsgspecError:
            continue
        held = _united(_ranges(db, producer, partition, epoch), theirs)
        db.execute(
            "INSERT INTO origin (origin, bucket, life, numbers, records, seen) VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (origin, bucket, life) DO UPDATE SET numbers = excluded.numbers,"
            " records = max(records, excluded.records), seen = max(seen, excluded.seen)",
            (producer, partition, epoch, msgspec.json.encode(held).decode(), records, seen),
        )


def _forget_epochs(db: sqlite3.Connection, producer: str, partition: int) -> None:
    db.execute(
        "DELETE FROM origin WHERE origin = ? AND bucket = ? AND id NOT IN"
        " (SELECT id FROM origin WHERE origin = ? AND bucket = ? ORDER BY id DESC LIMIT ?)",
        (producer, partition, producer, partition, _EPOCHS),
    )


def _ranges(db: sqlite3.Connection, producer: str, partition: int, epoch: str) -> Ranges:
    row = db.execute(
        "SELECT numbers FROM origin WHERE origin = ? AND bucket = ? AND life = ?", (producer, partition, epoch)
    ).fetchone()
    return msgspec.json.decode(row[0], type=Ranges) if row else ()


def writer_name(db: sqlite3.Connection) -> str:
    """Return the name of this writer; empty if it has none yet, or is no writer."""
    if not _has(db, "writer"):
        return ""
    row = db.execute("SELECT name FROM writer").fetchone()
    return "" if row is None else str(row[0])


def latest(db: sqlite3.Connection, most: int) -> list[_Activity]:
    """Return at most ``most`` collectors, the most recently active first."""
    if not _has(db, "origin"):
        return []
    rows = db.execute(
        # total: the rows of another writer may hold numbers that sum would not take
        "SELECT substr(origin, 1, ?), max(seen), CAST(total(records) AS INTEGER) FROM origin"
        " GROUP BY origin ORDER BY max(seen) DESC, origin LIMIT ?",
        (LONGEST_PRODUCER, most),
    )
    return [_Activity(*row) for row in rows]


def count(db: sqlite3.Connection, before: float) -> tuple[int, int]:
    """Return the number of collectors, and how many sent nothing since ``before`` (seconds since 1970)."""
    if not _has(db, "origin"):
        return 0, 0
    known, silent = db.execute(
        "SELECT count(*), coalesce(sum(seen < ?), 0) FROM (SELECT max(seen) AS seen FROM origin GROUP BY origin)",
        (before,),
    ).fetchone()
    return known, silent


def _has(db: sqlite3.Connection, table: str) -> bool:
    return bool(db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone())
