"""Read pages of rows from a trace database, blocking: from an open file, or from a server."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from streamer.base.errors import UnavailableError
from streamer.config.database_url import Server
from streamer.sources.database_file import is_busy
from streamer.sources.libsql_process import LibsqlProcess
from streamer.sources.remote_database import plain, unavailable

_OP = "read the trace database"
_ROWS = 250
_CHARACTERS = 1 << 19
"""A page is read within a few milliseconds, and held in memory."""

_AT_ONCE = 16
"""Rows between two checks of a page's size."""

_SECONDS = 60.0
"""Timeout of one page: a server that has to wake up first takes a while."""


class Pages(Protocol):
    """Reads pages of rows from a trace database: a file or a server.

    ``rows`` is the maximum number of rows of messages or events in a page.
    """

    path: Path | Server
    rows: int

    def page(self, sql: str, values: Sequence[Any], size: Callable[[Any], int]) -> tuple[list[Any], bool]:
        """Return the first rows of a statement, and whether the size limit ended the page.

        Args:
            sql: A SELECT that orders its rows by a key.
            values: Its parameters.
            size: Returns the size of a row in characters.

        Raises:
            UnavailableError: The database is busy, damaged, unreachable, or no producer's.
        """


class FilePages:
    """Reads pages of rows from an open file.

    Args:
        db: The database, opened read-only.
        path: Its file, for errors.
        between: Called after each page, when no lock is held.
        rows: Maximum number of rows of messages or events in a page.
        characters: Content in characters after which a page ends soon.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        path: Path,
        between: Callable[[], None] = lambda: None,
        *,
        rows: int = _ROWS,
        characters: int = _CHARACTERS,
    ) -> None:
        self._db = db
        self.path: Path | Server = path
        self._between = between
        self.rows = rows
        self._characters = characters

    def page(self, sql: str, values: Sequence[Any], size: Callable[[Any], int]) -> tuple[list[Any], bool]:
        """Read a page, as :meth:`Pages.page` specifies."""
        rows: list[Any] = []
        held, full = 0, False
        try:
            cursor = self._db.execute(sql, values)
            try:
                while not full and (some := cursor.fetchmany(_AT_ONCE)):
                    rows += some
                    held += sum(map(size, some))
                    full = held > self._characters
            finally:
                cursor.close()
        except sqlite3.Error as error:
            raise self._unavailable(error) from error
        self._between()
        return rows, full

    def _unavailable(self, error: sqlite3.Error) -> UnavailableError:
        hint = (
            "the producer is writing for long: try again"
            if is_busy(error)
            else f"if the file is damaged: sqlite3 '{self.path}' 'PRAGMA quick_check'"
        )
        return UnavailableError(_OP, str(self.path), str(error), hint)


class RemotePages:
    """Reads pages of rows from a server, each in one request.

    Args:
        server: The server.
        rows: Maximum number of rows of messages or events in a page.
        characters: Content in characters after which a page ends soon.
    """

    def __init__(self, server: Server, *, rows: int = _ROWS, characters: int = _CHARACTERS) -> None:
        self.path: Path | Server = server
        self.rows = rows
        self._server = server
        self._characters = characters
        self._process = LibsqlProcess(server, _SECONDS, _OP)

    def page(self, sql: str, values: Sequence[Any], size: Callable[[Any], int]) -> tuple[list[Any], bool]:
        """Read a page, as :meth:`Pages.page` specifies."""
        rows, full = self._read(sql, values, self._characters)
        if full and sum(map(size, rows)) <= self._characters:
            # Columns that the caller does not count made the page long: read all of it.
            rows, full = self._read(sql, values, None)
        return rows, full

    def close(self) -> None:
        """Stop the process that queries the server."""
        self._process.close()

    def _read(self, sql: str, values: Sequence[Any], characters: int | None) -> tuple[list[Any], bool]:
        answer = self._process.ask_now(sql, values, characters)
        if answer.error:
            raise unavailable(_OP, self._server, plain(answer.error, self._server))
        return answer.rows, answer.full


def columns_of(pages: Pages, table: str) -> frozenset[str]:
    """Return the column names of a table; none if the table does not exist."""
    rows, _ = pages.page("SELECT name FROM pragma_table_info(?)", (table,), lambda _: 0)
    return frozenset(row[0] for row in rows)
