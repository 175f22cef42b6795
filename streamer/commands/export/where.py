"""Evaluates a condition on the metadata of records: SQL for DuckDB over one table.

The user wrote the condition, but not the metadata. So the database has no access to files or the network, loads no
extensions, and its settings are locked. It is in a file, with a bounded part in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import msgspec

from streamer.base.errors import ConfigError, UnavailableError
from streamer.base.text import printable
from streamer.commands.export.metadata import COLUMNS, columns_of
from streamer.commands.export.unfit import extra

_TABLE = "metadata"
_MEMORY = "256MB"

_SQL_TYPES = {str: "VARCHAR", int: "BIGINT", float: "DOUBLE", bool: "BOOLEAN"}
_COLUMNS = {"line": "BIGINT", **{name: _SQL_TYPES[kind] for name, kind in COLUMNS.items()}, "extra": "VARCHAR"}
_ROWS = 5000
"""Rows that are collected before they are inserted."""

_BYTES = 8 << 20
_FETCH = 10_000


class Condition:
    """The metadata of all records, and the condition on it. Use it as a context manager.

    Args:
        sql: An expression for WHERE, over the columns of ``metadata.COLUMNS``, ``extra`` (JSON) and ``line``.
        folder: An existing folder for the temporary database.

    Raises:
        ConfigError: the condition is not one expression, or names an unknown column.
        MissingExtraError: DuckDB is not installed.
    """

    def __init__(self, sql: str, folder: Path) -> None:
        self._sql = sql
        self._duckdb = extra("duckdb", "DuckDB", "evaluate --where", "the metadata")
        self._pending: list[dict[str, Any]] = []
        self._bytes = 0
        self._db = self._open(folder)
        try:
            self._query = self._parsed()
            # An empty table is enough to find unknown names and wrong types.
            self._execute(self._query).fetchall()
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def add(self, line: int, metadata: dict[str, Any]) -> None:
        """Add the metadata of one record."""
        columns, extra = columns_of(metadata)
        self._pending.append({"line": line, **columns, "extra": extra})
        self._bytes += len(extra)
        if len(self._pending) >= _ROWS or self._bytes >= _BYTES:
            self._flush()

    def lines(self) -> Iterator[int]:
        """Yield the lines of the records that meet the condition.

        Raises:
            ConfigError: the condition fails on a record.
        """
        self._flush()
        cursor = self._execute(self._query)
        while rows := self._fetch(cursor):
            yield from (line for (line,) in rows)

    def _open(self, folder: Path) -> Any:
        db = self._duckdb.connect(
            str(folder / "metadata.duckdb"),
            config={
                "memory_limit": _MEMORY,
                "threads": 1,
                "temp_directory": str(folder / "spilled"),
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "allow_community_extensions": False,
                "python_enable_replacements": False,
            },
        )
        # The database itself is a file, so access to files is disabled after it is open.
        db.execute("SET enable_external_access = false")
        db.execute("SET lock_configuration = true")
        columns = ", ".join(f"{name} {kind}" for name, kind in _COLUMNS.items())
        db.execute(f"CREATE TABLE {_TABLE} ({columns.replace('extra VARCHAR', 'extra JSON')})")
        return db

    def _parsed(self) -> Any:
        try:
            statements = self._duckdb.extract_statements(f"SELECT line FROM {_TABLE} WHERE (\n{self._sql}\n)")
        except self._duckdb.Error as error:
            raise self._wrong(error) from error
        if len(statements) != 1 or statements[0].type != self._duckdb.StatementType.SELECT:
            raise self._wrong("it is more than one expression")
        return statements[0]

    def _flush(self) -> None:
        if not self._pending:
            return
        values = ", ".join(f"r.{name}" for name in _COLUMNS)
        rows = msgspec.json.encode(self._pending).decode()
        shape = msgspec.json.encode([_COLUMNS]).decode()
        self._execute(
            f"INSERT INTO {_TABLE} SELECT {values} FROM (SELECT unnest(from_json(?, '{shape}')) AS r)", [rows]
        )
        self._pending, self._bytes = [], 0

    def _execute(self, query: Any, values: list[str] | None = None) -> Any:
        try:
            return self._db.execute(query, values)
        except self._duckdb.Error as error:
            raise self._explained(error) from error

    def _fetch(self, cursor: Any) -> list[tuple[int]]:
        try:
            rows: list[tuple[int]] = cursor.fetchmany(_FETCH)
        except self._duckdb.Error as error:
            raise self._explained(error) from error
        return rows

    def _explained(self, error: Exception) -> Exception:
        if isinstance(error, self._duckdb.OutOfMemoryException | self._duckdb.IOException):
            return UnavailableError("evaluate --where", "its temporary database", printable(str(error)), "make room")
        return self._wrong(error)

    def _wrong(self, error: object) -> ConfigError:
        cause = printable(" ".join(str(error).split()))
        names = ", ".join([*COLUMNS, "extra"])
        return ConfigError("evaluate --where", printable(self._sql), cause, f"the columns are {names}")
