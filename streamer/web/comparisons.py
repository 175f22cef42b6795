"""Split a condition into comparisons that a plot can draw."""

from __future__ import annotations

import re

import msgspec

_AND = re.compile(r"\s+and\s+", re.IGNORECASE)
_COMPARISON = re.compile(
    r"(?:outcome_rewards\.)?(total_reward|achievements_count)\s*(>=|>|<=|<|==|=)\s*(-?\d{1,15}(?:\.\d{1,15})?)",
    re.IGNORECASE,
)


class ColumnComparison(msgspec.Struct, frozen=True):
    """One comparison of a column with a number; ``op`` as in SQL, with a single equals sign for equality."""

    column: str
    op: str
    value: float


def comparisons(where: str) -> list[ColumnComparison]:
    """Return the comparisons of a condition; none if it has any other part.

    Args:
        where: Any SQL condition.
    """
    found = [_COMPARISON.fullmatch(part.strip()) for part in _AND.split(where.strip())]
    if not all(found):
        return []
    return [
        ColumnComparison(match[1].lower(), match[2].replace("==", "="), float(match[3])) for match in found if match
    ]
