"""Null objects for a daemon without outcomes, rollouts or an uplink: they never have work."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from streamer.base.errors import UnavailableError
from streamer.base.events import Event
from streamer.core.records.model import Cursor, Outcome, Span
from streamer.core.verdicts.join import JoinRule
from streamer.core.verdicts.turns import SessionRewards, TurnRules
from streamer.sources.inbox import Work
from streamer.sources.outcomes import rule_name
from streamer.sources.reader import Budget


class NoOutcomes:
    """Outcomes of a writer: collectors have joined its records already. ``path`` names their origin."""

    is_waiting = False
    caught_up = True
    replaced = False
    rewards: Sequence[SessionRewards] = ()
    notices: Sequence[Event] = ()

    def __init__(self, where: str, path: str) -> None:
        self.path = path
        self.set_where(where)

    def set_where(self, where: str, _turns: TurnRules | None = None, keys: Sequence[str] = ()) -> None:
        """Set the name of the condition, which is never evaluated."""
        self.rule = rule_name(where, keys)

    async def poll(self) -> Sequence[Outcome]:
        """Return no row."""
        return ()

    def pause(self, _interval: float) -> float:
        """Return infinity: never poll."""
        return float("inf")

    def pause_after_failure(self, pause: float) -> float:
        """Return ``pause``; polls never fail."""
        return pause

    def hurry(self) -> None:
        """Do nothing."""

    async def check(self, _where: str, _turns: TurnRules | None = None) -> None:
        """Accept any condition."""

    async def close(self) -> None:
        """Do nothing."""


class NoRollouts:
    """Rollouts of a writer: it reads no trace database."""

    error: UnavailableError | None = None
    has_news = False
    is_open = True

    def configure(self, rule: str, join: JoinRule) -> None:
        """Do nothing."""

    def look(self, outcomes: Iterable[Outcome]) -> None:
        """Ignore the outcomes."""

    def wait_no_longer(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    async def pending(self, _spans: Sequence[tuple[Span, Cursor]], _budget: Budget) -> Work | None:
        """Return None: there are no lines."""
        return None

    async def new(self, _budget: Budget) -> Work | None:
        """Return None: there are no lines."""
        return None


class NoUplink:
    """The uplink of a dataset that is not delivered to a fleet."""

    error: UnavailableError | None = None
    is_at_rest = True

    async def undelivered(self) -> int | None:
        """Return None: the daemon delivers no records."""
        return None

    async def keep_from(self) -> int | None:
        """Return None: delivery needs no part of the dataset."""
        return None

    def committed(self, length: int, keys: Sequence[tuple[bytes, int]] = ()) -> None:
        """Ignore the new lines of the dataset."""

    async def run(self) -> None:
        """Return at once."""
