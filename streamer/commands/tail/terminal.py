"""Takes over a terminal to show a picture on it, and restores the terminal afterwards.

Invariants
- However the view ends (Ctrl-C, q, SIGTERM, SIGHUP, an error), the terminal is restored. Ctrl-Z restores it, too, and
  ``fg`` takes it over again.
- A picture never wraps or scrolls, whatever width the terminal gives a character: wrapping is off.
- A picture that equals the last one is not written again.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from rich.console import Console, ConsoleDimensions, Group
from rich.live import Live

from streamer.base.stdout import give_up

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    from rich.text import Text

    Compose = Callable[[int, int], Sequence[Text]]
    """Called with the width and the height in cells; returns the lines of the picture."""

TICK = 0.25
"""The least number of seconds between two pictures."""

_SIZE_UNKNOWN = (80, 24)
_WRAP_OFF, _WRAP_ON = "\x1b[?7l", "\x1b[?7h"
_HOLD, _SHOW = "\x1b[?2026h", "\x1b[?2026l"
"""Between these a terminal collects its updates and shows them at once; one that does not know them ignores them."""

_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def can_draw() -> bool:
    """Return whether stdout is a terminal that can redraw lines."""
    console = Console()
    return console.is_terminal and sys.stdout.isatty() and not console.is_dumb_terminal


class Terminal:
    """Context manager that shows pictures on stdout; keys and signals that end it raise ``KeyboardInterrupt``."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._keys = _Keys()
        self._live = self._new_live()
        self._last: tuple[tuple[int, int], list[Text]] | None = None
        self._asked_to_stop = False
        self._handlers: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        for number in _ENDS:
            self._handlers[number] = signal.signal(number, signal.default_int_handler)
        self._handlers[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._ask_to_stop)
        try:
            self._take()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for number in self._handlers:  # a second Ctrl-C must not interrupt the restoring
            signal.signal(number, signal.SIG_IGN)
        try:
            self._give_back()
        except OSError:  # the terminal is gone
            give_up()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def show(self, compose: Compose) -> None:
        """Draw a picture if it differs from the last one."""
        size = _size()
        lines = list(compose(*size))
        if (size, lines) == self._last:
            return
        self._last = size, lines
        self._console.size = ConsoleDimensions(*size)
        for line in lines:
            line.no_wrap, line.overflow = True, "crop"
        self._console.file.write(_HOLD)
        self._live.update(Group(*lines), refresh=True)
        self._console.file.write(_SHOW)
        self._console.file.flush()

    @property
    def resized(self) -> bool:
        """Whether the size of the terminal has changed since the last picture."""
        return self._last is not None and self._last[0] != _size()

    def rest(self, seconds: float) -> None:
        """Wait for ``seconds``, or until the size changes.

        Raises:
            KeyboardInterrupt: the user typed ``q``.
        """
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self.resized:
            if self._keys.pressed(min(left, TICK)) == b"q":
                raise KeyboardInterrupt
            if self._asked_to_stop:
                self._stop()

    def _stop(self) -> None:
        """Restore the terminal, and stop until the shell continues this process."""
        self._asked_to_stop = False
        self._give_back()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._take()

    def _take(self) -> None:
        self._keys.take()
        self._last = None
        self._live = self._new_live()
        self._live.start()
        self._console.file.write(_WRAP_OFF)

    def _give_back(self) -> None:
        try:
            self._console.file.write(_WRAP_ON)
            self._live.stop()
        finally:
            self._keys.give_back()

    def _new_live(self) -> Live:
        return Live(console=self._console, screen=True, auto_refresh=False, redirect_stdout=False)

    def _ask_to_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._asked_to_stop = True


class _Keys:
    """The keyboard, if stdin is a terminal. Typed keys are not echoed."""

    def __init__(self) -> None:
        self._before: list[object] | None = None

    def take(self) -> None:
        if not sys.stdin.isatty():
            return
        before = termios.tcgetattr(sys.stdin)
        quiet = [*before]
        quiet[3] &= ~(termios.ECHO | termios.ICANON)
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, quiet)
        self._before = before

    def give_back(self) -> None:
        if self._before is not None:
            with suppress(termios.error):  # the terminal is gone
                termios.tcsetattr(sys.stdin, termios.TCSAFLUSH, self._before)  # type: ignore[arg-type]
            self._before = None

    def pressed(self, seconds: float) -> bytes:
        """Return the key that is pressed within ``seconds``, or no bytes."""
        if self._before is None:
            time.sleep(seconds)
            return b""
        ready, _, _ = select.select([sys.stdin], [], [], seconds)
        if not ready:
            return b""
        key = os.read(sys.stdin.fileno(), 1)
        if not key:
            raise KeyboardInterrupt  # the terminal was closed
        return key


def _size() -> tuple[int, int]:
    """Return the size that the terminal reports: COLUMNS and LINES in the environment would not follow it."""
    with suppress(OSError):
        width, height = os.get_terminal_size(sys.stdout.fileno())
        if width > 0 and height > 0:
            return width, height
    return _SIZE_UNKNOWN
