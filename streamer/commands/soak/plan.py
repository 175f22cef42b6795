"""The plan of one rollout, drawn before it begins."""

from __future__ import annotations

from enum import StrEnum
from random import Random
from typing import TypeVar

import msgspec

_REPEATED = 12
"""Number of run ids that are used again and again."""

_SHORTEST_WAIT = 0.3

_Choice = TypeVar("_Choice")


class Layout(StrEnum):
    """The layout of a line, which also decides where its session id stands."""

    DIALOGUE = "dialogue"
    DOCUMENTED = "documented"
    SESSION_ID = "session_id"
    BARE = "bare"


class When(StrEnum):
    """The time of the outcome, relative to the shard."""

    BEFORE = "before"
    AFTER = "after"
    LATE = "late"
    NEVER = "never"


class Writing(StrEnum):
    """The way in which a shard is written."""

    ONCE = "in one go"
    LINES = "line by line"
    PIECES = "in pieces"


class Again(StrEnum):
    """The way in which the next rollout of a session overwrites its shard."""

    TRUNCATE = "overwritten in place"
    REPLACE = "replaced by another file"


class RolloutPlan(msgspec.Struct, frozen=True):
    """The plan of one rollout. ``corrected`` is the reward from a late judge, or None."""

    session: str
    layout: Layout
    turns: int
    reward: int
    when: When
    corrected: int | None
    writing: Writing
    again: Again | None
    bad: int
    blank: int
    replay: bool
    big: bool
    too_long: bool

    @property
    def is_repeated(self) -> bool:
        """Whether other rollouts may have the same session id."""
        return self.session.rpartition("/")[2].startswith("eval-")


def draw(rng: Random, name: str) -> RolloutPlan:
    """Draw a rollout; ``name`` is its session id unless it draws one that repeats."""
    layout = _pick(rng, {Layout.DIALOGUE: 60, Layout.DOCUMENTED: 20, Layout.SESSION_ID: 10, Layout.BARE: 10})
    return RolloutPlan(
        session=_session(rng, name, layout),
        layout=layout,
        turns=_pick(rng, {1: 15, 4: 20, 6: 20, 8: 40, 30: 5}),
        reward=_reward(rng),
        when=_pick(rng, {When.BEFORE: 45, When.AFTER: 25, When.LATE: 22, When.NEVER: 8}),
        corrected=_reward(rng) if _happens(rng, 0.2) else None,
        writing=_pick(rng, {Writing.ONCE: 50, Writing.LINES: 15, Writing.PIECES: 35}),
        again=_pick(rng, {None: 92, Again.TRUNCATE: 5, Again.REPLACE: 3}),
        bad=_pick(rng, {0: 85, 1: 12, 3: 3}),
        blank=_pick(rng, {0: 90, 2: 10}),
        replay=_happens(rng, 0.15),
        big=_happens(rng, 0.01),
        too_long=_happens(rng, 0.002),
    )


def delays(rng: Random, when: When) -> tuple[float, float]:
    """Return the seconds until the shard and until the outcome."""
    moment = rng.uniform(0.001, 0.05)
    if when is When.BEFORE:
        return moment, 0.0
    return 0.0, moment if when is When.AFTER else _SHORTEST_WAIT + rng.expovariate(1 / 3)


def _session(rng: Random, name: str, layout: Layout) -> str:
    if layout is Layout.BARE:  # its file's name is the session id
        return name
    repeated = _happens(rng, 0.2)
    folder = "suite/" if _happens(rng, 0.15) else ""
    return f"{folder}eval-{rng.randrange(_REPEATED)}" if repeated else f"{folder}{name}"


def _reward(rng: Random) -> int:
    return _pick(rng, {0: 40, 1: 25, 3: 25, 7: 10})


def _happens(rng: Random, probability: float) -> bool:
    return rng.random() < probability


def _pick(rng: Random, weights: dict[_Choice, int]) -> _Choice:
    return rng.choices(list(weights), list(weights.values()))[0]
