"""Pages of rows from a trace database, for callers that may block: of a file that is open, or of a server."""

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
    """Reads pages of rows from a trace database, be it a file or on a server.

    ``rows`` is how many rows of messages or events a page has at most.
    """

    path: Path | Server
    rows: int

    def page(self, sql: str, values: Sequence[Any], size: Callable[[Any], int]) -> tuple[list[Any], bool]:
        """Return the first rows of a statement, and whether it was broken off as they are large enough.

        Args:
            sql: a SELECT that gives its rows in the order of a key.
            values: its parameters.
            size: how many characters a row has.

        Raises:
            UnavailableError: the database is busy, damaged, out of reach, or not the one of a producer.
        """


class FilePages:
    """Reads pages of rows from a file that is open.

    Args:
        db: the database, opened read-only.
        path: its file, for errors.
        between: called after each page, when nothing is held.
        rows: how many rows of messages or events a page has at most.
        characters: a page ends soon after so much content.
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
        """Return what :meth:`Pages.page` says."""
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
    """Asks one server for pages, each in a request of its own.

    Args:
        server: which one.
        rows: how many rows of messages or events a page has at most.
        characters: a page ends soon after so much content.
    """

    def __init__(self, server: Server, *, rows: int = _ROWS, characters: int = _CHARACTERS) -> None:
        self.path: Path | Server = server
        self.rows = rows
        self._server = server
        self._characters = characters
        self._process = LibsqlProcess(server, _SECONDS, _OP)

    def page(self, sql: str, values: Sequence[Any], size: Callable[[Any], int]) -> tuple[list[Any], bool]:
        """Return what :meth:`Pages.page` says."""
        rows, full = self._ask(sql, values, self._characters)
        if full and sum(map(size, rows)) <= self._characters:
            # What made it long is nothing that whoever asks would count: all of it is wanted.
            rows, full = self._ask(sql, values, None)
        return rows, full

    def close(self) -> None:
        """End the process that asks."""
        self._process.close()

    def _ask(self, sql: str, values: Sequence[Any], characters: int | None) -> tuple[list[Any], bool]:
        answer = self._process.ask_now(sql, values, characters)
        if answer.error:
            raise unavailable(_OP, self._server, plain(answer.error, self._server))
        return answer.rows, answer.full


def columns_of(pages: Pages, table: str) -> frozenset[str]:
    """Return the names of a table's columns; of a table that is not there, none."""
    rows, _ = pages.page("SELECT name FROM pragma_table_info(?)", (table,), lambda _: 0)
    return frozenset(row[0] for row in rows)
