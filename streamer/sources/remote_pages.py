"""Pages of rows from a trace database on a server, for a command that has nothing else to do meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from streamer.config.database_url import Server
from streamer.sources.conversations import PAGE_CHARACTERS, PAGE_ROWS
from streamer.sources.libsql_process import LibsqlProcess
from streamer.sources.remote_database import plain, unavailable

_OP = "read the trace database"
_SECONDS = 60.0
"""How long one page may take: a server that has to wake up first takes a while."""


class RemotePages:
    """Asks one server for pages, each in a request of its own.

    Args:
        server: which one.
        rows: how many rows of messages or events a page has at most.
        characters: a page ends soon after so much content.
    """

    def __init__(self, server: Server, *, rows: int = PAGE_ROWS, characters: int = PAGE_CHARACTERS) -> None:
        self.path: Path | Server = server
        self.rows = rows
        self._server = server
        self._characters = characters
        self._process = LibsqlProcess(server, _SECONDS, _OP)

    def page(self, sql: str, values: Sequence[Any], size: Callable[[Any], int]) -> tuple[list[Any], bool]:
        """Return what :meth:`AnyPages.page` says."""
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
