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

from streamer.caps.rules import REASON as CAP
from streamer.compaction.kept import cuts_in, put_cut, put_taken_out
from streamer.files import Files
from streamer.fleet.stream_path import IS_STREAM
from streamer.history import History
from streamer.join import JoinRule
from streamer.ledger_file import create_or_check, explained
from streamer.model import OPEN_STATES, Cursor, Outcome, Span, State
from streamer.parts import Live, Part
from streamer.session_path import IS_SESSION, is_session
from streamer.turn_ledger import describe_rules, rewards_in, take_rewards
from streamer.turns import SessionRewards, TurnReward, TurnRules

UNREADABLE = "unreadable"
"""Reason of waiting lines whose shard could not be read when their outcome came."""

T = TypeVar("T")
P = ParamSpec("P")

_PARKED = 2
"""``due`` of spans that are due as soon as their shard can be read again."""

_SHARD = "id, path, offset, lines, scanned, fingerprint, dev, ino, size, mtime_ns, ctime_ns"
_SPAN = "shard, start, stop, line, lines, session, state, reason, outcome, first_us, last_us, since, rule, id"
_OUTCOME = (
    "id, session, total_reward, achievements_count, total_steps, created_at, created_us, qualifies, rule, ref, metadata"
)
_PART = "number, start, stop, lines, sha256, closed_at"
_LAST_US = 1 << 62
"""Stands for a created_at that is no time: after all others, as in the join."""

_CHUNK = 500
"""Parameters in one IN list; SQLite allows 999 in old builds."""


class Head(msgspec.Struct, frozen=True):
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


class Batch(msgspec.Struct, frozen=True):
    """Everything that one batch changes, written in one transaction.

    ``appended`` are (key, place in the dataset); ``claimed`` are keys whose line was adopted before. ``at`` is the time
    (seconds since 1970), a label and never a criterion. ``closed`` are parts that were closed meanwhile; ``live`` is
    the live file, if the dataset rolls. ``also`` writes what others keep in the same file.
    """

    cursors: Sequence[Cursor] = ()
    taken: Sequence[Span] = ()
    spans: Sequence[Span] = ()
    due: Sequence[Span] = ()
    parked: Sequence[Span] = ()
    appended: Sequence[tuple[bytes, int]] = ()
    claimed: Sequence[bytes] = ()
    dataset_length: int = 0
    dataset_tail: bytes = b""
    dead_length: int = 0
    dead_tail: bytes = b""
    at: float = 0.0
    closed: Sequence[Part] = ()
    live: Live | None = None
    also: Callable[[sqlite3.Connection], None] | None = None


class Compaction(msgspec.Struct, frozen=True):
    """What a compaction of some parts changes, written in one transaction.

    ``parts`` are as their files will be, each with one more cut; ``lines`` is how many lines they lost. ``spans`` take
    the place of those that are ``taken``. ``at`` is the time (seconds since 1970). ``also`` removes the keys, and what
    others keep of the records.
    """

    parts: Sequence[Part]
    lines: int
    taken: Sequence[Span]
    spans: Sequence[Span]
    at: float
    also: Callable[[sqlite3.Connection], None]


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
            db = _Connection(partial(sqlite3.connect, path, timeout=5.0, isolation_level=None), _CHUNK)
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
        (self._maybe_parked,) = await self._one(f"SELECT EXISTS(SELECT 1 FROM span WHERE due AND due = {_PARKED})")
        await self._db.run(self._history.resume)

    @property
    def changes(self) -> int:
        """A number that is another one after every change that was written."""
        return self._db.total_changes

    # -- reading ---------------------------------------------------------------------------------------

    async def head(self) -> Head:
        """Return what the last commit said of the dataset."""
        row = await self._one(
            "SELECT dataset_length, dataset_lines, dataset_tail, dead_length, dead_tail, keys,"
            " max(counted, dataset_length)"
            " FROM meta"
        )
        live = await self._all("SELECT number, start, opened_at FROM part WHERE stop IS NULL")
        if not live:
            live = await self._all("SELECT coalesce(max(number), 0) + 1, coalesce(max(stop), 0), NULL FROM part")
        return Head(*row, live=Live(*live[0]))  # type: ignore[misc]

    async def parts(self) -> list[Part]:
        """Return the closed parts that are to be there, in order."""
        rows = await self._all(f"SELECT {_PART} FROM part WHERE stop AND NOT removed ORDER BY number")
        cuts = await self.look(cuts_in)
        return [msgspec.structs.replace(Part(*row), cuts=cuts.get(row[0], ())) for row in rows]

    async def removed_parts(self) -> list[Part]:
        """Return the parts that were given up."""
        return [Part(*row) for row in await self._all(f"SELECT {_PART} FROM part WHERE removed ORDER BY number")]

    async def cursors(self, shards: Mapping[str, int]) -> tuple[dict[str, Cursor], list[Cursor]]:
        """Return the cursors of shards by path, and those of other shards that had one of their inodes.

        Args:
            shards: path -> inode.
        """
        paths, inodes = [os.fsencode(path) for path in shards], list(shards.values())
        rows = await self._all(  # a UNION: for an OR, SQLite would look at every shard
            f"SELECT {_SHARD} FROM shard WHERE NOT replaced AND path IN ({_marks(paths)})"
            f" UNION SELECT {_SHARD} FROM shard WHERE NOT replaced AND ino IN ({_marks(inodes)})",
            [*paths, *inodes],
        )
        cursors = [_cursor(row) for row in rows]
        return (
            {cursor.path: cursor for cursor in cursors if cursor.path in shards},
            [cursor for cursor in cursors if cursor.path not in shards],
        )

    async def settled(self) -> set[int]:
        """Return the marks of all shards that need no look while they are as they were when they were read."""
        unreadable = (
            f"SELECT shard FROM span WHERE reason = '{UNREADABLE}'"
            f" UNION SELECT shard FROM span WHERE due AND due = {_PARKED}"
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
            f"SELECT {_columns('span', _SPAN)}, {_columns('shard', _SHARD)}"
            " FROM span JOIN shard ON shard.id = span.shard"
            f" WHERE span.due AND span.due = 1 AND NOT shard.replaced{which} ORDER BY span.id LIMIT ?",
            (max(1, lines),),
        )
        self._maybe_due = bool(rows) or not with_sessions
        picked: list[tuple[Span, Cursor]] = []
        for row in rows:
            span, cursor = _span(row), _cursor(row[14:])
            if picked and (lines <= 0 or is_session(cursor.path) is not is_session(picked[0][1].path)):
                break
            picked.append((span, cursor))
            lines -= span.lines
        return picked

    async def appended(self, session: str) -> list[tuple[Span, Cursor | None]]:
        """Return the spans of a session that are in the dataset; without a cursor where their shard was overwritten."""
        rows = await self._all(
            f"SELECT {_columns('span', _SPAN)}, {_columns('shard', _SHARD)}, shard.replaced"
            " FROM span JOIN shard ON shard.id = span.shard WHERE session = ? AND state = 'appended' ORDER BY span.id",
            (session,),
        )
        return [(_span(row), None if row[-1] else _cursor(row[14:-1])) for row in rows]

    async def outcomes(self, sessions: Iterable[str]) -> dict[str, list[Outcome]]:
        """Return all known outcome rows of each of ``sessions``."""
        by_session: dict[str, list[Outcome]] = {}
        for row in await self._in(f"SELECT {_OUTCOME} FROM outcome WHERE session IN", sessions):
            by_session.setdefault(row[1], []).append(_outcome(row))
        return by_session

    async def turn_rewards(self, sessions: Iterable[str], reward_type: str) -> dict[str, Sequence[TurnReward]]:
        """Return the event rewards of those of ``sessions`` whose rewards of this type were read."""
        wanted = list(sessions)

        def work(db: sqlite3.Connection) -> dict[str, Sequence[TurnReward]]:
            found: dict[str, Sequence[TurnReward]] = {}
            for chunk in _chunks(wanted):
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

    async def commit(self, batch: Batch) -> None:
        """Write one batch. When this returns, the batch has happened; before, nothing of it has."""
        await self._write(_commit, batch, self._history)
        self._maybe_parked |= bool(batch.parked)

    async def begin(self, live: Live) -> None:
        """Remember which file is the live one now."""
        await self._write(_begin, live)

    async def close_parts(self, parts: Sequence[Part]) -> None:
        """Remember parts that were closed."""
        await self._write(_close_parts, parts)

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
                _uncount_adopted(db, parts)
                db.execute("DELETE FROM record WHERE offset BETWEEN 0 AND ?", (parts[-1].stop - 1,))
                if also is not None:
                    also(db, parts[-1].stop)

        await self._write_durably(work)

    async def compact(self, change: Compaction) -> None:
        """Remember what parts hold from now on, durably: their files are those when this is asked next.

        Near-duplicates and records beyond a cap become due with all other duplicates: what kept them out may be gone.
        """
        await self._write_durably(lambda db: _compact(db, change, self._history))
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
                f"SELECT {_SPAN} FROM span WHERE shard = ? AND state IN (?, ?)", (shard_id, *OPEN_STATES)
            ).fetchall()
            spans = [_span(row) for row in rows]
            lost = sum(span.lines for span in spans)
            db.executemany("DELETE FROM span WHERE id = ?", [(span.id,) for span in spans])
            _count(db, [], spans)
            db.execute("UPDATE span SET due = 0 WHERE shard = ? AND due", (shard_id,))
            db.execute("UPDATE shard SET replaced = 1 WHERE id = ?", (shard_id,))
            db.execute("UPDATE meta SET overwritten = overwritten + ?", (lost,))
            return lost

        return await self._write(work)

    async def revive(self, shard_ids: Sequence[int]) -> None:
        """Make lines due again that were due while their shard could not be read."""
        ids = await self._in(f"SELECT id FROM span WHERE reason = '{UNREADABLE}' AND NOT due AND shard IN", shard_ids)
        if self._maybe_parked:
            ids += await self._in(f"SELECT id FROM span WHERE due AND due = {_PARKED} AND shard IN", shard_ids)
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
        await self._write(_tell_dead_again)

    async def expire(self, before: float) -> int:
        """Call lines never scored that have waited since ``before`` (wall-clock seconds); return how many.

        A thousand spans at a time: the next call takes the next ones.
        """
        rows = await self._all(
            f"SELECT {_SPAN} FROM span WHERE state = 'waiting' AND since < ? AND NOT due LIMIT 1000", (before,)
        )
        if not rows:
            return 0
        spans = [_span(row) for row in rows]

        def work(db: sqlite3.Connection) -> None:
            db.executemany("UPDATE span SET state = 'never_scored' WHERE id = ?", [(span.id,) for span in spans])
            _count(db, [msgspec.structs.replace(span, state=State.NEVER_SCORED) for span in spans], spans)

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
        fresh = await self._write(_take_outcomes, rows, rule, rewards)
        self._maybe_due |= self._db.total_changes != changes
        return fresh

    # -- for those who keep tables of their own in the same file ----------------------------------------------

    async def look(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Return what ``work`` reads."""
        with explained(self.path):
            return await self._db.run(work)

    async def transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do all of ``work`` in one transaction, or nothing of it."""
        return await self._write(work)

    # -- one hop to the thread of the connection ---------------------------------------------------------

    async def _write(self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **more: P.kwargs) -> T:
        """Do all of ``work`` in one transaction, or nothing of it."""

        def transaction(db: sqlite3.Connection) -> T:
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
        for chunk in _chunks(list(values)):
            found += await self._all(f"{sql} ({_marks(chunk)})", chunk)
        return found


class _Connection(aiosqlite.Connection):
    """With one more call: a whole transaction in the connection's thread, instead of a hop for each statement."""

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Return what ``work`` returns."""
        result: T = await self._execute(work, self._conn)  # type: ignore[no-untyped-call]
        return result


# -- inside a transaction --------------------------------------------------------------------------------


def _commit(db: sqlite3.Connection, batch: Batch, history: History) -> None:
    history.note(db, batch.at)
    if batch.cursors:
        db.executemany(
            f"INSERT OR REPLACE INTO shard ({_SHARD}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [(c.id, os.fsencode(c.path), c.offset, c.lines, c.scanned, c.fingerprint, *c.stat) for c in batch.cursors],
        )
    db.executemany("DELETE FROM span WHERE id = ?", [(span.id,) for span in batch.taken])
    _put_spans(db, batch.spans, due=0)
    _put_spans(db, batch.due, due=1)
    _put_spans(db, batch.parked, due=_PARKED)
    _count(db, [*batch.spans, *batch.due, *batch.parked], batch.taken)
    db.executemany("INSERT INTO record (key, offset, claimed) VALUES (?, ?, 1)", sorted(batch.appended))
    db.executemany("UPDATE record SET claimed = 1 WHERE key = ?", [(key,) for key in batch.claimed])
    db.execute(
        "UPDATE meta SET dataset_length = ?, dataset_tail = ?, dead_length = ?, dead_tail = ?,"
        " dataset_lines = dataset_lines + ?, appended_at = coalesce(?, appended_at)",
        (
            batch.dataset_length,
            batch.dataset_tail,
            batch.dead_length,
            batch.dead_tail,
            len(batch.appended),
            batch.at if batch.appended else None,
        ),
    )
    if batch.closed:
        _close_parts(db, batch.closed)
    if batch.live is not None:
        _begin(db, batch.live)
    if batch.also is not None:
        batch.also(db)


def _close_parts(db: sqlite3.Connection, parts: Sequence[Part]) -> None:
    db.executemany(
        f"INSERT OR REPLACE INTO part ({_PART}) VALUES (?, ?, ?, ?, ?, ?)",
        [msgspec.structs.astuple(part)[:6] for part in parts],
    )
    db.execute("DELETE FROM part WHERE stop IS NULL")


def _begin(db: sqlite3.Connection, live: Live) -> None:
    db.execute("DELETE FROM part WHERE stop IS NULL AND number != ?", (live.number,))
    db.execute(
        "INSERT OR REPLACE INTO part (number, start, opened_at) VALUES (?, ?, ?)",
        (live.number, live.start, live.opened_at),
    )


def _uncount_adopted(db: sqlite3.Connection, parts: Sequence[Part]) -> None:
    """Take lines of parts that go out of all sums that no shard line was found behind: that one will be appended."""
    for part in parts:
        (lines,) = db.execute(
            "SELECT count(*) FROM record WHERE NOT claimed AND offset >= ? AND offset < ?", (part.start, part.stop)
        ).fetchone()
        db.execute("UPDATE part SET lines = lines - ? WHERE number = ?", (lines, part.number))
        db.execute("UPDATE meta SET dataset_lines = dataset_lines - ?", (lines,))


def _compact(db: sqlite3.Connection, change: Compaction, history: History) -> None:
    history.note(db, change.at)
    for part in change.parts:
        db.execute("UPDATE part SET lines = ?, sha256 = ? WHERE number = ?", (part.lines, part.sha256, part.number))
        put_cut(db, part.number, part.cuts[-1], change.at)
    db.executemany("DELETE FROM span WHERE id = ?", [(span.id,) for span in change.taken])
    _put_spans(db, change.spans, due=0)
    _count(db, change.spans, change.taken)
    put_taken_out(db, [span for span in change.spans if span.state is not State.APPENDED], change.at)
    db.execute("UPDATE meta SET dataset_lines = dataset_lines - ?", (change.lines,))
    db.execute(
        f"UPDATE span SET due = 1 WHERE NOT due AND (state = 'duplicate' OR reason LIKE '{CAP}%')"
        " AND shard IN (SELECT id FROM shard WHERE NOT replaced)"
    )
    db.execute(
        "UPDATE outcome SET withdrawn = 0 WHERE withdrawn AND NOT EXISTS (SELECT 1 FROM span"
        " WHERE session = outcome.session AND state = 'appended' AND span.outcome = outcome.ref)"
    )
    change.also(db)
    history.changed(db, change.at)


def _put_spans(db: sqlite3.Connection, spans: Sequence[Span], due: int) -> None:
    db.executemany(
        "INSERT INTO span (shard, start, stop, line, lines, session, state, reason, outcome, first_us,"
        f" last_us, since, rule, due) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, {due})",
        [msgspec.structs.astuple(span)[:13] for span in spans],
    )


def _count(db: sqlite3.Connection, put: Sequence[Span], taken: Sequence[Span]) -> None:
    change: dict[tuple[str, str], int] = {}
    for sign, spans in ((1, put), (-1, taken)):
        for span in spans:
            place = (str(span.state), span.reason)
            change[place] = change.get(place, 0) + sign * span.lines
    db.executemany(
        "INSERT INTO tally (state, reason, lines) VALUES (?, ?, ?)"
        " ON CONFLICT (state, reason) DO UPDATE SET lines = lines + excluded.lines",
        [(*place, lines) for place, lines in change.items() if lines],
    )


def _tell_dead_again(db: sqlite3.Connection) -> None:
    gone = f"state = 'dead_lettered' AND shard IN (SELECT id FROM shard WHERE replaced OR {IS_STREAM})"
    lost = db.execute(f"SELECT reason, sum(lines) FROM span WHERE {gone} GROUP BY reason").fetchall()
    db.execute(f"DELETE FROM span WHERE {gone}")
    db.executemany(
        "UPDATE tally SET lines = lines - ? WHERE state = 'dead_lettered' AND reason = ?",
        [(lines, reason) for reason, lines in lost],
    )
    db.execute("UPDATE meta SET overwritten = overwritten + ?", (sum(lines for _, lines in lost),))
    db.execute("UPDATE span SET due = 1 WHERE state = 'dead_lettered'")


def _take_outcomes(
    db: sqlite3.Connection, rows: Sequence[Outcome], rule: JoinRule, rewards: Sequence[SessionRewards]
) -> list[Outcome]:
    found = db.execute(f"SELECT {_OUTCOME} FROM outcome WHERE id BETWEEN ? AND ?", (rows[0].id, rows[-1].id))
    known = {(row[0], row[1], row[5]): _outcome(row) for row in found}
    fresh = [(row, known.get((row.id, row.session, row.created_at))) for row in rows]
    fresh = [(row, old) for row, old in fresh if old is None or not _same(row, old)]
    _add_outcomes(db, [row for row, old in fresh if old is None], rule)
    _change_outcomes(db, [(row, old) for row, old in fresh if old is not None], rule)
    # Lines that waited for these rows under the present condition have waited long enough.
    if db.execute("SELECT 1 FROM span WHERE reason = 'rule_changed' LIMIT 1").fetchone():
        db.executemany(
            "UPDATE span SET due = 1 WHERE session = ? AND reason = 'rule_changed' AND NOT due",
            [(row.session,) for row in rows],
        )
    take_rewards(db, rewards)
    return [row for row, _ in fresh]


def _add_outcomes(db: sqlite3.Connection, rows: Sequence[Outcome], rule: JoinRule) -> None:
    db.executemany(
        "INSERT INTO outcome (id, session, total_reward, achievements_count, total_steps, created_at,"
        " created_us, qualifies, rule, metadata) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [(*msgspec.structs.astuple(row)[:9], row.metadata) for row in rows],
    )
    _wake_open(db, rows)
    if rule is not JoinRule.AS_OF:
        _wake_below(db, rows)
        return
    # Only a row older than the one chosen, or any one for records without a time, can change a verdict.
    db.executemany(
        "UPDATE span SET due = 1 WHERE session = ? AND state = 'below_bar' AND (first_us IS NULL OR"
        " (SELECT coalesce(created_us, ?) FROM outcome WHERE ref = span.outcome) > ?)",
        [(row.session, _LAST_US, _LAST_US if row.created_us is None else row.created_us) for row in rows],
    )


def _change_outcomes(db: sqlite3.Connection, rows: Sequence[tuple[Outcome, Outcome]], rule: JoinRule) -> None:
    db.executemany(
        "UPDATE outcome SET total_reward = ?, achievements_count = ?, total_steps = ?, qualifies = ?, rule = ?,"
        " metadata = ? WHERE ref = ?",
        [(*_facts(row), row.qualifies, row.rule, row.metadata, old.ref) for row, old in rows],
    )
    _wake_open(db, [row for row, _ in rows])
    # Where only the condition changed, not the rollout, what was judged stays judged.
    corrected = [(row, old) for row, old in rows if row.rule == old.rule or _facts(row) != _facts(old)]
    if rule is JoinRule.MAX:
        _wake_below(db, [row for row, _ in corrected])
    refs = [(row.session, old.ref) for row, old in corrected]
    db.executemany("UPDATE span SET due = 1 WHERE session = ? AND state = 'below_bar' AND outcome = ?", refs)
    db.executemany(
        "UPDATE outcome SET withdrawn = (NOT qualifies AND EXISTS (SELECT 1 FROM span WHERE session = ?"
        " AND state = 'appended' AND span.outcome = outcome.ref)) WHERE ref = ?",
        refs,
    )


def _wake_open(db: sqlite3.Connection, rows: Sequence[Outcome]) -> None:
    db.executemany(
        "UPDATE span SET due = 1 WHERE session = ? AND state IN (?, ?)",
        [(row.session, *OPEN_STATES) for row in rows],
    )


def _wake_below(db: sqlite3.Connection, rows: Sequence[Outcome]) -> None:
    db.executemany(
        "UPDATE span SET due = 1 WHERE session = ? AND state = 'below_bar'", [(row.session,) for row in rows]
    )


def outcomes_in(db: sqlite3.Connection, session: str) -> list[Outcome]:
    """Return all known outcome rows of a session."""
    return [_outcome(row) for row in db.execute(f"SELECT {_OUTCOME} FROM outcome WHERE session = ?", (session,))]


def mark(path: str, stat: tuple[int, ...]) -> int:
    """Return a number for a shard in one state, a few bytes instead of all of it, for as long as this process lives."""
    return hash((path, stat))


def _cursor(row: Sequence[Any]) -> Cursor:
    return Cursor(
        id=row[0], path=os.fsdecode(row[1]), offset=row[2], lines=row[3], scanned=row[4], fingerprint=row[5],
        stat=(row[6], row[7], row[8], row[9], row[10]),
    )  # fmt: skip


def _span(row: Sequence[Any]) -> Span:
    span = Span(*row[:14])
    return msgspec.structs.replace(span, state=State(span.state))


def _outcome(row: Sequence[Any]) -> Outcome:
    number, session, reward, achievements, steps, created_at, created_us, qualifies, rule, ref, metadata = row
    return Outcome(
        number, session, reward, achievements, steps, created_at, created_us, bool(qualifies), rule, ref, metadata
    )


def _facts(row: Outcome) -> tuple[Any, ...]:
    return row.total_reward, row.achievements_count, row.total_steps


def _same(row: Outcome, old: Outcome) -> bool:
    return (_facts(row), row.qualifies, row.rule, row.metadata) == (_facts(old), old.qualifies, old.rule, old.metadata)


def _columns(table: str, names: str) -> str:
    return ", ".join(f"{table}.{name}" for name in names.split(", "))


def _marks(values: Sequence[Any]) -> str:
    return ",".join("?" * len(values))


def _chunks(values: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (values[i : i + _CHUNK] for i in range(0, len(values), _CHUNK))
