"""The progress of a simulation: a live picture on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

import typer
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

_LIVE_SECONDS = 0.2
_QUIET_SECONDS = 5.0
"""A plain line that has not changed is repeated after this time."""

BAR_COLUMNS = 40


class SimulationView(Protocol):
    """The state of a simulation at one moment."""

    @property
    def seconds(self) -> float:
        """Seconds since the simulation began."""

    def line(self) -> str:
        """Return it as one printable line."""

    def picture(self) -> RenderableType:
        """Return it as rich draws it."""


class Screen:
    """Shows views.

    Args:
        stderr: Whether plain lines go to stderr.
        live: The picture on a terminal, or None for plain lines.
        interval: Seconds between two views.
    """

    def __init__(self, live: Live | None, interval: float, *, stderr: bool) -> None:
        self._live = live
        self._interval = interval
        self._stderr = stderr
        self._next = 0.0
        self._last = ""
        self._repeat = 0.0

    def due(self, seconds: float) -> bool:
        """Return whether it is time for a view, after so many seconds of the simulation."""
        return seconds >= self._next

    def show(self, view: SimulationView) -> None:
        """Show a view at once; a plain line only if it changed, or after some time."""
        self._next = view.seconds + self._interval
        if self._live is not None:
            self._live.update(view.picture(), refresh=True)
        elif (line := view.line()) != self._last or view.seconds >= self._repeat:
            self._last, self._repeat = line, view.seconds + _QUIET_SECONDS
            typer.echo(f"{view.seconds:6.1f} s  {line}", err=self._stderr)


@contextlib.contextmanager
def screen(plain_seconds: float, *, stderr: bool) -> Iterator[Screen]:
    """Give the screen that fits where the output goes.

    Args:
        plain_seconds: Seconds between two plain lines.
        stderr: Show on stderr, and leave no picture behind.
    """
    console = Console(stderr=stderr)
    if not console.is_terminal or console.is_dumb_terminal:
        yield Screen(None, plain_seconds, stderr=stderr)
        return
    with Live(console=console, auto_refresh=False, transient=stderr) as live:
        yield Screen(live, _LIVE_SECONDS, stderr=stderr)


def bar(part: float, whole: float, colour: str) -> Text:
    """Return a bar that is filled to ``part`` of ``whole``."""
    filled = round(BAR_COLUMNS * min(part, whole) / whole) if whole else 0
    return Text.assemble(("━" * filled, colour), ("─" * (BAR_COLUMNS - filled), "dim"))
