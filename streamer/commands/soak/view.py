"""The progress of a soak, as lines and as a picture."""

from __future__ import annotations

import msgspec
from rich.console import Group
from rich.text import Text

from streamer.base.text import printable
from streamer.commands.simulation.screen import bar


class SoakView(msgspec.Struct, frozen=True):
    """The state of a soak at one moment."""

    seconds: float
    of: float
    phase: str
    mishaps: dict[str, int]
    dataset_lines: int
    dataset_bytes: int

    def line(self) -> str:
        """Return the phase, the number of mishaps, and the dataset."""
        return f"{self.phase}: {sum(self.mishaps.values())} mishaps, {self._dataset('dataset lines')}"

    def picture(self) -> Group:
        """Return the view as rich draws it."""
        head = Text(f"streamer soak  {self.phase}  {self.seconds:.0f}/{self.of:.0f} s ", style="bold")
        dataset = Text(f"dataset  {self._dataset('lines')}", style="green")
        mishaps = [Text(f"{times:6,}  {printable(what)}") for what, times in sorted(self.mishaps.items())]
        return Group(head.append_text(bar(self.seconds, self.of, "blue")), dataset, *mishaps)

    def _dataset(self, noun: str) -> str:
        return f"{self.dataset_lines:,} {noun}, {self.dataset_bytes / 1e6:.1f} MB"
