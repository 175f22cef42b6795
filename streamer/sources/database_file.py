"""Open trace database files read-only, and classify the errors of SQLite.

The producer's database is never created, written, checkpointed or held: ``mode=ro``, ``query_only``, a
short busy timeout, and no cursor that outlives a call. Errors are classified by their code, as the wording of SQLite
may change.
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
"""Busy timeout of one read during a commit of the producer; the next poll retries."""

_MAX_VALUE = 512 << 10
"""Maximum length in bytes of a text in a condition; a longer ``reward_metadata`` makes it fail."""

_ALLOWED = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE})
_PRIMARY = 0xFF
_PRAGMAS = frozenset({"data_version", "table_info", "table_xinfo"})
_FORBIDDEN_FUNCTIONS = frozenset({"load_extension", "readfile", "writefile", "edit"})


def file_id(path: Path) -> tuple[int, int] | None:
    """Return (device, inode) of the database file; None if it does not exist."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino


def file_times(path: Path) -> tuple[tuple[int, int] | None, ...]:
    """Return (size, mtime_ns) of the database and of its write-ahead log: they hint at writes."""
    return tuple(_size_and_time(name) for name in (str(path), f"{path}-wal"))


def _size_and_time(name: str) -> tuple[int, int] | None:
    try:
        state = os.stat(name)
    except OSError:
        return None
    return state.st_size, state.st_mtime_ns


def _text(data: bytes) -> str:
    """Decode a text; invalid UTF-8 stays visible as escapes, and does not fail the other rows."""
    return data.decode("utf-8", "backslashreplace")


def _authorize(action: int, first: str | None, second: str | None, _database: str | None, _inner: str | None) -> int:
    """Allow only reading: no condition can write or attach."""
    if action == sqlite3.SQLITE_PRAGMA:
        return sqlite3.SQLITE_OK if first in _PRAGMAS else sqlite3.SQLITE_DENY
    if action == sqlite3.SQLITE_UPDATE:
        # SQLite reports the declaration of a table-valued function (json_each) as this, in memory.
        return sqlite3.SQLITE_OK if first == "sqlite_master" else sqlite3.SQLITE_DENY
    if action == sqlite3.SQLITE_FUNCTION and second in _FORBIDDEN_FUNCTIONS:
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY


class _ForConditions(sqlite3.Connection):
    """A connection that limits the duration of each step: SQLite can be interrupted only between two steps.

    Searching a text of 400 kB for one of 200 kB took 1.3 s; the time grows with the product of the sizes.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE)


@contextmanager
def open_for_batch(path: Path, busy_seconds: float) -> Iterator[sqlite3.Connection]:
    """Open the database at ``path`` for short blocking reads.

    Args:
        path: The database file.
        busy_seconds: Busy timeout of one read during a commit of the producer; then it raises
            ``sqlite3.OperationalError``. A waiting read holds no lock.

    Raises:
        UnavailableError: The file does not exist, or cannot be opened now.
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
    """A connection whose thread can be awaited if the file cannot be opened.

    A thread that answers a closed event loop prints its error to stderr.
    """

    _stopping: Future[None] | None = None

    def stop(self) -> Future[None] | None:
        """Stop the thread; aiosqlite calls this if the file cannot be opened."""
        self._stopping = super().stop()
        return self._stopping

    async def stopped(self) -> None:
        """Wait until the stopped thread has given its last answer."""
        if self._stopping is not None:
            await self._stopping


@asynccontextmanager
async def open_trace_database(path: Path) -> AsyncIterator[aiosqlite.Connection]:
    """Open the database at ``path`` for short reads.

    Raises:
        UnavailableError: The file does not exist, or cannot be opened now.
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
        with anyio.CancelScope(shield=True):  # an open thread would keep the process alive
            await db.close()


def primary_code(error: sqlite3.Error) -> int:
    """Return the primary result code (https://sqlite.org/rescode.html), or 0 if the error is not SQLite's own."""
    return getattr(error, "sqlite_errorcode", 0) & _PRIMARY


def is_busy(error: sqlite3.Error) -> bool:
    """Return whether another connection has locked the database or one of its tables."""
    return primary_code(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
