"""Read-only views of a ledger, while the daemon runs or not: short reads, nothing written or locked.

Functions that open a ledger raise UnavailableError if it cannot be read now, and RefusedError if it is damaged or no
ledger of this version.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from streamer.base.errors import RefusedError, UnavailableError
from streamer.base.lock import Holder, holder, lock_file
from streamer.core.records.model import State
from streamer.store.ledger.cuts import cut_bytes
from streamer.store.ledger.delivery import Delivery, delivery
from streamer.store.ledger.files import knows_parts
from streamer.store.ledger.paths import IS_APART, IS_SESSION, IS_STREAM
from streamer.store.ledger.schema import APPLICATION_ID, SCHEMA_VERSION


class Snapshot(msgspec.Struct, frozen=True):
    """The state of a ledger at one moment, and the daemon that holds the dataset.

    ``counts`` are lines by state and ``reasons`` the same split by reason; ``read`` is their sum.
    ``sessions`` were read from the trace database, ``streams`` are partitions of a fleet's stream, ``shards`` are
    files. ``delivery`` is the delivery progress of a collector's dataset.
    ``unfinished`` are shards whose last line has no newline yet. Ages are seconds. ``overwritten`` are
    lines whose bytes the producer replaced before their outcome came; they are not part of ``read``.
    ``adopted`` are dataset lines without a known shard line. Lines and bytes are those of the live file
    and of the kept ``parts``; ``removed_lines`` were in removed parts.
    """

    counts: dict[str, int]
    reasons: dict[str, dict[str, int]]
    dataset: str
    dataset_lines: int = 0
    dataset_bytes: int = 0
    parts: int = 0
    removed_lines: int = 0
    shards: int = 0
    sessions: int = 0
    streams: int = 0
    unfinished: int = 0
    waiting_rollouts: int = 0
    oldest_waiting_seconds: float | None = None
    appended_rollouts: int = 0
    withdrawn_rollouts: int = 0
    outcomes: int = 0
    overwritten: int = 0
    adopted: int = 0
    last_append_seconds: float | None = None
    shard_folder: str = ""
    pattern: str = "*.jsonl"
    follow_symlinks: bool = False
    database: str = ""
    daemon: Holder | None = None
    ledger: bool = False
    delivery: Delivery | None = None

    @property
    def read(self) -> int:
        """Lines read: the sum of the six states."""
        return sum(self.counts.values())

    @property
    def pid(self) -> int | None:
        """The daemon's process, if one is alive."""
        return self.daemon.pid if self.daemon else None


class LedgerStatus(msgspec.Struct, frozen=True):
    """The part of a ledger whose reading time grows only with the waiting lines.

    ``reasons`` are lines by state and reason, for every state. ``appended_at`` and ``waiting_since`` are wall-clock
    seconds, of the last append and of the line that has waited longest.
    """

    reasons: dict[str, dict[str, int]]
    dataset_lines: int = 0
    dataset_bytes: int = 0
    parts: int = 0
    removed_lines: int = 0
    overwritten: int = 0
    appended_at: float | None = None
    waiting_rollouts: int = 0
    waiting_since: float | None = None
    delivery: Delivery | None = None


def ledger_status(ledger: Path) -> LedgerStatus:
    """Return the counts of a ledger; all zero where there is none yet."""
    with open_ledger(ledger) as db:
        if db is None:
            return LedgerStatus({state: {} for state in State})
        db.execute("BEGIN")  # all reads see one moment
        return _status(db)


def snapshot(dataset: Path, ledger: Path | None = None) -> Snapshot:
    """Return the state of ``dataset`` and its ledger; all zero where there is none yet."""
    daemon = holder(lock_file(dataset))
    with open_ledger(ledger or ledger_of(dataset)) as db:
        if db is None:
            return Snapshot(dict.fromkeys(State, 0), {}, str(dataset), daemon=daemon)
        return _read(db, dataset, daemon)


class MadeWith(msgspec.Struct, frozen=True):
    """The settings of a dataset: every condition that was in force, the oldest first, and ``dedup.by``."""

    where: list[str] = []
    dedup_by: str = ""


def settings(ledger: Path) -> MadeWith:
    """Return the settings that a ledger has stored; none where there is no ledger."""
    with open_ledger(ledger) as db:
        if db is None:
            return MadeWith()
        where = [sql for (sql,) in db.execute("SELECT sql FROM condition ORDER BY rowid")]
        return MadeWith(where, str(_one(db, "SELECT keys FROM meta")).partition("/")[0])


def ledger_of(dataset: Path) -> Path:
    """Return the default path of a dataset's ledger."""
    return dataset.with_name(f"{dataset.name}.ledger")


@contextmanager
def open_ledger(path: Path) -> Iterator[sqlite3.Connection | None]:
    """Open a ledger for reading only; None if there is none."""
    if not path.exists():
        yield None
        return
    try:
        with closing(_connect(path)) as db:
            yield db if _is_ledger(db, path) else None
    except sqlite3.OperationalError as error:
        raise UnavailableError("read the ledger", str(path), str(error), "see its rights, or try again") from error
    except sqlite3.DatabaseError as error:
        raise RefusedError("read the ledger", str(path), str(error), "`streamer doctor` says more") from error


def _connect(path: Path) -> sqlite3.Connection:
    uri = f"file:{quote(str(path.absolute()))}?mode=ro"
    # Without a daemon there is no -shm file; if we may not create one either, nothing writes the ledger.
    at_rest = not path.with_name(f"{path.name}-wal").exists() and not os.access(path.parent, os.W_OK)
    return sqlite3.connect(f"{uri}&immutable=1" if at_rest else uri, uri=True, timeout=2.0, isolation_level=None)


def _is_ledger(db: sqlite3.Connection, path: Path) -> bool:
    if not _one(db, "SELECT count(*) FROM sqlite_master"):
        return False  # a daemon is just creating it
    version = _one(db, "PRAGMA user_version")
    if _one(db, "PRAGMA application_id") != APPLICATION_ID or version != SCHEMA_VERSION:
        raise RefusedError(
            "read the ledger", str(path), "it is no ledger of this version", "is this the right dataset?"
        )
    return True


def _status(db: sqlite3.Connection) -> LedgerStatus:
    reasons: dict[str, dict[str, int]] = {str(state): {} for state in State}
    for state, reason, lines in db.execute("SELECT state, reason, lines FROM tally WHERE lines"):
        reasons.setdefault(state, {})[reason] = lines
    lines, length, overwritten, appended_at = _row(
        db, "SELECT dataset_lines, dataset_length, overwritten, appended_at FROM meta"
    )
    parts, removed_lines, removed_bytes = _parts(db)
    waiting = _row(db, "SELECT count(DISTINCT session), min(since) FROM span WHERE state = 'waiting'")
    return LedgerStatus(
        reasons=reasons,
        dataset_lines=lines - removed_lines,
        dataset_bytes=length - removed_bytes - cut_bytes(db),
        parts=parts,
        removed_lines=removed_lines,
        overwritten=overwritten,
        appended_at=appended_at,
        waiting_rollouts=waiting[0],
        waiting_since=waiting[1],
        delivery=delivery(db),
    )


def _read(db: sqlite3.Connection, dataset: Path, daemon: Holder | None) -> Snapshot:
    db.execute("BEGIN")  # all reads see one moment
    now = time.time()
    status = _status(db)
    meta = _row(db, "SELECT shards, database, pattern, follow_symlinks FROM meta")
    return Snapshot(
        counts={state: sum(split.values()) for state, split in status.reasons.items()},
        reasons={state: split for state, split in status.reasons.items() if split},
        dataset=str(dataset),
        dataset_lines=status.dataset_lines,
        dataset_bytes=status.dataset_bytes,
        parts=status.parts,
        removed_lines=status.removed_lines,
        shards=_one(db, f"SELECT count(*) FROM shard WHERE NOT replaced AND NOT {IS_APART}"),
        streams=_one(db, f"SELECT count(*) FROM shard WHERE NOT replaced AND {IS_STREAM}"),
        sessions=_one(db, f"SELECT count(*) FROM shard WHERE NOT replaced AND {IS_SESSION}"),
        unfinished=_one(db, "SELECT count(*) FROM shard WHERE NOT replaced AND scanned > offset"),
        waiting_rollouts=status.waiting_rollouts,
        oldest_waiting_seconds=_age(now, status.waiting_since),
        appended_rollouts=_one(db, "SELECT count(DISTINCT session) FROM span WHERE state = 'appended'"),
        withdrawn_rollouts=_one(db, "SELECT count(*) FROM outcome WHERE withdrawn"),
        outcomes=_one(db, "SELECT count(*) FROM outcome"),
        overwritten=status.overwritten,
        adopted=_one(db, "SELECT count(*) FROM record WHERE NOT claimed"),
        last_append_seconds=_age(now, status.appended_at),
        shard_folder=meta[0],
        pattern=meta[2],
        follow_symlinks=bool(meta[3]),
        database=meta[1],
        daemon=daemon,
        ledger=True,
        delivery=status.delivery,
    )


def _parts(db: sqlite3.Connection) -> tuple[int, int, int]:
    """Return the number of kept closed parts, and the lines and bytes of the removed ones."""
    if not knows_parts(db):
        return 0, 0, 0
    return _row(
        db,
        "SELECT coalesce(sum(NOT removed), 0), coalesce(sum(lines * removed), 0),"
        " coalesce(sum((stop - start) * removed), 0) FROM part WHERE stop",
    )


def _age(now: float, since: float | None) -> float | None:
    return None if since is None else max(0.0, now - since)


def _one(db: sqlite3.Connection, sql: str, values: Sequence[Any] = ()) -> Any:
    return _row(db, sql, values)[0]


def _row(db: sqlite3.Connection, sql: str, values: Sequence[Any] = ()) -> tuple[Any, ...]:
    row: tuple[Any, ...] = db.execute(sql, values).fetchone()
    return row
