"""Read the new lines of changed shards, and lines pending re-evaluation, batch by batch."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import islice
from typing import NamedTuple, Protocol

import msgspec
from anyio import to_thread

from streamer.base.env import Env
from streamer.base.errors import UnavailableError
from streamer.base.events import ShardMoved, ShardOverwritten, ShardUnreadable
from streamer.core.records.model import Cursor, Line, Span, State
from streamer.core.verdicts.judge import Item, parse
from streamer.core.verdicts.reasons import UNREADABLE
from streamer.sources.read_cache import CachedLines, ReadCache, items_for, of_read, of_span
from streamer.sources.reader import Budget, Overwritten, ShardRead, ShardReader, Unreadable
from streamer.sources.shards import FoundShard, ShardFolder
from streamer.store.ledger.ledger import Ledger, mark

_CHUNK = 200
"""Shards looked up in the ledger together."""

_MAX_HELD = 10_000
"""Changed shards held in memory; after these are read, the folder is listed again for the next ones."""

_PROGRESS_STEP = 1000
"""Shards between two progress signals of a scan: a large folder on a slow file system takes minutes."""

_RECHECKED = 16
"""Shards that are compared once more before the pipeline checks for new changes."""

_MAX_REPORTED = 1000
"""Unreadable shards whose report is remembered, so that it is not repeated."""


class Work(NamedTuple):
    """One batch of lines to judge, and the changes that the ledger makes with their verdicts.

    These lines replace the spans ``taken``. Spans ``kept`` return to the ledger unjudged, as their shard cannot be
    read; so do spans ``blocked``, but they are re-evaluated once it can. ``pending`` holds the remainders of spans
    that exceeded the budget. ``also`` writes more in the batch's transaction, and ``done`` is called after its commit.
    """

    items: Sequence[Item]
    cursors: Sequence[Cursor] = ()
    taken: Sequence[Span] = ()
    kept: Sequence[Span] = ()
    pending: Sequence[Span] = ()
    blocked: Sequence[Span] = ()
    also: Callable[[sqlite3.Connection], None] | None = None
    done: Callable[[], Awaitable[None]] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether the batch changes nothing: the shards that were checked had no new lines."""
        return not (self.items or self.cursors or self.taken or self.also)


class Inbox(Protocol):
    """A source of new lines and of lines pending re-evaluation."""

    @property
    def error(self) -> UnavailableError | None:
        """The error that keeps lines from being read now."""

    @property
    def is_at_rest(self) -> bool:
        """Whether, after a check that found nothing, no further lines are expected."""

    def look(self, paths: Iterable[str]) -> None:
        """Check single places that a notification named."""

    async def scan(self) -> None:
        """Check everything."""

    async def run(self) -> None:
        """Do background work beside the pipeline until cancelled; may return earlier."""

    async def pending(self, spans: Sequence[tuple[Span, Cursor]], budget: Budget) -> Work:
        """Read the lines of spans pending re-evaluation."""

    async def new(self, budget: Budget) -> Work | None:
        """Read lines that were not read before; None when there are none."""


class _ToRead(NamedTuple):
    """A cursor to read from, and the ledger's cursor of the shard: at another path, or None."""

    known: Cursor | None
    cursor: Cursor


_SpanResult = tuple[Span, list[Line] | Overwritten | Unreadable, list[Item]]
_Result = tuple[_ToRead, ShardRead | Overwritten | Unreadable, list[Item]]


class ShardInbox:
    """Reads each line of all shards of one folder once, by the cursors of the ledger."""

    error: UnavailableError | None = None
    is_at_rest = True

    def __init__(
        self,
        folder: ShardFolder,
        reader: ShardReader,
        ledger: Ledger,
        max_line: int,
        env: Env,
        read_cache: ReadCache | None = None,
    ) -> None:
        self._folder = folder
        self._reader = reader
        self._ledger = ledger
        self._max_line = max_line
        self._clock = env.clock
        self._emit = env.emit
        self._failpoint = env.failpoint
        self._read_cache = read_cache
        self._changed: dict[str, FoundShard] = {}
        # Read while they could still change unnoticed: compared once more when nothing else is pending.
        self._recheck: dict[str, FoundShard] = {}
        self._unsettled: set[int] = set()
        self._resume: list[str] | None = None
        self._settled_loaded = False
        # Hashes, not names: an unchanged shard costs a few bytes.
        self._settled: set[int] = set()
        self._reported: dict[str, str] = {}

    @property
    def has_news(self) -> bool:
        """Whether some shards may hold unread bytes."""
        return bool(self._changed or self._recheck) or self._resume is not None

    async def scan(self) -> None:
        """List the folder, and hold the first changed shards.

        Raises:
            UnavailableError: The folder does not exist now.
        """
        self._resume = None
        if not self._settled_loaded:
            self._settled = await self._ledger.settled_shards()
            self._settled_loaded = True
        await self._list_folder()

    async def _list_folder(self) -> None:
        self._changed.clear()
        self._recheck.clear()
        try:
            self._resume = await to_thread.run_sync(self._list, self._resume)
        except OSError as error:
            raise UnavailableError(
                "list the shard folder",
                str(self._folder.root),
                error.strerror or str(error),
                "it is waited for; if it should be there: --shards DIR, or SFT_OUTPUT_DIR",
            ) from error

    def _list(self, after: list[str] | None) -> list[str] | None:
        """Hold changed shards after the path ``after``, and return the path to continue from."""
        changed: dict[str, FoundShard] = {}
        recheck: dict[str, FoundShard] = {}
        settled: set[int] = set()
        last = None
        more = False
        shards = self._read_cache.listed(self._folder) if self._read_cache else self._folder.scan()
        for number, found in enumerate(shards):
            if number % _PROGRESS_STEP == 0:
                self._failpoint("listing")
            state_mark = mark(found.path, found.stat)
            if state_mark in self._settled:
                settled.add(state_mark)
            elif after is None or found.path.split("/") > after:
                more = len(changed) + len(recheck) >= _MAX_HELD
                if not more:
                    (recheck if state_mark in self._unsettled else changed)[found.path] = found
                    last = found.path
        self._changed, self._recheck, self._settled = changed, recheck, settled
        if not more or last is None:
            self._unsettled.clear()
            return None
        return last.split("/")

    async def run(self) -> None:
        """Do nothing: the pipeline polls this inbox."""

    def look(self, paths: Iterable[str]) -> None:
        """Check single shards that a notification named, by path below the folder."""
        for path in paths:
            found = self._folder.find(path)
            if found is not None and mark(found.path, found.stat) not in self._settled:
                self._changed[path] = found

    async def pending(self, spans: Sequence[tuple[Span, Cursor]], budget: Budget) -> Work:
        """Read the lines of spans pending re-evaluation."""
        results = await to_thread.run_sync(self._read_spans, spans, budget)
        gone = {result.cursor.id: result.cursor for _, result, _ in results if isinstance(result, Overwritten)}
        by_shard = {cursor.id: cursor for _, cursor in spans}
        for span, result, _ in results:
            if isinstance(result, Unreadable):
                # Even if the shard is unchanged, the next scan that finds it must read it again.
                cursor = by_shard[span.shard_id]
                self._settled.discard(mark(cursor.path, cursor.stat))
        for cursor in gone.values():
            await self._overwritten(cursor)
        return self._pending_work([one for one in results if one[0].shard_id not in gone])

    def _read_spans(self, spans: Sequence[tuple[Span, Cursor]], budget: Budget) -> list[_SpanResult]:
        results: list[_SpanResult] = []
        for span, cursor in spans:
            results.append((span, *self._read_span(cursor, span, budget)))
            if budget.spent:
                break
        return results

    def _read_span(
        self, cursor: Cursor, span: Span, budget: Budget
    ) -> tuple[list[Line] | Overwritten | Unreadable, list[Item]]:
        """Read and parse a span, or take the result of another dataset from the read cache."""
        read_cache = self._read_cache
        if read_cache and (cached := read_cache.find(key := of_span(cursor, span, budget), budget)):
            return cached.lines, items_for(cached.items, span.shard_id, span.since)
        result = self._reader.read_span(cursor, span, budget)
        if not isinstance(result, list):
            return result, []
        items = self._items(result, span.shard_id, span.since)
        if read_cache:
            read_cache.keep(key, CachedLines(result, items))
        return result, items

    def _pending_work(self, results: Sequence[_SpanResult]) -> Work:
        items: list[Item] = []
        kept: list[Span] = []
        pending: list[Span] = []
        blocked: list[Span] = []
        for span, result, its_items in results:
            if isinstance(result, list):
                items += its_items
                pending += rest_of(span, result)
            elif span.state is State.DEAD_LETTERED:  # it keeps its reason, and is not reported yet
                blocked.append(span)
            else:
                kept.append(msgspec.structs.replace(span, reason=UNREADABLE))
        return Work(items, (), [span for span, _, _ in results], kept, pending, blocked)

    async def new(self, budget: Budget) -> Work | None:
        """Read new lines of some changed shards; None when no shard has changed.

        Each call reads at least one line, or removes at least one shard from the inbox.
        """
        if not self._changed and not self._recheck and self._resume is not None:
            await self._list_folder()
        for path in list(islice(self._recheck, 0 if self._changed else _RECHECKED)):
            self._changed[path] = self._recheck.pop(path)
        if not self._changed:
            return None
        todo = await self._cursors_for(self._next_shards(budget))
        if not todo:
            return Work(())
        return await self._new_work(await to_thread.run_sync(self._read, todo, budget))

    def _next_shards(self, budget: Budget) -> list[FoundShard]:
        """Return some changed shards, about as many as fill one batch."""
        chunk: list[FoundShard] = []
        size = 0
        for found in islice(self._changed.values(), _CHUNK):
            chunk.append(found)
            size += found.stat[2]
            if size >= budget.size:
                break
        return chunk

    async def _cursors_for(self, chunk: Sequence[FoundShard]) -> list[_ToRead]:
        """Return the cursors to read from; unchanged shards leave the inbox."""
        known, elsewhere = await self._ledger.cursors({found.path: found.stat[1] for found in chunk})
        if elsewhere:
            unknown = [found for found in chunk if found.path not in known]
            known |= await to_thread.run_sync(self._renamed, unknown, elsewhere)
        await self._ledger.unblock([cursor.id for cursor in known.values()])
        todo: list[_ToRead] = []
        for found in chunk:
            cursor = known.get(found.path)
            if cursor is None:
                todo.append(_ToRead(None, Cursor(found.path, id=self._ledger.new_shard_id())))
            elif cursor.stat == found.stat and cursor.path == found.path:
                self._finish(found.path, found.stat)
            else:
                todo.append(_ToRead(cursor, msgspec.structs.replace(cursor, path=found.path)))
        return todo

    def _renamed(self, unknown: Sequence[FoundShard], elsewhere: Sequence[Cursor]) -> dict[str, Cursor]:
        """Recognise renamed shards, so that their lines are not read again."""
        by_inode = {cursor.stat[:2]: cursor for cursor in elsewhere}
        renamed: dict[str, Cursor] = {}
        for found in unknown:
            cursor = by_inode.pop(found.stat[:2], None)
            if cursor is not None and self._is_renamed(cursor, found):
                renamed[found.path] = cursor
        return renamed

    def _is_renamed(self, cursor: Cursor, found: FoundShard) -> bool:
        return self._folder.find(cursor.path) is None and self._reader.recognises(cursor, found.path)

    def _read(self, todo: Sequence[_ToRead], budget: Budget) -> list[_Result]:
        since = self._clock.now()
        results: list[_Result] = []
        for one in todo:
            result, items = self._read_shard(one.cursor, since, budget)
            results.append((one, result, items))
            if isinstance(result, ShardRead) and result.more:
                break
        return results

    def _read_shard(
        self, cursor: Cursor, since: float, budget: Budget
    ) -> tuple[ShardRead | Overwritten | Unreadable, list[Item]]:
        """Read and parse lines after a cursor, or take the result of another dataset from the read cache."""
        read_cache = self._read_cache
        if (
            read_cache
            and (cached := read_cache.find(key := of_read(cursor, budget), budget))
            and cached.cursor is not None
        ):
            read = ShardRead(msgspec.structs.replace(cached.cursor, id=cursor.id), cached.lines, cached.more)
            return read, items_for(cached.items, cursor.id, since)
        result = self._reader.read(cursor, budget)
        if not isinstance(result, ShardRead):
            return result, []
        items = self._items(result.lines, cursor.id, since)
        if read_cache:
            read_cache.keep(key, CachedLines(result.lines, items, result.cursor, more=result.more))
        return result, items

    async def _new_work(self, results: Sequence[_Result]) -> Work:
        cursors: list[Cursor] = []
        items: list[Item] = []
        for one, result, found in results:
            if isinstance(result, Overwritten):
                await self._overwritten(one.cursor)
            elif isinstance(result, Unreadable):
                self._unreadable(result)
            else:
                if not result.more:
                    self._finish(one.cursor.path, result.cursor.stat)
                if result.cursor != one.known:
                    cursors.append(result.cursor)
                if one.known is not None and one.known.path != one.cursor.path:
                    self._emit(ShardMoved(one.cursor.path, one.known.path))
                items += found
        return Work(items, cursors)

    def _items(self, lines: Iterable[Line], shard_id: int, since: float) -> list[Item]:
        parsed = (parse(line, shard_id, since, self._max_line) for line in lines)
        return [item for item in parsed if item is not None]

    def _finish(self, path: str, stat: tuple[int, int, int, int, int]) -> None:
        """Remove a shard from the inbox; a settled one until its state changes."""
        found = self._changed.pop(path, None)
        self._reported.pop(path, None)
        if stat[4]:  # else it may still change unnoticed
            self._settled.add(mark(path, stat))
        elif found is not None:
            self._unsettled.add(mark(path, found.stat))

    async def _overwritten(self, cursor: Cursor) -> None:
        lost = await self._ledger.overwritten(cursor.id)
        self._emit(ShardOverwritten(cursor.path, lost))
        self.look([cursor.path])

    def _unreadable(self, result: Unreadable) -> None:
        self._changed.pop(result.path, None)
        if result.gone or self._reported.get(result.path) == result.cause:
            return
        if len(self._reported) < _MAX_REPORTED:
            self._reported[result.path] = result.cause
        self._emit(ShardUnreadable(result.path, result.cause))


def rest_of(span: Span, lines: Sequence[Line]) -> list[Span]:
    """Return the part of a span that exceeded the budget."""
    if len(lines) == span.lines:
        return []
    start, line = (lines[-1].stop, lines[-1].number + 1) if lines else (span.start, span.line)
    return [msgspec.structs.replace(span, start=start, line=line, lines=span.lines - len(lines))]
