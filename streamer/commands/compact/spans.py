"""Replaces the spans of shard lines whose records are removed.

The ledger knows spans, not lines (ADR 0005). If all lines of a session or of one of its rollouts are removed, only the
verdict of its spans changes. If some are removed, the shard is read to find them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial

import msgspec

from streamer.commands.compact import tombstones
from streamer.commands.compact.tombstones import Removal
from streamer.core.records.arrived import ArrivedRecord
from streamer.core.records.key import DedupBy, record_key
from streamer.core.records.layouts import Envelope, MalformedError, record_of
from streamer.core.records.model import Cursor, Span, State, Verdict
from streamer.core.verdicts.judge import Item, spans_of
from streamer.sources.inbox import Inbox
from streamer.sources.null import NoRollouts
from streamer.sources.reader import Budget
from streamer.sources.rollouts import RolloutInbox
from streamer.store.ledger.ledger import Ledger
from streamer.store.ledger.paths import is_session

_READ_BYTES = 8 << 20
"""Bytes of a shard in memory at once."""


class _Change(msgspec.Struct, frozen=True):
    """The old spans (``taken``) and the new ones, with the same number of lines."""

    taken: Sequence[Span] = ()
    spans: Sequence[Span] = ()


class Spans:
    """Computes the change of spans for one session after the other."""

    def __init__(self, ledger: Ledger, shards: Inbox, rollouts: RolloutInbox | NoRollouts, by: DedupBy) -> None:
        self._ledger = ledger
        self._shards = shards
        self._rollouts = rollouts
        self._by = by

    async def change(self, session: str) -> _Change | None:
        """Return the change of spans for a session that loses lines; None if it cannot be computed now."""
        removals = await self._ledger.look(partial(tombstones.removals, session=session))
        if not removals:
            return _Change()  # none of them was counted yet: they were adopted after a crash
        spans = await self._ledger.appended(session)
        return _whole([span for span, _ in spans], removals) or await self._split(session, spans, removals)

    async def _split(
        self, session: str, spans: Sequence[tuple[Span, Cursor | None]], removals: Sequence[Removal]
    ) -> _Change | None:
        put: list[Span] = []
        lost = 0
        for span, cursor in spans:
            if cursor is None:
                return None
            there = 0
            async for items in self._items(span, cursor):
                keys = [_key(item, self._by) for item in items]
                verdicts = await self._ledger.look(partial(_verdicts, session=session, keys=keys))
                stays = Verdict(State.ACCEPTED, "", span.outcome)
                put += spans_of([(item, verdicts.get(key, stays)) for item, key in zip(items, keys, strict=True)])
                there += len(items)
                lost += sum(key in verdicts for key in keys)
            if there != span.lines:
                return None
        if lost != sum(one.lines for one in removals):
            return None
        return _Change([span for span, _ in spans], put)

    async def _items(self, span: Span, cursor: Cursor) -> AsyncIterator[Sequence[Item]]:
        """Yield the lines of a span in batches; fewer than the span has if some cannot be read now."""
        inbox = self._rollouts if is_session(cursor.path) else self._shards
        rest: Sequence[Span] = [span]
        while rest:
            work = await inbox.pending([(rest[0], cursor)], Budget(rest[0].lines, _READ_BYTES))
            if work is None or not work.items:
                return
            yield work.items
            rest = work.pending


def _whole(spans: Sequence[Span], removals: Sequence[Removal]) -> _Change | None:
    """Return the change if each span loses all of its lines or none; None if a span loses some. Pure.

    Args:
        spans: All accepted spans of one session.
        removals: The lines that the session loses.
    """
    if len(removals) == 1 and removals[0].lines == sum(span.lines for span in spans):
        return _Change(spans, [_judged(span, removals[0].verdict) for span in spans])
    taken: list[Span] = []
    put: list[Span] = []
    for one in removals:
        theirs = [span for span in spans if span.outcome == one.verdict.outcome]
        if one.lines != sum(span.lines for span in theirs):
            return None
        taken += theirs
        put += [_judged(span, one.verdict) for span in theirs]
    return _Change(taken, put)


def _judged(span: Span, verdict: Verdict) -> Span:
    return msgspec.structs.replace(
        span, state=verdict.state, reason=verdict.reason, outcome=verdict.outcome, rule=verdict.rule
    )


def _key(item: Item, by: DedupBy) -> bytes:
    """Return the key of a line that is in the dataset; empty if it no longer holds a record."""
    line = item.content
    if isinstance(line, MalformedError):
        return b""
    if isinstance(line, ArrivedRecord):
        return line.key
    try:
        record = record_of(line) if isinstance(line, Envelope) else line.record()
    except MalformedError:
        return b""
    return record_key(record.conversation, by, (record.session, record.turn, record.timestamp))


def _verdicts(db: sqlite3.Connection, session: str, keys: Sequence[bytes]) -> Mapping[bytes, Verdict]:
    found = ((key, tombstones.verdict(db, session, key)) for key in keys)
    return {key: verdict for key, verdict in found if verdict is not None}
