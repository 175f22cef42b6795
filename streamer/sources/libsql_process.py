"""Query a remote trace database through a child process, blocking or not.

Invariants
- The token reaches the process through a pipe, never on its command line.
- A statement ends within its timeout: with an answer, or with the end of the process.
- A failure or a cancellation ends the process; the next statement starts a new one.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

import anyio
import msgspec

from streamer.base.errors import MissingExtraError, UnavailableError
from streamer.config.database_url import Server
from streamer.sources.trace_database import TooSlowError
from streamer.sources.wire import HEAD, Answer, Greeting, Query, frame

_CHUNK = 1 << 18
_MAX_INT = 1 << 31
"""libsql passes integers beyond 32 bits as floats, which are not exact. Sent as text they are exact: SQLite converts a
text to a number when it compares it with a numeric column."""


class LibsqlProcess:
    """One process, started on demand.

    Args:
        server: The server to query.
        seconds: Timeout of one statement, in seconds.
        op: The operation to name in errors.
        is_installed: Returns a true value if a module can be imported.
    """

    def __init__(
        self, server: Server, seconds: float, op: str, is_installed: Callable[[str], object] = find_spec
    ) -> None:
        self._server = server
        self._seconds = seconds
        self._op = op
        self._is_installed = is_installed
        self._process: subprocess.Popen[bytes] | None = None
        self._received = bytearray()

    async def ask(self, sql: str, values: Sequence[Any] = ()) -> Answer:
        """Return the answer to one statement, without blocking the event loop.

        Raises:
            UnavailableError: There is no answer; TooSlowError if it takes too long.
            MissingExtraError: The extra `turso` is not installed.
        """
        try:
            process = self._send(Query(sql, _encoded(values)))
            while (answer := self._receive(process)) is None:
                await anyio.wait_readable(_out(process))
        except BaseException:
            self.close()  # a late answer would be taken for that of the next statement
            raise
        return answer

    def ask_now(self, sql: str, values: Sequence[Any], characters: int | None) -> Answer:
        """Return the answer to one statement, blocking.

        Args:
            sql: A SELECT.
            values: Its parameters.
            characters: Size after which the server may cut off the rows.

        Raises:
            As :meth:`ask`.
        """
        try:
            process = self._send(Query(sql, _encoded(values), characters))
            while (answer := self._receive(process)) is None:
                select.select([_out(process)], [], [])
        except BaseException:
            self.close()
            raise
        return answer

    def close(self) -> None:
        """Kill the process."""
        process, self._process = self._process, None
        self._received.clear()
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):  # unsent data
                    pipe.close()

    def _send(self, ask: Query) -> subprocess.Popen[bytes]:
        process = self._process or self._start()
        self._write(process, frame(ask))
        return process

    def _start(self) -> subprocess.Popen[bytes]:
        if self._is_installed("libsql") is None:
            raise MissingExtraError(
                self._op,
                str(self._server),
                "libsql is not installed",
                "install the extra `turso` (in a checkout: pip install '.[turso]')",
            )
        # -P: no module of the working directory is imported as libsql. Own session: Ctrl-C reaches only the daemon.
        command = [sys.executable, "-P", "-m", "streamer.sources.libsql_worker"]
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # libsql prints its panics there
            bufsize=0,
            start_new_session=True,
        )
        os.set_blocking(_out(self._process), False)
        greeting = Greeting(self._server.url, self._server.token.reveal(), self._seconds)
        self._write(self._process, frame(greeting))
        return self._process

    def _write(self, process: subprocess.Popen[bytes], data: bytes) -> None:
        if process.stdin is None:
            raise AssertionError("it was started with a pipe")
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[process.stdin.write(rest) or 0 :]
        except BrokenPipeError as error:
            raise self._died(process) from error

    def _receive(self, process: subprocess.Popen[bytes]) -> Answer | None:
        """Return the answer if it is complete."""
        with suppress(BlockingIOError):
            while data := os.read(_out(process), _CHUNK):
                self._received += data
            raise self._died(process)
        length = int.from_bytes(self._received[:HEAD], "big")
        if len(self._received) < HEAD + length or len(self._received) < HEAD:
            return None
        answer = msgspec.msgpack.decode(self._received[HEAD:], type=Answer)
        self._received.clear()
        return answer

    def _died(self, process: subprocess.Popen[bytes]) -> UnavailableError:
        op, place = self._op, str(self._server)
        if process.wait() == -signal.SIGALRM:
            cause = f"the server took more than {self._seconds:g} s to answer"
            return TooSlowError(op, place, cause, "it is tried again; can it be reached, and is the condition simple?")
        return UnavailableError(op, place, "the process that asks it has died", "it is started again")


def _out(process: subprocess.Popen[bytes]) -> int:
    if process.stdout is None:
        raise AssertionError("it was started with a pipe")
    return process.stdout.fileno()


def _encoded(values: Sequence[Any]) -> list[Any]:
    return [str(value) if isinstance(value, int) and abs(value) >= _MAX_INT else value for value in values]
