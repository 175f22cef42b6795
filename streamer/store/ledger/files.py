"""Which file of a dataset holds which log offsets, as its ledger knows."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec

from streamer.store.ledger.cuts import cuts_in
from streamer.store.parts.cuts import OffsetMap
from streamer.store.parts.files import DatasetFiles
from streamer.store.parts.parts import part_path


class LedgerFile(msgspec.Struct, frozen=True):
    """The file that holds a log offset. ``stop`` is the log offset at which it ends, None for the live file."""

    number: int
    stop: int | None
    map: OffsetMap
    is_removed: bool = False

    def path(self, dataset: Path) -> Path:
        """Return where the file is."""
        return dataset if self.stop is None else part_path(dataset, self.number)


def file_at(db: sqlite3.Connection, log_offset: int) -> LedgerFile:
    """Return the file of a dataset that holds a log offset, or held it."""
    if not knows_parts(db):
        return LedgerFile(1, None, OffsetMap(0))
    closed = db.execute(
        "SELECT number, start, stop, removed FROM part WHERE start <= ? AND stop > ?", (log_offset, log_offset)
    ).fetchone()
    if closed is not None:
        number, start, stop, removed = closed
        return LedgerFile(number, stop, OffsetMap(start, cuts_in(db).get(number, ())), bool(removed))
    number, start = db.execute(
        "SELECT coalesce((SELECT number FROM part WHERE stop IS NULL), max(number) + 1, 1), coalesce(max(stop), 0)"
        " FROM part"
    ).fetchone()
    return LedgerFile(number, None, OffsetMap(start))


def committed_in(db: sqlite3.Connection, dataset: DatasetFiles) -> int:
    """Return the committed bytes of the files of a dataset, by its ledger ``db``: closed parts count as a whole."""
    (length,) = db.execute("SELECT dataset_length FROM meta").fetchone()
    known = _starts(db)
    closed = sum(file.size for file in dataset.files if file.number in known)
    return closed + max(0, int(length) - _end_of_parts(db))


def with_log_offsets(db: sqlite3.Connection, dataset: DatasetFiles) -> DatasetFiles:
    """Return open files with the log offsets that they hold, as the dataset's ledger ``db`` counts."""
    starts, cuts, following = _starts(db), cuts_in(db), _end_of_parts(db)
    maps: list[OffsetMap] = []
    for file in dataset.files:
        start = starts.get(file.number)
        if start is not None and file.number is not None:
            maps.append(OffsetMap(start, cuts.get(file.number, ())))
            continue
        maps.append(OffsetMap(following))  # the live file, or a part that the ledger has not heard of
        following += file.size
    return DatasetFiles(dataset.files, maps)


def knows_parts(db: sqlite3.Connection) -> bool:
    """Say whether a ledger has the table of parts: that of 0.1.0 gets it when a daemon opens it."""
    return bool(db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'part'").fetchone()[0])


def _starts(db: sqlite3.Connection) -> dict[int | None, int]:
    """Return the log offset at which each closed part begins, by its number."""
    return dict(db.execute("SELECT number, start FROM part WHERE stop")) if knows_parts(db) else {}


def _end_of_parts(db: sqlite3.Connection) -> int:
    """Return the log offset at which the live file begins."""
    return int(db.execute("SELECT coalesce(max(stop), 0) FROM part").fetchone()[0]) if knows_parts(db) else 0
