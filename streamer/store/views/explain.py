"""Why the lines of a rollout or of a shard are or are not in the dataset, from the ledger alone.

Sentences quote ids and paths as they are; whoever shows them makes them printable.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import msgspec

from streamer.base.text import printable
from streamer.core.records import layouts
from streamer.core.records.key import DedupBy, record_key
from streamer.core.records.layouts import MalformedError
from streamer.core.records.model import SourceRecord, State
from streamer.core.verdicts.reasons import (
    CAP,
    DUE_AFTER_OUTCOMES,
    MAY_STILL_COME,
    NEAR,
    REWARDS_UNREAD,
    RULE_CHANGED,
    SENT_AGAIN,
    UNREADABLE,
    WITHDRAWN,
)
from streamer.store.curation.rejections import Refused, refused
from streamer.store.dataset.dead_letters import dead_letters_path
from streamer.store.ledger.cuts import taken_out_at
from streamer.store.ledger.delivery import why_undeliverable
from streamer.store.ledger.paths import IS_APART, is_apart, is_stream, session_path
from streamer.store.views.explain_turns import TurnReasons
from streamer.store.views.snapshot import file_at, open_ledger

_QUOTED = 20
"""Lines of one span that are looked up in the dataset one by one."""

_LONGEST_LINE = 64 << 20
_LONGEST_NUMBER = 18

_OVERWRITTEN = " (these lines were overwritten in the shard since)"

_RULES = {
    "models": "its model is not among records.models",
    "images": "records.images asks for the other kind",
    "turn": "its turn lies outside records.min_turn and max_turn",
}


class OutcomeRow(msgspec.Struct, frozen=True):
    """One outcome row of a session, as last seen."""

    id: int
    created_at: str
    total_reward: float | int | None
    achievements_count: int | None
    total_steps: int | None
    qualifies: bool
    withdrawn: bool


class Reason(msgspec.Struct, frozen=True):
    """Why consecutive lines of a shard stand where they stand. ``details`` speak of single lines.

    ``reason`` is the counted name, ``because`` says it in a sentence.
    """

    shard: str
    first_line: int
    lines: int
    session: str
    state: str
    reason: str
    because: str
    details: list[str]


class LineFound(msgspec.Struct, frozen=True):
    """One line and where it stands.

    ``shard_id`` is the ledger's number of its shard. ``data`` is the line with its newline, None where it cannot be
    read any more or never was a line of a file. ``offset`` is where the dataset holds it, or the record that it equals
    or gave way to.
    """

    shard_id: int
    shard: str
    number: int
    state: str
    reason: str
    because: str
    data: bytes | None
    offset: int | None


class Explanation(msgspec.Struct, frozen=True):
    """All that is known of a session or shard."""

    subject: str
    outcomes: list[OutcomeRow]
    reasons: list[Reason]
    note: str = ""


def explain(ledger: Path, dataset: Path, subject: str) -> Explanation | None:
    """Return all that is known of ``subject``: a session id, a shard, or ``SHARD:LINE``; None for a stranger.

    A session that was read from the trace database stands beside the shards, as ``//messages/ID``.

    Raises:
        UnavailableError: the ledger cannot be read now.
    """
    with open_ledger(ledger) as db:
        if db is None:
            return None
        return Explainer(db, dataset).explain(subject)


class _Found(msgspec.Struct, frozen=True):
    """What a subject turned out to be: spans, and if it was a single line, its number."""

    subject: str
    outcomes: list[OutcomeRow]
    spans: list[dict[str, Any]]
    note: str = ""
    line: int | None = None


class Explainer:
    """Answers from one moment of one ledger.

    Args:
        db: the ledger, opened for reading only.
        dataset: its dataset.
        most: spans that are looked at for one answer, all of them without it.
    """

    def __init__(self, db: sqlite3.Connection, dataset: Path, most: int = -1) -> None:
        db.execute("BEGIN")
        self._most = most
        self._db = db
        self._dataset = dataset
        keys, self._folder = db.execute("SELECT keys, shards FROM meta").fetchone()
        self._conditions = dict(db.execute("SELECT rule, sql FROM condition"))
        name = keys.partition("/")[0]
        self._by = DedupBy(name) if name in set(DedupBy) else DedupBy.CONVERSATION
        self._turns = TurnReasons(db)

    def explain(self, subject: str, *, details: bool = True) -> Explanation | None:
        """Return all that is known of a subject, None for a stranger.

        Args:
            subject: a session id, a shard, or ``SHARD:LINE``.
            details: also say for single lines where the dataset holds them, which takes reading them.
        """
        found = self._find(subject)
        if found is None:
            return None
        reasons = [self._reason(span, found, details=details) for span in found.spans]
        return Explanation(found.subject, found.outcomes, reasons, found.note)

    def lines(self, subject: str) -> Iterator[LineFound]:
        """Yield the lines of a subject in order, one in memory at a time; none for a stranger."""
        found = self._find(subject)
        if found is None:
            return
        for span in found.spans:
            because = self._because(span, self._outcomes_of(span, found))
            for number, data, row in self._lines_and_refusals(span):
                if found.line in (None, number):
                    yield self._line_found(span, number, data, because, row)

    def line(self, shard_id: int, number: int) -> LineFound | None:
        """Return one line by the numbers that :meth:`lines` gave; None if there is none."""
        where = "span.shard = ? AND span.line <= ? AND span.line + span.lines > ?"
        for span in self._spans(where, (shard_id, number, number)):
            because = self._because(span, self._outcomes(span["session"]))
            for each, data, row in self._lines_and_refusals(span):
                if each == number:
                    return self._line_found(span, number, data, because, row)
        return None

    def examples(self, where: str, values: Sequence[Any]) -> Iterator[tuple[int, float, Reason]]:
        """Yield the number of the shard, the time of the first reading, and why, for the newest spans of a condition.

        Args:
            where: SQL over the tables ``span`` and ``shard``.
            values: its parameters.
        """
        for span in self._spans(where, values, order="span.id DESC"):
            found = _Found("", self._outcomes(span["session"]), [span])
            yield span["shard_id"], span["since"], self._reason(span, found, details=False)

    def _find(self, subject: str) -> _Found | None:
        session = os.fsencode(subject).decode("utf-8", "backslashreplace")
        outcomes = self._outcomes(session)
        # What cannot be taken says no session of its own.
        where = "(span.session = ? OR span.shard IN (SELECT id FROM shard WHERE NOT replaced AND path = ?))"
        spans = self._spans(where, (session, os.fsencode(session_path(session))))
        if outcomes or spans:
            return _Found(subject, outcomes, spans, "" if spans else self._why_unread(outcomes))
        return self._find_shard(subject, None) or self._find_line(subject)

    def _why_unread(self, outcomes: list[OutcomeRow]) -> str:
        if self._folder:
            return "no line of this session was read: is its shard in the shard folder?"
        if any(row.qualifies for row in outcomes):
            return "no decision of this session was read: has it rows in the table messages of the trace database?"
        return "its messages are not read while none of its outcome rows qualifies"

    def _find_line(self, subject: str) -> _Found | None:
        shard, _, number = subject.rpartition(":")
        return (
            self._find_shard(shard, int(number))
            if shard and number.isdecimal() and len(number) <= _LONGEST_NUMBER
            else None
        )

    def _find_shard(self, name: str, line: int | None) -> _Found | None:
        shards = self._shards_named(name)
        if not shards:
            return None
        where = f"span.shard IN ({','.join('?' * len(shards))})"
        spans = self._spans(where, shards)
        if line is not None:
            spans = [span for span in spans if span["line"] <= line < span["line"] + span["lines"]]
        note = "" if spans else "no finished line with this number was read"
        return _Found(name if line is None else f"{name}:{line}", [], spans, note, line)

    def _outcomes_of(self, span: dict[str, Any], found: _Found) -> list[OutcomeRow]:
        """Return the outcomes of a span's session; those of a session that was asked for are known already."""
        return found.outcomes or self._outcomes(span["session"])

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

    def _outcomes(self, session: str) -> list[OutcomeRow]:
        rows = self._db.execute(
            "SELECT id, created_at, total_reward, achievements_count, total_steps, qualifies, withdrawn"
            " FROM outcome WHERE session = ? ORDER BY created_us, id",
            (session,),
        )
        return [
            OutcomeRow(*facts, bool(qualifies), bool(withdrawn))  # type: ignore[call-arg]  # of six columns
            for *facts, qualifies, withdrawn in rows
        ]

    def _spans(self, where: str, values: Sequence[Any], order: str = "shard.id, span.start") -> list[dict[str, Any]]:
        cursor = self._db.execute(
            "SELECT shard.id AS shard_id, shard.path, shard.replaced, span.start, span.stop, span.line, span.lines,"
            " span.session, span.state, span.reason, span.rule, span.since, span.outcome, outcome.id AS outcome_id,"
            " outcome.total_reward,"
            " outcome.withdrawn"
            " FROM span JOIN shard ON shard.id = span.shard LEFT JOIN outcome ON outcome.ref = span.outcome"
            f" WHERE {where} ORDER BY {order} LIMIT ?",
            (*values, self._most),
        )
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    def _reason(self, span: dict[str, Any], found: _Found, *, details: bool) -> Reason:
        first, lines = (span["line"], span["lines"]) if found.line is None else (found.line, 1)
        return Reason(
            shard=os.fsdecode(span["path"]),
            first_line=first,
            lines=lines,
            session=span["session"],
            state=span["state"],
            reason=span["reason"],
            because=self._because(span, self._outcomes_of(span, found)),
            details=list(self._details(span, found.line)) if details else [],
        )

    def _because(self, span: dict[str, Any], outcomes: list[OutcomeRow]) -> str:
        return self._verdict(span, outcomes) + self._taken_out(span) + (_OVERWRITTEN if span["replaced"] else "")

    def _taken_out(self, span: dict[str, Any]) -> str:
        """Say when a record that is out was taken out of the dataset, nothing if it never was in it."""
        if span["state"] != State.REJECTED:
            return ""
        at = taken_out_at(self._db, span["shard_id"], span["start"], span["stop"])
        if at is None:
            return ""
        return (
            f"; taken out of the dataset by `streamer compact` at {datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%SZ}"
        )

    def _verdict(self, span: dict[str, Any], outcomes: list[OutcomeRow]) -> str:
        outcome = f"outcome row {span['outcome_id']} (total_reward {span['total_reward']})"
        state, reason = span["state"], span["reason"]
        if is_stream(os.fsdecode(span["path"])):
            return self._arrived(state, reason)
        if state == State.ACCEPTED:
            later = ", but was corrected and would not qualify now" if span["withdrawn"] else ""
            return f"{outcome} met the condition{later}"
        if state == State.DUPLICATE:
            held = "a record that it nearly equals" if reason == NEAR else "an equal record"
            return f"its rollout qualifies by {outcome}, but the dataset holds {held}"
        if state == State.REJECTED:
            return self._below_bar(span, outcome)
        if state == State.DEAD_LETTERED:
            return f"{reason}; see {dead_letters_path(self._dataset)}"
        return self._open(state, reason, outcomes)

    def _arrived(self, state: str, reason: str) -> str:
        """Say what became of what a collector sent."""
        if state == State.ACCEPTED:
            return "it qualified at its collector"
        if reason == SENT_AGAIN:
            return "its collector sent it again, and the dataset holds it"
        if state == State.DUPLICATE:
            held = "a record that it nearly equals" if reason == NEAR else "an equal record"
            return f"it qualified at its collector, but the dataset holds {held}"
        if reason.startswith(CAP):
            return f"it qualified at its collector, but the cap on {reason.removeprefix(CAP)} was full"
        return f"{reason}; see {dead_letters_path(self._dataset)}"

    def _below_bar(self, span: dict[str, Any], outcome: str) -> str:
        reason = span["reason"]
        if reason.startswith(CAP):
            return f"its rollout qualifies by {outcome}, but the cap on {reason.removeprefix(CAP)} was full"
        if reason == UNREADABLE:
            return f"{outcome} qualifies since a correction or a late reward, but the shard could not be read"
        if reason == WITHDRAWN:
            return f"its rollout was withdrawn: {outcome} was corrected, and does not qualify any more"
        if reason in MAY_STILL_COME:
            return f"its rollout qualifies by {outcome}, but {self._turns.of_rollout(span)}"
        return _RULES.get(reason, f"{outcome} did not meet: {self._conditions.get(span['rule'])}")

    def _open(self, state: str, reason: str, outcomes: list[OutcomeRow]) -> str:
        still = "; still taken when its outcome comes" if state == State.EXPIRED else ""
        if reason == UNREADABLE:
            return f"its outcome is there, but the shard could not be read then: put it back in place{still}"
        if reason == RULE_CHANGED:
            return f"its outcome has not been read under the present condition yet{still}"
        if reason == REWARDS_UNREAD:
            return f"its rollout qualifies, but its event rewards have not been read yet{still}"
        if reason == DUE_AFTER_OUTCOMES and outcomes:
            return (
                f"its own time lies after the newest outcome of its session ({outcomes[-1].created_at});"
                f" if that is wrong (clocks, time zones), set join.rule to max or first{still}"
            )
        return f"outcome_rewards has no row of its session yet{still}"

    def _details(self, span: dict[str, Any], line: int | None) -> Iterator[str]:
        """Say for single lines where the dataset holds them, or the record that they equal or have to give way to."""
        if _is_refused(span):
            yield from self._refusals(span, line)
            return
        of_turns = span["state"] == State.REJECTED and span["reason"] in MAY_STILL_COME
        if (span["state"] not in (State.ACCEPTED, State.DUPLICATE) and not of_turns) or span["replaced"]:
            return
        if span["state"] == State.ACCEPTED and line is None:
            return
        if is_apart(os.fsdecode(span["path"])):
            return
        for number, data in self._lines_of(span):
            if line is None and number >= span["line"] + _QUOTED:
                yield f"and {span['lines'] - _QUOTED:,} more lines"
                return
            if line is None or number == line:
                yield from self._detail(number, data, span)

    def _refusals(self, span: dict[str, Any], line: int | None) -> Iterator[str]:
        for number, row in enumerate(self._refused(span), span["line"]):
            if line is None and number >= span["line"] + _QUOTED:
                yield f"and {span['lines'] - _QUOTED:,} more lines"
                return
            if line is None or number == line:
                yield f"line {number} {self._refusal(row)}"

    def _refusal(self, row: Refused) -> str:
        place = self._at_place(row.offset)
        if row.similarity is not None:
            return f"is alike by {row.similarity:.2f} to the line at {place}"
        return f"counts as {row.value}, of which {row.records:,} of {row.most:,} were there, the last one at {place}"

    def _refused(self, span: dict[str, Any]) -> Iterator[Refused]:
        """Yield why each line of a span was left out, if near-duplicates or caps did that; else nothing."""
        return refused(self._db, span["shard_id"], span["start"], span["stop"]) if _is_refused(span) else iter(())

    def _lines_and_refusals(self, span: dict[str, Any]) -> Iterator[tuple[int, bytes | None, Refused | None]]:
        for (number, data), row in zip(self._lines_of(span), chain(self._refused(span), repeat(None)), strict=False):
            yield number, data, row

    def _line_found(
        self, span: dict[str, Any], number: int, data: bytes | None, because: str, row: Refused | None
    ) -> LineFound:
        shard = os.fsdecode(span["path"])
        if row is not None:
            offset: int | None = row.offset
        else:
            record = _record_of(data, span) if span["state"] in (State.ACCEPTED, State.DUPLICATE) else None
            offset = self._place_of(record) if record is not None else None
        return LineFound(span["shard_id"], shard, number, span["state"], span["reason"], because, data, offset)

    def _lines_of(self, span: dict[str, Any]) -> Iterator[tuple[int, bytes | None]]:
        """Yield the numbers of a span's lines, with what the shard still holds of them."""
        numbers = range(span["line"], span["line"] + span["lines"])
        path = os.path.join(self._folder, os.fsdecode(span["path"]))
        if span["replaced"] or is_apart(os.fsdecode(span["path"])):
            yield from ((number, None) for number in numbers)
            return
        told = 0
        try:
            with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as shard:
                shard.seek(span["start"])  # which a FIFO put in its place refuses
                for number in numbers:
                    data = shard.readline(_LONGEST_LINE)
                    told += 1
                    yield number, data if data.endswith(b"\n") else None
        except OSError:
            yield from ((number, None) for number in numbers[told:])

    def _detail(self, number: int, data: bytes | None, span: dict[str, Any]) -> Iterator[str]:
        record = _record_of(data, span)
        if record is None:
            return
        if span["state"] == State.REJECTED:
            yield f"line {number}: {self._turns.of_turn(span, record.turn)}"
            return
        place = self._place_of(record)
        if place is not None:
            is_it = "is" if span["state"] == State.ACCEPTED else "equals"
            yield f"line {number} {is_it} the line at {self._at_place(place)}"
            aside = why_undeliverable(self._db, place)
            if aside is not None:
                yield f"line {number} cannot be delivered to a writer: {aside}"

    def _place_of(self, record: SourceRecord) -> int | None:
        """Return where the dataset holds a record that was taken, or the one that it equals."""
        key = record_key(record.conversation, self._by, (record.session, record.turn, record.timestamp))
        found = self._db.execute("SELECT offset FROM record WHERE key = ?", (key,)).fetchone()
        return found[0] if found is not None else None

    def _at_place(self, place: int) -> str:
        found = file_at(self._db, self._dataset, place)
        if found is None:
            return f"byte {place:,} of the dataset, in a part that is not kept any more"
        path, offset = found
        if offset is None:
            return f"byte {place:,} of the dataset, which was taken out of {printable(path.name)} since"
        text = f"byte {offset:,} of {'the dataset' if path == self._dataset else printable(path.name)}"
        try:
            with path.open("rb") as dataset:
                dataset.seek(offset)
                metadata = msgspec.json.decode(dataset.readline())["metadata"]
            return f"{text}, from {metadata['shard']}, run {metadata['run_id']}, turn {metadata['turn']}"
        except (OSError, msgspec.MsgspecError, KeyError, TypeError):
            return text


def _is_refused(span: dict[str, Any]) -> bool:
    """Say whether the lines of a span were left out as near-duplicates or beyond a cap."""
    reason: str = span["reason"]
    return reason == NEAR or reason.startswith(CAP)


def _record_of(data: bytes | None, span: dict[str, Any]) -> SourceRecord | None:
    """Return the record of a line that the shard still holds, if it is one."""
    try:
        return layouts.read(data, os.fsdecode(span["path"])) if data is not None else None
    except MalformedError:
        return None
