"""The bar of a condition, where it is one that can be drawn."""

from __future__ import annotations

import re

import msgspec

_AND = re.compile(r"\s+and\s+", re.IGNORECASE)
_COMPARISON = re.compile(
    r"(?:outcome_rewards\.)?(total_reward|achievements_count)\s*(>=|>|<=|<|==|=)\s*(-?\d{1,15}(?:\.\d{1,15})?)",
    re.IGNORECASE,
)


class Bar(msgspec.Struct, frozen=True):
    """One comparison of a column with a number; ``op`` as in SQL, with a single equals sign."""

    column: str
    op: str
    value: float


def bars(where: str) -> list[Bar]:
    """Return the comparisons that a condition is made of; none if it says anything else as well.

    Args:
        where: an SQL condition, which can be anything.
    """
    found = [_COMPARISON.fullmatch(part.strip()) for part in _AND.split(where.strip())]
    if not all(found):
        return []
    return [Bar(match[1].lower(), match[2].replace("==", "="), float(match[3])) for match in found if match]
