"""Which kind of error SQLite raised, by its code: its words may change from version to version."""

from __future__ import annotations

import sqlite3

_PRIMARY = 0xFF


def primary_code(error: sqlite3.Error) -> int:
    """Return the primary result code (https://sqlite.org/rescode.html), or 0 if the error is not SQLite's own."""
    return getattr(error, "sqlite_errorcode", 0) & _PRIMARY


def is_busy(error: sqlite3.Error) -> bool:
    """Return whether somebody else holds the database or a table of it for now."""
    return primary_code(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
