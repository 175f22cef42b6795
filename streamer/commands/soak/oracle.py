"""The oracle: decides which records must, may and must not be in the dataset. It shares no rule with the daemon.

It reads three things: the journals (the producer's plans), the shards as they are now, and the outcome rows.
A record

- *must* be in, if its finished line is there now and its outcome qualifies now;
- *may* be in, if its line is there, or was overwritten by the producer, and its outcome qualified at some
  time, by the rows known at that time;
- must *not* be in otherwise.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import datetime
from functools import cache
from urllib.parse import quote

import msgspec

from streamer.commands.soak.conversations import microseconds
from streamer.commands.soak.journal import (
    Bad,
    Entry,
    Journals,
    Said,
    Scoring,
    Shard,
    ShardMove,
    TraceCommitted,
    digest,
)
from streamer.commands.soak.problem import BrokenPromise
from streamer.commands.soak.workspace import SoakWorkspace


class _Row(msgspec.Struct, frozen=True):
    """An outcome row: its reward now, and all rewards that it ever had."""

    id: int
    created_us: int
    reward: int
    rewards: frozenset[int]


class ExpectedRecord(msgspec.Struct, frozen=True):
    """One line that the producer wrote, or meant to write.

    Args:
        said: The line's entry in the journal.
        shard: The first name of its shard.
        names: All names that the shard or a copy of it ever had.
        is_there: The finished line is in the folder now.
        overwritten: The producer overwrote its bytes.
        qualifies: Its outcome qualifies now.
        rewards: Qualifying rewards that the daemon may have written.
    """

    said: Said
    shard: str
    names: frozenset[str]
    is_there: bool
    overwritten: bool
    qualifies: bool
    rewards: frozenset[int]

    @property
    def must(self) -> bool:
        """Whether this line alone requires its conversation to be in."""
        return self.is_there and self.qualifies

    @property
    def may(self) -> bool:
        """Whether this line allows its conversation to be in."""
        return bool(self.rewards) and (self.is_there or self.overwritten)


class Expected(msgspec.Struct, frozen=True):
    """The oracle's answer.

    ``records`` are by mark. ``lines`` counts finished lines that are not blank, by shard. ``bad`` are marks of
    bad lines that are there now, ``ever_bad`` of all that were written. ``problems`` are faults outside the
    dataset: a disk that lost or changed bytes, a commit of the producer that failed.
    """

    records: dict[str, list[ExpectedRecord]]
    lines: dict[str, int]
    bad: frozenset[str]
    ever_bad: frozenset[str]
    longest_commit: float
    problems: list[BrokenPromise]

    def must(self) -> set[str]:
        """Return the marks of conversations that must be in."""
        return {mark for mark, records in self.records.items() if any(record.must for record in records)}


def expect(workspace: SoakWorkspace) -> Expected:
    """Read journals, shards and outcome rows; the producer must have ended."""
    entries = list(Journals(workspace.journals).new_entries())
    plans = [entry for entry in entries if isinstance(entry, Shard)]
    known = {line.line: line for plan in plans for line in plan.lines}
    lines, there, foreign = _read_shards(workspace, known)
    return Expected(
        records=_records(workspace, entries, plans, there),
        lines=lines,
        bad=frozenset(line.mark for number in there if isinstance(line := known[number], Bad)),
        ever_bad=frozenset(line.mark for line in known.values() if isinstance(line, Bad)),
        longest_commit=max((entry.seconds for entry in entries if isinstance(entry, TraceCommitted)), default=0.0),
        problems=[*foreign, *_failed_commits(workspace, entries)],
    )


def _read_shards(
    workspace: SoakWorkspace, known: dict[str, Said | Bad]
) -> tuple[dict[str, int], frozenset[str], list[BrokenPromise]]:
    """Return the lines by shard, the digests of all lines, and problems: lines that the producer never wrote."""
    lines: dict[str, int] = {}
    there: set[str] = set()
    foreign: list[BrokenPromise] = []
    for shard, number, line in _finished_lines(workspace):
        lines[shard] = lines.get(shard, 0) + 1
        name = digest(line)
        if name in known:
            there.add(name)
        else:
            what = "this line is none that the producer wrote: does this file system keep what is written?"
            foreign.append(BrokenPromise("shards_changed", f"{workspace.shards / shard}:{number}", what))
    return lines, frozenset(there), foreign


def _finished_lines(workspace: SoakWorkspace) -> Iterator[tuple[str, int, bytes]]:
    """Yield (shard, line number, bytes) of every finished line that is not blank."""
    for folder, _, names in os.walk(workspace.shards):
        for name in sorted(names):
            if not name.endswith(".jsonl"):
                continue
            path = os.path.join(folder, name)
            with open(path, "rb") as shard:
                for number, line in enumerate(shard, 1):
                    if line.endswith(b"\n") and line.strip():
                        yield os.path.relpath(path, workspace.shards), number, line[:-1]


def _failed_commits(workspace: SoakWorkspace, entries: Iterable[Entry]) -> Iterator[BrokenPromise]:
    for entry in entries:
        if isinstance(entry, TraceCommitted) and entry.fault:
            what = f"the producer gave up a commit for {entry.session} after {entry.seconds:.1f} s: {entry.fault}"
            yield BrokenPromise("producer_harmed", str(workspace.database), what)


def _records(
    workspace: SoakWorkspace, entries: Iterable[Entry], plans: list[Shard], there: frozenset[str]
) -> dict[str, list[ExpectedRecord]]:
    outcomes = _Outcomes(workspace, entries)
    names = _Names(entry for entry in entries if isinstance(entry, ShardMove))
    overwritten = {plan.path: number for number, plan in enumerate(plans) if plan.anew}
    records: dict[str, list[ExpectedRecord]] = {}
    for number, plan in enumerate(plans):
        for said in plan.lines:
            if isinstance(said, Said):
                record = ExpectedRecord(
                    said=said,
                    shard=plan.path,
                    names=names.of(plan.path),
                    is_there=said.line in there,
                    overwritten=overwritten.get(plan.path, -1) > number,
                    qualifies=outcomes.qualifies(said.session, said.time_us),
                    rewards=outcomes.rewards(said.session, said.time_us),
                )
                records.setdefault(said.mark, []).append(record)
    return records


class _Outcomes:
    """Joins records with the outcome rows of all sessions."""

    def __init__(self, workspace: SoakWorkspace, entries: Iterable[Entry]) -> None:
        self._rows = _read_rows(workspace, entries)
        self.qualifies = cache(self._qualifies)
        self.rewards = cache(self._rewards)

    def _qualifies(self, session: str, time_us: int | None) -> bool:
        row = _chosen(self._rows.get(session, ()), time_us)
        return row is not None and row.reward > 0

    def _rewards(self, session: str, time_us: int | None) -> frozenset[int]:
        """Return the qualifying rewards of every row that the record could have been joined with at any time."""
        rows = self._rows.get(session, [])
        chosen = [_chosen(rows[:known], time_us) for known in range(1, len(rows) + 1)]
        return frozenset(reward for row in chosen if row is not None for reward in row.rewards if reward > 0)


def _chosen(rows: Iterable[_Row], time_us: int | None) -> _Row | None:
    """Return the first row created at or after the record; the newest row for a record without a time."""
    in_order = sorted(rows, key=lambda row: (row.created_us, row.id))
    if time_us is None:
        return in_order[-1] if in_order else None
    return next((row for row in in_order if row.created_us >= time_us), None)


def _read_rows(workspace: SoakWorkspace, entries: Iterable[Entry]) -> dict[str, list[_Row]]:
    """Return the rows of each session in the order in which they were inserted."""
    rewards: dict[tuple[str, str], set[int]] = {}
    for entry in entries:
        if isinstance(entry, Scoring):
            rewards.setdefault((entry.session, entry.created_at), set()).add(entry.reward)
    rows: dict[str, list[_Row]] = {}
    with closing(sqlite3.connect(f"file:{quote(str(workspace.database))}?mode=ro", uri=True)) as db:
        for number, session, reward, created_at in db.execute(
            "SELECT id, session_id, total_reward, created_at FROM outcome_rewards ORDER BY id"
        ):
            ever = frozenset(rewards.get((session, created_at), ()))
            created_us = microseconds(datetime.fromisoformat(created_at))
            rows.setdefault(session, []).append(_Row(number, created_us, reward, ever | {reward}))
    return rows


class _Names:
    """Finds all names of a shard: its renames and copies, in order."""

    def __init__(self, moves: Iterable[ShardMove]) -> None:
        self._moves = list(moves)
        self._from: dict[str, list[str]] = {}
        for move in self._moves:
            self._from.setdefault(move.source, []).append(move.target)
        self.of = cache(self._of)

    def _of(self, name: str) -> frozenset[str]:
        found, todo = {name}, [name]
        while todo:
            new = [target for target in self._from.get(todo.pop(), ()) if target not in found]
            found.update(new)
            todo += new
        return frozenset(found)
