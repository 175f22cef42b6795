"""Processes that cannot outlive the soak, not even when it is killed or they are stopped."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from streamer.base.text import printable

_LAST_SECONDS = 10.0
_TOLD = 12
"""Lines of a log that are worth repeating."""


class SoakProcess:
    """A process in a session of its own, so that Ctrl-C reaches the soak alone; ``log`` has what it says."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter, our own modules
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment(),
                start_new_session=True,
                preexec_fn=_leash(),  # noqa: PLW1509 - the soak has no threads
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status, None while the process runs."""
        return self._process.poll()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if the process still runs."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End the process at once, and wait for that."""
        self._process.kill()
        self._process.wait(_LAST_SECONDS)

    def said(self) -> str:
        """Return the end of its log, one line for each."""
        lines = self.log.read_text("utf-8", "backslashreplace").splitlines()[-_TOLD:]
        return "\n".join(printable(line) for line in lines)


class Children:
    """Starts processes and, as a context manager, ends with all of them."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._started = 0
        self._alive: list[SoakProcess] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._alive:
            child.signal(signal.SIGKILL)
        for child in self._alive:
            child.kill()

    def start(self, name: str, arguments: Sequence[str]) -> SoakProcess:
        """Start a module of ours."""
        self._alive = [child for child in self._alive if child.status is None]
        self._started += 1
        child = SoakProcess([sys.executable, "-P", "-m", *arguments], self._logs / f"{self._started:05}-{name}.log")
        self._alive.append(child)
        return child


def _environment() -> dict[str, str]:
    """Return ours without the settings of another daemon."""
    others = ("STREAMER_", "NOTIFY_SOCKET", "WATCHDOG_")
    return {name: value for name, value in os.environ.items() if not name.startswith(others)}


def _leash() -> Callable[[], None] | None:
    """Return what a new process calls so that it ends with us, even when we are killed."""
    if sys.platform != "linux":
        return None
    pr_set_pdeathsig = 1
    libc = ctypes.CDLL(None)
    # SIGKILL, as a process that is stopped would not see anything milder.
    return lambda: libc.prctl(pr_set_pdeathsig, int(signal.SIGKILL))
