"""The file of a ledger: its schema, its creation and its integrity check.

Invariants
- A ledger appears under its name at once: it is created beside it, synced, and renamed. After a power loss there is a
  whole ledger or none.
- A ledger that a crash may have damaged is checked before it is used: SQLite reads every page of it.

Tables
- ``meta``     one row: lengths, what the keys mean, which folder and database
- ``shard``    a cursor for each shard, and for each session that is read from the trace database (``paths``);
               ``replaced`` once the producer has overwritten bytes that were read
- ``span``     consecutive lines of one shard with one verdict; ``due`` while they are pending (1) or blocked (2)
- ``tally``    lines by state and reason
- ``record``   key -> offset of the line in the dataset; ``claimed`` once a shard line is known for it
- ``outcome``  rows of ``outcome_rewards`` as last seen
- ``part``     parts of a dataset that rotates, with their log offsets; ``stop`` is NULL for the live file.
               It is missing in ledgers of 0.1.0 and added when they are opened
- ``turn_reward``, ``turn_rule``  only where event rewards are read: see ``turn_rewards``
- ``cut``, ``taken_out``  lines removed by compactions (``cuts``); added to an older ledger when it is opened
- ``history``  growth of the dataset (``history``); added to an older ledger when it is opened
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from streamer.base.errors import RefusedError, UnavailableError, translate_errors
from streamer.base.files import Files, sync_folder
from streamer.store.ledger.cuts import SCHEMA as COMPACTION
from streamer.store.ledger.history import SCHEMA as HISTORY

APPLICATION_ID = 0x73747231
SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE meta (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  dataset_length INTEGER NOT NULL DEFAULT 0, dataset_lines INTEGER NOT NULL DEFAULT 0,
  dataset_tail BLOB NOT NULL DEFAULT x'', dead_length INTEGER NOT NULL DEFAULT 0,
  dead_tail BLOB NOT NULL DEFAULT x'', keys TEXT NOT NULL DEFAULT '', counted INTEGER NOT NULL DEFAULT 0,
  overwritten INTEGER NOT NULL DEFAULT 0,
  shards TEXT NOT NULL DEFAULT '', pattern TEXT NOT NULL DEFAULT '',
  follow_symlinks INTEGER NOT NULL DEFAULT 0, database TEXT NOT NULL DEFAULT '', appended_at REAL
);
INSERT INTO meta (one) VALUES (1);
CREATE TABLE shard (
  id INTEGER PRIMARY KEY, path BLOB NOT NULL, offset INTEGER NOT NULL, lines INTEGER NOT NULL,
  scanned INTEGER NOT NULL, fingerprint BLOB NOT NULL, dev INTEGER NOT NULL, ino INTEGER NOT NULL,
  size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
  replaced INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX shard_path ON shard (path) WHERE NOT replaced;
CREATE INDEX shard_ino ON shard (ino) WHERE NOT replaced;
CREATE TABLE span (
  id INTEGER PRIMARY KEY, shard INTEGER NOT NULL, start INTEGER NOT NULL, stop INTEGER NOT NULL,
  line INTEGER NOT NULL, lines INTEGER NOT NULL, session TEXT NOT NULL, state TEXT NOT NULL,
  reason TEXT NOT NULL, outcome INTEGER, first_us INTEGER, last_us INTEGER, since REAL NOT NULL,
  rule TEXT NOT NULL, due INTEGER NOT NULL
);
CREATE INDEX span_session ON span (session);
CREATE INDEX span_shard ON span (shard, start);
CREATE INDEX span_due ON span (id) WHERE due;
CREATE INDEX span_waiting ON span (since) WHERE state = 'waiting';
CREATE INDEX span_unreadable ON span (shard) WHERE reason = 'unreadable';
CREATE INDEX span_rule_changed ON span (session) WHERE reason = 'rule_changed';
CREATE TABLE tally (
  state TEXT, reason TEXT, lines INTEGER NOT NULL, PRIMARY KEY (state, reason)
) WITHOUT ROWID;
CREATE TABLE condition (rule TEXT PRIMARY KEY, sql TEXT NOT NULL);
CREATE TABLE record (
  key BLOB PRIMARY KEY, offset INTEGER NOT NULL, claimed INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE outcome (
  ref INTEGER PRIMARY KEY, id INTEGER NOT NULL, session TEXT NOT NULL, total_reward, achievements_count,
  total_steps, created_at TEXT NOT NULL, created_us INTEGER, qualifies INTEGER NOT NULL, rule TEXT NOT NULL,
  withdrawn INTEGER NOT NULL DEFAULT 0, UNIQUE (id, session, created_at)
);
CREATE INDEX record_adopted ON record (key) WHERE NOT claimed;
CREATE INDEX outcome_withdrawn ON outcome (ref) WHERE withdrawn;
CREATE INDEX outcome_session ON outcome (session);
"""

_PART = """
CREATE TABLE IF NOT EXISTS part (
  number INTEGER PRIMARY KEY, start INTEGER NOT NULL, stop INTEGER, lines INTEGER NOT NULL DEFAULT 0,
  sha256 TEXT NOT NULL DEFAULT '', opened_at REAL, closed_at REAL, removed INTEGER NOT NULL DEFAULT 0
);
"""

_LATER_COLUMNS = {
    ("outcome", "metadata"): "TEXT NOT NULL DEFAULT ''",
    ("outcome", "problem"): "TEXT NOT NULL DEFAULT ''",
}
"""Columns added when a ledger is created or opened; older versions of streamer ignore them."""

_ALWAYS_CHECKED = 64 << 20
"""Bytes of a ledger up to which each start checks all of it; a larger one is checked after a crash."""

_MAGIC = b"SQLite format 3\0"


def ledger_files(path: Path) -> set[Path]:
    """Return every file that a ledger at ``path`` may consist of, with those of SQLite beside it."""
    new = _new(path)
    return {path, new, _beside(new, "-journal"), *(_beside(path, suffix) for suffix in ("-wal", "-shm", "-journal"))}


def create_or_check(path: Path, files: Files) -> None:
    """Create a ledger at ``path``, or check that the existing one can be used.

    Raises:
        RefusedError: the file is damaged, is no ledger, or is of another version.
        UnavailableError: the disk is full, or not there now.
    """
    with explained(path):
        if _begins(path, files):
            _check(path)
        else:
            _create(path, files)


def _begins(path: Path, files: Files) -> bool:
    """Say whether there is a database; an empty file is none."""
    try:
        fd = files.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        start = files.pread(fd, len(_MAGIC), 0)
    finally:
        files.close(fd)
    if start and start != _MAGIC:
        raise RefusedError("open the ledger", str(path), "it is no SQLite database", way_out(path))
    return bool(start)


def _create(path: Path, files: Files) -> None:
    os.makedirs(path.parent, exist_ok=True)
    new = _new(path)
    for left in (new, _beside(new, "-journal"), _beside(path, "-wal"), _beside(path, "-shm")):
        files.unlink(left)
    files.close(files.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL))
    with closing(sqlite3.connect(new, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous=FULL")  # each of the next lines is on the disk when it returns
        identity = f"PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={SCHEMA_VERSION};"
        later = "".join(_add_column(*column) for column in _LATER_COLUMNS)
        db.executescript(f"BEGIN; {identity}{_SCHEMA}{_PART}{COMPACTION}{HISTORY}{later} COMMIT;")
        db.execute("PRAGMA journal_mode=WAL")
    files.rename(new, path)
    sync_folder(files, path.parent)


def _new(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _check(path: Path) -> None:
    left_behind = _beside(path, "-wal").exists()  # by a process that was killed, or a machine without power
    with closing(sqlite3.connect(path, timeout=5.0, isolation_level=None)) as db:
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION_ID:
            raise RefusedError("open the ledger", str(path), "it is another program's database", way_out(path))
        if version != SCHEMA_VERSION:
            raise RefusedError(
                "open the ledger",
                str(path),
                f"its schema version is {version}, this streamer knows {SCHEMA_VERSION}",
                "run the streamer version that wrote it, or move it away: it is rebuilt from the dataset",
            )
        found = "ok"
        if left_behind or path.stat().st_size <= _ALWAYS_CHECKED:
            (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            cause = " ".join(str(found).split())
            code = re.search(r"error code=(\d+)", cause)
            if code and int(code[1]) & 0xFF == sqlite3.SQLITE_IOERR:  # the disk refused a read: it may pass
                raise UnavailableError("read the ledger", str(path), cause, "see the disk; it is retried")
            raise RefusedError("open the ledger", str(path), f"it is damaged: {cause}", way_out(path))
        db.executescript(_PART)
        db.executescript(COMPACTION)
        db.executescript(HISTORY)
        for table, column in _LATER_COLUMNS:
            if not db.execute("SELECT 1 FROM pragma_table_info(?) WHERE name = ?", (table, column)).fetchone():
                db.executescript(_add_column(table, column))


def _add_column(table: str, column: str) -> str:
    return f"ALTER TABLE {table} ADD COLUMN {column} {_LATER_COLUMNS[table, column]};"


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Translate errors of SQLite and of the file system: transient ones are retried, damage is refused."""
    with (
        translate_errors("use the ledger", path, way_out(path), sqlite3.DatabaseError, RefusedError),
        translate_errors(
            "write the ledger",
            path,
            "free the disk, or see who holds the file; it is retried",
            sqlite3.OperationalError,
        ),
        translate_errors("open the ledger", path),
    ):
        yield


def way_out(path: Path) -> str:
    """Return the recovery command for an unusable ledger: starting without it loses nothing."""
    return (
        f"mv '{path}' '{path}.old' and start again: keys are rebuilt from the dataset, the shards are read"
        " again, and what is in the dataset is not written twice"
    )
