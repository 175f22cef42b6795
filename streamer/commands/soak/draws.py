"""Random draws that a seed repeats."""

from __future__ import annotations

from random import Random


def draws(*parts: object) -> Random:
    """Return draws that are the same for the same parts (a seed, and what it is for)."""
    return Random("/".join(map(str, parts)))  # noqa: S311 - it should be repeatable
