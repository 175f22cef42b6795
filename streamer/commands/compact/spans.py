"""What becomes of the lines of shards whose records are taken out: which spans take the place of which.

The ledger knows spans, not lines (ADR 0005). Where all lines of a session go, or all of one of its rollouts, its spans
change their verdict as they are. Where only some go, the shard is read to find which.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial

import msgspec

from streamer.commands.compact import doomed
from streamer.commands.compact.doomed import Gone
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
"""Bytes of a shard that are held at once."""


class _Change(msgspec.Struct, frozen=True):
    """Spans that go, and those in their place: as many lines as before."""

    taken: Sequence[Span] = ()
    spans: Sequence[Span] = ()


class Spans:
    """Works out the change of one session after the other."""

    def __init__(self, ledger: Ledger, shards: Inbox, rollouts: RolloutInbox | NoRollouts, by: DedupBy) -> None:
        self._ledger = ledger
        self._shards = shards
        self._rollouts = rollouts
        self._by = by

    async def change(self, session: str) -> _Change | None:
        """Return what becomes of a session that loses lines; None where that cannot be told now."""
        gone = await self._ledger.look(partial(doomed.gone, session=session))
        if not gone:
            return _Change()  # none of them was counted yet: they were adopted after a crash
        spans = await self._ledger.appended(session)
        return _whole([span for span, _ in spans], gone) or await self._split(session, spans, gone)

    async def _split(
        self, session: str, spans: Sequence[tuple[Span, Cursor | None]], gone: Sequence[Gone]
    ) -> _Change | None:
        put: list[Span] = []
        lost = 0
        for span, cursor in spans:
            if cursor is None:
                return None
            there = 0
            async for items in self._items(span, cursor):
                keys = _keys(items, self._by)
                verdicts = await self._ledger.look(partial(_verdicts, session=session, keys=keys))
                stays = Verdict(State.ACCEPTED, "", span.outcome)
                put += spans_of([(item, verdicts.get(key, stays)) for item, key in zip(items, keys, strict=True)])
                there += len(items)
                lost += sum(key in verdicts for key in keys)
            if there != span.lines:
                return None
        if lost != sum(one.lines for one in gone):
            return None
        return _Change([span for span, _ in spans], put)

    async def _items(self, span: Span, cursor: Cursor) -> AsyncIterator[Sequence[Item]]:
        """Yield the lines of a span, some at once; fewer than it has where they cannot be read now."""
        inbox = self._rollouts if is_session(cursor.path) else self._shards
        rest: Sequence[Span] = [span]
        while rest:
            work = await inbox.due([(rest[0], cursor)], Budget(rest[0].lines, _READ_BYTES))
            if work is None or not work.items:
                return
            yield work.items
            rest = work.due


def _whole(spans: Sequence[Span], gone: Sequence[Gone]) -> _Change | None:
    """Return the change of spans that lose all of their lines or none; None where they lose only some. Pure.

    Args:
        spans: all of one session that are in the dataset.
        gone: what the session loses.
    """
    if len(gone) == 1 and gone[0].lines == sum(span.lines for span in spans):
        return _Change(spans, [_judged(span, gone[0].verdict) for span in spans])
    taken: list[Span] = []
    put: list[Span] = []
    for one in gone:
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


def _keys(items: Sequence[Item], by: DedupBy) -> list[bytes]:
    """Return the keys of lines that are in the dataset; one that holds no record any more has none."""
    return [_key(item, by) for item in items]


def _key(item: Item, by: DedupBy) -> bytes:
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
    found = ((key, doomed.verdict(db, session, key)) for key in keys)
    return {key: verdict for key, verdict in found if verdict is not None}
