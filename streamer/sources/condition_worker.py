"""The process that evaluates a condition: ``python -I -S condition_worker.py``. It imports the standard library alone.

A condition can take for ever in a single step of SQLite, which only the end of the process breaks off. So it never
runs in the daemon, and never in a transaction on the producer's database: rows are copied into tables of this process,
one at a time. A request that takes too long ends the process by SIGALRM.

Frames in both directions: four bytes of length, big-endian, then a value as ``marshal`` writes it.
"""

from __future__ import annotations

import marshal
import resource
import signal
import sqlite3
import sys

LONGEST_VALUE = 512 << 10
"""Bytes of the longest text that a condition can look at or make."""

_MEMORY = 1 << 30
"""Bytes of address space, so that no condition takes the machine's memory."""

HEAD = 4
MET, NOT_MET, FAILED, TOO_LONG = b"1", b"0", b"f", b"l"


Row = tuple[int, list[object], list[object] | None]
"""A rowid, the columns of an outcome, and those of its session, None where it has none."""


def evaluate(db: sqlite3.Connection, statements: tuple[str, ...], row: Row) -> bytes:
    """Return whether one row meets the condition."""
    number, outcome, session = row
    empty_outcome, empty_session, insert_outcome, insert_session, select = statements
    db.execute(empty_outcome)
    db.execute(empty_session)
    try:
        db.execute(insert_outcome, (number, *outcome))
        if session is not None:
            db.execute(insert_session, session)
        return MET if db.execute(select).fetchone()[0] else NOT_MET
    except sqlite3.Error as error:
        return TOO_LONG if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_TOOBIG else FAILED
    except (MemoryError, OverflowError):
        return FAILED


def main() -> None:
    """Answer requests until the daemon closes the pipe."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the daemon decides when to end, and its end ends us
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_VALUE)
    seconds, tables, statements = marshal.loads(bytes.fromhex(sys.argv[1]))  # noqa: S302 - the daemon's
    for table in tables:
        db.execute(table)
    while head := source.read(HEAD):
        rows = marshal.loads(source.read(int.from_bytes(head, "big")))  # noqa: S302 - the daemon's
        signal.setitimer(signal.ITIMER_REAL, seconds)
        answer = b"".join(evaluate(db, statements, row) for row in rows)
        signal.setitimer(signal.ITIMER_REAL, 0)
        sink.write(len(answer).to_bytes(HEAD, "big") + answer)
        sink.flush()


if __name__ == "__main__":
    main()
