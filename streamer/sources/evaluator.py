"""Evaluates a condition over copied rows, in a process that can be abandoned.

Invariants
- No transaction on the trace database is open meanwhile: it gets rows that were read and are ours.
- A request ends within its time, with an answer or with the process (``condition_worker``).
- One row that is too slow, or that the condition fails on, is named with its reason; all others get their answer.
- After a failure or a cancellation there is no process; the next request starts one.
"""

from __future__ import annotations

import marshal
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, Any, NamedTuple

import anyio

from streamer.base.errors import UnavailableError
from streamer.core.verdicts.reasons import CONDITION_FAILED, CONDITION_TOO_SLOW, VALUE_TOO_LONG
from streamer.sources import condition_worker
from streamer.sources.condition import Plan
from streamer.sources.condition_worker import FAILED, HEAD, MET, TOO_LONG

SECONDS = 1.0
"""How long one request may take. One that takes longer is asked again in halves, down to the row that is too slow."""

_CHUNK = 1 << 18


class CopiedRow(NamedTuple):
    """A row to evaluate: its rowid; its columns, session_id first; those of its session, None where there is none."""

    number: int
    outcome: Sequence[Any]
    session: Sequence[Any] | None


class Evaluation(NamedTuple):
    """Whether a row meets the condition, or the reason why that cannot be said."""

    qualifies: bool
    problem: str = ""


_NOT_MET = Evaluation(qualifies=False)
_EVALUATIONS = {
    MET[0]: Evaluation(qualifies=True),
    FAILED[0]: Evaluation(qualifies=False, problem=CONDITION_FAILED),
    TOO_LONG[0]: Evaluation(qualifies=False, problem=VALUE_TOO_LONG),
}


class Evaluator:
    """Evaluates one condition.

    Args:
        plan: the condition, and which columns it looks at.
        seconds: how long one request may take.
    """

    def __init__(self, plan: Plan, seconds: float = SECONDS) -> None:
        self.plan = plan
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process that evaluates now, or None."""
        return None if self._process is None else self._process.pid

    async def evaluate(self, rows: Sequence[CopiedRow]) -> list[Evaluation]:
        """Return what the condition says of each row, in order.

        Raises:
            UnavailableError: the process died of something else than its time.
        """
        if not rows:
            return []
        answer = await self._ask(rows)
        if answer is not None:
            return [_EVALUATIONS.get(one, _NOT_MET) for one in answer]
        if len(rows) == 1:
            return [Evaluation(qualifies=False, problem=CONDITION_TOO_SLOW)]
        half = len(rows) // 2
        return [*await self.evaluate(rows[:half]), *await self.evaluate(rows[half:])]

    def close(self) -> None:
        """End the process, whatever it is doing."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what was not sent any more
                    pipe.close()

    async def _ask(self, rows: Sequence[CopiedRow]) -> bytes | None:
        """Return one byte for each row, or None if they took too long together."""
        try:
            process = self._process or self._start()
            await _send(process, _frame(rows))
            answer = await _receive(process)
        except BaseException:
            self.close()  # an answer that nobody waits for any more would be taken for the next one
            raise
        if answer is None:
            self.close()
            if process.returncode != -signal.SIGALRM:
                cause = f"the process that evaluates it ended with {process.returncode}"
                raise UnavailableError("evaluate the condition", "qualify.where", cause, "retrying with a new process")
        return answer

    def _start(self) -> subprocess.Popen[bytes]:
        greeting = marshal.dumps((self._seconds, self.plan.tables, self.plan.statements)).hex()
        process = subprocess.Popen(  # noqa: S603 - our own module
            # -I -S: nothing but the standard library, so that it starts in some 20 ms.
            [sys.executable, "-I", "-S", condition_worker.__file__, greeting],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is for the daemon
        )
        os.set_blocking(_fd(process.stdin), False)
        os.set_blocking(_fd(process.stdout), False)
        self._process = process
        return process


def _frame(rows: Sequence[CopiedRow]) -> bytes:
    """Return rows as a frame."""
    data = marshal.dumps([(row.number, list(row.outcome), row.session and list(row.session)) for row in rows])
    return len(data).to_bytes(HEAD, "big") + data


async def _send(process: subprocess.Popen[bytes], data: bytes) -> None:
    rest = memoryview(data)
    with suppress(BrokenPipeError):  # it has died, which its answer tells
        while rest:
            try:
                rest = rest[os.write(_fd(process.stdin), rest) :]
            except BlockingIOError:
                await anyio.wait_writable(_fd(process.stdin))


async def _receive(process: subprocess.Popen[bytes]) -> bytes | None:
    """Return the answer, or None if the process ended before it was whole."""
    received = bytearray()
    while len(received) < HEAD or len(received) < HEAD + int.from_bytes(received[:HEAD], "big"):
        try:
            data = os.read(_fd(process.stdout), _CHUNK)
        except BlockingIOError:
            await anyio.wait_readable(_fd(process.stdout))
            continue
        if not data:
            process.wait()
            return None
        received += data
    return bytes(received[HEAD:])


def _fd(pipe: IO[bytes] | None) -> int:
    if pipe is None:
        raise AssertionError("it was started with a pipe")
    return pipe.fileno()
