"""The ledger's SQLite connection: queries and whole transactions, each in one hop to its thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from streamer.store.ledger.rows import CHUNK, chunks, marks
from streamer.store.ledger.schema import explained

_T = TypeVar("_T")


class LedgerConnection:
    """The one writing connection to a ledger file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = _Connection(partial(sqlite3.connect, path, timeout=5.0, isolation_level=None), CHUNK)

    @property
    def changes(self) -> int:
        """Monotonic change counter."""
        return self._db.total_changes

    async def look(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Return what ``work`` reads, outside a transaction."""
        with explained(self.path):
            return await self._db.run(work)

    async def transact(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run ``work`` in one transaction and return its result; an exception rolls all of it back."""

        def transaction(db: sqlite3.Connection) -> _T:
            db.execute("BEGIN IMMEDIATE")
            try:
                result = work(db)
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.rollback()
                raise
            return result

        return await self.look(transaction)

    async def _transact_durably(self, work: Callable[[sqlite3.Connection], None]) -> None:
        """Run ``work`` in one synced transaction: no power loss takes back it or the commits before it."""
        ((level,),) = await self._all("PRAGMA synchronous")
        await self._all("PRAGMA synchronous=FULL")
        try:
            await self.transact(work)
        finally:
            await self._all(f"PRAGMA synchronous={level}")

    async def _one(self, sql: str, values: Sequence[Any] = ()) -> tuple[Any, ...]:
        return (await self._all(sql, values))[0]

    async def _all(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with explained(self.path):
            return list(await self._db.execute_fetchall(sql, values))  # type: ignore[arg-type]

    async def _in(self, sql: str, values: Iterable[Any]) -> list[tuple[Any, ...]]:
        """Return the rows of a query that ends with ``IN``, for a list of any length."""
        found: list[tuple[Any, ...]] = []
        for chunk in chunks(list(values)):
            found += await self._all(f"{sql} ({marks(chunk)})", chunk)
        return found


class _Connection(aiosqlite.Connection):
    """Runs a whole function in the connection's thread, instead of one hop for each statement."""

    async def run(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Return what ``work`` returns."""
        result: _T = await self._execute(work, self._conn)  # type: ignore[no-untyped-call]
        return result
