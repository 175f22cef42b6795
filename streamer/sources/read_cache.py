"""What was read of the shard folder a moment ago, kept for the next dataset that wants the very same.

Datasets of one daemon take turns. Those that are equally far want the same bytes of the same shards: the first one
reads and parses them, the others find them here. One that is elsewhere (it was added later, or waited for its disk)
finds nothing, and reads for itself. Nothing is kept for longer than one round of turns, so whoever takes something here
might as well have read it itself a moment ago.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from streamer.core.records.model import Cursor, Line, Span
from streamer.core.verdicts.judge import Item
from streamer.sources.reader import Budget
from streamer.sources.shards import FoundShard, ShardFolder

_ROOM = 8 << 20
"""Bytes of lines that are kept: about one batch. What is read last may overdraw it, as a line may overdraw a batch."""

_LISTED = 10_000
"""Shards of a listing that is kept, at most. A larger folder is listed for each dataset."""


class CachedLines(NamedTuple):
    """Lines that were read, and the items that were made of them.

    ``cursor`` is the one after new lines, ``more`` whether the budget ended the read; of a span there is neither.
    """

    lines: list[Line]
    items: Sequence[Item]
    cursor: Cursor | None = None
    more: bool = False


class ReadCache:
    """The reads of one round of turns, by what was asked."""

    def __init__(self) -> None:
        self._kept: dict[object, CachedLines] = {}
        self._size = 0
        self._listing: Sequence[FoundShard] | None = None

    def clear(self) -> None:
        """Forget all, at the end of a round."""
        self._kept.clear()
        self._size = 0
        self._listing = None

    def find(self, asked: object, budget: Budget) -> CachedLines | None:
        """Return what was read when the same was asked, at the expense of the budget, or None."""
        kept = self._kept.get(asked)
        if kept is not None:
            for line in kept.lines:
                budget.spend(line)
        return kept

    def keep(self, asked: object, kept: CachedLines) -> None:
        """Keep what was read, if there is room."""
        if self._size < _ROOM:
            self._size += sum(len(line.data or line.head) for line in kept.lines)
            self._kept[asked] = kept

    def listed(self, folder: ShardFolder) -> Iterator[FoundShard]:
        """Yield every shard of the folder, as it is now or was when another dataset looked in this round.

        Raises:
            OSError: the folder cannot be listed.
        """
        if self._listing is not None:
            yield from self._listing
            return
        listing: list[FoundShard] = []
        for found in folder.scan():
            if len(listing) <= _LISTED:
                listing.append(found)
            yield found
        if len(listing) <= _LISTED:
            self._listing = listing


def of_read(cursor: Cursor, budget: Budget) -> object:
    """Return what a read from a cursor depends on: all of it but the ledger's own number, and the budget."""
    return msgspec.structs.replace(cursor, id=0), budget.lines, budget.size


def of_span(cursor: Cursor, span: Span, budget: Budget) -> object:
    """Return what reading a span again depends on."""
    return of_read(cursor, budget), span.start, span.stop, span.line


def items_for(items: Sequence[Item], shard_id: int, since: float) -> list[Item]:
    """Return items for another ledger: with its number of the shard, and its time of first reading."""
    return [Item(item.line, shard_id, since, item.content) for item in items]
