"""A trace database on a server, read through libsql.

Invariants
- All requests are SELECTs of our own, one per request. They contain the user's condition in parentheses, so that it
  cannot end the statement.
- After any failure the connection is closed, and reopened with backoff. A poll that comes earlier fails at once with
  the same error.
- The token appears in no error, whatever the server or libsql reports.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio

from streamer.base.errors import UnavailableError
from streamer.base.files import Clock
from streamer.base.text import printable
from streamer.config.database_url import Server
from streamer.sources.libsql_process import LibsqlProcess
from streamer.sources.pace import Pace
from streamer.sources.trace_database import Opened

_STATEMENT_SECONDS = 10.0
"""Timeout of one statement."""

_OP = "read outcomes"
_SWEEP_PAUSE = 30.0
"""Seconds between two pages of known rows: servers charge for each row that they read."""

_POLL_TIMEOUT = 0.1
_MAX_CAUSE = 300
_WRAPPING = re.compile(r"\bHrana: |\b(?:api|http|stream|cursor|json) error: |Error \{ message: |error at step 0: ")
_CONNECTION_LOST = re.compile(
    r"channel closed|operation was canceled|connection (?:closed|error)|reading a body|reset by peer|broken pipe",
    re.IGNORECASE,
)
"""libsql has many messages for a broken connection; all are reported as one failure."""

_QUOTES = re.compile(r"`+")


class RemoteDatabase:
    """One server, polled in short pages, and less often while it has nothing new.

    Args:
        server: The server.
        clock: The current time.
        random: Returns a number from 0 to 1, for the pauses after failures.
        seconds: Timeout of one statement, in seconds.
    """

    sweep_pause = _SWEEP_PAUSE
    poll_timeout = _POLL_TIMEOUT
    keeps_positions = True

    def __init__(
        self, server: Server, clock: Clock, random: Callable[[], float], seconds: float = _STATEMENT_SECONDS
    ) -> None:
        self.path = server
        self._process = LibsqlProcess(server, seconds, _OP)
        self._pace = Pace(clock, random)
        self._lock = anyio.Lock()
        self._prepared = False
        self._failure: UnavailableError | None = None
        self._polls = 0

    @property
    def is_open(self) -> bool:
        """Whether the statements are prepared."""
        return self._prepared

    async def open(self, prepare: Callable[[], Awaitable[None]]) -> Opened:
        """Call ``prepare`` unless that succeeded since the last failure.

        Raises:
            UnavailableError: The server cannot be reached, or it is too early to retry.
        """
        if self._failure is not None and self._pace.retry_in:
            raise self._failure
        if not self._prepared:
            await prepare()
            self._prepared = True
        return Opened.UNCHANGED

    def is_at_rest(self, *, caught_up: bool, sweeping: bool) -> bool:  # noqa: ARG002 - a sweep has its own pauses
        """Return whether all rows were read a moment ago."""
        return caught_up and self._pace.is_too_soon

    async def version(self) -> int:
        """Return a new number for each poll: only reading rows shows whether there are new ones."""
        self._pace.asked()
        self._polls += 1
        return self._polls

    async def fetch(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """Return all rows of a SELECT.

        Raises:
            UnavailableError: The server cannot be read now; TooSlowError if it takes too long.
        """
        async with self._lock:
            try:
                answer = await self._process.ask(sql, values)
            except UnavailableError as error:
                raise self._failed(error) from error
        if not answer.error:
            self._pace.worked()
            self._failure = None
            return answer.rows
        raise self._failed(unavailable(_OP, self.path, plain(answer.error, self.path)))

    def _failed(self, error: UnavailableError) -> UnavailableError:
        self._failure = error
        self._pace.failed()
        self._prepared = False
        return error

    def column(self, expression: str) -> str:
        """Return the column as libsql can transfer it: invalid UTF-8 or an infinity would fail the whole answer."""
        return (
            f"CASE typeof({expression}) WHEN 'text' THEN CAST({expression} AS BLOB)"
            f" WHEN 'real' THEN printf('%!.17g', {expression}) WHEN 'blob' THEN 'x' || hex({expression})"
            f" ELSE {expression} END"
        )

    def value(self, value: Any) -> Any:
        """Return the text, the bytes or the number that was transferred."""
        if isinstance(value, bytes):
            return value.decode("utf-8", "backslashreplace")
        if isinstance(value, str):
            return bytes.fromhex(value[1:]) if value.startswith("x") else float(value)
        return value

    def pause(self, interval: float, *, found_new: bool) -> float:
        """Return the seconds until the next poll, which grow while there are no new rows."""
        return self._pace.next(interval, found_new=found_new)

    def pause_after_failure(self, pause: float) -> float:
        """Return the seconds until the next retry."""
        return self._pace.retry_in or pause

    def hurry(self) -> None:
        """Poll often again: a shard was written, and its outcome is there by then."""
        self._pace.hurry()

    def invalidate(self) -> None:
        """Prepare again before the next poll."""
        self._prepared = False

    async def close(self) -> None:
        """Stop the process that queries the server."""
        self._prepared = False
        self._process.close()


def plain(error: str, server: Server) -> str:
    """Return an error message of libsql without its wrapping and without the token."""
    if "error trying to connect" not in error and _CONNECTION_LOST.search(error):
        return "the connection was cut"
    text = _QUOTES.sub("", _WRAPPING.sub("", server.token.hidden_in(error)))
    return printable(text)[:_MAX_CAUSE]


def unavailable(op: str, server: Server, cause: str) -> UnavailableError:
    """Return the error for a server that did not answer, with a hint."""
    if "status=401" in cause or "status=403" in cause:
        said = "does not accept the token" if server.token else "wants a token, and none is set"
        hint = "set TURSO_AUTH_TOKEN to a token of this database (turso db tokens create NAME)"
        return UnavailableError(op, str(server), f"the server {said}: {cause}", hint)
    if "certificate" in cause or "platform certs" in cause:
        hint = "for a certificate authority of your own: SSL_CERT_FILE=CA.pem, where the daemon is started"
        return UnavailableError(op, str(server), f"TLS: {cause}", hint)
    if "InvalidContentType" in cause:
        hint = "is it a server without TLS? Then write http://, or add ?tls=0 to a libsql:// URL"
        return UnavailableError(op, str(server), f"TLS: {cause}", hint)
    hint = "it is tried again; does the server run, and are host and port right?"
    return UnavailableError(op, str(server), cause, hint)
