"""Text in cells of a terminal: cut or padded so that columns are aligned."""

from __future__ import annotations

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from streamer.base.text import steady


def fitted(text: str, width: int) -> str:
    """Return a text in at most ``width`` cells; a longer one ends with an ellipsis."""
    text = steady(text)
    if cell_len(text) <= width:
        return text
    return f"{set_cell_size(text, width - 1).rstrip()}…" if width > 0 else ""


def filled(text: str, width: int) -> str:
    """Return a text in exactly ``width`` cells, cut or padded."""
    return set_cell_size(fitted(text, width), width)


def end_of(text: str, width: int) -> str:
    """Return the end of a text, such as a path, in exactly ``width`` cells."""
    text = steady(text)
    if cell_len(text) <= width:
        return set_cell_size(text, width)
    while cell_len(text) >= width and text:
        text = text[1:]
    return set_cell_size(f"…{text}", width)


def cropped(line: Text, width: int) -> Text:
    """Return a line cut to ``width`` cells. Its text must be ``steady``."""
    line.truncate(width, overflow="ellipsis")
    return line
