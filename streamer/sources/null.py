"""What stands where a daemon has no outcomes, no rollouts, or nobody to deliver to: it never has anything to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from streamer.base.errors import UnavailableError
from streamer.core.records.model import Cursor, Outcome, Span
from streamer.core.verdicts.join import JoinRule
from streamer.core.verdicts.turns import SessionRewards, TurnRules
from streamer.sources.inbox import Work
from streamer.sources.outcomes import rule_name
from streamer.sources.reader import Budget


class NoOutcomes:
    """Outcomes of a writer: its records have met theirs at the collectors. ``path`` is where they come from."""

    is_waiting = False
    caught_up = True
    replaced = False
    rewards: Sequence[SessionRewards] = ()

    def __init__(self, where: str, path: str) -> None:
        self.path = path
        self.set_where(where)

    def set_where(self, where: str, _turns: TurnRules | None = None, keys: Sequence[str] = ()) -> None:
        """Take note of a condition that nobody is asked."""
        self.rule = rule_name(where, keys)

    async def poll(self) -> Sequence[Outcome]:
        """Return no row."""
        return ()

    def pause(self, _interval: float) -> float:
        """Return when to poll next: never."""
        return float("inf")

    def pause_after_failure(self, pause: float) -> float:
        """Return when to poll next after a failure, of which there are none."""
        return pause

    def hurry(self) -> None:
        """Do nothing: there is nothing to hurry to."""

    async def check(self, _where: str, _turns: TurnRules | None = None) -> None:
        """Let any condition pass."""

    async def close(self) -> None:
        """Let go of nothing."""


class NoRollouts:
    """Rollouts of a writer: it reads no trace database."""

    error: UnavailableError | None = None
    has_news = False
    is_open = True

    def configure(self, rule: str, join: JoinRule) -> None:
        """Look for nothing."""

    def look(self, outcomes: Iterable[Outcome]) -> None:
        """Look at nothing."""

    def wait_no_longer(self) -> None:
        """Wait for nothing."""

    def close(self) -> None:
        """Let go of nothing."""

    async def due(self, _spans: Sequence[tuple[Span, Cursor]], _budget: Budget) -> Work | None:
        """Return no line."""
        return None

    async def new(self, _budget: Budget) -> Work | None:
        """Return no line."""
        return None


class NoUplink:
    """The sink of a dataset that goes nowhere from here."""

    error: UnavailableError | None = None
    is_at_rest = True

    async def undelivered(self) -> int | None:
        """Return how many records were not delivered: there is nobody to deliver them to."""
        return None

    async def keep_from(self) -> int | None:
        """Return the place from which on the dataset has to be kept: none."""
        return None

    def committed(self, length: int, keys: Sequence[tuple[bytes, int]] = ()) -> None:
        """Take note of nothing."""

    async def run(self) -> None:
        """Deliver nothing."""
