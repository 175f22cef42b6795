"""Read the decisions of sessions from their messages, in short pages.

Invariants
- Each read is one page, limited in rows and in characters. No lock outlives it.
- A page begins after the last id of the page before: no cursor stays open between two pages.
- An index finds the rows of a session: other sessions cost nothing. Memory holds the ids of the whole session, but only
  one page of its rows.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import msgspec
from blake3 import blake3

from streamer.base.errors import UnavailableError
from streamer.core.records.trace_calls import Call, read_call
from streamer.core.records.trace_messages import MAX_CHARACTERS, Decision, Decisions, Row, as_object
from streamer.sources.pages import Pages, columns_of

_PAGE_IDS = 4000
"""Ids in one page. The index alone holds them, by timestep: a page takes about a millisecond."""

_IDS = "SELECT timestep_id, id FROM messages WHERE session_id = ?"
_FIRST_IDS = f"{_IDS} ORDER BY timestep_id, id LIMIT ?"
_IDS_WITHOUT_STEP = f"{_IDS} AND timestep_id IS NULL AND id > ? ORDER BY id LIMIT ?"
_IDS_OF_STEPS = f"{_IDS} AND (timestep_id, id) > (?, ?) ORDER BY timestep_id, id LIMIT ?"
_MESSAGES = """
SELECT id, timestep_id, message_type, content, metadata, {time} FROM messages
WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id
"""
_ANY_WITHOUT_STEP = "SELECT 1 FROM messages WHERE session_id = ? AND timestep_id IS NULL AND id <= ? LIMIT 1"
_METADATA = "SELECT metadata FROM session_traces WHERE session_id = ? LIMIT 1"
_FINGERPRINT_BYTES = 16
_LOWEST_ID = -(1 << 63)
_HIGHEST_ID = 1 << 63
_CALLS = """
SELECT id, timestep_id, model_name, provider, event_time, call_records FROM events
WHERE session_id = ?1 AND event_type = 'cais' AND (timestep_id, id) > (?2, ?3) AND timestep_id <= ?4
ORDER BY timestep_id, id LIMIT ?5
"""
_CALL_COLUMNS = frozenset({"timestep_id", "event_type", "model_name", "provider", "event_time", "call_records"})


class Conversations:
    """Reads the decisions of sessions from the table ``messages``, and from ``events`` if that exists.

    Args:
        pages: Reads the database.
        max_characters: Maximum length of a decision.

    Raises:
        UnavailableError: The database cannot be read now, or is no producer's.
    """

    def __init__(self, pages: Pages, max_characters: int = MAX_CHARACTERS) -> None:
        self._pages = pages
        self._max_characters = max_characters
        columns = columns_of(pages, "messages")
        missing = {"id", "session_id", "timestep_id", "message_type", "content", "metadata"} - columns
        if columns and missing:
            cause = f"messages has no column {', '.join(sorted(missing))}"
            raise UnavailableError("read conversations", str(pages.path), cause, "is this a trace database?")
        self._sql = _MESSAGES.format(time="event_time" if "event_time" in columns else "NULL") if columns else ""
        self._has_calls = columns_of(pages, "events") >= _CALL_COLUMNS
        self._has_metadata = columns_of(pages, "session_traces") >= {"session_id", "metadata"}

    def decisions(
        self, session: str, model: Any = None, after: int = 0, before: int = _HIGHEST_ID
    ) -> Iterator[Decision]:
        """Yield the decisions of a session, ordered by the ids of their rows.

        Args:
            session: The session id.
            model: The session's model, for decisions whose call does not name one.
            after: Read only rows with a higher id: 0, or the last id of a decision.
            before: Read only rows with a lower id.

        Raises:
            UnavailableError: The database cannot be read now.
        """
        if not self._sql:
            return
        grouped = Decisions(session, model, self._max_characters)
        if after > 0:
            self._feed_system_prompt(grouped, session, after)
        ids = sorted(number for _, number in self._ids(session) if after < number < before)
        for rows in self._row_pages(ids):
            yield from grouped.feed(rows, self._calls(session, rows))
        yield from grouped.finish()

    def any(self) -> bool:
        """Return whether the database has any message.

        Raises:
            UnavailableError: The database cannot be read now.
        """
        return bool(self._sql and self._pages.page("SELECT 1 FROM messages LIMIT 1", (), lambda _: 0)[0])

    def row_fingerprint(self, number: int) -> bytes | None:
        """Return the fingerprint of a row, to detect a replaced database; None if the row does not exist.

        Raises:
            UnavailableError: The database cannot be read now.
        """
        rows = self._rows([number])[0] if self._sql else []
        return blake3(msgspec.json.encode(rows)).digest(_FINGERPRINT_BYTES) if rows else None

    def metadata(self, session: str) -> dict[str, Any]:
        """Return the metadata of a session in ``session_traces``.

        Raises:
            UnavailableError: The database cannot be read now.
        """
        rows = self._pages.page(_METADATA, (session,), lambda _: 0)[0] if self._has_metadata else []
        return as_object(rows[0][0]) if rows and isinstance(rows[0][0], str) else {}

    def _feed_system_prompt(self, grouped: Decisions, session: str, until: int) -> None:
        """Feed the system prompt up to the id ``until``, if there is one, without yielding decisions."""
        if not self._pages.page(_ANY_WITHOUT_STEP, (session, until), lambda _: 0)[0]:
            return
        ids = sorted((number, step is None) for step, number in self._ids(session) if number <= until)
        for without_step, run in groupby(ids, key=lambda place: place[1]):
            if without_step:
                for rows in self._row_pages([number for number, _ in run]):
                    list(grouped.feed(rows))
                list(grouped.finish())

    def _ids(self, session: str) -> Iterator[tuple[Any, int]]:
        """Yield (timestep, id) of a session's messages in the order of the index: those without a timestep first.

        SQL does not filter the ids, as that would make the duration of a page unbounded.
        """
        found = self._id_page(_FIRST_IDS, session)
        yield from found
        if len(found) < _PAGE_IDS:
            return
        step, last = found[-1]
        if step is None:
            while found := self._id_page(_IDS_WITHOUT_STEP, session, last):
                yield from found
                last = found[-1][1]
            step = _LOWEST_ID
        while found := self._id_page(_IDS_OF_STEPS, session, step, last):
            yield from found
            step, last = found[-1]

    def _row_pages(self, ids: list[int]) -> Iterator[list[Row]]:
        done = 0
        while done < len(ids):
            rows, full = self._rows(ids[done : done + self._pages.rows])
            yield rows
            done = bisect_right(ids, rows[-1].id, done) if full else done + self._pages.rows

    def _id_page(self, sql: str, *values: Any) -> list[Any]:
        return self._pages.page(sql, (*values, _PAGE_IDS), lambda _: 0)[0]

    def _rows(self, ids: list[int]) -> tuple[list[Row], bool]:
        found, full = self._pages.page(self._sql, (json.dumps(ids),), _message_size)
        return [_row(*row) for row in found], full

    def _calls(self, session: str, rows: list[Row]) -> list[Call]:
        steps = [row.timestep for row in rows if row.timestep is not None]
        if not steps or not self._has_calls:
            return []
        calls: list[Call] = []
        at, last, full = min(steps), -1, True
        while full:
            values = (session, at, last, max(steps), self._pages.rows)
            found, full = self._pages.page(_CALLS, values, _call_size)
            full |= len(found) == self._pages.rows
            if found:
                last, at = found[-1][0], found[-1][1]
            calls += [read_call(*row[1:]) for row in found]
        return calls


def _row(number: int, timestep: Any, kind: Any, content: Any, metadata: Any, time: Any) -> Row:
    return Row(
        id=number,
        timestep=timestep if isinstance(timestep, int) else None,
        type=str(kind),
        content=_as_text(content),
        metadata=metadata if isinstance(metadata, str) else None,
        time=float(time) if isinstance(time, int | float) else None,
    )


def _as_text(content: Any) -> str | None:
    if isinstance(content, bytes):
        return content.decode("utf-8", "backslashreplace")
    return None if content is None else str(content)


def _message_size(row: Any) -> int:
    return len(row[3]) if isinstance(row[3], str | bytes) else 0


def _call_size(row: Any) -> int:
    return len(row[5]) if isinstance(row[5], str | bytes) else 0
