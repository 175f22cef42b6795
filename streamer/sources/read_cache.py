"""Read cache: recent reads of the shard folder, shared by the datasets of one daemon.

Datasets share one loop. Those with the same cursors need the same bytes of the same shards: the first one reads and
parses them, the others find them here. A dataset with other cursors (added later, or delayed by its disk) finds
nothing, and reads the shards itself. The cache lives for one round of the loop, so a hit equals a read of a moment ago.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from streamer.core.records.model import Cursor, Line, Span
from streamer.core.verdicts.judge import Item
from streamer.sources.reader import Budget
from streamer.sources.shards import FoundShard, ShardFolder

_MAX_BYTES = 8 << 20
"""Bytes of lines that are kept, about one batch; the last read may exceed it."""

_MAX_LISTED = 10_000
"""Maximum number of shards in a cached listing. A larger folder is listed for each dataset."""


class CachedLines(NamedTuple):
    """Lines that were read, and the items parsed from them.

    For new lines, ``cursor`` is the one after them, and ``more`` says whether the budget ended the read. A span has
    neither.
    """

    lines: list[Line]
    items: Sequence[Item]
    cursor: Cursor | None = None
    more: bool = False


class ReadCache:
    """The reads of one round of the loop, by key."""

    def __init__(self) -> None:
        self._reads: dict[object, CachedLines] = {}
        self._size = 0
        self._listing: Sequence[FoundShard] | None = None

    def clear(self) -> None:
        """Empty the cache, at the end of a round."""
        self._reads.clear()
        self._size = 0
        self._listing = None

    def find(self, key: object, budget: Budget) -> CachedLines | None:
        """Return the cached read of a key, charged to the budget; None if there is none."""
        cached = self._reads.get(key)
        if cached is not None:
            for line in cached.lines:
                budget.spend(line)
        return cached

    def keep(self, key: object, cached: CachedLines) -> None:
        """Cache a read if there is room."""
        if self._size < _MAX_BYTES:
            self._size += sum(len(line.data or line.head) for line in cached.lines)
            self._reads[key] = cached

    def listed(self, folder: ShardFolder) -> Iterator[FoundShard]:
        """Yield every shard of the folder, as listed now or earlier in this round.

        Raises:
            OSError: The folder cannot be listed.
        """
        if self._listing is not None:
            yield from self._listing
            return
        listing: list[FoundShard] = []
        for found in folder.scan():
            if len(listing) <= _MAX_LISTED:
                listing.append(found)
            yield found
        if len(listing) <= _MAX_LISTED:
            self._listing = listing


def of_read(cursor: Cursor, budget: Budget) -> object:
    """Return the cache key of a read: the cursor without the ledger's own shard id, and the budget."""
    return msgspec.structs.replace(cursor, id=0), budget.lines, budget.size


def of_span(cursor: Cursor, span: Span, budget: Budget) -> object:
    """Return the cache key of reading a span again."""
    return of_read(cursor, budget), span.start, span.stop, span.line


def items_for(items: Sequence[Item], shard_id: int, since: float) -> list[Item]:
    """Return items for another ledger: with its shard id, and its time of first reading."""
    return [Item(item.line, shard_id, since, item.content) for item in items]
