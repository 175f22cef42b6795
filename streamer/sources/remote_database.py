"""A trace database on a server, read through libsql.

Invariants
- All that is sent are SELECTs of our own, one for each request. The user's condition stands in parentheses in them,
  and cannot end the statement.
- After any failure the connection is given up, and is made anew after a pause that grows. Nobody waits for it: a
  poll that comes earlier gets the same error at once.
- The token is in no error, whatever the server or libsql says.
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
from streamer.sources.trace_database import Opened, StatementError
from streamer.sources.wire import is_refusal

_STATEMENT_SECONDS = 10.0
"""How long one statement may take."""

_OP = "read outcomes"
_SWEEP_PAUSE = 30.0
"""Seconds between two pages of known rows: a server is paid for each row it reads."""

_PATIENCE = 0.1
_LONGEST_CAUSE = 300
_WRAPPING = re.compile(r"\bHrana: |\b(?:api|http|stream|cursor|json) error: |Error \{ message: |error at step 0: ")
_CUT = re.compile(
    r"channel closed|operation was canceled|connection (?:closed|error)|reading a body|reset by peer|broken pipe",
    re.IGNORECASE,
)
"""What libsql says of a connection that broke depends on the moment; it is one trouble, and is said once."""

_QUOTES = re.compile(r"`+")


class RemoteDatabase:
    """One server, asked in short pages, and ever more rarely while it has nothing new.

    Args:
        server: which one.
        clock: what time it is.
        random: returns a number from 0 to 1, for the pauses after failures.
        seconds: how long one statement may take.
    """

    sweep_pause = _SWEEP_PAUSE
    patience: float | None = _PATIENCE
    keeps_positions = True

    def __init__(
        self, server: Server, clock: Clock, random: Callable[[], float], seconds: float = _STATEMENT_SECONDS
    ) -> None:
        self.path = server
        self._process = LibsqlProcess(server, seconds, _OP)
        self._pace = Pace(clock, random)
        self._one = anyio.Lock()
        self._prepared = False
        self._failure: UnavailableError | None = None
        self._polls = 0

    @property
    def is_open(self) -> bool:
        """Whether it can be asked."""
        return self._prepared

    async def open(self, prepare: Callable[[], Awaitable[None]]) -> Opened:
        """Prepare unless that was done since the last failure.

        Raises:
            UnavailableError: the server cannot be asked, or it is too early to try again.
        """
        if self._failure is not None and self._pace.retry_in:
            raise self._failure
        if not self._prepared:
            await prepare()
            self._prepared = True
        return Opened.AS_BEFORE

    def is_at_rest(self, *, caught_up: bool, sweeping: bool) -> bool:  # noqa: ARG002 - a sweep has its own pauses
        """Say whether all was read a moment ago."""
        return caught_up and self._pace.is_too_soon

    async def version(self) -> int:
        """Return another number at each poll: only reading rows tells whether there are new ones."""
        self._pace.asked()
        self._polls += 1
        return self._polls

    async def fetch(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """Return all rows of a SELECT.

        Raises:
            UnavailableError: the server cannot be asked now; TooSlowError if it takes too long.
        """
        try:
            return await self._ask(sql, values)
        except StatementError as error:
            hint = "it is tried again; if a row makes the condition fail, guard it (json_valid(...) AND ...)"
            raise self._failed(UnavailableError(_OP, str(self.path), str(error), hint)) from error

    async def try_out(self, sql: str, values: Sequence[Any]) -> None:
        """See whether the server can evaluate a SELECT.

        Raises:
            StatementError: it cannot.
            UnavailableError: it cannot be asked now.
        """
        await self._ask(f"EXPLAIN {sql}", values)

    async def _ask(self, sql: str, values: Sequence[Any]) -> list[Any]:
        async with self._one:
            try:
                answer = await self._process.ask(sql, values)
            except UnavailableError as error:
                raise self._failed(error) from error
        if not answer.error:
            self._pace.worked()
            self._failure = None
            return answer.rows
        cause = plain(answer.error, self.path)
        if is_refusal(answer.error):
            raise StatementError(cause)
        raise self._failed(unavailable(_OP, self.path, cause))

    def _failed(self, error: UnavailableError) -> UnavailableError:
        self._failure = error
        self._pace.failed()
        self._prepared = False
        return error

    def column(self, expression: str) -> str:
        """Return the column as libsql can carry it: a text that is no UTF-8 or an infinity would end all answers."""
        return (
            f"CASE typeof({expression}) WHEN 'text' THEN CAST({expression} AS BLOB)"
            f" WHEN 'real' THEN printf('%!.17g', {expression}) ELSE {expression} END"
        )

    def value(self, value: Any) -> Any:
        """Return the text or the number that was carried."""
        if isinstance(value, bytes):
            return value.decode("utf-8", "backslashreplace")
        return float(value) if isinstance(value, str) else value

    def pause(self, interval: float, *, news: bool) -> float:
        """Return the seconds until the next poll, more and more while nothing comes."""
        return self._pace.next(interval, news=news)

    def pause_after_failure(self, pause: float) -> float:
        """Return the seconds until the server may be asked again."""
        return self._pace.retry_in or pause

    def hurry(self) -> None:
        """Ask often again: a shard was written, and its outcome is there by then."""
        self._pace.hurry()

    def forget(self) -> None:
        """Prepare anew before the next poll."""
        self._prepared = False

    async def close(self) -> None:
        """End the process that asks."""
        self._prepared = False
        self._process.close()


def plain(error: str, server: Server) -> str:
    """Return what libsql says, without its wrapping and without the token."""
    if "error trying to connect" not in error and _CUT.search(error):
        return "the connection was cut"
    text = _QUOTES.sub("", _WRAPPING.sub("", server.token.hidden_in(error)))
    return printable(text)[:_LONGEST_CAUSE]


def unavailable(op: str, server: Server, cause: str) -> UnavailableError:
    """Return the error for a server that did not answer, with what helps."""
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
