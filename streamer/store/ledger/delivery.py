"""What a collector's ledger says of its outbox: up to where writers hold its lines, by bucket.

Tables, made when they are first needed
- ``uplink``         one row: who this collector is; ``floor``, a place before which nothing waits; what was sent
- ``delivery``       by bucket: the place of the last line that a writer holds, as it does all before it; how many
- ``undeliverable``  lines that cannot travel, by place, and why
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping

import msgspec

_SCHEMA = """
CREATE TABLE IF NOT EXISTS uplink (
  one INTEGER PRIMARY KEY CHECK (one = 1), collector TEXT NOT NULL, buckets INTEGER NOT NULL DEFAULT 0,
  floor INTEGER NOT NULL DEFAULT 0, sent INTEGER NOT NULL DEFAULT 0, again INTEGER NOT NULL DEFAULT 0,
  earlier INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS delivery (
  bucket INTEGER PRIMARY KEY, delivered INTEGER NOT NULL, records INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS undeliverable (
  place INTEGER PRIMARY KEY, bucket INTEGER NOT NULL, bytes INTEGER NOT NULL, reason TEXT NOT NULL
);
"""


class Delivered(msgspec.Struct, frozen=True):
    """Of one bucket: the place of the last line that is delivered, -1 for none, and how many lines that makes."""

    place: int = -1
    records: int = 0


class Undeliverable(msgspec.Struct, frozen=True):
    """A line that cannot travel. ``reason`` is one of a few words of the code."""

    place: int
    bucket: int
    bytes: int
    reason: str


class Progress(msgspec.Struct, frozen=True):
    """What changed since the last time: all of it is written together.

    ``sent`` and ``again`` are messages that the stream acknowledged, for the first time in this life and after that.
    """

    floor: int
    delivered: Mapping[int, Delivered]
    sent: int = 0
    again: int = 0


class Delivery(msgspec.Struct, frozen=True):
    """How an outbox stands. ``lines`` are all that were ever appended to it.

    ``missing`` are those that went with a part before they were delivered; that is known when no other line waits.
    All that waits is in the last ``behind`` bytes.
    """

    collector: str
    floor: int
    sent: int
    again: int
    delivered: int
    undeliverable: Mapping[str, int]
    lines: int = 0
    missing: int = 0
    behind: int = 0

    @property
    def waiting(self) -> int:
        """How many lines are sent or to be sent, and no writer has said that it holds them."""
        return max(0, self.lines - self.delivered - sum(self.undeliverable.values()) - self.missing)


def prepare(db: sqlite3.Connection, collector: str) -> str:
    """Make the tables if there are none yet; return who this collector is, ``collector`` for a new one."""
    for statement in _SCHEMA.split(";"):  # executescript would commit
        db.execute(statement)
    db.execute("INSERT OR IGNORE INTO uplink (one, collector) VALUES (1, ?)", (collector,))
    (known,) = db.execute("SELECT collector FROM uplink").fetchone()
    return str(known)


def begin(db: sqlite3.Connection, buckets: int) -> tuple[int, dict[int, Delivered]]:
    """Return the floor, and what is delivered by bucket: nothing if there are not as many of them any more."""
    floor, known = db.execute("SELECT floor, buckets FROM uplink").fetchone()
    if known != buckets:
        db.execute(
            "UPDATE uplink SET buckets = ?, earlier = earlier + (SELECT coalesce(sum(records), 0) FROM delivery)",
            (buckets,),
        )
        db.execute("DELETE FROM delivery")
    rows = db.execute("SELECT bucket, delivered, records FROM delivery").fetchall()
    return floor, {bucket: Delivered(place, records) for bucket, place, records in rows}


def save(db: sqlite3.Connection, progress: Progress) -> None:
    """Remember what was delivered."""
    db.execute(
        "UPDATE uplink SET floor = max(floor, ?), sent = sent + ?, again = again + ?",
        (progress.floor, progress.sent, progress.again),
    )
    db.executemany(
        "INSERT OR REPLACE INTO delivery (bucket, delivered, records) VALUES (?, ?, ?)",
        [(bucket, one.place, one.records) for bucket, one in progress.delivered.items()],
    )


def set_aside(db: sqlite3.Connection, line: Undeliverable) -> bool:
    """Remember a line that cannot travel; say whether that is new."""
    row = db.execute(
        "INSERT OR IGNORE INTO undeliverable (place, bucket, bytes, reason) VALUES (?, ?, ?, ?)",
        (line.place, line.bucket, line.bytes, line.reason),
    )
    return row.rowcount > 0


def kept_from(db: sqlite3.Connection) -> int | None:
    """Return the place from which on lines may wait; None where this is no collector's ledger."""
    if not _is_there(db):
        return None
    row = db.execute("SELECT floor FROM uplink").fetchone()
    return None if row is None else int(row[0])


def delivery(db: sqlite3.Connection) -> Delivery | None:
    """Return how an outbox stands; None where this is no collector's ledger."""
    row = db.execute("SELECT collector, floor, sent, again, earlier FROM uplink").fetchone() if _is_there(db) else None
    if row is None:
        return None
    collector, floor, sent, again, earlier = row
    (records,) = db.execute("SELECT coalesce(sum(records), 0) FROM delivery").fetchone()
    aside = db.execute(
        "SELECT reason, count(*), sum(place <= coalesce((SELECT delivered FROM delivery"
        " WHERE delivery.bucket = undeliverable.bucket), -1) OR place < ?) FROM undeliverable GROUP BY reason",
        (floor,),
    ).fetchall()
    passed = sum(row[2] for row in aside)
    reasons = {reason: lines for reason, lines, _ in aside}
    lines, length = db.execute("SELECT dataset_lines, dataset_length FROM meta").fetchone()
    delivered = max(0, earlier + records - passed)
    missing = max(0, lines - delivered - sum(reasons.values())) if floor >= length else 0
    return Delivery(collector, floor, sent, again, delivered, reasons, lines, missing, max(0, length - floor))


def undeliverable(db: sqlite3.Connection, places: Iterable[int]) -> dict[int, str]:
    """Return why lines cannot travel, of those of some places that cannot."""
    if not _is_there(db):
        return {}
    found: dict[int, str] = {}
    for place in places:
        row = db.execute("SELECT reason FROM undeliverable WHERE place = ?", (place,)).fetchone()
        if row is not None:
            found[place] = row[0]
    return found


def _is_there(db: sqlite3.Connection) -> bool:
    return bool(db.execute("SELECT 1 FROM sqlite_master WHERE name = 'uplink'").fetchone())
