"""The as-of join: the outcome that a record belongs to. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from streamer.core.records.model import Outcome

_LAST = 1 << 62


class JoinRule(StrEnum):
    """Rule that chooses one of several outcome rows of a session for a record."""

    AS_OF = "as_of"
    FIRST = "first"
    MAX = "max"


def choose(outcomes: Sequence[Outcome], time_us: int | None, rule: JoinRule) -> Outcome | None:
    """Return the outcome that a record belongs to, or None while it has to wait.

    Args:
        outcomes: All known outcome rows of the record's session, in any order.
        time_us: The record's own time in microseconds. With ``as_of`` it belongs to the first row created at
            or after it; a record without a time belongs to the newest row.
        rule: ``as_of``, or ``first`` (oldest row) or ``max`` (highest total_reward, then the newest).
    """
    if not outcomes:
        return None
    if rule is JoinRule.AS_OF and len(outcomes) == 1:  # nearly always
        return outcomes[0] if time_us is None or _created(outcomes[0]) >= time_us else None
    if rule is JoinRule.MAX:
        return max(outcomes, key=lambda row: (_reward(row), _age(row)))
    if rule is JoinRule.FIRST:
        return min(outcomes, key=_age)
    if time_us is None:
        return max(outcomes, key=_age)
    return min((row for row in outcomes if _created(row) >= time_us), key=_age, default=None)


def _created(row: Outcome) -> int:
    return _LAST if row.created_us is None else row.created_us


def _age(row: Outcome) -> tuple[int, int]:
    return _created(row), row.id


def _reward(row: Outcome) -> float:
    return float("-inf") if row.total_reward is None else row.total_reward
