"""The ledger: which lines were read, their verdicts, and how long the dataset is. One SQLite file.

Invariants
- One transaction per batch (``commit``) holds cursors, verdicts, keys and the dataset's length; there is
  no state between two batches.
- The dataset is written and synced before the ledger commits. A ledger that lags behind the dataset is
  therefore normal (a crash, a power loss: ``synchronous=NORMAL``) and healed by adoption.
- ``tally`` equals the sum over ``span`` at every commit, so that counts are cheap at any size.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import anyio
import msgspec
from anyio import to_thread

from streamer.base.files import Files
from streamer.core.records.model import Cursor, Outcome, Span, State
from streamer.core.verdicts.join import JoinRule
from streamer.core.verdicts.reasons import UNREADABLE
from streamer.core.verdicts.turns import SessionRewards, TurnReward
from streamer.store.ledger import transactions as writes
from streamer.store.ledger.connection import LedgerConnection
from streamer.store.ledger.cuts import cuts_in
from streamer.store.ledger.history import History
from streamer.store.ledger.paths import IS_SESSION, is_session
from streamer.store.ledger.rows import (
    BLOCKED,
    OUTCOME,
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
from streamer.store.ledger.transactions import BatchCommit, Compaction, ReadSettings
from streamer.store.ledger.turn_rewards import rewards_in
from streamer.store.parts.parts import Live, Part


class DatasetHead(msgspec.Struct, frozen=True):
    """The dataset as of the last commit: lengths in bytes, digests of the ends, the version of the keys.

    ``counted`` is where the lines end that were counted when they were appended. It lies beyond
    ``dataset_length`` only while keys are computed again. All lengths are log offsets.
    """

    dataset_length: int
    dataset_lines: int
    dataset_tail: bytes
    dead_length: int
    dead_tail: bytes
    keys: str
    counted: int
    live: Live


class LineCounts(msgspec.Struct, frozen=True):
    """Lines by state, and the numbers of rollouts with waiting lines and with accepted ones."""

    lines: dict[State, int]
    waiting_rollouts: int
    appended_rollouts: int


class Ledger(LedgerConnection):
    """The one writer of a ledger file. Every method is one short transaction."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._next_shard = 1
        self._maybe_pending = True  # spares an idle daemon the query
        self._maybe_blocked = True
        self._history = History()

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path, files: Files) -> AsyncIterator[Self]:
        """Open or create the ledger at ``path``.

        Raises:
            RefusedError: the file is damaged, is no ledger, or is of a newer version.
            UnavailableError: the disk is full, or not there now.
        """
        await to_thread.run_sync(create_or_check, path, files)
        ledger = cls(path)
        with explained(path):
            await ledger._db
        try:
            with explained(path):
                await ledger._prepare()
            yield ledger
        finally:
            with anyio.CancelScope(shield=True):  # its thread would outlive us, and keep the process alive
                await ledger._db.close()

    async def _prepare(self) -> None:
        (last,) = await self._one("SELECT coalesce(max(id), 0) FROM shard")
        self._next_shard = last + 1
        (self._maybe_blocked,) = await self._one(f"SELECT EXISTS(SELECT 1 FROM span WHERE due AND due = {BLOCKED})")
        await self.look(self._history.resume)

    # -- reading ---------------------------------------------------------------------------------------

    async def head(self) -> DatasetHead:
        """Return the dataset as of the last commit."""
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
        """Return the closed parts that the dataset keeps, in order."""
        rows = await self._all(f"SELECT {PART} FROM part WHERE stop AND NOT removed ORDER BY number")
        cuts = await self.look(cuts_in)
        return [msgspec.structs.replace(Part(*row), cuts=cuts.get(row[0], ())) for row in rows]

    async def removed_parts(self) -> list[Part]:
        """Return the parts that were removed."""
        return [Part(*row) for row in await self._all(f"SELECT {PART} FROM part WHERE removed ORDER BY number")]

    async def cursors(self, shards: Mapping[str, int]) -> tuple[dict[str, Cursor], list[Cursor]]:
        """Return the cursors of shards by path, and those of other shards with one of their inodes.

        Args:
            shards: Inodes by path.
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

    async def settled_shards(self) -> set[int]:
        """Return the marks (``mark``) of all shards that need not be opened while they are unchanged."""
        unreadable = (
            f"SELECT shard FROM span WHERE reason = '{UNREADABLE}'"
            f" UNION SELECT shard FROM span WHERE due AND due = {BLOCKED}"
        )

        def work(db: sqlite3.Connection) -> set[int]:
            rows = db.execute(
                "SELECT path, dev, ino, size, mtime_ns, ctime_ns FROM shard"
                f" WHERE NOT replaced AND ctime_ns AND id NOT IN ({unreadable})"
            )
            return {mark(os.fsdecode(path), tuple(stat)) for path, *stat in rows}

        return await self.look(work)

    async def pending(self, lines: int, *, with_sessions: bool = True) -> list[tuple[Span, Cursor]]:
        """Return spans that are pending re-evaluation, oldest first, up to about ``lines`` lines.

        All of them belong to shards, or all to sessions. Without ``with_sessions`` those of sessions are left out.
        """
        if not self._maybe_pending:
            return []
        which = "" if with_sessions else f" AND NOT {IS_SESSION}"
        rows = await self._all(
            f"SELECT {columns('span', SPAN)}, {columns('shard', SHARD)}"
            " FROM span JOIN shard ON shard.id = span.shard"
            f" WHERE span.due AND span.due = 1 AND NOT shard.replaced{which} ORDER BY span.id LIMIT ?",
            (max(1, lines),),
        )
        self._maybe_pending = bool(rows) or not with_sessions
        picked: list[tuple[Span, Cursor]] = []
        for row in rows:
            span, cursor = span_of(row), cursor_of(row[14:])
            if picked and (lines <= 0 or is_session(cursor.path) is not is_session(picked[0][1].path)):
                break
            picked.append((span, cursor))
            lines -= span.lines
        return picked

    async def appended(self, session: str) -> list[tuple[Span, Cursor | None]]:
        """Return the accepted spans of a session, without a cursor where their shard was overwritten."""
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
        """Return event rewards by session, for those of ``sessions`` whose rewards of this type were read."""
        wanted = list(sessions)

        def work(db: sqlite3.Connection) -> dict[str, Sequence[TurnReward]]:
            found: dict[str, Sequence[TurnReward]] = {}
            for chunk in chunks(wanted):
                found |= rewards_in(db, chunk, reward_type)
            return found

        return await self.look(work)

    async def qualifying(self, after: int, rule: str, rows: int) -> tuple[list[str], int | None]:
        """Return the sessions of some outcome rows that qualify, and the ``ref`` to continue after.

        Args:
            after: Rows with a greater ``ref`` are read.
            rule: Name of the condition that they must have been tested under.
            rows: Number of rows to read.

        Returns: the sessions, and the last ``ref`` read, None if there are no more rows.
        """
        found = await self._all(
            "SELECT ref, session, qualifies AND rule = ? FROM outcome WHERE ref > ? ORDER BY ref LIMIT ?",
            (rule, after, rows),
        )
        sessions = [session for _, session, qualifies in found if qualifies]
        return sessions, found[-1][0] if len(found) == rows else None

    async def sessions_in_shards(self, sessions: Iterable[str]) -> set[str]:
        """Return those of ``sessions`` that have a line in a shard."""
        rows = await self._in(
            "SELECT DISTINCT span.session FROM span JOIN shard ON shard.id = span.shard"
            f" WHERE NOT {IS_SESSION} AND span.session IN",
            sessions,
        )
        return {row[0] for row in rows}

    async def counts(self) -> LineCounts:
        """Return the counts that a status line shows."""
        tally = dict(await self._all("SELECT state, sum(lines) FROM tally GROUP BY state"))
        waiting = await self._one("SELECT count(DISTINCT session) FROM span WHERE state = 'waiting'")
        sessions = await self._one("SELECT count(DISTINCT session) FROM span WHERE state = 'appended'")
        self._history.rollouts = sessions[0]
        return LineCounts({state: tally.get(state, 0) for state in State}, waiting[0], sessions[0])

    async def known(self, keys: Iterable[bytes]) -> dict[bytes, bool]:
        """Return whether a shard line claims the record, for those of ``keys`` that are in the dataset."""
        rows = await self._in("SELECT key, claimed FROM record WHERE key IN", keys)
        return {key: bool(claimed) for key, claimed in rows}

    def new_shard_id(self) -> int:
        """Return an unused id, for a shard that is read for the first time."""
        self._next_shard += 1
        return self._next_shard - 1

    # -- writing ---------------------------------------------------------------------------------------

    async def commit(self, batch: BatchCommit) -> None:
        """Write one batch: all of it is committed when this returns, nothing of it before."""
        await self.transact(lambda db: writes.commit(db, batch, self._history))
        self._maybe_blocked |= bool(batch.blocked)

    async def begin(self, live: Live) -> None:
        """Store which file is the live one."""
        await self.transact(lambda db: writes.begin(db, live))

    async def close_parts(self, parts: Sequence[Part]) -> None:
        """Store closed parts."""
        await self.transact(lambda db: writes.close_parts(db, parts))

    async def remove_parts(
        self,
        parts: Sequence[Part],
        *,
        forget_keys: bool,
        also: Callable[[sqlite3.Connection, int], None] | None = None,
    ) -> None:
        """Mark parts as removed, durably.

        Args:
            parts: The parts, in order.
            forget_keys: Whether their records may be accepted again.
            also: Called with the log offset where the last of them ends, to forget the records before it in tables
                that others keep in the same file.
        """

        def work(db: sqlite3.Connection) -> None:
            writes.remove_parts(db, parts, forget_keys=forget_keys)
            if forget_keys and also is not None:
                also(db, parts[-1].stop)

        await self._transact_durably(work)

    async def compact(self, change: Compaction) -> None:
        """Store a compaction of parts, durably.

        All duplicates and lines beyond a cap become pending: the record that kept them out may be gone.
        """
        await self._transact_durably(lambda db: writes.compact(db, change, self._history))
        self._maybe_pending = True

    async def adopt(
        self, keys: Sequence[tuple[bytes, int]], *, counted: int, lines: int, length: int, tail: bytes
    ) -> None:
        """Store dataset lines that the ledger does not know.

        Args:
            keys: (key, log offset) of each line that has a key.
            counted: Lines before this log offset were counted when they were appended; those after it were
                not, and are claimed by the shard lines that they came from.
            lines: Number of lines, with those that have no key.
            length: Log offset where the last of them ends.
            tail: Digest of the dataset's end there.
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

        await self.transact(work)

    async def forget_keys(self, keys: str) -> None:
        """Drop all keys, to compute them again from the dataset under the version ``keys``."""
        await self.transact(lambda db: writes.forget_keys(db, keys))

    async def describe(self, settings: ReadSettings) -> None:
        """Store the settings under which lines are read, for the commands that only read the ledger."""
        await self.transact(lambda db: writes.describe(db, settings))

    async def overwritten(self, shard_id: int) -> int:
        """Retire a shard whose bytes the producer overwrote; return the number of lines that were still open.

        They are subtracted from the lines read, as their bytes are gone, and counted as ``overwritten``.
        """
        return await self.transact(lambda db: writes.overwritten(db, shard_id))

    async def unblock(self, shard_ids: Sequence[int]) -> None:
        """Make lines pending that were blocked because their shard could not be read."""
        ids = await self._in(f"SELECT id FROM span WHERE reason = '{UNREADABLE}' AND NOT due AND shard IN", shard_ids)
        if self._maybe_blocked:
            ids += await self._in(f"SELECT id FROM span WHERE due AND due = {BLOCKED} AND shard IN", shard_ids)
        if ids:
            self._maybe_pending = True
            await self.transact(lambda db: db.executemany("UPDATE span SET due = 1 WHERE id = ?", ids))

    async def relax(self) -> None:
        """Stop syncing commits: a power loss may take back the last ones, but never tear one.

        Adoption heals that, as long as the ledger itself is there; so its first commits are synced.
        """
        await self._all("PRAGMA synchronous=NORMAL")

    async def rewrite_dead_letters(self) -> None:
        """Make every dead-lettered line pending, so that its dead letter is written again.

        Lines whose bytes were overwritten, and those from a fleet, cannot be read again: they count as
        ``overwritten``.
        """
        self._maybe_pending = True
        await self.transact(writes.rewrite_dead_letters)

    async def expire(self, before: float) -> int:
        """Expire up to a thousand spans that have waited since ``before``; return the number of their lines.

        Args:
            before: Wall-clock time, in seconds since 1970.
        """
        rows = await self._all(
            f"SELECT {SPAN} FROM span WHERE state = 'waiting' AND since < ? AND NOT due LIMIT 1000", (before,)
        )
        spans = [span_of(row) for row in rows]
        if spans:
            await self.transact(lambda db: writes.expire(db, spans))
        return sum(span.lines for span in spans)

    async def store_outcomes(
        self, rows: Sequence[Outcome], rule: JoinRule, rewards: Sequence[SessionRewards] = ()
    ) -> list[Outcome]:
        """Store new and changed outcome rows, make the lines pending that they can change, and return those rows.

        Args:
            rows: A page of rows, in order of id.
            rule: How records find their outcome; it decides which verdicts a new row can change.
            rewards: The event rewards of their sessions that were read.
        """
        if not rows:
            return []
        changes = self._db.total_changes
        fresh = await self.transact(lambda db: writes.store_outcomes(db, rows, rule, rewards))
        self._maybe_pending |= self._db.total_changes != changes
        return fresh


def outcomes_in(db: sqlite3.Connection, session: str) -> list[Outcome]:
    """Return all known outcome rows of a session."""
    return [outcome_of(row) for row in db.execute(f"SELECT {OUTCOME} FROM outcome WHERE session = ?", (session,))]


def mark(path: str, stat: tuple[int, ...]) -> int:
    """Return a number for a shard in one state, valid in this process: a few bytes instead of path and stat."""
    return hash((path, stat))
