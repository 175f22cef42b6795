"""The event rewards of one turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Worth(NamedTuple):
    """The sum of a turn's event rewards, None if it has none, and its achievements."""

    reward: float | None = None
    achievements: Sequence[str] = ()
