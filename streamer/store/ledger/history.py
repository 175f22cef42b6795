"""Growth of the dataset: past counts, in one small table of the ledger.

Invariants
- The counts of a row held from its time until that of the next row.
- Rows are written within the transaction of a batch, at most once in ``STEPS[0]`` seconds; an idle daemon writes
  none. A compaction writes the counts before it and after it.
- There are never more rows than slots in ``STEPS``: steps of time, each coarser and longer than the one before. Every
  step keeps the last counts of each of its slots.
- No decision depends on it. It may be emptied.
"""

from __future__ import annotations

import sqlite3

import msgspec

from streamer.core.records.model import State

STEPS = ((2, 1800), (60, 1440), (900, 1344), (86_400, 400))
"""(seconds of a slot, slots kept): an hour, a day, two weeks, a year and a month."""

SCHEMA = f"""
CREATE TABLE IF NOT EXISTS history (
  step INTEGER, slot INTEGER, at REAL NOT NULL, records INTEGER NOT NULL, rollouts INTEGER NOT NULL,
  bytes INTEGER NOT NULL, {", ".join(f"{state} INTEGER NOT NULL" for state in State)}, PRIMARY KEY (step, slot)
) WITHOUT ROWID;
"""

_COLUMNS = ("at", "records", "rollouts", "bytes", *State)
_NOW = (
    "SELECT dataset_lines, dataset_length,"
    + ",".join(f" (SELECT coalesce(sum(lines), 0) FROM tally WHERE state = '{state}')" for state in State)
    + " FROM meta"
)
_PUT = f"INSERT OR REPLACE INTO history (step, slot, {', '.join(_COLUMNS)}) VALUES ({', '.join('?' * 12)})"
_DROP = "DELETE FROM history WHERE step = ? AND (slot <= ? OR slot > ?)"


class Point(msgspec.Struct, frozen=True):
    """Counts that held from ``at`` (seconds since 1970) on. ``lines`` are lines read, by state."""

    at: float
    records: int
    rollouts: int
    bytes: int
    lines: dict[State, int]


class History:
    """Writes the table, for as long as a ledger is open.

    ``rollouts`` is the number of rollouts with records in the dataset, as last counted: counting them for each point
    would be slow.
    """

    def __init__(self) -> None:
        self.rollouts = 0
        self._last: float | None = None

    def resume(self, db: sqlite3.Connection) -> None:
        """Continue with the counts of the last process."""
        row = db.execute("SELECT rollouts FROM history ORDER BY at DESC LIMIT 1").fetchone()
        self.rollouts = row[0] if row else 0

    def note(self, db: sqlite3.Connection, now: float) -> None:
        """Write the counts that have held since the last batch; call it first in the transaction of a batch.

        Only the first batch of a slot writes. ``now`` is the time of the batch, in seconds since 1970.
        """
        last, self._last = self._last, now
        step, _ = STEPS[0]
        if last is not None and last // step == now // step:
            return
        if last is None:
            last = _last_change(db) or now - step  # before the very first batch all counts were 0
        self._put(db, last)
        # A clock that was set back leaves slots in the future; without this the table would grow without bound.
        db.executemany(_DROP, [(step, now // step - kept, now // step) for step, kept in STEPS])

    def changed(self, db: sqlite3.Connection, now: float) -> None:
        """Write the counts that hold from ``now`` on, after a change that no batch made; call ``note`` before it."""
        self._put(db, now)

    def _put(self, db: sqlite3.Connection, at: float) -> None:
        records, length, *lines = db.execute(_NOW).fetchone()
        row = (at, records, self.rollouts, length, *lines)
        db.executemany(_PUT, [(step, at // step, *row) for step, _ in STEPS])


def points(db: sqlite3.Connection, since: float = 0.0) -> list[Point]:
    """Return the points after ``since``, oldest first, each period at its finest step."""
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'history'").fetchone():
        return []  # written by an older streamer
    found: list[Point] = []
    for step, _ in STEPS:
        until = found[0].at if found else float("inf")
        rows = db.execute(
            f"SELECT {', '.join(_COLUMNS)} FROM history WHERE step = ? AND at > ? AND at < ? ORDER BY slot",
            (step, since, until),
        )
        found = [*(_point(row) for row in rows), *found]
    return found


def held_at(db: sqlite3.Connection, time: float) -> Point | None:
    """Return the counts at a past time, or the oldest known ones if they are later; None if there are none."""
    for step, _ in STEPS:
        row = db.execute(
            f"SELECT {', '.join(_COLUMNS)} FROM history WHERE step = ? AND slot <= ? AND at <= ?"
            " ORDER BY slot DESC LIMIT 1",
            (step, time // step, time),
        ).fetchone()
        if row is not None:
            return _point(row)
    return next(iter(points(db)), None)


def _last_change(db: sqlite3.Connection) -> float | None:
    times = db.execute("SELECT appended_at, (SELECT max(at) FROM history) FROM meta").fetchone()
    return max((time for time in times if time is not None), default=None)


def _point(row: tuple[float, ...]) -> Point:
    at, records, rollouts, length, *lines = row
    counts = {state: int(count) for state, count in zip(State, lines, strict=True)}
    return Point(at, int(records), int(rollouts), int(length), counts)
