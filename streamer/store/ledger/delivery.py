"""Delivery progress of a collector's outbox, by partition, in tables of its ledger.

Tables, created when they are first needed
- ``uplink``         one row: the collector's name; ``floor``, the low watermark: no line before this log offset waits;
                     number of messages sent
- ``delivery``       by partition: log offset of the last line up to which a writer holds all; number of these lines
- ``undeliverable``  lines that cannot be sent, by log offset, and why
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

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
    """Progress of one partition: the log offset of the last delivered line (-1: none), and the number of lines."""

    offset: int = -1
    records: int = 0


class Undeliverable(msgspec.Struct, frozen=True):
    """A line that cannot be sent. ``reason`` is one of a few words of the code."""

    offset: int
    partition: int
    bytes: int
    reason: str


class Progress(msgspec.Struct, frozen=True):
    """Changes since the last save, stored in one transaction.

    ``sent`` and ``again`` count messages that the stream acknowledged: first and repeated ones of this epoch.
    """

    low_watermark: int
    delivered: Mapping[int, Delivered]
    sent: int = 0
    again: int = 0


class Delivery(msgspec.Struct, frozen=True):
    """Delivery status of an outbox. ``lines`` counts all lines ever appended to it.

    ``missing`` counts lines removed with a part before they were delivered; known once no other line waits.
    All waiting lines are in the last ``behind`` bytes.
    """

    collector: str
    low_watermark: int = msgspec.field(name="floor")
    sent: int
    again: int
    delivered: int
    undeliverable: Mapping[str, int]
    lines: int = 0
    missing: int = 0
    behind: int = 0

    @property
    def waiting(self) -> int:
        """Number of lines that no writer has confirmed to hold yet."""
        return max(0, self.lines - self.delivered - sum(self.undeliverable.values()) - self.missing)


def prepare(db: sqlite3.Connection, collector: str) -> str:
    """Create the tables if they do not exist; return the collector's name, ``collector`` for a new one."""
    for statement in _SCHEMA.split(";"):  # executescript would commit
        db.execute(statement)
    db.execute("INSERT OR IGNORE INTO uplink (one, collector) VALUES (1, ?)", (collector,))
    (known,) = db.execute("SELECT collector FROM uplink").fetchone()
    return str(known)


def begin(db: sqlite3.Connection, partitions: int) -> tuple[int, dict[int, Delivered]]:
    """Return the low watermark, and progress by partition: none if the number of partitions has changed."""
    low_watermark, known = db.execute("SELECT floor, buckets FROM uplink").fetchone()
    if known != partitions:
        db.execute(
            "UPDATE uplink SET buckets = ?, earlier = earlier + (SELECT coalesce(sum(records), 0) FROM delivery)",
            (partitions,),
        )
        db.execute("DELETE FROM delivery")
    rows = db.execute("SELECT bucket, delivered, records FROM delivery").fetchall()
    return low_watermark, {partition: Delivered(offset, records) for partition, offset, records in rows}


def save(db: sqlite3.Connection, progress: Progress) -> None:
    """Store delivery progress."""
    db.execute(
        "UPDATE uplink SET floor = max(floor, ?), sent = sent + ?, again = again + ?",
        (progress.low_watermark, progress.sent, progress.again),
    )
    db.executemany(
        "INSERT OR REPLACE INTO delivery (bucket, delivered, records) VALUES (?, ?, ?)",
        [(partition, one.offset, one.records) for partition, one in progress.delivered.items()],
    )


def set_aside(db: sqlite3.Connection, line: Undeliverable) -> bool:
    """Store a line that cannot be sent; say whether it is new."""
    row = db.execute(
        "INSERT OR IGNORE INTO undeliverable (place, bucket, bytes, reason) VALUES (?, ?, ?, ?)",
        (line.offset, line.partition, line.bytes, line.reason),
    )
    return row.rowcount > 0


def kept_from(db: sqlite3.Connection) -> int | None:
    """Return the low watermark, from which on lines may wait; None if this is no collector's ledger."""
    if not _is_there(db):
        return None
    row = db.execute("SELECT floor FROM uplink").fetchone()
    return None if row is None else int(row[0])


def delivery(db: sqlite3.Connection) -> Delivery | None:
    """Return the delivery status of an outbox; None if this is no collector's ledger."""
    row = db.execute("SELECT collector, floor, sent, again, earlier FROM uplink").fetchone() if _is_there(db) else None
    if row is None:
        return None
    collector, low_watermark, sent, again, earlier = row
    (records,) = db.execute("SELECT coalesce(sum(records), 0) FROM delivery").fetchone()
    aside = db.execute(
        "SELECT reason, count(*), sum(place <= coalesce((SELECT delivered FROM delivery"
        " WHERE delivery.bucket = undeliverable.bucket), -1) OR place < ?) FROM undeliverable GROUP BY reason",
        (low_watermark,),
    ).fetchall()
    passed = sum(row[2] for row in aside)
    reasons = {reason: lines for reason, lines, _ in aside}
    lines, length = db.execute("SELECT dataset_lines, dataset_length FROM meta").fetchone()
    delivered = max(0, earlier + records - passed)
    missing = max(0, lines - delivered - sum(reasons.values())) if low_watermark >= length else 0
    behind = max(0, length - low_watermark)
    return Delivery(collector, low_watermark, sent, again, delivered, reasons, lines, missing, behind)


def why_undeliverable(db: sqlite3.Connection, offset: int) -> str | None:
    """Return the reason why the line at a log offset cannot be sent; None if it can."""
    if not _is_there(db):
        return None
    row = db.execute("SELECT reason FROM undeliverable WHERE place = ?", (offset,)).fetchone()
    return None if row is None else str(row[0])


def _is_there(db: sqlite3.Connection) -> bool:
    return bool(db.execute("SELECT 1 FROM sqlite_master WHERE name = 'uplink'").fetchone())
