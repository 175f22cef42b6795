"""A process of the demo that cannot outlive it."""

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

_STOP_SECONDS = 10.0


class DemoProcess:
    """A process that cannot outlive the demo; use it as a context manager.

    It has a session of its own, so that Ctrl-C reaches the demo alone and the demo decides who stops first.
    """

    def __init__(self, name: str, log: Path, command: Sequence[str]) -> None:
        self.name = name
        self._log = log
        self._command = command

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter, our own modules
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(),
                start_new_session=True,
                preexec_fn=_leash(),  # noqa: PLW1509 - no thread runs yet
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def status(self) -> int | None:
        """The exit status, None while the process runs."""
        return self._process.poll()

    def stop(self) -> int:
        """Ask with SIGTERM, insist after a while; return the exit status."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        except BaseException:
            # A second Ctrl-C: no more patience.
            self._process.kill()
            raise
        return self._process.wait()

    def fault(self) -> str:
        """Say how the process ended, with the end of its log."""
        tail = self._log.read_text("utf-8", "backslashreplace").splitlines()[-15:]
        return "\n".join(
            [f"the {self.name} ended with status {self.status}", *(f"  {printable(line)}" for line in tail)]
        )


def _environment() -> dict[str, str]:
    """Return ours without the settings of another daemon: the demo shows the defaults."""
    return {name: value for name, value in os.environ.items() if not name.startswith("STREAMER_")}


def _leash() -> Callable[[], None] | None:
    """Return what a new process calls so that it ends with us, even when we are killed."""
    if sys.platform != "linux":
        return None
    pr_set_pdeathsig = 1
    libc = ctypes.CDLL(None)
    return lambda: libc.prctl(pr_set_pdeathsig, int(signal.SIGTERM))
