"""A real terminal for a real process: a pty, and an emulator that knows what stands on the screen."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pyte

import streamer

if TYPE_CHECKING:
    from collections.abc import Callable

WAIT = 30
"""Seconds after which a test gives up; none of them waits for time to pass."""

_HOME = Path(streamer.__file__).parents[1]
_BLOCK = 1 << 16


class Screen(pyte.Screen):
    """A screen with the alternate one that full-screen programs use, as far as tests need it."""

    ALTERNATE = 1049 << 5
    WRAP = 7 << 5
    CURSOR = 25 << 5
    HELD = 2026 << 5


class Session:
    """A process of its own session on a terminal.

    Args:
        command: the arguments of ``streamer``, or with ``code`` those of that code.
        width: columns.
        height: lines.
        code: Python to run in place of ``streamer``.
    """

    def __init__(self, *command: object, width: int = 80, height: int = 24, code: str = "") -> None:
        self.screen = Screen(width, height)
        self.stream = pyte.ByteStream(self.screen)
        self.written = b""
        self._ours, theirs = pty.openpty()
        self._theirs = theirs
        self.resize(width, height)
        start = ["-c", code] if code else ["-m", "streamer"]
        self.before = termios.tcgetattr(theirs)
        self.process = subprocess.Popen(
            # It makes the terminal that of a session, as a shell's is: Ctrl-C becomes a signal.
            ["setsid", "--ctty", sys.executable, *start, *map(str, command)],
            stdin=theirs, stdout=theirs, stderr=theirs,
            env=os.environ | {"PYTHONPATH": str(_HOME), "TERM": "xterm-256color", "NO_COLOR": ""},
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)

    @property
    def settings(self) -> list[object]:
        """What the terminal is set to: echo, lines, and so on."""
        return termios.tcgetattr(self._theirs)

    @property
    def alternate(self) -> bool:
        """Whether a full-screen program has the screen."""
        return Screen.ALTERNATE in self.screen.mode

    def resize(self, width: int, height: int) -> None:
        """Give the terminal another size."""
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self.screen.resize(height, width)

    def press(self, keys: bytes) -> None:
        """Type something."""
        os.write(self._ours, keys)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def lines(self) -> list[str]:
        """Return what stands on the screen."""
        return [line.rstrip() for line in self.screen.display]

    def text(self) -> str:
        """Return the same as one text."""
        return "\n".join(self.lines())

    def until(self, condition: Callable[[], bool]) -> None:
        """Read what the process writes until something holds of a whole picture."""
        end = time.monotonic() + WAIT
        while Screen.HELD in self.screen.mode or not condition():
            assert time.monotonic() < end, f"this stands there:\n{self.text()}"
            self._read(0.05)

    def until_shown(self, text: str) -> None:
        """Read until a text stands on the screen."""
        self.until(lambda: text in self.text())

    def ended(self) -> int:
        """Read until the process has ended; return its exit code."""
        self.until(lambda: self.process.poll() is not None)
        while self._read(0):
            pass
        return self.process.returncode

    def _read(self, seconds: float) -> bool:
        if not select.select([self._ours], [], [], seconds)[0]:
            return False
        found = os.read(self._ours, _BLOCK)
        self.written += found
        self.stream.feed(found)
        return True
