"""Selects records, and counts the excluded ones by reason. The selection is on disk, so that memory stays bounded.

A rollout stays in its split, and a record keeps its rank in the sample, when the dataset grows: neither depends on the
order of the lines or on other records. Only ``keep_top`` and ``keep_sample`` compare records.
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
    """A record that is selected so far: the place of its line, and its split."""

    line: int
    offset: int
    length: int
    id: str
    split: str


class SplitCounts(msgspec.Struct, frozen=True):
    """The counts of one split. The rewards are None if no record has one."""

    name: str
    records: int
    rollouts: int
    with_images: int
    reward_min: float | None
    reward_mean: float | None
    reward_max: float | None


class Selection:
    """All records of a dataset, each selected or excluded for a reason. Use it as a context manager.

    Args:
        splits: The splits of the rollouts.
        seed: The seed of the splits and of the sample.

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
        """Select a record, for now."""
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
        """Exclude all records but those of ``lines``: the others do not meet the condition."""
        with _DISK:
            self._db.executemany("INSERT OR IGNORE INTO kept VALUES (?)", ((line,) for line in lines))
            self._db.execute(
                "UPDATE record SET excluded = ? WHERE line NOT IN (SELECT line FROM kept)", (Exclusion.WHERE,)
            )

    def keep_top(self, rollouts: int) -> None:
        """Exclude all but the rollouts with the highest rewards; the seed decides between equal rewards.

        A rollout is a run id with one reward: a run id that was used several times has several rollouts.
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
        """Exclude all but a sample of ``records``, drawn by the seed."""
        with _DISK:
            self._db.execute(
                "UPDATE record SET excluded = ? WHERE line IN"
                " (SELECT line FROM record WHERE excluded IS NULL ORDER BY draw, line LIMIT -1 OFFSET ?)",
                (Exclusion.NOT_SAMPLED, records),
            )

    def exclude(self, line: int, reason: Exclusion) -> None:
        """Exclude one selected record."""
        with _DISK:
            self._db.execute("UPDATE record SET excluded = ? WHERE line = ?", (reason, line))

    def taken(self) -> Iterator[Candidate]:
        """Yield the selected records in the order of the dataset. The caller may exclude records meanwhile."""
        last = 0
        query = (
            "SELECT line, offset, length, id, split FROM record"
            " WHERE excluded IS NULL AND line > ? ORDER BY line LIMIT ?"
        )
        while rows := self._rows(query, (last, _PAGE)):
            for last, offset, length, identity, split in rows:
                yield Candidate(last, offset, length, identity.hex(), self._splits[split].name)

    def size(self) -> tuple[int, int]:
        """Return the number of selected records, and the bytes of their lines."""
        ((records, length),) = self._rows(
            "SELECT count(*), coalesce(sum(length), 0) FROM record WHERE excluded IS NULL"
        )
        return records, length

    def has_images(self) -> bool:
        """Return whether any selected record has an image."""
        return bool(self._rows("SELECT 1 FROM record WHERE excluded IS NULL AND image LIMIT 1"))

    def counts(self) -> list[SplitCounts]:
        """Return the counts of every split, including empty ones."""
        query = (
            "SELECT count(*), count(DISTINCT run), coalesce(sum(image), 0), min(reward), avg(reward), max(reward)"
            " FROM record WHERE excluded IS NULL AND split = ?"
        )
        return [SplitCounts(split.name, *self._rows(query, (i,))[0]) for i, split in enumerate(self._splits)]

    def excluded(self) -> dict[str, int]:
        """Return the number of excluded records by reason, most frequent first."""
        query = "SELECT excluded, count(*) FROM record WHERE excluded IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1"
        return dict(self._rows(query))

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        with _DISK:
            return self._db.execute(query, values).fetchall()

    def _split_of(self, run: bytes) -> int:
        """Return the index of a rollout's split: its hash, as a number between 0 and 1, falls into the share of one."""
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
    """Return the permanent id of a record: a digest of its line, which never changes."""
    return blake3(line.rstrip(b"\n")).digest(_ID_BYTES)


def _rollout(metadata: dict[str, Any], identity: bytes) -> bytes:
    """Return the id of a record's rollout; a record without a run id is a rollout of its own."""
    run = metadata.get("run_id")
    return identity if run is None else blake3(str(run).encode()).digest(_ID_BYTES)
