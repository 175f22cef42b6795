"""The process that queries a remote trace database: ``python -m streamer.sources.libsql_worker``.

libsql holds Python's global lock while it waits for the network. In a thread of the daemon it would block all other
threads, signals included, and forever if the server falls silent. A process of its own blocks nothing, and can be
killed.
"""

from __future__ import annotations

import signal
import sys
import time
from typing import IO, Any, TypeVar

import libsql
import msgspec

from streamer.sources.wire import HEAD, Answer, Greeting, Query, frame, is_rejection

_REUSE_SECONDS = 5.0
"""Seconds for which a connection is reused: the server drops it after 10 s."""

_FETCHED = 16
"""Rows between two checks of their size."""

_T = TypeVar("_T")


class _Connection:
    """Holds one connection; a statement that fails on an old one is retried once on a new one."""

    def __init__(self, greeting: Greeting) -> None:
        self._greeting = greeting
        self._db: Any = None
        self._used = 0.0

    def ask(self, ask: Query) -> Answer:
        is_old = self._db is not None and time.monotonic() - self._used < _REUSE_SECONDS
        answer = self._try(ask) if is_old else None
        if answer is None or (answer.error and not is_rejection(answer.error)):
            self._db = None
            answer = self._try(ask)
        self._used = time.monotonic()
        return answer

    def _try(self, ask: Query) -> Answer:
        try:
            if self._db is None:
                greeting = self._greeting
                self._db = libsql.connect(greeting.url, isolation_level=None, auth_token=greeting.token)
            return _answer(self._db.execute(ask.sql, tuple(ask.values)), ask.characters)
        except BaseException as error:  # noqa: BLE001 - a panic of libsql is no Exception
            self._db = None
            return Answer(error=str(error) or type(error).__name__)


def _answer(cursor: Any, characters: int | None) -> Answer:
    if characters is None:
        return Answer([list(row) for row in cursor.fetchall()])
    rows: list[list[Any]] = []
    held = 0
    while held <= characters:
        some = cursor.fetchmany(_FETCHED)
        if not some:
            return Answer(rows)
        rows += map(list, some)
        held += sum(len(value) for row in some for value in row if isinstance(value, str | bytes))
    return Answer(rows, full=True)


def _read(source: IO[bytes], kind: type[_T]) -> _T | None:
    """Return the next message; None if the daemon has ended."""
    head = source.read(HEAD)
    data = source.read(int.from_bytes(head, "big"))
    return msgspec.msgpack.decode(data, type=kind) if data else None


def _main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the daemon decides when to stop, and its end ends this process
    greeting = _read(sys.stdin.buffer, Greeting)
    if greeting is None:
        return
    connection = _Connection(greeting)
    while (ask := _read(sys.stdin.buffer, Query)) is not None:
        # SIGALRM is not caught: no Python code runs while libsql waits for the network.
        signal.setitimer(signal.ITIMER_REAL, greeting.seconds)
        answer = connection.ask(ask)
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.stdout.buffer.write(frame(answer))
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _main()
