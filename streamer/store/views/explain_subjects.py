"""Subjects of ``explain``: a session id, a shard, or one line of it, and the ledger's rows of it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from typing import Any

import msgspec

from streamer.base.files import path_text
from streamer.store.ledger.paths import IS_APART, is_apart, session_path

_LONGEST_NUMBER = 18


class OutcomeRow(msgspec.Struct, frozen=True):
    """One outcome row of a session, as last seen."""

    id: int
    created_at: str
    total_reward: float | int | None
    achievements_count: int | None
    total_steps: int | None
    qualifies: bool
    withdrawn: bool


class Found(msgspec.Struct, frozen=True):
    """The outcomes and spans of a subject; ``line`` is the number of a subject that is a single line."""

    subject: str
    outcomes: list[OutcomeRow]
    spans: list[dict[str, Any]]
    note: str = ""
    line: int | None = None


class Subjects:
    """Finds subjects in one ledger.

    Args:
        db: The ledger, in a transaction.
        folder: The shard folder.
        most: Spans to return for one subject; -1 for all.
    """

    def __init__(self, db: sqlite3.Connection, folder: str, most: int) -> None:
        self._db = db
        self._folder = folder
        self._most = most

    def find(self, subject: str) -> Found | None:
        """Return the rows of a subject, or None if the ledger does not know it."""
        session = path_text(subject)
        outcomes = self.outcomes(session)
        # Dead letters name no session: those read from the trace database are found by the session's path.
        where = "(span.session = ? OR span.shard IN (SELECT id FROM shard WHERE NOT replaced AND path = ?))"
        spans = self.spans(where, (session, os.fsencode(session_path(session))))
        if outcomes or spans:
            return Found(subject, outcomes, spans, "" if spans else self._why_unread(outcomes))
        return self._find_shard(subject, None) or self._find_line(subject)

    def _why_unread(self, outcomes: list[OutcomeRow]) -> str:
        if self._folder:
            return "no line of this session was read: is its shard in the shard folder?"
        if any(row.qualifies for row in outcomes):
            return "no decision of this session was read: has it rows in the table messages of the trace database?"
        return "its messages are not read while none of its outcome rows qualifies"

    def _find_line(self, subject: str) -> Found | None:
        shard, _, number = subject.rpartition(":")
        is_line = shard and number.isdecimal() and len(number) <= _LONGEST_NUMBER
        return self._find_shard(shard, int(number)) if is_line else None

    def _find_shard(self, name: str, line: int | None) -> Found | None:
        shards = self._shards_named(name)
        if not shards:
            return None
        where = f"span.shard IN ({','.join('?' * len(shards))})"
        spans = self.spans(where, shards)
        if line is not None:
            spans = [span for span in spans if span["line"] <= line < span["line"] + span["lines"]]
        note = "" if spans else "no finished line with this number was read"
        return Found(name if line is None else f"{name}:{line}", [], spans, note, line)

    def _shards_named(self, name: str) -> list[int]:
        """Return the shard at a path below the folder or elsewhere, or all of that file name."""
        if is_apart(name):
            return self._shards_at(name)
        full = os.path.join(self._folder, name)
        below = os.path.relpath(os.path.abspath(name), self._folder)
        for path in (os.path.relpath(full, self._folder), below):
            found = self._shards_at(path)
            if found:
                return found
        rows = self._db.execute(f"SELECT id, path FROM shard WHERE NOT replaced AND NOT {IS_APART}")
        return [number for number, path in rows if os.path.basename(path) == os.fsencode(name)]

    def _shards_at(self, path: str) -> list[int]:
        rows = self._db.execute("SELECT id FROM shard WHERE NOT replaced AND path = ?", (os.fsencode(path),))
        return [row[0] for row in rows]

    def outcomes(self, session: str) -> list[OutcomeRow]:
        """Return the outcome rows of a session, oldest first."""
        rows = self._db.execute(
            "SELECT id, created_at, total_reward, achievements_count, total_steps, qualifies, withdrawn"
            " FROM outcome WHERE session = ? ORDER BY created_us, id",
            (session,),
        )
        return [
            OutcomeRow(*facts, bool(qualifies), bool(withdrawn))  # type: ignore[call-arg]  # of six columns
            for *facts, qualifies, withdrawn in rows
        ]

    def spans(self, where: str, values: Sequence[Any], order: str = "shard.id, span.start") -> list[dict[str, Any]]:
        """Return spans, with their shard and outcome, that meet an SQL condition on ``span`` and ``shard``."""
        cursor = self._db.execute(
            "SELECT shard.id AS shard_id, shard.path, shard.replaced, span.start, span.stop, span.line, span.lines,"
            " span.session, span.state, span.reason, span.rule, span.since, span.outcome, outcome.id AS outcome_id,"
            " outcome.total_reward, outcome.withdrawn"
            " FROM span JOIN shard ON shard.id = span.shard LEFT JOIN outcome ON outcome.ref = span.outcome"
            f" WHERE {where} ORDER BY {order} LIMIT ?",
            (*values, self._most),
        )
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]
