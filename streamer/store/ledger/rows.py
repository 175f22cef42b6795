"""Rows of the ledger: their columns, and their conversion to values.

Pure, except for the file system's encoding of names.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from streamer.core.records.model import Cursor, Outcome, Span, State

BLOCKED = 2
"""``due`` of blocked spans: they become pending (1) once their shard can be read again."""

SHARD = "id, path, offset, lines, scanned, fingerprint, dev, ino, size, mtime_ns, ctime_ns"
SPAN = "shard, start, stop, line, lines, session, state, reason, outcome, first_us, last_us, since, rule, id"
OUTCOME = (
    "id, session, total_reward, achievements_count, total_steps, created_at, created_us, qualifies, rule, ref,"
    " metadata, problem"
)
PART = "number, start, stop, lines, sha256, closed_at"

CHUNK = 500
"""Parameters in one IN list; SQLite allows 999 in old builds."""


def cursor_of(row: Sequence[Any]) -> Cursor:
    """Return the cursor in a row of ``SHARD``."""
    return Cursor(
        id=row[0], path=os.fsdecode(row[1]), offset=row[2], lines=row[3], scanned=row[4], fingerprint=row[5],
        stat=(row[6], row[7], row[8], row[9], row[10]),
    )  # fmt: skip


def span_of(row: Sequence[Any]) -> Span:
    """Return the span in a row of ``SPAN``."""
    span = Span(*row[:14])
    return msgspec.structs.replace(span, state=State(span.state))


def outcome_of(row: Sequence[Any]) -> Outcome:
    """Return the outcome in a row of ``OUTCOME``."""
    outcome = Outcome(*row)
    return msgspec.structs.replace(outcome, qualifies=bool(outcome.qualifies))


def columns(table: str, names: str) -> str:
    """Return column names prefixed with their table."""
    return ", ".join(f"{table}.{name}" for name in names.split(", "))


def marks(values: Sequence[Any]) -> str:
    """Return one parameter mark for each value."""
    return ",".join("?" * len(values))


def chunks(values: Sequence[Any]) -> Iterable[Sequence[Any]]:
    """Return values in chunks that fit into one IN list."""
    return (values[i : i + CHUNK] for i in range(0, len(values), CHUNK))
