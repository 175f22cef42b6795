"""What a person sees of a demo: a live picture on a terminal, plain lines elsewhere."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec
import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from streamer.base.sparkline import sparkline
from streamer.base.text import printable
from streamer.store.views.snapshot import Snapshot

_PLAIN_SECONDS = 1.0
_GROWTH_COLUMNS = 40

FATES = {
    "appended": ("appended", "green"),
    "duplicate": ("duplicate", "yellow"),
    "below_bar": ("below the bar", "magenta"),
    "waiting": ("waiting", "cyan"),
    "never_scored": ("never scored", "blue"),
    "dead_lettered": ("dead-lettered", "red"),
}
"""Name and colour of each count of a snapshot; the six sum up to the lines read."""


class DemoView(msgspec.Struct, frozen=True):
    """What there is to see at one moment."""

    seconds: float
    rollouts: int
    played: int
    counts: Snapshot
    growth: tuple[int, ...]
    newest: tuple[str, ...]


class Screen(Protocol):
    """Where views are shown."""

    def show(self, view: DemoView) -> None:
        """Show one view; it may be skipped."""


class _PlainScreen:
    """One line at a change, at most one a second: for files and pipes."""

    def __init__(self) -> None:
        self._last = ""
        self._next = 0.0

    def show(self, view: DemoView) -> None:
        """Print the accounts if they changed."""
        line = f"rollouts {view.played}/{view.rollouts}  {accounts(view.counts)}"
        if line == self._last or view.seconds < self._next:
            return
        self._last, self._next = line, view.seconds + _PLAIN_SECONDS
        typer.echo(f"{view.seconds:6.1f} s  {line}")


class _LiveScreen:
    """The same place of a terminal, drawn again and again."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def show(self, view: DemoView) -> None:
        """Draw the view."""
        self._live.update(drawn(view), refresh=True)


@contextlib.contextmanager
def screen() -> Iterator[Screen]:
    """Give the screen that fits where the output goes."""
    console = Console()
    if not console.is_terminal or console.is_dumb_terminal:
        yield _PlainScreen()
        return
    with Live(console=console, auto_refresh=False) as live:
        yield _LiveScreen(live)


def drawn(view: DemoView) -> Group:
    """Return a view as rich draws it; what models wrote is plain text in it."""
    head = Text(f"streamer demo  {view.seconds:5.1f} s  ", style="bold")
    head.append(f"rollouts {view.played}/{view.rollouts} ", style="default")
    head.append_text(_bar(view.played, view.rollouts, "blue"))
    grown = f"{view.counts.dataset_lines} lines, {size(view.counts.dataset_bytes)}"
    grows = Text("\ndataset  ").append(grown, style="bold").append(f"  {growth(view.growth)}", style="green")
    newest = [Text(printable(reply), style="dim", no_wrap=True, overflow="ellipsis") for reply in view.newest]
    return Group(head, Text(), _flow(view.counts), grows, *newest)


def _flow(counts: Snapshot) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(min_width=14)
    table.add_column(justify="right", min_width=6)
    table.add_row(Text("read", style="bold"), Text(str(counts.read), style="bold"))
    for key, (name, colour) in FATES.items():
        count = counts.counts[key]
        table.add_row(Text(name), Text(str(count)), _bar(count, counts.read, colour))
    return table


def _bar(part: int, whole: int, colour: str) -> Text:
    filled = round(_GROWTH_COLUMNS * min(part, whole) / whole) if whole else 0
    return Text.assemble(("━" * filled, colour), ("─" * (_GROWTH_COLUMNS - filled), "dim"))


def growth(values: Sequence[int]) -> str:
    """Draw the whole history in a fixed width."""
    width = min(_GROWTH_COLUMNS, len(values))
    return sparkline([values[(i + 1) * len(values) // width - 1] for i in range(width)])


def accounts(counts: Snapshot) -> str:
    """Return the accounting as a sum that adds up."""
    fates = (f"{name} {counts.counts[key]}" for key, (name, _) in FATES.items())
    return f"read {counts.read} = {' + '.join(fates)}"


def size(count: int) -> str:
    """Return bytes as megabytes, to read."""
    return f"{count / 1e6:.2f} MB"
