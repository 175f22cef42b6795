"""What a survey remembers from line to line, in memory that does not grow with the dataset."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from streamer.base.spill_counts import Tally

_MOST_POINTS = 400


class Top(msgspec.Struct, frozen=True):
    """The most frequent names with their counts, how many names there are besides, and how often those came."""

    names: dict[str, int]
    other_names: int = 0
    others: int = 0


def top(tally: Tally, what: str, most: int) -> Top:
    """Return the ``most`` frequent names of ``what``."""
    names = tally.top(what, most)
    return Top(names, tally.distinct(what) - len(names), tally.total(what) - sum(names.values()))


class RecordPlace(msgspec.Struct, frozen=True, order=True):
    """Where a record lies in the dataset: bytes, through all of its files, and the number of its line."""

    offset: int
    length: int
    number: int


class Sample:
    """So many places, each equally likely to be picked; the same seed picks the same of the same dataset."""

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._random = random.Random(seed)  # noqa: S311 - chance, no secret
        self._seen = 0
        self._places: list[RecordPlace] = []

    def offer(self, place: RecordPlace) -> None:
        """Take a place into account."""
        self._seen += 1
        if len(self._places) < self._size:
            self._places.append(place)
        elif (index := self._random.randrange(self._seen)) < self._size:
            self._places[index] = place

    def places(self) -> list[RecordPlace]:
        """Return what was picked, in the order of the dataset."""
        return sorted(self._places)


class Curve:
    """A curve of any number of points, thinned out so that few are kept; the last one is always among them."""

    def __init__(self) -> None:
        self._points: list[tuple[float, int]] = []
        self._step = 1
        self._count = 0
        self._last: tuple[float, int] | None = None

    def add(self, x: float, y: int) -> None:
        """Add the next point."""
        self._last = (x, y)
        if self._count % self._step == 0:
            self._points.append(self._last)
            if len(self._points) > _MOST_POINTS:
                self._points = self._points[::2]
                self._step *= 2
        self._count += 1

    def points(self) -> list[tuple[float, int]]:
        """Return what was kept, in order."""
        end = [self._last] if self._last and self._last != self._points[-1] else []
        return [*self._points, *end]


class Rollout(msgspec.Struct, frozen=True):
    """One rollout: its best reward, how many records it has, and who played it. ``run_id`` is cut if it is long."""

    run_id: str
    reward: float
    records: int
    model: str
    line: int


class BestRollouts:
    """The rollouts with the highest rewards; of equal ones, those that came first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._best: dict[bytes, Rollout] = {}
        self._least = float("-inf")

    def offer(self, key: bytes, found: Rollout) -> None:
        """Take one record of a rollout into account. ``key`` tells rollouts apart."""
        known = self._best.get(key)
        if known is not None:
            if found.reward > known.reward:
                self._best[key] = msgspec.structs.replace(known, reward=found.reward)
        elif len(self._best) < self._most or found.reward > self._least:
            self._best[key] = found
            if len(self._best) > self._most:
                del self._best[min(self._best, key=self._worth)]
        else:
            return
        self._least = min(rollout.reward for rollout in self._best.values())

    def rollouts(self, tally: Tally, what: str) -> list[Rollout]:
        """Return them, the best first, with the records that ``tally`` has counted for their keys."""
        best = sorted(self._best, key=self._worth, reverse=True)
        return [msgspec.structs.replace(self._best[key], records=tally.times(what, key)) for key in best]

    def _worth(self, key: bytes) -> tuple[float, int]:
        return self._best[key].reward, -self._best[key].line
