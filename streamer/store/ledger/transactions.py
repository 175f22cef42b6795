"""Writes to the ledger; each function runs inside a transaction that its caller has begun."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from streamer.core.records.model import OPEN_STATES, Cursor, Outcome, Span, State
from streamer.core.verdicts.join import JoinRule
from streamer.core.verdicts.reasons import CAP, RULE_CHANGED
from streamer.core.verdicts.turns import SessionRewards, TurnRules
from streamer.store.ledger.cuts import put_cut, put_taken_out
from streamer.store.ledger.history import History
from streamer.store.ledger.paths import IS_STREAM
from streamer.store.ledger.rows import (
    BLOCKED,
    OUTCOME,
    PART,
    SHARD,
    SPAN,
    outcome_of,
    span_of,
)
from streamer.store.ledger.turn_rewards import describe_rules, store_rewards
from streamer.store.parts.parts import Live, Part

_LAST_US = 1 << 62
"""Time of a row whose created_at is no time: after all others, as in the join."""


class BatchCommit(msgspec.Struct, frozen=True):
    """Everything that one batch changes, written in one transaction.

    ``taken`` are spans that the others replace: ``spans`` are judged, ``pending`` wait for re-evaluation, ``blocked``
    for their shard. ``appended`` are (key, log offset); ``claimed`` are keys whose line was adopted before. ``at`` is
    the time (seconds since 1970), a label and never a criterion. ``closed`` are parts that were closed since; ``live``
    is the live file, if the dataset rotates. ``also`` writes the tables that others keep in the same file.
    """

    cursors: Sequence[Cursor] = ()
    taken: Sequence[Span] = ()
    spans: Sequence[Span] = ()
    pending: Sequence[Span] = ()
    blocked: Sequence[Span] = ()
    appended: Sequence[tuple[bytes, int]] = ()
    claimed: Sequence[bytes] = ()
    dataset_length: int = 0
    dataset_tail: bytes = b""
    dead_length: int = 0
    dead_tail: bytes = b""
    at: float = 0.0
    closed: Sequence[Part] = ()
    live: Live | None = None
    also: Callable[[sqlite3.Connection], None] | None = None


class Compaction(msgspec.Struct, frozen=True):
    """Everything that a compaction of some parts changes, written in one transaction.

    ``parts`` are as their files will be, each with one more cut; ``lines`` is the number of lines removed. ``spans``
    replace those that are ``taken``. ``at`` is the time (seconds since 1970). ``also`` removes the keys, and the rows
    that others keep for the records.
    """

    parts: Sequence[Part]
    lines: int
    taken: Sequence[Span]
    spans: Sequence[Span]
    at: float
    also: Callable[[sqlite3.Connection], None]


class ReadSettings(msgspec.Struct, frozen=True):
    """The settings under which lines are read: the folder, the database, the condition with its name, and turns."""

    shards: str
    pattern: str
    follow_symlinks: bool
    database: str
    rule: str
    where: str
    join: JoinRule = JoinRule.AS_OF
    turns: TurnRules | None = None


def commit(db: sqlite3.Connection, batch: BatchCommit, history: History) -> None:
    """Write one batch."""
    history.note(db, batch.at)
    if batch.cursors:
        db.executemany(
            f"INSERT OR REPLACE INTO shard ({SHARD}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [(c.id, os.fsencode(c.path), c.offset, c.lines, c.scanned, c.fingerprint, *c.stat) for c in batch.cursors],
        )
    db.executemany("DELETE FROM span WHERE id = ?", [(span.id,) for span in batch.taken])
    _put_spans(db, batch.spans, due=0)
    _put_spans(db, batch.pending, due=1)
    _put_spans(db, batch.blocked, due=BLOCKED)
    count(db, [*batch.spans, *batch.pending, *batch.blocked], batch.taken)
    db.executemany("INSERT INTO record (key, offset, claimed) VALUES (?, ?, 1)", sorted(batch.appended))
    db.executemany("UPDATE record SET claimed = 1 WHERE key = ?", [(key,) for key in batch.claimed])
    lengths = (batch.dataset_length, batch.dataset_tail, batch.dead_length, batch.dead_tail)
    db.execute(
        "UPDATE meta SET dataset_length = ?, dataset_tail = ?, dead_length = ?, dead_tail = ?,"
        " dataset_lines = dataset_lines + ?, appended_at = coalesce(?, appended_at)",
        (*lengths, len(batch.appended), batch.at if batch.appended else None),
    )
    if batch.closed:
        close_parts(db, batch.closed)
    if batch.live is not None:
        begin(db, batch.live)
    if batch.also is not None:
        batch.also(db)


def close_parts(db: sqlite3.Connection, parts: Sequence[Part]) -> None:
    """Store closed parts."""
    db.executemany(
        f"INSERT OR REPLACE INTO part ({PART}) VALUES (?, ?, ?, ?, ?, ?)",
        [msgspec.structs.astuple(part)[:6] for part in parts],
    )
    db.execute("DELETE FROM part WHERE stop IS NULL")


def begin(db: sqlite3.Connection, live: Live) -> None:
    """Store which file is the live one."""
    db.execute("DELETE FROM part WHERE stop IS NULL AND number != ?", (live.number,))
    db.execute(
        "INSERT OR REPLACE INTO part (number, start, opened_at) VALUES (?, ?, ?)",
        (live.number, live.start, live.opened_at),
    )


def remove_parts(db: sqlite3.Connection, parts: Sequence[Part], *, forget_keys: bool) -> None:
    """Mark parts as removed, and forget their keys where records may be accepted again."""
    db.executemany("UPDATE part SET removed = 1 WHERE number = ?", [(part.number,) for part in parts])
    if not forget_keys:
        return
    for part in parts:  # an adopted line without a shard line leaves the sums: that shard line will be appended
        (lines,) = db.execute(
            "SELECT count(*) FROM record WHERE NOT claimed AND offset >= ? AND offset < ?", (part.start, part.stop)
        ).fetchone()
        db.execute("UPDATE part SET lines = lines - ? WHERE number = ?", (lines, part.number))
        db.execute("UPDATE meta SET dataset_lines = dataset_lines - ?", (lines,))
    db.execute("DELETE FROM record WHERE offset BETWEEN 0 AND ?", (parts[-1].stop - 1,))


def compact(db: sqlite3.Connection, change: Compaction, history: History) -> None:
    """Write one compaction."""
    history.note(db, change.at)
    for part in change.parts:
        db.execute("UPDATE part SET lines = ?, sha256 = ? WHERE number = ?", (part.lines, part.sha256, part.number))
        put_cut(db, part.number, part.cuts[-1], change.at)
    db.executemany("DELETE FROM span WHERE id = ?", [(span.id,) for span in change.taken])
    _put_spans(db, change.spans, due=0)
    count(db, change.spans, change.taken)
    put_taken_out(db, [span for span in change.spans if span.state is not State.ACCEPTED], change.at)
    db.execute("UPDATE meta SET dataset_lines = dataset_lines - ?", (change.lines,))
    db.execute(
        f"UPDATE span SET due = 1 WHERE NOT due AND (state = 'duplicate' OR reason LIKE '{CAP}%')"
        " AND shard IN (SELECT id FROM shard WHERE NOT replaced)"
    )
    db.execute(
        "UPDATE outcome SET withdrawn = 0 WHERE withdrawn AND NOT EXISTS (SELECT 1 FROM span"
        " WHERE session = outcome.session AND state = 'appended' AND span.outcome = outcome.ref)"
    )
    change.also(db)
    history.changed(db, change.at)


def _put_spans(db: sqlite3.Connection, spans: Sequence[Span], due: int) -> None:
    db.executemany(
        "INSERT INTO span (shard, start, stop, line, lines, session, state, reason, outcome, first_us,"
        f" last_us, since, rule, due) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, {due})",
        [msgspec.structs.astuple(span)[:13] for span in spans],
    )


def count(db: sqlite3.Connection, put: Sequence[Span], taken: Sequence[Span]) -> None:
    """Add the lines of ``put`` to the counts by state and reason, and subtract those of ``taken``."""
    change: dict[tuple[str, str], int] = {}
    for sign, spans in ((1, put), (-1, taken)):
        for span in spans:
            place = (str(span.state), span.reason)
            change[place] = change.get(place, 0) + sign * span.lines
    db.executemany(
        "INSERT INTO tally (state, reason, lines) VALUES (?, ?, ?)"
        " ON CONFLICT (state, reason) DO UPDATE SET lines = lines + excluded.lines",
        [(*place, lines) for place, lines in change.items() if lines],
    )


def forget_keys(db: sqlite3.Connection, keys: str) -> None:
    """Drop all keys; ``keys`` is the version under which they are computed again."""
    db.execute("DELETE FROM record")
    db.execute(
        "UPDATE meta SET keys = ?, counted = max(counted, dataset_length), dataset_length = 0,"
        " dataset_lines = (SELECT coalesce(sum(lines), 0) FROM part WHERE removed), dataset_tail = x''",
        (keys,),
    )


def describe(db: sqlite3.Connection, settings: ReadSettings) -> None:
    """Store the settings under which lines are read."""
    db.execute(
        "UPDATE meta SET shards = ?, pattern = ?, follow_symlinks = ?, database = ?",
        (settings.shards, settings.pattern, settings.follow_symlinks, settings.database),
    )
    db.execute("INSERT OR IGNORE INTO condition (rule, sql) VALUES (?, ?)", (settings.rule, settings.where))
    describe_rules(db, settings.turns, settings.join)


def overwritten(db: sqlite3.Connection, shard_id: int) -> int:
    """Retire a shard whose bytes were overwritten; return the number of lines that were still open."""
    rows = db.execute(f"SELECT {SPAN} FROM span WHERE shard = ? AND state IN (?, ?)", (shard_id, *OPEN_STATES))
    spans = [span_of(row) for row in rows]
    lost = sum(span.lines for span in spans)
    db.executemany("DELETE FROM span WHERE id = ?", [(span.id,) for span in spans])
    count(db, [], spans)
    db.execute("UPDATE span SET due = 0 WHERE shard = ? AND due", (shard_id,))
    db.execute("UPDATE shard SET replaced = 1 WHERE id = ?", (shard_id,))
    db.execute("UPDATE meta SET overwritten = overwritten + ?", (lost,))
    return lost


def expire(db: sqlite3.Connection, spans: Sequence[Span]) -> None:
    """Expire waiting spans."""
    db.executemany("UPDATE span SET state = 'never_scored' WHERE id = ?", [(span.id,) for span in spans])
    count(db, [msgspec.structs.replace(span, state=State.EXPIRED) for span in spans], spans)


def rewrite_dead_letters(db: sqlite3.Connection) -> None:
    """Make dead-lettered lines pending; count those whose bytes are gone as overwritten."""
    gone = f"state = 'dead_lettered' AND shard IN (SELECT id FROM shard WHERE replaced OR {IS_STREAM})"
    lost = db.execute(f"SELECT reason, sum(lines) FROM span WHERE {gone} GROUP BY reason").fetchall()
    db.execute(f"DELETE FROM span WHERE {gone}")
    db.executemany(
        "UPDATE tally SET lines = lines - ? WHERE state = 'dead_lettered' AND reason = ?",
        [(lines, reason) for reason, lines in lost],
    )
    db.execute("UPDATE meta SET overwritten = overwritten + ?", (sum(lines for _, lines in lost),))
    db.execute("UPDATE span SET due = 1 WHERE state = 'dead_lettered'")


def store_outcomes(
    db: sqlite3.Connection, rows: Sequence[Outcome], rule: JoinRule, rewards: Sequence[SessionRewards]
) -> list[Outcome]:
    """Store new and changed outcome rows, make the lines pending that they can change, and return those rows."""
    found = db.execute(f"SELECT {OUTCOME} FROM outcome WHERE id BETWEEN ? AND ?", (rows[0].id, rows[-1].id))
    known = {(row[0], row[1], row[5]): outcome_of(row) for row in found}
    fresh = [(row, known.get((row.id, row.session, row.created_at))) for row in rows]
    fresh = [(row, old) for row, old in fresh if old is None or not _same(row, old)]
    _add_outcomes(db, [row for row, old in fresh if old is None], rule)
    _change_outcomes(db, [(row, old) for row, old in fresh if old is not None], rule)
    # Lines that waited for these rows to be tested under the present condition.
    if db.execute(f"SELECT 1 FROM span WHERE reason = '{RULE_CHANGED}' LIMIT 1").fetchone():
        db.executemany(
            f"UPDATE span SET due = 1 WHERE session = ? AND reason = '{RULE_CHANGED}' AND NOT due",
            [(row.session,) for row in rows],
        )
    store_rewards(db, rewards)
    return [row for row, _ in fresh]


def _add_outcomes(db: sqlite3.Connection, rows: Sequence[Outcome], rule: JoinRule) -> None:
    db.executemany(
        "INSERT INTO outcome (id, session, total_reward, achievements_count, total_steps, created_at,"
        " created_us, qualifies, rule, metadata, problem) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [(*msgspec.structs.astuple(row)[:9], row.metadata, row.problem) for row in rows],
    )
    _reevaluate_open(db, rows)
    if rule is not JoinRule.AS_OF:
        _reevaluate_rejected(db, rows)
        return
    # Only a row older than the one chosen, or any one for records without a time, can change a verdict.
    db.executemany(
        "UPDATE span SET due = 1 WHERE session = ? AND state = 'below_bar' AND (first_us IS NULL OR"
        " (SELECT coalesce(created_us, ?) FROM outcome WHERE ref = span.outcome) > ?)",
        [(row.session, _LAST_US, _LAST_US if row.created_us is None else row.created_us) for row in rows],
    )


def _change_outcomes(db: sqlite3.Connection, rows: Sequence[tuple[Outcome, Outcome]], rule: JoinRule) -> None:
    db.executemany(
        "UPDATE outcome SET total_reward = ?, achievements_count = ?, total_steps = ?, created_us = ?, qualifies = ?,"
        " rule = ?, metadata = ?, problem = ? WHERE ref = ?",
        [
            (*_facts(row), row.created_us, row.qualifies, row.rule, row.metadata, row.problem, old.ref)
            for row, old in rows
        ],
    )
    _reevaluate_open(db, [row for row, _ in rows])
    # Where only the condition changed, or what its time can stand for, not the rollout, verdicts stay.
    corrected = [
        (row, old)
        for row, old in rows
        if _facts(row) != _facts(old) or (row.rule == old.rule and _evaluation(row) != _evaluation(old))
    ]
    if rule is JoinRule.MAX:
        _reevaluate_rejected(db, [row for row, _ in corrected])
    refs = [(row.session, old.ref) for row, old in corrected]
    db.executemany("UPDATE span SET due = 1 WHERE session = ? AND state = 'below_bar' AND outcome = ?", refs)
    db.executemany(
        "UPDATE outcome SET withdrawn = (NOT qualifies AND EXISTS (SELECT 1 FROM span WHERE session = ?"
        " AND state = 'appended' AND span.outcome = outcome.ref)) WHERE ref = ?",
        refs,
    )


def _reevaluate_open(db: sqlite3.Connection, rows: Sequence[Outcome]) -> None:
    db.executemany(
        "UPDATE span SET due = 1 WHERE session = ? AND state IN (?, ?)",
        [(row.session, *OPEN_STATES) for row in rows],
    )


def _reevaluate_rejected(db: sqlite3.Connection, rows: Sequence[Outcome]) -> None:
    db.executemany(
        "UPDATE span SET due = 1 WHERE session = ? AND state = 'below_bar'", [(row.session,) for row in rows]
    )


def _facts(row: Outcome) -> tuple[Any, ...]:
    return row.total_reward, row.achievements_count, row.total_steps


def _same(row: Outcome, old: Outcome) -> bool:
    return (_facts(row), row.created_us, _evaluation(row)) == (_facts(old), old.created_us, _evaluation(old))


def _evaluation(row: Outcome) -> tuple[Any, ...]:
    return row.qualifies, row.rule, row.metadata, row.problem
