"""Random draws that a seed repeats."""

from __future__ import annotations

from random import Random


def draws(*parts: object) -> Random:
    """Return a generator that draws the same for the same parts (a seed, and the purpose of the draws)."""
    return Random("/".join(map(str, parts)))  # noqa: S311 - repeatable on purpose
