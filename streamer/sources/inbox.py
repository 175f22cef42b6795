"""Which shards have news, and their lines, batch by batch; lines that are due again come first."""

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
"""Shards looked up in the ledger at once."""

_HELD = 10_000
"""Shards with news that are held at once; when they are read, the folder is looked at again for the next ones."""

_LISTED = 1000
"""Shards after which a scan tells that it gets on: a large folder on a slow file system takes minutes."""

_FEW = 16
"""Shards that are compared once more before there is a look whether something new has come."""

_REMEMBERED = 1000
"""Unreadable shards of which we remember that it was said."""


class Work(NamedTuple):
    """One batch of lines on their way in, and what the ledger has to change when they are judged.

    ``taken`` are spans that these lines replace; ``kept`` go back into the ledger unjudged (their shard
    cannot be read), ``parked`` too, but they are due when it can; ``due`` are rests of spans that did not fit.
    ``also`` writes more in the transaction of the batch, and ``done`` is called when that has happened.
    """

    items: Sequence[Item]
    cursors: Sequence[Cursor] = ()
    taken: Sequence[Span] = ()
    kept: Sequence[Span] = ()
    due: Sequence[Span] = ()
    parked: Sequence[Span] = ()
    also: Callable[[sqlite3.Connection], None] | None = None
    done: Callable[[], Awaitable[None]] | None = None

    @property
    def is_empty(self) -> bool:
        """Say whether nothing came of it: shards that were looked at held no news."""
        return not (self.items or self.cursors or self.taken or self.also)


class Inbox(Protocol):
    """Lines that were not read before, and those that have to be judged again."""

    @property
    def error(self) -> UnavailableError | None:
        """Why nothing can come now."""

    @property
    def is_at_rest(self) -> bool:
        """Say, after a look that found nothing, whether nothing is known that is still to come."""

    def look(self, paths: Iterable[str]) -> None:
        """Look at single places that a notification named."""

    async def scan(self) -> None:
        """Look at everything."""

    async def run(self) -> None:
        """Do what has to be done beside the pipeline, until cancelled; it may return, too."""

    async def due(self, spans: Sequence[tuple[Span, Cursor]], budget: Budget) -> Work:
        """Return the lines of spans that have to be judged again."""

    async def new(self, budget: Budget) -> Work | None:
        """Return lines that were not read before; None when there are none."""


class _ToRead(NamedTuple):
    """A cursor from which to read, and what the ledger knows of the shard (another path, or nothing)."""

    known: Cursor | None
    cursor: Cursor


_SpanResult = tuple[Span, list[Line] | Overwritten | Unreadable, list[Item]]
_Result = tuple[_ToRead, ShardRead | Overwritten | Unreadable, list[Item]]


class ShardInbox:
    """Lines of all shards of one folder, each once, as far as the ledger's cursors say."""

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
        self._fresh: dict[str, FoundShard] = {}
        # Read while they could change once more without a trace: compared once more, when nothing else is to do.
        self._again: dict[str, FoundShard] = {}
        self._unsettled: set[int] = set()
        self._resume: list[str] | None = None
        self._recalled = False
        # Hashes, not names: what is known and unchanged costs a few bytes a shard.
        self._settled: set[int] = set()
        self._said: dict[str, str] = {}

    @property
    def has_news(self) -> bool:
        """Say whether shards are known to hold bytes that were not read."""
        return bool(self._fresh or self._again) or self._resume is not None

    async def scan(self) -> None:
        """Look at every shard in the folder; hold the first ones that have news.

        Raises:
            UnavailableError: the folder is not there now.
        """
        self._resume = None
        if not self._recalled:
            self._settled = await self._ledger.settled()
            self._recalled = True
        await self._look_around()

    async def _look_around(self) -> None:
        self._fresh.clear()
        self._again.clear()
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
        """Take shards with news behind the place ``after``, and return the place to go on from."""
        fresh: dict[str, FoundShard] = {}
        again: dict[str, FoundShard] = {}
        settled: set[int] = set()
        last = None
        more = False
        for number, found in enumerate(
            self._read_cache.listed(self._folder) if self._read_cache else self._folder.scan()
        ):
            if number % _LISTED == 0:
                self._failpoint("listing")
            its_mark = mark(found.path, found.stat)
            if its_mark in self._settled:
                settled.add(its_mark)
            elif after is None or found.path.split("/") > after:
                more = len(fresh) + len(again) >= _HELD
                if not more:
                    (again if its_mark in self._unsettled else fresh)[found.path] = found
                    last = found.path
        self._fresh, self._again, self._settled = fresh, again, settled
        if not more or last is None:
            self._unsettled.clear()
            return None
        return last.split("/")

    async def run(self) -> None:
        """Do nothing beside the pipeline: it comes and looks."""

    def look(self, paths: Iterable[str]) -> None:
        """Look at single shards that a notification named, by path below the folder."""
        for path in paths:
            found = self._folder.find(path)
            if found is not None and mark(found.path, found.stat) not in self._settled:
                self._fresh[path] = found

    async def due(self, spans: Sequence[tuple[Span, Cursor]], budget: Budget) -> Work:
        """Return the lines of spans that have to be judged again."""
        results = await to_thread.run_sync(self._read_spans, spans, budget)
        gone = {span.shard_id for span, result, _ in results if isinstance(result, Overwritten)}
        by_shard = {cursor.id: cursor for _, cursor in spans}
        for span, result, _ in results:
            if isinstance(result, Unreadable):
                # Unchanged or not, the next scan that finds the shard has to look at it again.
                cursor = by_shard[span.shard_id]
                self._settled.discard(mark(cursor.path, cursor.stat))
        for cursor in {
            result.cursor.id: result.cursor for _, result, _ in results if isinstance(result, Overwritten)
        }.values():
            await self._overwritten(cursor)
        return self._due_work([one for one in results if one[0].shard_id not in gone])

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
        """Read a span, or take what another dataset has just read of it; make items of its lines."""
        read_cache = self._read_cache
        if read_cache and (kept := read_cache.find(asked := of_span(cursor, span, budget), budget)):
            return kept.lines, items_for(kept.items, span.shard_id, span.since)
        result = self._reader.read_span(cursor, span, budget)
        if not isinstance(result, list):
            return result, []
        items = self._items(result, span.shard_id, span.since)
        if read_cache:
            read_cache.keep(asked, CachedLines(result, items))
        return result, items

    def _due_work(self, results: Sequence[_SpanResult]) -> Work:
        items: list[Item] = []
        kept: list[Span] = []
        due: list[Span] = []
        parked: list[Span] = []
        for span, result, its_items in results:
            if isinstance(result, list):
                items += its_items
                due += rest_of(span, result)
            elif span.state is State.DEAD_LETTERED:  # it keeps its reason, and has still to be told of
                parked.append(span)
            else:
                kept.append(msgspec.structs.replace(span, reason=UNREADABLE))
        return Work(items, (), [span for span, _, _ in results], kept, due, parked)

    async def new(self, budget: Budget) -> Work | None:
        """Return lines that were not read before, of some shards with news; None when there are no such shards.

        Each call takes at least one line, or takes at least one shard out of the inbox.
        """
        if not self._fresh and not self._again and self._resume is not None:
            await self._look_around()
        for path in list(islice(self._again, 0 if self._fresh else _FEW)):
            self._fresh[path] = self._again.pop(path)
        if not self._fresh:
            return None
        todo = await self._look_up(self._next_shards(budget))
        if not todo:
            return Work(())
        return await self._new_work(await to_thread.run_sync(self._read, todo, budget))

    def _next_shards(self, budget: Budget) -> list[FoundShard]:
        """Return some shards with news, about as many as one batch can take."""
        chunk: list[FoundShard] = []
        size = 0
        for found in islice(self._fresh.values(), _CHUNK):
            chunk.append(found)
            size += found.stat[2]
            if size >= budget.size:
                break
        return chunk

    async def _look_up(self, chunk: Sequence[FoundShard]) -> list[_ToRead]:
        """Return the cursors from which to read; shards without news leave the inbox."""
        known, elsewhere = await self._ledger.cursors({found.path: found.stat[1] for found in chunk})
        if elsewhere:
            strangers = [found for found in chunk if found.path not in known]
            known |= await to_thread.run_sync(self._moved, strangers, elsewhere)
        await self._ledger.revive([cursor.id for cursor in known.values()])
        todo: list[_ToRead] = []
        for found in chunk:
            cursor = known.get(found.path)
            if cursor is None:
                todo.append(_ToRead(None, Cursor(found.path, id=self._ledger.new_shard_id())))
            elif cursor.stat == found.stat and cursor.path == found.path:
                self._leave(found.path, found.stat)
            else:
                todo.append(_ToRead(cursor, msgspec.structs.replace(cursor, path=found.path)))
        return todo

    def _moved(self, strangers: Sequence[FoundShard], elsewhere: Sequence[Cursor]) -> dict[str, Cursor]:
        """Recognise shards that were renamed, so that their lines are not read a second time."""
        by_inode = {cursor.stat[:2]: cursor for cursor in elsewhere}
        moved: dict[str, Cursor] = {}
        for found in strangers:
            cursor = by_inode.pop(found.stat[:2], None)
            if cursor is not None and self._was_moved(cursor, found):
                moved[found.path] = cursor
        return moved

    def _was_moved(self, cursor: Cursor, found: FoundShard) -> bool:
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
        """Read on from a cursor, or take what another dataset has just read from there; make items of its lines."""
        read_cache = self._read_cache
        if (
            read_cache
            and (kept := read_cache.find(asked := of_read(cursor, budget), budget))
            and kept.cursor is not None
        ):
            read = ShardRead(msgspec.structs.replace(kept.cursor, id=cursor.id), kept.lines, kept.more)
            return read, items_for(kept.items, cursor.id, since)
        result = self._reader.read(cursor, budget)
        if not isinstance(result, ShardRead):
            return result, []
        items = self._items(result.lines, cursor.id, since)
        if read_cache:
            read_cache.keep(asked, CachedLines(result.lines, items, result.cursor, more=result.more))
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
                    self._leave(one.cursor.path, result.cursor.stat)
                if result.cursor != one.known:
                    cursors.append(result.cursor)
                if one.known is not None and one.known.path != one.cursor.path:
                    self._emit(ShardMoved(one.cursor.path, one.known.path))
                items += found
        return Work(items, cursors)

    def _items(self, lines: Iterable[Line], shard_id: int, since: float) -> list[Item]:
        parsed = (parse(line, shard_id, since, self._max_line) for line in lines)
        return [item for item in parsed if item is not None]

    def _leave(self, path: str, stat: tuple[int, int, int, int, int]) -> None:
        """Take a shard out of the inbox; if its state is settled, until that changes."""
        found = self._fresh.pop(path, None)
        self._said.pop(path, None)
        if stat[4]:  # else it may change once more without a trace
            self._settled.add(mark(path, stat))
        elif found is not None:
            self._unsettled.add(mark(path, found.stat))

    async def _overwritten(self, cursor: Cursor) -> None:
        lost = await self._ledger.overwritten(cursor.id)
        self._emit(ShardOverwritten(cursor.path, lost))
        self.look([cursor.path])

    def _unreadable(self, result: Unreadable) -> None:
        self._fresh.pop(result.path, None)
        if result.gone or self._said.get(result.path) == result.cause:
            return
        if len(self._said) < _REMEMBERED:
            self._said[result.path] = result.cause
        self._emit(ShardUnreadable(result.path, result.cause))


def rest_of(span: Span, lines: Sequence[Line]) -> list[Span]:
    """Return what of a span was not read for lack of budget."""
    if len(lines) == span.lines:
        return []
    start, line = (lines[-1].stop, lines[-1].number + 1) if lines else (span.start, span.line)
    return [msgspec.structs.replace(span, start=start, line=line, lines=span.lines - len(lines))]
