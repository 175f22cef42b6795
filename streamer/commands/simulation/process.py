"""Child processes that cannot outlive their parent, not even when it is killed."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from signal import SIGTERM, Signals
from typing import Self

from streamer.base.text import printable

MODULE = (sys.executable, "-P", "-m")
"""Starts a module of this package."""

_STOP_SECONDS = 10.0
_SHOWN_LINES = 15


class ChildProcess:
    """A child process; as a context manager it is stopped in the end.

    It has a session of its own, so that Ctrl-C reaches the parent alone and the parent decides which process
    stops first.

    Args:
        command: Program and arguments.
        log: File that gets its output.
        environment: Environment variables; by default the parent's, without the settings of another daemon.
        at_parent_death: Signal that the process gets when its parent ends, on Linux.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        at_parent_death: Signals = SIGTERM,
    ) -> None:
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - no text from outside is in these commands
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment() if environment is None else environment,
                start_new_session=True,
                preexec_fn=_bound_to_parent(at_parent_death),  # noqa: PLW1509 - the parents have no threads
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status, or None while the process runs."""
        return self._process.poll()

    def signal(self, number: Signals) -> None:
        """Send a signal, if the process still runs."""
        self._process.send_signal(number)

    def stop(self) -> int:
        """Send SIGTERM, and SIGKILL after 10 seconds; return the exit status."""
        self._process.terminate()
        try:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_SECONDS)
        finally:  # also after a second Ctrl-C
            self._process.kill()
        return self._process.wait()

    def kill(self) -> None:
        """Kill the process and wait for its end."""
        self._process.kill()
        self._process.wait()

    def last_lines(self) -> list[str]:
        """Return the end of its log, as printable lines."""
        lines = self.log.read_text("utf-8", "backslashreplace").splitlines()[-_SHOWN_LINES:]
        return [printable(line) for line in lines]


def _environment() -> dict[str, str]:
    """Return the parent's environment without the settings of another daemon."""
    others = ("STREAMER_", "NOTIFY_SOCKET", "WATCHDOG_")
    return {name: value for name, value in os.environ.items() if not name.startswith(others)}


def _bound_to_parent(number: Signals) -> Callable[[], None] | None:
    """Return the function with which a new process asks for a signal at its parent's death."""
    if sys.platform != "linux":
        return None
    pr_set_pdeathsig = 1
    libc = ctypes.CDLL(None)
    return lambda: libc.prctl(pr_set_pdeathsig, int(number))
