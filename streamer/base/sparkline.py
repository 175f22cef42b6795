"""Numbers as a line of small bars, for terminals."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[int]) -> str:
    """Return one character for each value, from zero to the highest of them."""
    top = max(values, default=0) or 1
    return "".join(_BARS[value * (len(_BARS) - 1) // top] for value in values)
