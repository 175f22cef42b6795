"""The ledger: what was read, what became of it, and how long the dataset is. One SQLite file.

Invariants
- One transaction per batch (``commit``) holds cursors, verdicts, keys and the dataset's length; there is
  no state between two batches.
- The dataset is written and synced before the ledger commits. A ledger that lags behind the dataset is
  therefore normal (a crash, a power loss: ``synchronous=NORMAL``) and healed by adoption.
- ``tally`` equals the sum over ``span`` at every commit, so that accounts are cheap at any size.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import aiosqlite
import anyio
import msgspec
from anyio import to_thread

from streamer.base.files import Files
from streamer.core.records.model import OPEN_STATES, Cursor, Outcome, Span, State
from streamer.core.verdicts.join import JoinRule
from streamer.core.verdicts.reasons import UNREADABLE
from streamer.core.verdicts.turns import SessionRewards, TurnReward, TurnRules
from streamer.store.ledger import transactions as writes
from streamer.store.ledger.cuts import cuts_in
from streamer.store.ledger.history import History
from streamer.store.ledger.paths import IS_SESSION, is_session
from streamer.store.ledger.rows import (
    CHUNK,
    OUTCOME,
    PARKED,
    PART,
    SHARD,
    SPAN,
    chunks,
    columns,
    cursor_of,
    marks,
    outcome_of,
    span_of,
)
from streamer.store.ledger.schema import create_or_check, explained
from streamer.store.ledger.transactions import BatchCommit, Compaction
from streamer.store.ledger.turn_rewards import describe_rules, rewards_in
from streamer.store.parts.parts import Live, Part

_T = TypeVar("_T")
_P = ParamSpec("_P")


class DatasetHead(msgspec.Struct, frozen=True):
    """What the ledger says of the dataset: lengths in bytes, a digest of its end, what keys mean.

    ``counted`` is where the lines end that were counted when they were appended. It lies beyond
    ``dataset_length`` only while keys are computed anew. All three are places (``parts``).
    """

    dataset_length: int
    dataset_lines: int
    dataset_tail: bytes
    dead_length: int
    dead_tail: bytes
    keys: str
    counted: int
    live: Live


class Reads(msgspec.Struct, frozen=True):
    """What a daemon reads and asks: the folder, the database, the condition with its name, and what turns are worth."""

    shards: str
    pattern: str
    follow_symlinks: bool
    database: str
    rule: str
    where: str
    join: JoinRule = JoinRule.AS_OF
    turns: TurnRules | None = None


class Accounts(msgspec.Struct, frozen=True):
    """Lines by state, and how many rollouts wait and have been appended."""

    lines: dict[State, int]
    waiting_rollouts: int
    appended_rollouts: int


class Ledger:
    """The one writer of a ledger file. Every method is one short transaction."""

    def __init__(self, db: _Connection, path: Path) -> None:
        self._db = db
        self.path = path
        self._next_shard = 1
        self._maybe_due = True  # spares an idle daemon the question
        self._maybe_parked = True
        self._history = History()

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path, files: Files) -> AsyncIterator[Self]:
        """Open or create the ledger at ``path``.

        Raises:
            RefusedError: the file is damaged, is no ledger, or is of a newer version.
            UnavailableError: the disk is full or not there now.
        """
        await to_thread.run_sync(create_or_check, path, files)
        with explained(path):
            db = _Connection(partial(sqlite3.connect, path, timeout=5.0, isolation_level=None), CHUNK)
            await db
        try:
            ledger = cls(db, path)
            with explained(path):
                await ledger._prepare()
            yield ledger
        finally:
            with anyio.CancelScope(shield=True):  # its thread would outlive us, and hold the process up
                await db.close()

    async def _prepare(self) -> None:
        (last,) = await self._one("SELECT coalesce(max(id), 0) FROM shard")
        self._next_shard = last + 1
        (self._maybe_parked,) = await self._one(f"SELECT EXISTS(SELECT 1 FROM span WHERE due AND due = {PARKED})")
        await self._db.run(self._history.resume)

    @property
    def changes(self) -> int:
        """A number that is another one after every change that was written."""
        return self._db.total_changes

    # -- reading ---------------------------------------------------------------------------------------

    async def head(self) -> DatasetHead:
        """Return what the last commit said of the dataset."""
        row = await self._one(
            "SELECT dataset_length, dataset_lines, dataset_tail, dead_length, dead_tail, keys,"
            " max(counted, dataset_length)"
            " FROM meta"
        )
        live = await self._all("SELECT number, start, opened_at FROM part WHERE stop IS NULL")
        if not live:
            live = await self._all("SELECT coalesce(max(number), 0) + 1, coalesce(max(stop), 0), NULL FROM part")
        return DatasetHead(*row, live=Live(*live[0]))  # type: ignore[misc]

    async def parts(self) -> list[Part]:
        """Return the closed parts that are to be there, in order."""
        rows = await self._all(f"SELECT {PART} FROM part WHERE stop AND NOT removed ORDER BY number")
        cuts = await self.look(cuts_in)
        return [msgspec.structs.replace(Part(*row), cuts=cuts.get(row[0], ())) for row in rows]

    async def removed_parts(self) -> list[Part]:
        """Return the parts that were given up."""
        return [Part(*row) for row in await self._all(f"SELECT {PART} FROM part WHERE removed ORDER BY number")]

    async def cursors(self, shards: Mapping[str, int]) -> tuple[dict[str, Cursor], list[Cursor]]:
        """Return the cursors of shards by path, and those of other shards that had one of their inodes.

        Args:
            shards: path -> inode.
        """
        paths, inodes = [os.fsencode(path) for path in shards], list(shards.values())
        rows = await self._all(  # a UNION: for an OR, SQLite would look at every shard
            f"SELECT {SHARD} FROM shard WHERE NOT replaced AND path IN ({marks(paths)})"
            f" UNION SELECT {SHARD} FROM shard WHERE NOT replaced AND ino IN ({marks(inodes)})",
            [*paths, *inodes],
        )
        cursors = [cursor_of(row) for row in rows]
        return (
            {cursor.path: cursor for cursor in cursors if cursor.path in shards},
            [cursor for cursor in cursors if cursor.path not in shards],
        )

    async def settled(self) -> set[int]:
        """Return the marks of all shards that need no look while they are as they were when they were read."""
        unreadable = (
            f"SELECT shard FROM span WHERE reason = '{UNREADABLE}'"
            f" UNION SELECT shard FROM span WHERE due AND due = {PARKED}"
        )

        def work(db: sqlite3.Connection) -> set[int]:
            rows = db.execute(
                "SELECT path, dev, ino, size, mtime_ns, ctime_ns FROM shard"
                f" WHERE NOT replaced AND ctime_ns AND id NOT IN ({unreadable})"
            )
            return {mark(os.fsdecode(path), tuple(stat)) for path, *stat in rows}

        with explained(self.path):
            return await self._db.run(work)

    async def due(self, lines: int, *, with_sessions: bool = True) -> list[tuple[Span, Cursor]]:
        """Return spans that have to be judged again, oldest first, of about ``lines`` lines together.

        All of them are of shards, or all of sessions. Without ``with_sessions`` those of sessions are passed over.
        """
        if not self._maybe_due:
            return []
        which = "" if with_sessions else f" AND NOT {IS_SESSION}"
        rows = await self._all(
            f"SELECT {columns('span', SPAN)}, {columns('shard', SHARD)}"
            " FROM span JOIN shard ON shard.id = span.shard"
            f" WHERE span.due AND span.due = 1 AND NOT shard.replaced{which} ORDER BY span.id LIMIT ?",
            (max(1, lines),),
        )
        self._maybe_due = bool(rows) or not with_sessions
        picked: list[tuple[Span, Cursor]] = []
        for row in rows:
            span, cursor = span_of(row), cursor_of(row[14:])
            if picked and (lines <= 0 or is_session(cursor.path) is not is_session(picked[0][1].path)):
                break
            picked.append((span, cursor))
            lines -= span.lines
        return picked

    async def appended(self, session: str) -> list[tuple[Span, Cursor | None]]:
        """Return the spans of a session that are in the dataset; without a cursor where their shard was overwritten."""
        rows = await self._all(
            f"SELECT {columns('span', SPAN)}, {columns('shard', SHARD)}, shard.replaced"
            " FROM span JOIN shard ON shard.id = span.shard WHERE session = ? AND state = 'appended' ORDER BY span.id",
            (session,),
        )
        return [(span_of(row), None if row[-1] else cursor_of(row[14:-1])) for row in rows]

    async def outcomes(self, sessions: Iterable[str]) -> dict[str, list[Outcome]]:
        """Return all known outcome rows of each of ``sessions``."""
        by_session: dict[str, list[Outcome]] = {}
        for row in await self._in(f"SELECT {OUTCOME} FROM outcome WHERE session IN", sessions):
            by_session.setdefault(row[1], []).append(outcome_of(row))
        return by_session

    async def turn_rewards(self, sessions: Iterable[str], reward_type: str) -> dict[str, Sequence[TurnReward]]:
        """Return the event rewards of those of ``sessions`` whose rewards of this type were read."""
        wanted = list(sessions)

        def work(db: sqlite3.Connection) -> dict[str, Sequence[TurnReward]]:
            found: dict[str, Sequence[TurnReward]] = {}
            for chunk in chunks(wanted):
                found |= rewards_in(db, chunk, reward_type)
            return found

        with explained(self.path):
            return await self._db.run(work)

    async def qualifying(self, after: int, rule: str, rows: int) -> tuple[list[str], int | None]:
        """Look at some outcome rows whose ``ref`` is above ``after``.

        Returns: the sessions of those that qualify under the condition of the name ``rule``, and the last ``ref``
        that was looked at, None where there are no more rows.
        """
        found = await self._all(
            "SELECT ref, session, qualifies AND rule = ? FROM outcome WHERE ref > ? ORDER BY ref LIMIT ?",
            (rule, after, rows),
        )
        sessions = [session for _, session, qualifies in found if qualifies]
        return sessions, found[-1][0] if len(found) == rows else None

    async def told_by_shards(self, sessions: Iterable[str]) -> set[str]:
        """Return those of ``sessions`` of which any line was read from a shard."""
        rows = await self._in(
            "SELECT DISTINCT span.session FROM span JOIN shard ON shard.id = span.shard"
            f" WHERE NOT {IS_SESSION} AND span.session IN",
            sessions,
        )
        return {row[0] for row in rows}

    async def accounts(self) -> Accounts:
        """Return the sums that a status line needs."""
        tally = dict(await self._all("SELECT state, sum(lines) FROM tally GROUP BY state"))
        waiting = await self._one("SELECT count(DISTINCT session) FROM span WHERE state = 'waiting'")
        sessions = await self._one("SELECT count(DISTINCT session) FROM span WHERE state = 'appended'")
        self._history.rollouts = sessions[0]
        return Accounts({state: tally.get(state, 0) for state in State}, waiting[0], sessions[0])

    async def known(self, keys: Iterable[bytes]) -> dict[bytes, bool]:
        """Return, for those of ``keys`` that are in the dataset, whether a shard line stands behind them."""
        rows = await self._in("SELECT key, claimed FROM record WHERE key IN", keys)
        return {key: bool(claimed) for key, claimed in rows}

    def new_shard_id(self) -> int:
        """Return a number for a shard that is read for the first time."""
        self._next_shard += 1
        return self._next_shard - 1

    # -- writing ---------------------------------------------------------------------------------------

    async def commit(self, batch: BatchCommit) -> None:
        """Write one batch. When this returns, the batch has happened; before, nothing of it has."""
        await self._write(writes.commit, batch, self._history)
        self._maybe_parked |= bool(batch.parked)

    async def begin(self, live: Live) -> None:
        """Remember which file is the live one now."""
        await self._write(writes.begin, live)

    async def close_parts(self, parts: Sequence[Part]) -> None:
        """Remember parts that were closed."""
        await self._write(writes.close_parts, parts)

    async def remove_parts(
        self,
        parts: Sequence[Part],
        *,
        forget_keys: bool,
        also: Callable[[sqlite3.Connection, int], None] | None = None,
    ) -> None:
        """Give up parts, durably: their files are not there any more when this is asked next.

        Args:
            parts: the ones to give up, in order.
            forget_keys: whether their records may come in again.
            also: then makes others who keep tables in the same file forget all before a place.
        """

        def work(db: sqlite3.Connection) -> None:
            db.executemany("UPDATE part SET removed = 1 WHERE number = ?", [(part.number,) for part in parts])
            if forget_keys:
                writes.uncount_adopted(db, parts)
                db.execute("DELETE FROM record WHERE offset BETWEEN 0 AND ?", (parts[-1].stop - 1,))
                if also is not None:
                    also(db, parts[-1].stop)

        await self._write_durably(work)

    async def compact(self, change: Compaction) -> None:
        """Remember what parts hold from now on, durably: their files are those when this is asked next.

        Near-duplicates and records beyond a cap become due with all other duplicates: what kept them out may be gone.
        """
        await self._write_durably(lambda db: writes.compact(db, change, self._history))
        self._maybe_due = True

    async def adopt(
        self, keys: Sequence[tuple[bytes, int]], *, counted: int, lines: int, length: int, tail: bytes
    ) -> None:
        """Remember dataset lines whose keys the ledger does not hold.

        Args:
            keys: (key, place in the dataset).
            counted: lines before this offset were counted when they were appended; those after it were
                not, and are claimed by the shard lines that they came from.
            lines: how many lines these are, with those that have no key.
            length: where the last of them ends.
            tail: the digest of the dataset's end there.
        """

        def work(db: sqlite3.Connection) -> None:
            db.executemany(
                "INSERT OR IGNORE INTO record (key, offset, claimed) VALUES (?, ?, ?)",
                [(key, offset, offset < counted) for key, offset in keys],
            )
            db.execute(
                "UPDATE meta SET dataset_length = ?, dataset_tail = ?, dataset_lines = dataset_lines + ?",
                (length, tail, lines),
            )

        await self._write(work)

    async def forget_keys(self, keys: str) -> None:
        """Drop all keys, as they are to be computed anew from the dataset under the meaning ``keys``."""

        def work(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM record")
            db.execute(
                "UPDATE meta SET keys = ?, counted = max(counted, dataset_length), dataset_length = 0,"
                " dataset_lines = (SELECT coalesce(sum(lines), 0) FROM part WHERE removed), dataset_tail = x''",
                (keys,),
            )

        await self._write(work)

    async def describe(self, reads: Reads) -> None:
        """Remember what is read and asked, for the commands that only read."""

        def work(db: sqlite3.Connection) -> None:
            db.execute(
                "UPDATE meta SET shards = ?, pattern = ?, follow_symlinks = ?, database = ?",
                (reads.shards, reads.pattern, reads.follow_symlinks, reads.database),
            )
            db.execute("INSERT OR IGNORE INTO condition (rule, sql) VALUES (?, ?)", (reads.rule, reads.where))
            describe_rules(db, reads.turns, reads.join)

        await self._write(work)

    async def overwritten(self, shard_id: int) -> int:
        """Close the books on a shard whose bytes the producer overwrote; return the lines that still waited.

        They are taken out of the lines read, as their bytes are gone, and counted as ``overwritten``.
        """

        def work(db: sqlite3.Connection) -> int:
            rows = db.execute(
                f"SELECT {SPAN} FROM span WHERE shard = ? AND state IN (?, ?)", (shard_id, *OPEN_STATES)
            ).fetchall()
            spans = [span_of(row) for row in rows]
            lost = sum(span.lines for span in spans)
            db.executemany("DELETE FROM span WHERE id = ?", [(span.id,) for span in spans])
            writes.count(db, [], spans)
            db.execute("UPDATE span SET due = 0 WHERE shard = ? AND due", (shard_id,))
            db.execute("UPDATE shard SET replaced = 1 WHERE id = ?", (shard_id,))
            db.execute("UPDATE meta SET overwritten = overwritten + ?", (lost,))
            return lost

        return await self._write(work)

    async def revive(self, shard_ids: Sequence[int]) -> None:
        """Make lines due again that were due while their shard could not be read."""
        ids = await self._in(f"SELECT id FROM span WHERE reason = '{UNREADABLE}' AND NOT due AND shard IN", shard_ids)
        if self._maybe_parked:
            ids += await self._in(f"SELECT id FROM span WHERE due AND due = {PARKED} AND shard IN", shard_ids)
        if ids:
            self._maybe_due = True
            await self._write(lambda db: db.executemany("UPDATE span SET due = 1 WHERE id = ?", ids))

    async def relax(self) -> None:
        """Sync no commit from now on: a power loss may take the last ones back, never tear one.

        Adoption heals that, as long as the ledger itself is there; so its first commits are synced.
        """
        await self._all("PRAGMA synchronous=NORMAL")

    async def tell_dead_again(self) -> None:
        """Make every line due that cannot be taken, so that its dead letter is written again.

        Of lines whose bytes were overwritten, and of those that came from a fleet, nothing can be told any more: they
        count as ``overwritten``.
        """
        self._maybe_due = True
        await self._write(writes.tell_dead_again)

    async def expire(self, before: float) -> int:
        """Call lines never scored that have waited since ``before`` (wall-clock seconds); return how many.

        A thousand spans at a time: the next call takes the next ones.
        """
        rows = await self._all(
            f"SELECT {SPAN} FROM span WHERE state = 'waiting' AND since < ? AND NOT due LIMIT 1000", (before,)
        )
        if not rows:
            return 0
        spans = [span_of(row) for row in rows]

        def work(db: sqlite3.Connection) -> None:
            db.executemany("UPDATE span SET state = 'never_scored' WHERE id = ?", [(span.id,) for span in spans])
            writes.count(db, [msgspec.structs.replace(span, state=State.EXPIRED) for span in spans], spans)

        await self._write(work)
        return sum(span.lines for span in spans)

    async def take_outcomes(
        self, rows: Sequence[Outcome], rule: JoinRule, rewards: Sequence[SessionRewards] = ()
    ) -> list[Outcome]:
        """Compare outcome rows with what is known; remember what is new or changed and make its lines due.

        Args:
            rows: a page of rows in order of id.
            rule: how records find their outcome; it decides which verdicts a new row can change.
            rewards: the event rewards of their sessions, as far as they were read.

        Returns: the rows that were new or changed.
        """
        if not rows:
            return []
        changes = self._db.total_changes
        fresh = await self._write(writes.take_outcomes, rows, rule, rewards)
        self._maybe_due |= self._db.total_changes != changes
        return fresh

    # -- for those who keep tables of their own in the same file ----------------------------------------------

    async def look(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Return what ``work`` reads."""
        with explained(self.path):
            return await self._db.run(work)

    async def transact(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Do all of ``work`` in one transaction, or nothing of it."""
        return await self._write(work)

    # -- one hop to the thread of the connection ---------------------------------------------------------

    async def _write(
        self, work: Callable[Concatenate[sqlite3.Connection, _P], _T], *args: _P.args, **more: _P.kwargs
    ) -> _T:
        """Do all of ``work`` in one transaction, or nothing of it."""

        def transaction(db: sqlite3.Connection) -> _T:
            db.execute("BEGIN IMMEDIATE")
            try:
                result = work(db, *args, **more)
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.rollback()
                raise
            return result

        with explained(self.path):
            return await self._db.run(transaction)

    async def _write_durably(self, work: Callable[[sqlite3.Connection], None]) -> None:
        """Do all of ``work`` so that no power loss takes it back; what was relaxed before becomes durable with it."""
        ((level,),) = await self._all("PRAGMA synchronous")
        await self._all("PRAGMA synchronous=FULL")
        try:
            await self._write(work)
        finally:
            await self._all(f"PRAGMA synchronous={level}")

    async def _one(self, sql: str, values: Sequence[Any] = ()) -> tuple[Any, ...]:
        return (await self._all(sql, values))[0]

    async def _all(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with explained(self.path):
            return list(await self._db.execute_fetchall(sql, values))  # type: ignore[arg-type]

    async def _in(self, sql: str, values: Iterable[Any]) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = []
        for chunk in chunks(list(values)):
            found += await self._all(f"{sql} ({marks(chunk)})", chunk)
        return found


class _Connection(aiosqlite.Connection):
    """With one more call: a whole transaction in the connection's thread, instead of a hop for each statement."""

    async def run(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Return what ``work`` returns."""
        result: _T = await self._execute(work, self._conn)  # type: ignore[no-untyped-call]
        return result


def outcomes_in(db: sqlite3.Connection, session: str) -> list[Outcome]:
    """Return all known outcome rows of a session."""
    return [outcome_of(row) for row in db.execute(f"SELECT {OUTCOME} FROM outcome WHERE session = ?", (session,))]


def mark(path: str, stat: tuple[int, ...]) -> int:
    """Return a number for a shard in one state, a few bytes instead of all of it, for as long as this process lives."""
    return hash((path, stat))
