"""The progress of a demo, as lines and as a picture."""

from collections.abc import Sequence

import msgspec
from rich.console import Group
from rich.table import Table
from rich.text import Text

from streamer.base.sparkline import sparkline
from streamer.base.text import printable
from streamer.commands.simulation.screen import BAR_COLUMNS, bar
from streamer.store.views.snapshot import Snapshot

STATES = {
    "appended": ("appended", "green"),
    "duplicate": ("duplicate", "yellow"),
    "below_bar": ("below the bar", "magenta"),
    "waiting": ("waiting", "cyan"),
    "never_scored": ("never scored", "blue"),
    "dead_lettered": ("dead-lettered", "red"),
}
"""Name and colour of each count of a snapshot; the six add up to the lines read."""


class DemoView(msgspec.Struct, frozen=True):
    """The state of a demo at one moment."""

    seconds: float
    rollouts: int
    played: int
    counts: Snapshot
    growth: tuple[int, ...]
    newest: tuple[str, ...]

    def line(self) -> str:
        """Return the rollouts and the counts."""
        return f"rollouts {self.played}/{self.rollouts}  {totals(self.counts)}"

    def picture(self) -> Group:
        """Return the view as rich draws it; replies of models are plain text in it."""
        head = Text(f"streamer demo  {self.seconds:5.1f} s  ", style="bold")
        head.append(f"rollouts {self.played}/{self.rollouts} ", style="default")
        head.append_text(bar(self.played, self.rollouts, "blue"))
        grown = f"{self.counts.dataset_lines} lines, {megabytes(self.counts.dataset_bytes)}"
        grows = Text("\ndataset  ").append(grown, style="bold").append(f"  {growth(self.growth)}", style="green")
        newest = [Text(printable(reply), style="dim", no_wrap=True, overflow="ellipsis") for reply in self.newest]
        return Group(head, Text(), _flow(self.counts), grows, *newest)


def _flow(counts: Snapshot) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(min_width=14)
    table.add_column(justify="right", min_width=6)
    table.add_row(Text("read", style="bold"), Text(str(counts.read), style="bold"))
    for key, (name, colour) in STATES.items():
        count = counts.counts[key]
        table.add_row(Text(name), Text(str(count)), bar(count, counts.read, colour))
    return table


def growth(values: Sequence[int]) -> str:
    """Return the whole history as a sparkline of limited width."""
    width = min(BAR_COLUMNS, len(values))
    return sparkline([values[(i + 1) * len(values) // width - 1] for i in range(width)])


def totals(counts: Snapshot) -> str:
    """Return the counts as a sum that adds up."""
    states = (f"{name} {counts.counts[key]}" for key, (name, _) in STATES.items())
    return f"read {counts.read} = {' + '.join(states)}"


def megabytes(count: int) -> str:
    """Return a number of bytes as megabytes."""
    return f"{count / 1e6:.2f} MB"
