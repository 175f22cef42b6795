"""Open any trace database that is a local file, read-only.

The producer's database is never created, written, checkpointed or held: ``mode=ro``, ``query_only``, a
short busy timeout, and no cursor that outlives a call.
"""

from __future__ import annotations

import os
import sqlite3
from asyncio import Future
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiosqlite
import anyio

from streamer.base.errors import UnavailableError

_BUSY_SECONDS = 0.25
"""How long one read waits for the producer's commit; then the next poll tries again."""

_LONGEST_VALUE = 512 << 10
"""Bytes of the longest text that a condition can look at; a longer ``reward_metadata`` fails it."""

_ALLOWED = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE})
_PRIMARY = 0xFF
_PRAGMAS = frozenset({"data_version", "table_info"})
_FORBIDDEN_FUNCTIONS = frozenset({"load_extension", "readfile", "writefile", "edit"})


def file_id(path: Path) -> tuple[int, int] | None:
    """Return (device, inode) of the database file, or None if it is not there."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino


def file_times(path: Path) -> tuple[tuple[int, int] | None, ...]:
    """Return (size, mtime_ns) of the database and its write-ahead log: a hint that something was written."""
    return tuple(_size_and_time(name) for name in (str(path), f"{path}-wal"))


def _size_and_time(name: str) -> tuple[int, int] | None:
    try:
        state = os.stat(name)
    except OSError:
        return None
    return state.st_size, state.st_mtime_ns


def _text(data: bytes) -> str:
    """Read a text as it is; bytes that are no UTF-8 stay visible, and no error for all the other rows."""
    return data.decode("utf-8", "backslashreplace")


def _authorize(action: int, first: str | None, second: str | None, _database: str | None, _inner: str | None) -> int:
    """Let statements read, and nothing else: whatever a condition says, it cannot write or attach."""
    if action == sqlite3.SQLITE_PRAGMA:
        return sqlite3.SQLITE_OK if first in _PRAGMAS else sqlite3.SQLITE_DENY
    if action == sqlite3.SQLITE_UPDATE:
        # So SQLite calls the declaration of a table-valued function (json_each), in memory.
        return sqlite3.SQLITE_OK if first == "sqlite_master" else sqlite3.SQLITE_DENY
    if action == sqlite3.SQLITE_FUNCTION and second in _FORBIDDEN_FUNCTIONS:
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY


class _ForConditions(sqlite3.Connection):
    """A connection on which no single step takes long: SQLite can be broken off only between two steps.

    To search a text of 400 kB for one of 200 kB took 1.3 s; time grows with the product of the two.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)


@contextmanager
def open_for_batch(path: Path, busy_seconds: float) -> Iterator[sqlite3.Connection]:
    """Open the database at ``path`` for the short reads of a command, which has a thread to itself.

    Args:
        path: the database file.
        busy_seconds: how long one read waits for the producer's commit, before ``sqlite3.OperationalError``.
            While it waits it holds nothing.

    Raises:
        UnavailableError: there is no such file, or it cannot be opened now.
    """
    try:
        db = sqlite3.connect(_read_only(path), uri=True, timeout=busy_seconds, isolation_level=None)
    except sqlite3.Error as error:
        raise _cannot_open(path, error) from error
    try:
        db.execute("PRAGMA query_only=1")
        db.set_authorizer(_authorize)
        db.text_factory = _text
        yield db
    finally:
        db.close()


def _read_only(path: Path) -> str:
    return f"file:{quote(str(path))}?mode=ro"


def _cannot_open(path: Path, error: sqlite3.Error) -> UnavailableError:
    return UnavailableError("read the trace database", str(path), str(error), "is it there, and may it be read?")


class _Connection(aiosqlite.Connection):
    """A connection whose thread can be waited for when the file cannot be opened.

    A thread that still answers to a loop that is closed prints its error to stderr.
    """

    _stopping: Future[None] | None = None

    def stop(self) -> Future[None] | None:
        """Stop the thread; aiosqlite calls this where the file cannot be opened."""
        self._stopping = super().stop()
        return self._stopping

    async def stopped(self) -> None:
        """Wait until the thread that was stopped has given its last answer."""
        if self._stopping is not None:
            await self._stopping


@asynccontextmanager
async def open_trace_database(path: Path) -> AsyncIterator[aiosqlite.Connection]:
    """Open the database at ``path`` for short reads.

    Raises:
        UnavailableError: there is no such file, or it cannot be opened now.
    """
    connect = partial(
        sqlite3.connect, _read_only(path), uri=True, timeout=_BUSY_SECONDS, isolation_level=None, factory=_ForConditions
    )
    db = _Connection(connect, iter_chunk_size=64)
    try:
        await db
    except sqlite3.Error as error:
        await db.stopped()
        raise UnavailableError("read outcomes", str(path), str(error), "it is tried again") from error
    try:
        await db.execute_fetchall("PRAGMA query_only=1")
        await db.set_authorizer(_authorize)
        db.text_factory = _text
        yield db
    finally:
        with anyio.CancelScope(shield=True):  # its thread would outlive us, and hold the process up
            await db.close()


def primary_code(error: sqlite3.Error) -> int:
    """Return the primary result code (https://sqlite.org/rescode.html), or 0 if the error is not SQLite's own."""
    return getattr(error, "sqlite_errorcode", 0) & _PRIMARY


def is_busy(error: sqlite3.Error) -> bool:
    """Return whether somebody else holds the database or a table of it for now."""
    return primary_code(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
