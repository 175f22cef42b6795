"""Errors of SQLite are classified by their code."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from streamer.sources.database_file import is_busy, primary_code


def test_a_locked_database_is_busy(tmp_path: Path) -> None:
    """A connection without the write lock gets an error whose code says busy."""
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as holder:
        holder.execute("CREATE TABLE a (b)")
        holder.execute("BEGIN EXCLUSIVE")
        with closing(sqlite3.connect(tmp_path / "a.db", timeout=0)) as other, pytest.raises(sqlite3.Error) as found:
            other.execute("SELECT * FROM a")
    assert is_busy(found.value)


def test_an_error_that_only_speaks_of_locks_is_not_busy() -> None:
    """A column whose name is `locked` is no lock; nor is an error that SQLite did not raise."""
    with closing(sqlite3.connect(":memory:")) as db, pytest.raises(sqlite3.Error) as found:
        db.execute("SELECT locked")
    assert not is_busy(found.value)
    assert primary_code(sqlite3.ProgrammingError("the database is busy")) == 0


def test_what_was_interrupted_is_known_by_its_code() -> None:
    """A progress handler that returns true ends a statement with SQLITE_INTERRUPT."""
    with closing(sqlite3.connect(":memory:")) as db:
        db.set_progress_handler(lambda: 1, 1)
        with pytest.raises(sqlite3.Error) as found:
            db.execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n")
    assert primary_code(found.value) == sqlite3.SQLITE_INTERRUPT
