"""Explain why the lines of a rollout or shard are, or are not, in the dataset: from the ledger.

Sentences quote ids and paths unchanged; the caller makes them printable.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import msgspec

from streamer.base.files import path_text
from streamer.base.text import printable
from streamer.core.records import layouts
from streamer.core.records.key import DedupBy, record_key
from streamer.core.records.layouts import MalformedError
from streamer.core.records.model import SourceRecord, State
from streamer.core.verdicts.reasons import CAP, NEAR, REWARD_REASONS
from streamer.store.curation.rejections import Rejection, rejections_in
from streamer.store.ledger.delivery import why_undeliverable
from streamer.store.ledger.files import file_at
from streamer.store.ledger.paths import is_apart
from streamer.store.views.explain_subjects import Found, OutcomeRow, Subjects
from streamer.store.views.explain_turns import TurnReasons
from streamer.store.views.explain_verdicts import VerdictReasons
from streamer.store.views.snapshot import open_ledger

_QUOTED = 20
"""Lines of one span that are looked up in the dataset."""

_LONGEST_LINE = 64 << 20


class Reason(msgspec.Struct, frozen=True):
    """The state of consecutive lines of a shard, and the reason. ``details`` are about single lines.

    ``reason`` is the counted name, ``because`` the same in a sentence.
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
    """One line and its state.

    ``shard_id`` is the shard's id in the ledger. ``data`` is the line with its newline, None where it cannot be
    read any more or never was a line of a file. ``offset`` is the log offset of its record in the dataset, or of the
    record that it duplicates or that kept it out.
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
    """Everything that a ledger knows about a session or shard."""

    subject: str
    outcomes: list[OutcomeRow]
    reasons: list[Reason]
    note: str = ""


def explain(ledger: Path, dataset: Path, subject: str) -> Explanation | None:
    """Return everything that a ledger knows about ``subject``; None if it is unknown.

    ``subject`` is a session id, a shard, or ``SHARD:LINE``. A session that was read from the trace database counts as
    the shard ``//messages/ID``.

    Raises:
        UnavailableError: the ledger cannot be read now.
    """
    with open_ledger(ledger) as db:
        if db is None:
            return None
        return Explainer(db, dataset).explain(subject)


class Explainer:
    """Explains lines of one ledger, as of one moment.

    Args:
        db: The ledger, opened for reading only.
        dataset: Its dataset.
        most: Spans to read for one answer; all of them by default.
    """

    def __init__(self, db: sqlite3.Connection, dataset: Path, most: int = -1) -> None:
        db.execute("BEGIN")
        self._db = db
        self._dataset = dataset
        keys, self._folder = db.execute("SELECT keys, shards FROM meta").fetchone()
        name = keys.partition("/")[0]
        self._by = DedupBy(name) if name in set(DedupBy) else DedupBy.CONVERSATION
        self._turns = TurnReasons(db)
        self._subjects = Subjects(db, self._folder, most)
        self._because = VerdictReasons(db, dataset, self._turns).because

    def explain(self, subject: str, *, details: bool = True) -> Explanation | None:
        """Return everything that the ledger knows about a subject; None if it is unknown.

        Args:
            subject: A session id, a shard, or ``SHARD:LINE``.
            details: Also return where the dataset holds single lines, which takes reading them.
        """
        found = self._subjects.find(subject)
        if found is None:
            return None
        reasons = [self._reason(span, found, details=details) for span in found.spans]
        return Explanation(found.subject, found.outcomes, reasons, found.note)

    def lines(self, subject: str) -> Iterator[LineFound]:
        """Yield the lines of a subject in order, one in memory at a time; none if it is unknown."""
        found = self._subjects.find(subject)
        if found is None:
            return
        for span in found.spans:
            because = self._because(span, self._outcomes_of(span, found))
            for number, data, row in self._lines_and_rejections(span):
                if found.line in (None, number):
                    yield self._line_found(span, number, data, because, row)

    def line(self, shard_id: int, number: int) -> LineFound | None:
        """Return one line by the ids that :meth:`lines` yielded; None if there is none."""
        where = "span.shard = ? AND span.line <= ? AND span.line + span.lines > ?"
        for span in self._subjects.spans(where, (shard_id, number, number)):
            because = self._because(span, self._subjects.outcomes(span["session"]))
            for each, data, row in self._lines_and_rejections(span):
                if each == number:
                    return self._line_found(span, number, data, because, row)
        return None

    def examples(self, where: str, values: Sequence[Any]) -> Iterator[tuple[int, float, Reason]]:
        """Yield (shard id, time of the first reading, reason) of the newest spans that meet a condition.

        Args:
            where: SQL condition over the tables ``span`` and ``shard``.
            values: Its parameters.
        """
        for span in self._subjects.spans(where, values, order="span.id DESC"):
            found = Found("", self._subjects.outcomes(span["session"]), [span])
            yield span["shard_id"], span["since"], self._reason(span, found, details=False)

    def _outcomes_of(self, span: dict[str, Any], found: Found) -> list[OutcomeRow]:
        """Return the outcomes of a span's session; ``find`` has read those of a subject that is a session."""
        return found.outcomes or self._subjects.outcomes(span["session"])

    def _reason(self, span: dict[str, Any], found: Found, *, details: bool) -> Reason:
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

    def _details(self, span: dict[str, Any], line: int | None) -> Iterator[str]:
        """Yield where the dataset holds single lines, or the record that they duplicate or that keeps them out."""
        for number, texts in self._line_details(span, line):
            if line is None and number >= span["line"] + _QUOTED:
                yield f"and {span['lines'] - _QUOTED:,} more lines"
                return
            if line in (None, number):
                yield from texts

    def _line_details(self, span: dict[str, Any], line: int | None) -> Iterator[tuple[int, Iterator[str]]]:
        if _is_filtered(span):
            for number, row in enumerate(self._rejections(span), span["line"]):
                yield number, (f"line {number} {self._rejection_text(one)}" for one in (row,))
            return
        by_turn = span["state"] == State.REJECTED and span["reason"] in REWARD_REASONS
        is_held = span["state"] == State.DUPLICATE or (span["state"] == State.ACCEPTED and line is not None)
        if (by_turn or is_held) and not span["replaced"] and not is_apart(os.fsdecode(span["path"])):
            for number, data in self._lines_of(span):
                yield number, self._detail(number, data, span)

    def _rejection_text(self, row: Rejection) -> str:
        place = self._dataset_line(row.offset)
        if row.similarity is not None:
            return f"is alike by {row.similarity:.2f} to the line at {place}"
        return f"counts as {row.value}, of which {row.records:,} of {row.most:,} were there, the last one at {place}"

    def _rejections(self, span: dict[str, Any]) -> Iterator[Rejection]:
        """Yield the rejection of each line of a span, if it is a near-duplicate or beyond a cap."""
        return (
            rejections_in(self._db, span["shard_id"], span["start"], span["stop"]) if _is_filtered(span) else iter(())
        )

    def _lines_and_rejections(self, span: dict[str, Any]) -> Iterator[tuple[int, bytes | None, Rejection | None]]:
        for (number, data), row in zip(self._lines_of(span), chain(self._rejections(span), repeat(None)), strict=False):
            yield number, data, row

    def _line_found(
        self, span: dict[str, Any], number: int, data: bytes | None, because: str, row: Rejection | None
    ) -> LineFound:
        shard = os.fsdecode(span["path"])
        if row is not None:
            offset: int | None = row.offset
        else:
            record = _record_of(data, span) if span["state"] in (State.ACCEPTED, State.DUPLICATE) else None
            offset = self._log_offset(record) if record is not None else None
        return LineFound(span["shard_id"], shard, number, span["state"], span["reason"], because, data, offset)

    def _lines_of(self, span: dict[str, Any]) -> Iterator[tuple[int, bytes | None]]:
        """Yield (number, line) of a span's lines; the line is None if the shard does not hold it any more."""
        numbers = range(span["line"], span["line"] + span["lines"])
        path = os.path.join(self._folder, os.fsdecode(span["path"]))
        if span["replaced"] or is_apart(os.fsdecode(span["path"])):
            yield from ((number, None) for number in numbers)
            return
        yielded = 0
        try:
            with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as shard:
                shard.seek(span["start"])  # fails for a FIFO put in its place
                for number in numbers:
                    data = shard.readline(_LONGEST_LINE)
                    yielded += 1
                    yield number, data if data.endswith(b"\n") else None
        except OSError:
            yield from ((number, None) for number in numbers[yielded:])

    def _detail(self, number: int, data: bytes | None, span: dict[str, Any]) -> Iterator[str]:
        record = _record_of(data, span)
        if record is None:
            return
        if span["state"] == State.REJECTED:
            yield f"line {number}: {self._turns.of_turn(span, record.turn)}"
            return
        place = self._log_offset(record)
        if place is not None:
            is_it = "is" if span["state"] == State.ACCEPTED else "equals"
            yield f"line {number} {is_it} the line at {self._dataset_line(place)}"
            aside = why_undeliverable(self._db, place)
            if aside is not None:
                yield f"line {number} cannot be delivered to a writer: {aside}"

    def _log_offset(self, record: SourceRecord) -> int | None:
        """Return the log offset of a record in the dataset, or of the one that it equals; None if it is not there."""
        key = record_key(record.conversation, self._by, (record.session, record.turn, record.timestamp))
        found = self._db.execute("SELECT offset FROM record WHERE key = ?", (key,)).fetchone()
        return found[0] if found is not None else None

    def _dataset_line(self, place: int) -> str:
        file = file_at(self._db, place)
        path = file.path(self._dataset)
        if file.is_removed:
            return f"byte {place:,} of the dataset, in a part that is not kept any more"
        if not file.map.has(place):
            return f"byte {place:,} of the dataset, which was taken out of {printable(path.name)} since"
        offset = file.map.file_offset(place)
        text = f"byte {offset:,} of {'the dataset' if path == self._dataset else printable(path.name)}"
        try:
            with path.open("rb") as dataset:
                dataset.seek(offset)
                metadata = msgspec.json.decode(dataset.readline())["metadata"]
            return f"{text}, from {metadata['shard']}, run {metadata['run_id']}, turn {metadata['turn']}"
        except (OSError, msgspec.MsgspecError, KeyError, TypeError):
            return text


def _is_filtered(span: dict[str, Any]) -> bool:
    """Say whether the lines of a span are near-duplicates or beyond a cap."""
    reason: str = span["reason"]
    return reason == NEAR or reason.startswith(CAP)


def _record_of(data: bytes | None, span: dict[str, Any]) -> SourceRecord | None:
    """Return the record of a line, None if there is none."""
    try:
        return layouts.read(data, path_text(os.fsdecode(span["path"]))) if data is not None else None
    except MalformedError:
        return None
