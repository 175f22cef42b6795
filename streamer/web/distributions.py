"""Distributions of rewards and achievements over rollouts that qualify and those that do not.

All counts come from the ledger's outcome rows, not from the trace database. These rows do not name the model, so for
the newest outcomes it is read from a line of each rollout's shard: a few at a time, each once.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from streamer.config import Config
from streamer.core.records import layouts
from streamer.core.records.layouts import MalformedError
from streamer.store.ledger.paths import IS_APART
from streamer.store.views.snapshot import open_ledger
from streamer.web.comparisons import ColumnComparison, comparisons
from streamer.web.errors import RefusedRequestError
from streamer.web.lines import file_stretch, line_at
from streamer.web.throttled import Throttled

_MODELS_COVER = 2000
"""Number of newest outcomes whose model is shown."""

_LOOKED_UP = 100
_LOOKED_UP_BYTES = 16 << 20
_LONGEST_LINE = 8 << 20
"""Limits of one read: lines, bytes, and bytes of one line."""

_DISTINCT = 40
"""Maximum number of distinct values; more of them are grouped into this number of bins of equal width."""

_MODELS_SHOWN = 20
_LONGEST_NAME = 200

_Row = tuple[Any, Any, int, int]
"""(total_reward, achievements_count, whether it qualifies, number of rollouts)"""


class _Bin(msgspec.Struct, frozen=True):
    """Rollouts with a value from ``low`` to below ``high`` (the last bin: to ``high``); equal for a single value."""

    low: float
    high: float
    qualifies: int
    below: int


class _Histogram(msgspec.Struct, frozen=True):
    """Bins in ascending order, without values that are no numbers."""

    bins: list[_Bin]


class _ModelHistograms(msgspec.Struct, frozen=True):
    """The histograms of one model; None stands for an unknown model."""

    model: str | None
    rollouts: int
    reward: _Histogram
    achievements: _Histogram


class _Distributions(msgspec.Struct, frozen=True):
    """Histograms of all outcomes, and of the newest ones by model."""

    at: float
    rollouts: int
    reward: _Histogram
    achievements: _Histogram
    models: list[_ModelHistograms]
    models_cover: int
    models_unknown: int
    bars: list[ColumnComparison]
    where: str


class DistributionReader:
    """Reads the distributions, and caches the models of the newest rollouts.

    Args:
        config: The current configuration.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self._models: OrderedDict[str, str | None] = OrderedDict()
        self._found = Throttled(self._find, time.monotonic, pause=2.0)

    def read(self) -> _Distributions:
        """Return the distributions, at most a short while old.

        Raises:
            StreamerError: The ledger cannot be read.
        """
        return self._found.get()

    def _find(self) -> _Distributions:
        where = self.config.qualify.where
        with open_ledger(self.config.dataset.ledger) as db:
            rows, by_model = ([], {}) if db is None else (_all(db), self._by_model(db))
        models = sorted(by_model, key=lambda model: (model is None, -len(by_model[model]), model or ""))
        return _Distributions(
            at=time.time(),
            rollouts=sum(row[3] for row in rows),
            reward=histogram((row[0], row[2], row[3]) for row in rows),
            achievements=histogram((row[1], row[2], row[3]) for row in rows),
            models=[_of_model(model, by_model[model]) for model in models[:_MODELS_SHOWN]],
            models_cover=_MODELS_COVER,
            models_unknown=len(by_model.get(None, ())),
            bars=comparisons(where),
            where=where,
        )

    def _by_model(self, db: sqlite3.Connection) -> dict[str | None, list[_Row]]:
        newest = db.execute(
            "SELECT session, total_reward, achievements_count, qualifies FROM outcome ORDER BY ref DESC LIMIT ?",
            (_MODELS_COVER,),
        ).fetchall()
        self._look_up(db, [row[0] for row in newest])
        found: dict[str | None, list[_Row]] = {}
        for session, reward, achievements, qualifies in newest:
            found.setdefault(self._models.get(session), []).append((reward, achievements, qualifies, 1))
        return found

    def _look_up(self, db: sqlite3.Connection, sessions: Sequence[str]) -> None:
        (folder,) = db.execute("SELECT shards FROM meta").fetchone()
        looks, read = 0, 0
        for session in sessions:
            if session in self._models:
                continue
            data, shard = _first_line(db, Path(folder), session)
            if data is not None:
                self._models[session] = _model(data, shard)
                looks, read = looks + 1, read + len(data)
            if looks == _LOOKED_UP or read > _LOOKED_UP_BYTES:
                break
        while len(self._models) > 2 * _MODELS_COVER:
            self._models.popitem(last=False)


def histogram(values: Iterable[tuple[Any, int, int]]) -> _Histogram:
    """Return the bins of (value, whether it qualifies, number of rollouts)."""
    counts: dict[float, list[int]] = {}
    for value, qualifies, rollouts in values:
        if isinstance(value, int | float) and abs(value) < float("inf"):
            counts.setdefault(float(value), [0, 0])[0 if qualifies else 1] += rollouts
    if len(counts) <= _DISTINCT:
        return _Histogram([_Bin(value, value, *counts[value]) for value in sorted(counts)])
    low, high = min(counts), max(counts)
    width = (high - low) / _DISTINCT
    bins = [[0, 0] for _ in range(_DISTINCT)]
    for value, (qualifies, below) in counts.items():
        place = bins[min(_DISTINCT - 1, int((value - low) / width))]
        place[0] += qualifies
        place[1] += below
    return _Histogram([_Bin(low + i * width, low + (i + 1) * width, *both) for i, both in enumerate(bins)])


def _all(db: sqlite3.Connection) -> list[_Row]:
    return db.execute(
        "SELECT total_reward, achievements_count, qualifies, count(*) FROM outcome GROUP BY 1, 2, 3"
    ).fetchall()


def _of_model(model: str | None, rows: Sequence[_Row]) -> _ModelHistograms:
    return _ModelHistograms(
        model,
        len(rows),
        histogram((row[0], row[2], row[3]) for row in rows),
        histogram((row[1], row[2], row[3]) for row in rows),
    )


def _first_line(db: sqlite3.Connection, folder: Path, session: str) -> tuple[bytes | None, str]:
    found = db.execute(
        "SELECT shard.path, span.start FROM span JOIN shard ON shard.id = span.shard"
        f" WHERE span.session = ? AND NOT shard.replaced AND NOT {IS_APART} ORDER BY span.id LIMIT 1",
        (session,),
    ).fetchone()
    if found is None:
        return None, ""
    shard = os.fsdecode(found[0])
    try:
        with file_stretch(folder / shard) as stretch:
            return line_at(stretch, found[1], _LONGEST_LINE), shard
    except (OSError, RefusedRequestError):
        return b"", shard


def _model(data: bytes, shard: str) -> str | None:
    try:
        model = layouts.read(data, shard).model
    except MalformedError:
        return None
    return model[:_LONGEST_NAME] if isinstance(model, str) else None
