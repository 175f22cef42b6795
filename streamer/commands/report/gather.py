"""Statistics of a survey, in bounded memory."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamer.base.spill_counts import Tally

_MOST_POINTS = 400


class Top(msgspec.Struct, frozen=True):
    """The most frequent names with their counts, the number of other names, and the sum of their counts."""

    names: dict[str, int]
    other_names: int = 0
    others: int = 0


def top(tally: Tally, what: str, most: int) -> Top:
    """Return the ``most`` most frequent names that a tally counted under ``what``."""
    names = tally.top(what, most)
    return Top(names, tally.distinct(what) - len(names), tally.total(what) - sum(names.values()))


def texts_of(content: object) -> Iterator[str]:
    """Yield the texts in the content of a message: the content itself, or its text parts."""
    if isinstance(content, str):
        yield content
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            yield part["text"]


class RecordPlace(msgspec.Struct, frozen=True, order=True):
    """The place of a record: its log offset and length in bytes, and the number of its line."""

    offset: int
    length: int
    number: int


class Sample:
    """A random sample of places, each equally likely. The same seed picks the same places of the same dataset."""

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._random = random.Random(seed)  # noqa: S311 - chance, no secret
        self._seen = 0
        self._places: list[RecordPlace] = []

    def offer(self, place: RecordPlace) -> None:
        """Add a place to choose from."""
        self._seen += 1
        if len(self._places) < self._size:
            self._places.append(place)
        elif (index := self._random.randrange(self._seen)) < self._size:
            self._places[index] = place

    def places(self) -> list[RecordPlace]:
        """Return the sample in the order of the dataset."""
        return sorted(self._places)


class Curve:
    """A curve that keeps a limited number of its points, evenly thinned, and always the last one."""

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
        """Return the kept points in order."""
        end = [self._last] if self._last and self._last != self._points[-1] else []
        return [*self._points, *end]


class Rollout(msgspec.Struct, frozen=True):
    """One rollout: its best reward, its number of records, and its model. A long ``run_id`` is cut."""

    run_id: str
    reward: float
    records: int
    model: str
    line: int


class BestRollouts:
    """The rollouts with the highest rewards; of equal rewards, the earliest rollouts."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._best: dict[bytes, Rollout] = {}
        self._least = float("-inf")

    def offer(self, key: bytes, found: Rollout) -> None:
        """Add one record of the rollout that ``key`` identifies."""
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
        """Return the rollouts, best first, with the number of records that ``tally`` counted for their keys."""
        best = sorted(self._best, key=self._worth, reverse=True)
        return [msgspec.structs.replace(self._best[key], records=tally.times(what, key)) for key in best]

    def _worth(self, key: bytes) -> tuple[float, int]:
        return self._best[key].reward, -self._best[key].line
