"""The worth of one turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Worth(NamedTuple):
    """What a turn was worth: the sum of its rewards, None if it has none, and what it achieved."""

    reward: float | None = None
    achievements: Sequence[str] = ()
