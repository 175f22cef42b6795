"""Asks a remote trace database through a process of its own, with or without blocking.

Invariants
- The token goes to the process through a pipe: it stands in no command line.
- A statement ends within its time: with an answer, or with the process.
- After a failure or a cancellation there is no process; the next statement starts one.
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
_WHOLE = 1 << 31
"""libsql passes whole numbers beyond 32 bits as floats, which are not exact. SQLite reads a text as the number that
it is wherever it is compared with a column of numbers."""


class LibsqlProcess:
    """One process, started when it is needed.

    Args:
        server: whom to ask.
        seconds: how long one statement may take.
        op: what is being done, for errors.
        is_installed: says whether a module can be imported.
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
        """Return the answer to one statement, and let others run until it is there.

        Raises:
            UnavailableError: there is none; TooSlowError if it takes too long.
            MissingExtraError: the extra `turso` is not installed.
        """
        try:
            process = self._send(Query(sql, _carried(values)))
            while (answer := self._receive(process)) is None:
                await anyio.wait_readable(_out(process))
        except BaseException:
            self.close()  # an answer that nobody waits for any more would be taken for the next one
            raise
        return answer

    def ask_now(self, sql: str, values: Sequence[Any], characters: int | None) -> Answer:
        """Return the answer to one statement, for a command that has nothing else to do meanwhile.

        Args:
            sql: a SELECT.
            values: its parameters.
            characters: the rows may be broken off after so many.

        Raises:
            As :meth:`ask`.
        """
        try:
            process = self._send(Query(sql, _carried(values), characters))
            while (answer := self._receive(process)) is None:
                select.select([_out(process)], [], [])
        except BaseException:
            self.close()
            raise
        return answer

    def close(self) -> None:
        """End the process, whatever it is doing."""
        process, self._process = self._process, None
        self._received.clear()
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what was not sent any more
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
        # -P: no module of the working directory is taken for libsql. A session of its own: Ctrl-C is for us.
        command = [sys.executable, "-P", "-m", "streamer.sources.libsql_worker"]
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # libsql writes there what it panics with
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
        """Return the answer if all of it is there."""
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


def _carried(values: Sequence[Any]) -> list[Any]:
    return [str(value) if isinstance(value, int) and abs(value) >= _WHOLE else value for value in values]
