"""What a person sees of a soak: a live picture on a terminal, plain lines elsewhere. All of it on stderr."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

import msgspec
import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from streamer.base.text import printable

_PLAIN_SECONDS = 5.0
_LIVE_SECONDS = 0.2
_BAR = 40


class SoakView(msgspec.Struct, frozen=True):
    """What there is to see at one moment."""

    seconds: float
    of: float
    phase: str
    mishaps: dict[str, int]
    dataset_lines: int
    dataset_bytes: int


class _Screen(Protocol):
    """Where views are shown."""

    def due(self, seconds: float) -> bool:
        """Say whether a view would be shown at this moment of the soak."""

    def show(self, view: SoakView) -> None:
        """Show one view."""


class _PlainScreen:
    """One line every few seconds, and one for each phase: for files and pipes."""

    def __init__(self) -> None:
        self._next = 0.0

    def due(self, seconds: float) -> bool:
        """Say whether it is time for a line."""
        return seconds >= self._next

    def show(self, view: SoakView) -> None:
        """Print one line."""
        self._next = view.seconds + _PLAIN_SECONDS
        typer.echo(_line(view), err=True)


class _LiveScreen:
    """The same place of a terminal, drawn again and again."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._next = 0.0

    def due(self, seconds: float) -> bool:
        """Say whether it is time for a picture."""
        return seconds >= self._next

    def show(self, view: SoakView) -> None:
        """Draw the view."""
        self._next = view.seconds + _LIVE_SECONDS
        self._live.update(_drawn(view), refresh=True)


@contextlib.contextmanager
def screen() -> Iterator[_Screen]:
    """Give the screen that fits where stderr goes."""
    console = Console(stderr=True)
    if not console.is_terminal or console.is_dumb_terminal:
        yield _PlainScreen()
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield _LiveScreen(live)


def _line(view: SoakView) -> str:
    """Return a view as one line."""
    return (
        f"{view.seconds:6.1f} s  {printable(view.phase)}: {sum(view.mishaps.values())} mishaps,"
        f" {view.dataset_lines:,} dataset lines, {view.dataset_bytes / 1e6:.1f} MB"
    )


def _drawn(view: SoakView) -> Group:
    """Return a view as rich draws it."""
    part = min(1.0, view.seconds / view.of) if view.of else 1.0
    filled = round(_BAR * part)
    bar = Text.assemble(("━" * filled, "blue"), ("─" * (_BAR - filled), "dim"))
    head = Text(f"streamer soak  {printable(view.phase)}  {view.seconds:.0f}/{view.of:.0f} s ", style="bold")
    dataset = Text(f"dataset  {view.dataset_lines:,} lines, {view.dataset_bytes / 1e6:.1f} MB", style="green")
    mishaps = [Text(f"{times:6,}  {printable(what)}") for what, times in sorted(view.mishaps.items())]
    return Group(head.append_text(bar), dataset, *mishaps)
