"""Lines marked for deletion: a temporary table of the ledger's connection, so that memory stays bounded."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from streamer.core.records.model import State, Verdict

_SCHEMA = """
CREATE TEMP TABLE tombstone (
  place INTEGER PRIMARY KEY, stop INTEGER NOT NULL, part INTEGER NOT NULL, session TEXT NOT NULL, key BLOB NOT NULL,
  holds_key INTEGER NOT NULL, counted INTEGER NOT NULL, reason TEXT NOT NULL, outcome INTEGER, rule TEXT NOT NULL
);
CREATE INDEX temp.tombstone_session ON tombstone (session);
CREATE TEMP TABLE tombstone_value (place INTEGER NOT NULL, cap TEXT NOT NULL, value BLOB NOT NULL);
CREATE INDEX temp.tombstone_value_place ON tombstone_value (place);
"""


class MarkedLine(msgspec.Struct, frozen=True):
    """One line of a part that is marked for deletion.

    ``place`` and ``stop`` are log offsets of its start and end. ``values`` are the (cap, value) that it counts for.
    """

    place: int
    stop: int
    part: int
    session: str
    key: bytes
    verdict: Verdict
    values: Sequence[tuple[str, bytes]] = ()


class Removal(NamedTuple):
    """Lines of one session that are removed with the same verdict; ``lines`` of them were counted as accepted."""

    verdict: Verdict
    lines: int


def create(db: sqlite3.Connection) -> None:
    """Create the tables."""
    db.executescript(_SCHEMA)


def add(db: sqlite3.Connection, lines: Iterable[MarkedLine]) -> None:
    """Mark lines for deletion."""
    for line in lines:
        row = db.execute("SELECT offset, claimed FROM record WHERE key = ?", (line.key,)).fetchone()
        # If the dataset holds a record twice, the ledger has the offset of one of the two lines.
        holds_key = row is not None and row[0] == line.place
        db.execute(
            "INSERT INTO tombstone VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                line.place,
                line.stop,
                line.part,
                line.session,
                line.key,
                holds_key,
                bool(row[1]) if holds_key else True,
                line.verdict.reason,
                line.verdict.outcome,
                line.verdict.rule,
            ),
        )
        db.executemany("INSERT INTO tombstone_value VALUES (?, ?, ?)", [(line.place, *value) for value in line.values])


def groups(db: sqlite3.Connection) -> list[list[int]]:
    """Return the numbers of the parts that lose lines; parts that lose lines of the same session are one group."""
    leader: dict[int, int] = {part: part for (part,) in db.execute("SELECT DISTINCT part FROM tombstone")}

    def find(part: int) -> int:
        while leader[part] != part:
            part = leader[part]
        return part

    last_session, last_part = None, 0
    for session, part in db.execute("SELECT DISTINCT session, part FROM tombstone ORDER BY session, part"):
        if session == last_session:
            one, other = sorted((find(part), find(last_part)))
            leader[other] = one
        last_session, last_part = session, part
    found: dict[int, list[int]] = {}
    for part in sorted(leader):
        found.setdefault(find(part), []).append(part)
    return list(found.values())


def sessions(db: sqlite3.Connection, parts: Sequence[int]) -> list[str]:
    """Return the sessions with marked lines in some parts."""
    return [row[0] for row in db.execute(f"SELECT DISTINCT session FROM tombstone WHERE {_of(parts)} ORDER BY session")]


def removals(db: sqlite3.Connection, session: str) -> list[Removal]:
    """Return the marked lines of a session that were counted as accepted, grouped by verdict."""
    rows = db.execute(
        "SELECT reason, outcome, rule, count(*) FROM tombstone WHERE session = ? AND counted GROUP BY 1, 2, 3",
        (session,),
    )
    return [Removal(Verdict(State.REJECTED, reason, outcome, rule), lines) for reason, outcome, rule, lines in rows]


def verdict(db: sqlite3.Connection, session: str, key: bytes) -> Verdict | None:
    """Return the verdict on a line of a session, or None if the line stays."""
    row = db.execute(
        "SELECT reason, outcome, rule FROM tombstone WHERE session = ? AND key = ? AND counted", (session, key)
    ).fetchone()
    return None if row is None else Verdict(State.REJECTED, *row)


def unmark(db: sqlite3.Connection, session: str) -> int:
    """Unmark all lines of a session, and return their number."""
    db.execute("DELETE FROM tombstone_value WHERE place IN (SELECT place FROM tombstone WHERE session = ?)", (session,))
    return db.execute("DELETE FROM tombstone WHERE session = ?", (session,)).rowcount


def ranges(db: sqlite3.Connection, part: int) -> list[tuple[int, int]]:
    """Return the marked lines of a part as (log offset, log offset of the end), in order."""
    return db.execute("SELECT place, stop FROM tombstone WHERE part = ? ORDER BY place", (part,)).fetchall()


def totals(db: sqlite3.Connection, parts: Sequence[int]) -> list[tuple[str, int, int]]:
    """Return (reason, lines, bytes) of the marked lines of some parts."""
    return db.execute(
        f"SELECT reason, count(*), sum(stop - place) FROM tombstone WHERE {_of(parts)} GROUP BY reason ORDER BY reason"
    ).fetchall()


def forget_keys(db: sqlite3.Connection, parts: Sequence[int]) -> None:
    """Delete the keys of the marked lines of some parts."""
    db.execute(f"DELETE FROM record WHERE key IN (SELECT key FROM tombstone WHERE {_of(parts)} AND holds_key)")


def offsets(parts: Sequence[int]) -> str:
    """Return a SELECT of the log offsets of the marked lines of some parts."""
    return f"SELECT place FROM tombstone WHERE {_of(parts)}"


def values(parts: Sequence[int]) -> str:
    """Return a SELECT of (cap, value, lines) of the marked lines of some parts."""
    return f"SELECT cap, value, count(*) FROM tombstone_value WHERE place IN ({offsets(parts)}) GROUP BY cap, value"


def _of(parts: Sequence[int]) -> str:
    return f"part IN ({','.join(str(int(part)) for part in parts)})"
