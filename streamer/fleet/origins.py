"""What a writer's ledger holds of each collector's lines, so that it can say so: two tables beside the keys.

Lines are numbered from 1 in each bucket of each *life* of a collector; a life is one start of it. Numbers come in order
but for what was lost or is delivered again, so a few ranges hold all of them. A range that does not fit is forgotten:
its lines are sent again then, and are found to be held.

Tables, made when they are first needed
- ``origin``        ranges of numbers, by collector, bucket and life
- ``writer``        one row: what this writer is called
- ``owned_bucket``  see ``owners``
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

import msgspec

from streamer.fleet.message import MessagePlace

_SCHEMA = """
CREATE TABLE IF NOT EXISTS origin (
  id INTEGER PRIMARY KEY, origin TEXT NOT NULL, bucket INTEGER NOT NULL, life TEXT NOT NULL, numbers TEXT NOT NULL,
  records INTEGER NOT NULL, seen REAL NOT NULL, UNIQUE (origin, bucket, life)
)
"""
_WRITER = "CREATE TABLE IF NOT EXISTS writer (one INTEGER PRIMARY KEY CHECK (one = 1), name TEXT NOT NULL)"
MOST_RANGES = 100
_LIVES = 16
"""Lives of one collector that are remembered in a bucket, the latest: those before have nothing on its way any more."""

LONGEST_ORIGIN = 100

Ranges = tuple[tuple[int, int], ...]
"""(first, last) of each range, in order, with a gap between any two of them."""


class Held(msgspec.Struct, frozen=True):
    """A message that a batch took: its place, and the key on which it depends whether its line is held.

    ``key`` is None where the line was in the message, or was skipped.
    """

    place: MessagePlace
    bucket: int
    key: bytes | None = None


class _Heard(msgspec.Struct, frozen=True):
    """A collector: when something of it came last, in seconds since 1970, and how many records it brought.

    Those are of its latest lives in each bucket, as many as are remembered.
    """

    origin: str
    seen: float
    records: int


def extended(ranges: Ranges, numbers: Iterable[int]) -> Ranges:
    """Return ranges that hold these numbers as well; those that do not fit are forgotten, the highest first."""
    return _united(ranges, ((number, number) for number in numbers))


def _united(ranges: Ranges, more: Iterable[tuple[int, int]]) -> Ranges:
    """Return ranges that hold what both hold; those that do not fit are forgotten, the highest first."""
    pieces = sorted([*ranges, *more])
    merged: list[tuple[int, int]] = []
    for first, last in pieces:
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return tuple(merged[:MOST_RANGES])


def whole(ranges: Ranges) -> int:
    """Return the number up to which there is no gap."""
    return ranges[0][1] if ranges and ranges[0][0] == 1 else 0


def prepare(db: sqlite3.Connection) -> None:
    """Make the tables if there are none yet."""
    db.execute(_SCHEMA)
    db.execute(_WRITER)


def writer(db: sqlite3.Connection, new: str) -> str:
    """Return what this writer is called, ``new`` if it has no name yet: two of them on one host are not the same."""
    db.execute("INSERT OR IGNORE INTO writer (one, name) VALUES (1, ?)", (new,))
    return str(db.execute("SELECT name FROM writer").fetchone()[0])


def number_held(db: sqlite3.Connection, origin: str, bucket: int, life: str) -> int:
    """Return up to which number all lines of a life in a bucket are held."""
    return whole(_ranges(db, origin, bucket, life))


def already(db: sqlite3.Connection, places: Iterable[tuple[int, MessagePlace]]) -> set[tuple[int, MessagePlace]]:
    """Return those of some (bucket, place) that are held."""
    known: dict[tuple[str, int, str], Ranges] = {}
    found: set[tuple[int, MessagePlace]] = set()
    for bucket, place in places:
        whose = place.origin, bucket, place.life
        if whose not in known:
            known[whose] = _ranges(db, *whose)
        if any(first <= place.number <= last for first, last in known[whose]):
            found.add((bucket, place))
    return found


def take(db: sqlite3.Connection, held: Sequence[Held], now: float) -> dict[tuple[str, int, str], int]:
    """Remember what a batch took, in its transaction; return how far each of its collectors' lines are held now.

    Args:
        db: the ledger, with the keys of the batch.
        held: the messages of the batch.
        now: seconds since 1970, a label.

    Returns: (collector, bucket, life) -> number.
    """
    numbers: dict[tuple[str, int, str], list[int]] = {}
    for one in held:
        found = numbers.setdefault((one.place.origin, one.bucket, one.place.life), [])
        if one.key is None or db.execute("SELECT 1 FROM record WHERE key = ?", (one.key,)).fetchone():
            found.append(one.place.number)
    return {whose: _extend(db, whose, found, now) for whose, found in numbers.items()}


def _extend(db: sqlite3.Connection, whose: tuple[str, int, str], numbers: Sequence[int], now: float) -> int:
    before = _ranges(db, *whose)
    ranges = extended(before, numbers)
    more = sum(last - first + 1 for first, last in ranges) - sum(last - first + 1 for first, last in before)
    db.execute(
        "INSERT INTO origin (origin, bucket, life, numbers, records, seen) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (origin, bucket, life) DO UPDATE SET numbers = excluded.numbers,"
        " records = records + excluded.records, seen = excluded.seen",
        (*whose, msgspec.json.encode(ranges).decode(), more, now),
    )
    if not before:
        _forget_lives(db, *whose[:2])
    return whole(ranges)


def rows_of(db: sqlite3.Connection, bucket: int) -> list[tuple[str, str, str, int, float]]:
    """Return what is held of all collectors in a bucket, for its next writer."""
    if not _has(db, "origin"):
        return []
    rows = db.execute("SELECT origin, life, numbers, records, seen FROM origin WHERE bucket = ? ORDER BY id", (bucket,))
    return rows.fetchall()


def take_over(db: sqlite3.Connection, bucket: int, rows: Iterable[tuple[str, str, str, int, float]]) -> None:
    """Add what the writer before held of a bucket to what was held here when it was ours the last time.

    What is in the rows and cannot be read is passed over: its lines are sent again.
    """
    for origin, life, numbers, records, seen in rows:
        try:
            theirs = msgspec.json.decode(numbers, type=Ranges)
        except msgspec.MsgspecError:
            continue
        held = _united(_ranges(db, origin, bucket, life), theirs)
        db.execute(
            "INSERT INTO origin (origin, bucket, life, numbers, records, seen) VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (origin, bucket, life) DO UPDATE SET numbers = excluded.numbers,"
            " records = max(records, excluded.records), seen = max(seen, excluded.seen)",
            (origin, bucket, life, msgspec.json.encode(held).decode(), records, seen),
        )


def _forget_lives(db: sqlite3.Connection, origin: str, bucket: int) -> None:
    db.execute(
        "DELETE FROM origin WHERE origin = ? AND bucket = ? AND id NOT IN"
        " (SELECT id FROM origin WHERE origin = ? AND bucket = ? ORDER BY id DESC LIMIT ?)",
        (origin, bucket, origin, bucket, _LIVES),
    )


def _ranges(db: sqlite3.Connection, origin: str, bucket: int, life: str) -> Ranges:
    row = db.execute(
        "SELECT numbers FROM origin WHERE origin = ? AND bucket = ? AND life = ?", (origin, bucket, life)
    ).fetchone()
    return msgspec.json.decode(row[0], type=Ranges) if row else ()


def called(db: sqlite3.Connection) -> str:
    """Return what this writer is called; nothing where it has no name yet, or is none."""
    if not _has(db, "writer"):
        return ""
    row = db.execute("SELECT name FROM writer").fetchone()
    return "" if row is None else str(row[0])


def heard(db: sqlite3.Connection, most: int) -> list[_Heard]:
    """Return the collectors of which something came, the latest first, and no more than some."""
    if not _has(db, "origin"):
        return []
    rows = db.execute(
        # total: the rows of another writer may hold numbers that sum would not take
        "SELECT substr(origin, 1, ?), max(seen), CAST(total(records) AS INTEGER) FROM origin"
        " GROUP BY origin ORDER BY max(seen) DESC, origin LIMIT ?",
        (LONGEST_ORIGIN, most),
    )
    return [_Heard(*row) for row in rows]


def count(db: sqlite3.Connection, before: float) -> tuple[int, int]:
    """Return how many collectors there are, and of how many nothing came since a time (seconds since 1970)."""
    if not _has(db, "origin"):
        return 0, 0
    known, silent = db.execute(
        "SELECT count(*), coalesce(sum(seen < ?), 0) FROM (SELECT max(seen) AS seen FROM origin GROUP BY origin)",
        (before,),
    ).fetchone()
    return known, silent


def _has(db: sqlite3.Connection, table: str) -> bool:
    return bool(db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone())
