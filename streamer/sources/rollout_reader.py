"""Read decisions of sessions in the trace database, from the ledger's cursor on.

The cursor of a session is that of a shard, with ids of ``messages`` for offsets (``session_path``): ``offset`` is one
above the last row that was read, and the fingerprint is that row's. Id 0 means prompt and completion of the session's
metadata.

The last decision ends only with the rollout: while its time lies after every outcome of the session, more rows may
follow. So it stays unread, like a line without its newline.

All of this is blocking code: the inbox calls it in a worker thread. Each call reopens the database, so that no
connection passes from one thread to another, and none outlives a replaced file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from blake3 import blake3

from streamer.base.secret import NO_SECRET, Secret
from streamer.config.database_url import Server, locate
from streamer.core.records.layouts import MalformedError
from streamer.core.records.model import Cursor, SourceRecord, Span
from streamer.core.records.trace_messages import Decision, from_completion
from streamer.core.verdicts.join import JoinRule
from streamer.sources.conversations import Conversations
from streamer.sources.database_file import file_times, open_for_batch
from streamer.sources.pages import FilePages, RemotePages
from streamer.sources.reader import Budget, Overwritten
from streamer.store.ledger.paths import session_at

_BUSY_SECONDS = 0.25
"""Busy timeout of one read during a commit of the producer; a later read retries."""

FIRST_ROW = 1
"""The smallest id of a row."""

_FINGERPRINT_BYTES = 16
_NO_FILE = (-1, -1, 0, 0, 0)
"""A file state that no file has, so that no shard is taken for a renamed session."""


class ToRead(NamedTuple):
    """A session to read, and the creation time of its newest outcome in microseconds since 1970."""

    cursor: Cursor
    newest_us: int


class SessionRead(NamedTuple):
    """Decisions of one session and the cursor after them; ``more`` says that the budget ended the read."""

    cursor: Cursor
    decisions: Sequence[Decision] = ()
    more: bool = False


class RolloutReader:
    """Reads sessions of one trace database.

    Args:
        database: A path or a URL, as configured.
        max_characters: Maximum length of a decision.
        pages: Creates the page reader of an open database.
        token: The token to show to a server.
    """

    def __init__(
        self,
        database: str,
        max_characters: int,
        pages: Callable[[sqlite3.Connection, Path], FilePages] = FilePages,
        *,
        token: Secret = NO_SECRET,
    ) -> None:
        self._database = database
        self._token = token
        self._max_characters = max_characters
        self._pages = pages
        self._remote: RemotePages | None = None

    def times(self) -> object:
        """Return the file times, which change with the database; None for a server."""
        place = self._place()
        return file_times(place) if isinstance(place, Path) else None

    def close(self) -> None:
        """Close the connection to the server, if there is one."""
        if self._remote is not None:
            self._remote.close()
            self._remote = None

    def read(self, todo: Sequence[ToRead], join: JoinRule, budget: Budget) -> list[SessionRead | Overwritten]:
        """Read sessions in order until the budget is spent; the last ones may be left out.

        Raises:
            UnavailableError: The database cannot be read now.
        """
        results: list[SessionRead | Overwritten] = []
        with self._opened() as conversations:
            for one in todo:
                results.append(_Session(conversations, one.cursor).read_on(one.newest_us, join, budget))
                if budget.spent:
                    break
        return results

    def read_spans(
        self, spans: Sequence[tuple[Span, Cursor]], budget: Budget
    ) -> list[tuple[Span, list[Decision] | Overwritten]]:
        """Read the decisions of spans again, in order, within the budget.

        Raises:
            UnavailableError: The database cannot be read now.
        """
        results: list[tuple[Span, list[Decision] | Overwritten]] = []
        with self._opened() as conversations:
            for span, cursor in spans:
                results.append((span, _Session(conversations, cursor).read_span(span, budget)))
                if budget.spent:
                    break
        return results

    def _place(self) -> Path | Server:
        return locate(self._database, self._token)  # each time, as sqld's file appears with its directory

    @contextmanager
    def _opened(self) -> Iterator[Conversations]:
        place = self._place()
        if isinstance(place, Server):
            self._remote = self._remote or RemotePages(place)
            yield Conversations(self._remote, self._max_characters)
        else:
            with open_for_batch(place, _BUSY_SECONDS) as db:
                yield Conversations(self._pages(db, place), self._max_characters)


class _Session:
    """Reads one session of an open database from its cursor on."""

    def __init__(self, conversations: Conversations, cursor: Cursor) -> None:
        self._conversations = conversations
        self._cursor = cursor
        self._id = session_at(cursor.path)
        self._known_metadata: dict[str, Any] | None = None

    def read_on(self, newest_us: int, join: JoinRule, budget: Budget) -> SessionRead | Overwritten:
        cursor = self._cursor
        if not self._is_same():
            return Overwritten(cursor)
        taken: list[Decision] = []
        held: Decision | None = None
        for decision in self._unread():
            if held is not None:
                taken.append(held)
                if _spend(budget, held):
                    return self._after(taken, more=True)
            held = decision
        if held is not None and not _may_continue(held, newest_us, join):
            taken.append(held)
            _spend(budget, held)
        return self._after(taken, more=False)

    def read_span(self, span: Span, budget: Budget) -> list[Decision] | Overwritten:
        if not self._is_same():
            return Overwritten(self._cursor)
        found: list[Decision] = []
        for decision in self._decisions(span.start, span.stop):
            found.append(decision)
            if _spend(budget, decision):
                break
        is_whole = len(found) == span.lines and found[-1].last + 1 == span.stop
        # Fewer decisions than before, though the budget is left: rows were deleted, or form one decision now.
        return found if is_whole or (found and len(found) < span.lines and budget.spent) else Overwritten(self._cursor)

    def _unread(self) -> Iterator[Decision]:
        offset, read = self._cursor.offset, False
        for decision in self._decisions(max(FIRST_ROW, offset), None):
            read = True
            yield decision
        if not read and not offset:
            yield from self._completion()

    def _decisions(self, start: int, stop: int | None) -> Iterator[Decision]:
        if start < FIRST_ROW:
            yield from self._completion()
            start = FIRST_ROW
        if stop is None or start < stop:
            before = {} if stop is None else {"before": stop}
            yield from self._conversations.decisions(self._id, self._metadata.get("model"), start - 1, **before)

    def _completion(self) -> Iterator[Decision]:
        """Yield the completion in the metadata of a session without messages, if there is one."""
        if not (self._metadata.get("prompt") or self._metadata.get("completion")):
            return
        found: SourceRecord | MalformedError
        try:
            found = from_completion(self._id, self._metadata)
        except MalformedError as error:
            found = error
        yield Decision(self._id, None, 0, 0, found)

    @property
    def _metadata(self) -> dict[str, Any]:
        if self._known_metadata is None:
            self._known_metadata = self._conversations.metadata(self._id)
        return self._known_metadata

    def _is_same(self) -> bool:
        """Return whether the database still holds the last row that was read; otherwise it was replaced."""
        cursor = self._cursor
        return not cursor.offset or self._row_fingerprint(cursor.offset - 1) == cursor.fingerprint

    def _row_fingerprint(self, last: int) -> bytes | None:
        if last >= FIRST_ROW:
            return self._conversations.row_fingerprint(last)
        values = [self._metadata.get(key) for key in ("prompt", "completion")]
        return blake3(msgspec.json.encode(values)).digest(_FINGERPRINT_BYTES)

    def _after(self, taken: list[Decision], *, more: bool) -> SessionRead:
        if not taken:
            return SessionRead(self._cursor)
        cursor, offset = self._cursor, taken[-1].last + 1
        after = msgspec.structs.replace(
            cursor,
            offset=offset,
            scanned=offset,
            lines=cursor.lines + len(taken),
            fingerprint=self._row_fingerprint(offset - 1) or b"",
            stat=_NO_FILE,
        )
        return SessionRead(after, taken, more)


def _spend(budget: Budget, decision: Decision) -> bool:
    budget.lines -= 1
    if isinstance(decision.found, SourceRecord):
        budget.size -= len(decision.found.conversation.encoded)
    return budget.spent


def _may_continue(decision: Decision, newest_us: int, join: JoinRule) -> bool:
    """Return whether the last decision of a session may belong to an unfinished rollout.

    Join rules other than as-of do not rely on times: for them, a reply ends the rollout.
    """
    if decision.time_us is None or decision.time_us <= newest_us:
        return False
    replied = isinstance(decision.found, SourceRecord) or decision.found.reason != "reply_missing"
    return join is JoinRule.AS_OF or not replied
