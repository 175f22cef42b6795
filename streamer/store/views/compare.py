"""Comparison of two datasets made of the same lines: their records, and the result of each line.

It reads the two ledgers only, neither datasets nor shards.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path

import msgspec

from streamer.base.errors import ConfigError
from streamer.core.records.model import STATE_NAMES, State
from streamer.store.views.snapshot import open_ledger

_NOT_READ = "not read"
_EXAMPLES = 3

_SPANS = (
    "SELECT shard.path, span.line, span.lines, span.state, span.reason, span.session FROM span"
    " JOIN shard ON shard.id = span.shard WHERE NOT shard.replaced ORDER BY shard.path, span.line"
)


class _Result(msgspec.Struct, frozen=True, order=True):
    """The result of lines: a state in words, and the counted reason, if there is one."""

    state: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.state} ({self.reason})" if self.reason else self.state


class _Change(msgspec.Struct):
    """Lines with another result under the new rules than under the old ones.

    ``examples`` are SHARD:LINE, the first one of each of some rollouts.
    """

    old: _Result
    new: _Result
    lines: int = 0
    rollouts: int = 0
    examples: list[str] = []


class Records(msgspec.Struct, frozen=True):
    """Numbers of records in both datasets, and in one of them alone, compared by key."""

    both: int
    only_old: int
    only_new: int


class Comparison(msgspec.Struct, frozen=True):
    """The differences between two datasets. ``records`` is None if their keys cannot be compared.

    ``changes`` are sorted by lines, the most first; ``unchanged`` is the number of lines with the same result in both.
    """

    records: Records | None
    unchanged: int
    changes: list[_Change]


def compare(old: Path, new: Path) -> Comparison:
    """Compare two ledgers.

    Raises:
        ConfigError: there is none at one of the paths.
        UnavailableError: one of them cannot be read now.
        RefusedError: one of them is damaged, or no ledger of this version.
    """
    with open_ledger(old) as before, open_ledger(new) as after:
        for db, path in ((before, old), (after, new)):
            if db is None:
                raise ConfigError("compare", str(path), "there is no such ledger", "it lies beside its dataset")
            db.execute("BEGIN")
        unchanged, changes = _changes(before, after)  # type: ignore[arg-type]
        return Comparison(_records(before, after), unchanged, changes)  # type: ignore[arg-type]


def _records(old: sqlite3.Connection, new: sqlite3.Connection) -> Records | None:
    meanings = [db.execute("SELECT keys FROM meta").fetchone()[0] for db in (old, new)]
    if meanings[0] != meanings[1]:
        return None
    one, other = (db.execute("SELECT key FROM record ORDER BY key") for db in (old, new))
    counts = {"both": 0, "old": 0, "new": 0}
    mine, theirs = one.fetchone(), other.fetchone()
    while mine or theirs:
        if mine and theirs and mine == theirs:
            counts["both"] += 1
            mine, theirs = one.fetchone(), other.fetchone()
        elif mine and (not theirs or mine < theirs):
            counts["old"] += 1
            mine = one.fetchone()
        else:
            counts["new"] += 1
            theirs = other.fetchone()
    return Records(counts["both"], counts["old"], counts["new"])


def _changes(old: sqlite3.Connection, new: sqlite3.Connection) -> tuple[int, list[_Change]]:
    unchanged = 0
    found: dict[tuple[_Result, _Result], _Change] = {}
    rollouts: dict[tuple[_Result, _Result], set[int]] = {}
    for path, first, second in _by_shard(old.execute(_SPANS), new.execute(_SPANS)):
        for line, lines, before, after, session in _segments(first, second):
            if before == after:
                unchanged += lines
                continue
            pair = before, after
            change = found.setdefault(pair, _Change(before, after))
            change.lines += lines
            seen = rollouts.setdefault(pair, set())
            if hash(session) not in seen and len(change.examples) < _EXAMPLES:
                change.examples.append(f"{os.fsdecode(path)}:{line}")
            seen.add(hash(session))
            change.rollouts = len(seen)
    return unchanged, sorted(found.values(), key=lambda change: (-change.lines, change.old, change.new))


_Row = tuple[bytes, int, int, str, str, str]
_Span = tuple[int, int, _Result, str]
"""(first line, line after the last, result, session)"""


def _by_shard(old: Iterable[_Row], new: Iterable[_Row]) -> Iterator[tuple[bytes, list[_Span], list[_Span]]]:
    """Yield the spans of each shard that either ledger has, one shard in memory at a time."""
    one, other = groupby(old, itemgetter(0)), groupby(new, itemgetter(0))
    mine, theirs = next(one, None), next(other, None)
    while mine or theirs:
        path = min(group[0] for group in (mine, theirs) if group)
        first = second = []
        if mine and mine[0] == path:
            first, mine = [_span(row) for row in mine[1]], next(one, None)
        if theirs and theirs[0] == path:
            second, theirs = [_span(row) for row in theirs[1]], next(other, None)
        yield path, first, second


def _span(row: _Row) -> _Span:
    _, line, lines, state, reason, session = row
    return line, line + lines, _Result(STATE_NAMES[State(state)], reason), session


def _segments(old: list[_Span], new: list[_Span]) -> Iterator[tuple[int, int, _Result, _Result, str]]:
    """Yield (first line, lines, old result, new result, session) of lines with one result in each."""
    edges = sorted({edge for start, stop, _, _ in (*old, *new) for edge in (start, stop)})
    mine, theirs = iter(old), iter(new)
    here, there = next(mine, None), next(theirs, None)
    for start, stop in pairwise(edges):
        while here and here[1] <= start:
            here = next(mine, None)
        while there and there[1] <= start:
            there = next(theirs, None)
        before = here if here and here[0] <= start else None
        after = there if there and there[0] <= start else None
        if before or after:
            session = next(span[3] for span in (before, after) if span)
            yield (
                start,
                stop - start,
                before[2] if before else _Result(_NOT_READ),
                after[2] if after else _Result(_NOT_READ),
                session,
            )
