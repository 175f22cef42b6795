"""Which records are taken, and which are not and why: remembered on disk, so that memory does not grow with them.

Nothing here depends on the order of the lines or on what else is in the dataset, but for the two that rank: a
rollout stays in its split, and a record keeps its place in the draw, when the dataset grows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import msgspec
from blake3 import blake3

from streamer.base.errors import translate_errors
from streamer.commands.export.options import Split
from streamer.commands.export.unfit import Exclusion
from streamer.core.records.schema import is_number

_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -65536;
CREATE TABLE record (
  line INTEGER PRIMARY KEY, offset INTEGER NOT NULL, length INTEGER NOT NULL, id BLOB NOT NULL, run BLOB NOT NULL,
  reward REAL, draw BLOB NOT NULL, split INTEGER NOT NULL, image INTEGER NOT NULL, excluded TEXT
);
CREATE TABLE kept (line INTEGER PRIMARY KEY);
CREATE TABLE best (run BLOB NOT NULL, reward REAL NOT NULL, PRIMARY KEY (run, reward)) WITHOUT ROWID;
BEGIN;
"""
_DISK = translate_errors(
    "export",
    "its temporary database",
    "make room, or set SQLITE_TMPDIR to a folder on another disk",
    sqlite3.Error,
)
_ID_BYTES = 16
_PAGE = 1000


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """A record that was taken so far: where its line is, and which split it is in."""

    line: int
    offset: int
    length: int
    id: str
    split: str


class SplitCounts(msgspec.Struct, frozen=True):
    """What one split holds. Rewards are None where no record has one."""

    name: str
    records: int
    rollouts: int
    with_images: int
    reward_min: float | None
    reward_mean: float | None
    reward_max: float | None


class Selection:
    """All records of a dataset, and what became of each. Use it as a context manager.

    Args:
        splits: what rollouts are divided into.
        seed: another seed gives another division and another draw.

    Every method raises ``UnavailableError`` when the temporary file cannot be written.
    """

    def __init__(self, splits: Sequence[Split], seed: int) -> None:
        self._splits = splits
        self._seed = str(seed)

    def __enter__(self) -> Self:
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.executescript(_SCHEMA)
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def add(self, line: int, offset: int, data: bytes, metadata: dict[str, Any], *, image: bool) -> None:
        """Take a record, for now."""
        identity = _record_id(data)
        run = _rollout(metadata, identity)
        reward = metadata.get("total_reward")
        row = (
            line,
            offset,
            len(data),
            identity,
            run,
            float(reward) if reward is not None and is_number(reward) else None,
            self._hash("sample", identity),
            self._split_of(run),
            image,
        )
        with _DISK:
            self._db.execute("INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)", row)

    def keep(self, lines: Iterable[int]) -> None:
        """Leave out all records but those of these lines: the others do not meet the condition."""
        with _DISK:
            self._db.executemany("INSERT OR IGNORE INTO kept VALUES (?)", ((line,) for line in lines))
            self._db.execute(
                "UPDATE record SET excluded = ? WHERE line NOT IN (SELECT line FROM kept)", (Exclusion.WHERE,)
            )

    def keep_top(self, rollouts: int) -> None:
        """Leave out all but the rollouts with the highest reward; of equal ones the seed decides.

        A rollout is a run with one reward: a run id that was used several times has several.
        """
        with _DISK:
            self._db.create_function("tie", 1, lambda run: self._hash("top", run), deterministic=True)
            self._db.execute(
                "UPDATE record SET excluded = ? WHERE reward IS NULL AND excluded IS NULL", (Exclusion.NO_REWARD,)
            )
            self._db.execute(
                "INSERT INTO best SELECT DISTINCT run, reward FROM record WHERE excluded IS NULL"
                " ORDER BY reward DESC, tie(run) LIMIT ?",
                (rollouts,),
            )
            self._db.execute(
                "UPDATE record SET excluded = ? WHERE excluded IS NULL"
                " AND NOT EXISTS (SELECT 1 FROM best WHERE best.run = record.run AND best.reward = record.reward)",
                (Exclusion.BELOW_TOP,),
            )

    def keep_sample(self, records: int) -> None:
        """Leave out all but so many records, drawn by the seed."""
        with _DISK:
            self._db.execute(
                "UPDATE record SET excluded = ? WHERE line IN"
                " (SELECT line FROM record WHERE excluded IS NULL ORDER BY draw, line LIMIT -1 OFFSET ?)",
                (Exclusion.NOT_SAMPLED, records),
            )

    def exclude(self, line: int, reason: Exclusion) -> None:
        """Leave out one record that was taken."""
        with _DISK:
            self._db.execute("UPDATE record SET excluded = ? WHERE line = ?", (reason, line))

    def taken(self) -> Iterator[Candidate]:
        """Yield the records that are taken, in the order of the dataset. Records may be excluded meanwhile."""
        last = 0
        query = (
            "SELECT line, offset, length, id, split FROM record"
            " WHERE excluded IS NULL AND line > ? ORDER BY line LIMIT ?"
        )
        while rows := self._rows(query, (last, _PAGE)):
            for last, offset, length, identity, split in rows:
                yield Candidate(last, offset, length, identity.hex(), self._splits[split].name)

    def size(self) -> tuple[int, int]:
        """Return (records, bytes of their lines) that are taken."""
        ((records, length),) = self._rows(
            "SELECT count(*), coalesce(sum(length), 0) FROM record WHERE excluded IS NULL"
        )
        return records, length

    def has_images(self) -> bool:
        """Say whether any record that is taken has an image."""
        return bool(self._rows("SELECT 1 FROM record WHERE excluded IS NULL AND image LIMIT 1"))

    def counts(self) -> list[SplitCounts]:
        """Return what each split holds, empty ones too."""
        query = (
            "SELECT count(*), count(DISTINCT run), coalesce(sum(image), 0), min(reward), avg(reward), max(reward)"
            " FROM record WHERE excluded IS NULL AND split = ?"
        )
        return [SplitCounts(split.name, *self._rows(query, (i,))[0]) for i, split in enumerate(self._splits)]

    def excluded(self) -> dict[str, int]:
        """Return how many records were left out, by reason, the most frequent first."""
        query = "SELECT excluded, count(*) FROM record WHERE excluded IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1"
        return dict(self._rows(query))

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        with _DISK:
            return self._db.execute(query, values).fetchall()

    def _split_of(self, run: bytes) -> int:
        """Return the split of a rollout: its place between 0 and 1 falls into the share of one."""
        place = int.from_bytes(self._hash("split", run)[:8]) / (1 << 64)
        total = 0.0
        for index, split in enumerate(self._splits):
            total += split.share
            if place < total:
                return index
        return len(self._splits) - 1

    def _hash(self, purpose: str, value: bytes) -> bytes:
        return blake3(f"{purpose}\0{self._seed}\0".encode() + value).digest(_ID_BYTES)


def _record_id(line: bytes) -> bytes:
    """Return what identifies a record for good: a digest of its line, which never changes."""
    return blake3(line.rstrip(b"\n")).digest(_ID_BYTES)


def _rollout(metadata: dict[str, Any], identity: bytes) -> bytes:
    """Return what identifies the rollout of a record; without a run id the record is alone."""
    run = metadata.get("run_id")
    return identity if run is None else blake3(str(run).encode()).digest(_ID_BYTES)
