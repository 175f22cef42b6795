"""The lines that are to be taken out: a table that goes with the ledger's connection, so that memory stays bounded."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from streamer.core.records.model import State, Verdict

_SCHEMA = """
CREATE TEMP TABLE doomed (
  place INTEGER PRIMARY KEY, stop INTEGER NOT NULL, part INTEGER NOT NULL, session TEXT NOT NULL, key BLOB NOT NULL,
  holds_key INTEGER NOT NULL, counted INTEGER NOT NULL, reason TEXT NOT NULL, outcome INTEGER, rule TEXT NOT NULL
);
CREATE INDEX temp.doomed_session ON doomed (session);
CREATE TEMP TABLE doomed_value (place INTEGER NOT NULL, cap TEXT NOT NULL, value BLOB NOT NULL);
CREATE INDEX temp.doomed_value_place ON doomed_value (place);
"""


class MarkedLine(msgspec.Struct, frozen=True):
    """One line that is to be taken out of a part; ``values`` are what it counts as for caps."""

    place: int
    stop: int
    part: int
    session: str
    key: bytes
    verdict: Verdict
    values: Sequence[tuple[str, bytes]] = ()


class Gone(NamedTuple):
    """Lines of one session that go for the same reason: how many of them were counted as appended."""

    verdict: Verdict
    lines: int


def prepare(db: sqlite3.Connection) -> None:
    """Make the table."""
    db.executescript(_SCHEMA)


def add(db: sqlite3.Connection, lines: Iterable[MarkedLine]) -> None:
    """Take note of lines that are to go."""
    for line in lines:
        row = db.execute("SELECT offset, claimed FROM record WHERE key = ?", (line.key,)).fetchone()
        # Without a key of its own it equals another line: the ledger holds that one's.
        holds_key = row is not None and row[0] == line.place
        db.execute(
            "INSERT INTO doomed VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
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
        db.executemany("INSERT INTO doomed_value VALUES (?, ?, ?)", [(line.place, *value) for value in line.values])


def groups(db: sqlite3.Connection) -> list[list[int]]:
    """Return the parts that lose lines, those together that lose lines of one session, in order."""
    leader: dict[int, int] = {part: part for (part,) in db.execute("SELECT DISTINCT part FROM doomed")}

    def find(part: int) -> int:
        while leader[part] != part:
            part = leader[part]
        return part

    last_session, last_part = None, 0
    for session, part in db.execute("SELECT DISTINCT session, part FROM doomed ORDER BY session, part"):
        if session == last_session:
            one, other = sorted((find(part), find(last_part)))
            leader[other] = one
        last_session, last_part = session, part
    found: dict[int, list[int]] = {}
    for part in sorted(leader):
        found.setdefault(find(part), []).append(part)
    return list(found.values())


def sessions(db: sqlite3.Connection, parts: Sequence[int]) -> list[str]:
    """Return the sessions that lose lines of some parts."""
    return [row[0] for row in db.execute(f"SELECT DISTINCT session FROM doomed WHERE {_of(parts)} ORDER BY session")]


def gone(db: sqlite3.Connection, session: str) -> list[Gone]:
    """Return what a session loses, as far as it was counted as appended."""
    rows = db.execute(
        "SELECT reason, outcome, rule, count(*) FROM doomed WHERE session = ? AND counted GROUP BY 1, 2, 3", (session,)
    )
    return [Gone(Verdict(State.REJECTED, reason, outcome, rule), lines) for reason, outcome, rule, lines in rows]


def verdict(db: sqlite3.Connection, session: str, key: bytes) -> Verdict | None:
    """Return the verdict on a line of a session, None if it stays."""
    row = db.execute(
        "SELECT reason, outcome, rule FROM doomed WHERE session = ? AND key = ? AND counted", (session, key)
    ).fetchone()
    return None if row is None else Verdict(State.REJECTED, *row)


def spare(db: sqlite3.Connection, session: str) -> int:
    """Let the lines of a session stay; return how many that are."""
    db.execute("DELETE FROM doomed_value WHERE place IN (SELECT place FROM doomed WHERE session = ?)", (session,))
    return db.execute("DELETE FROM doomed WHERE session = ?", (session,)).rowcount


def ranges(db: sqlite3.Connection, part: int) -> list[tuple[int, int]]:
    """Return the lines that a part loses, each as (place, place of its end), in order."""
    return db.execute("SELECT place, stop FROM doomed WHERE part = ? ORDER BY place", (part,)).fetchall()


def totals(db: sqlite3.Connection, parts: Sequence[int]) -> list[tuple[str, int, int]]:
    """Return (reason, lines, bytes) of what some parts lose."""
    return db.execute(
        f"SELECT reason, count(*), sum(stop - place) FROM doomed WHERE {_of(parts)} GROUP BY reason ORDER BY reason"
    ).fetchall()


def forget_keys(db: sqlite3.Connection, parts: Sequence[int]) -> None:
    """Remove the keys of what some parts lose."""
    db.execute(f"DELETE FROM record WHERE key IN (SELECT key FROM doomed WHERE {_of(parts)} AND holds_key)")


def places(parts: Sequence[int]) -> str:
    """Return a SELECT of the places of what some parts lose."""
    return f"SELECT place FROM doomed WHERE {_of(parts)}"


def values(parts: Sequence[int]) -> str:
    """Return a SELECT of (cap, value, lines) of what some parts lose."""
    return f"SELECT cap, value, count(*) FROM doomed_value WHERE place IN ({places(parts)}) GROUP BY cap, value"


def _of(parts: Sequence[int]) -> str:
    return f"part IN ({','.join(str(int(part)) for part in parts)})"
