"""A user's condition over an outcome and its session: what it may say, and which columns it looks at.

The condition never runs in the trace database. Its columns are copied, numbers become numbers, and a process of our own
evaluates it (``evaluator``). So it sees one outcome row and the row of its session, and no other table.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from typing import NamedTuple

from streamer.base.errors import ConfigError

NUMBERS = ("total_reward", "achievements_count", "total_steps")
"""Columns of ``outcome_rewards`` that are numbers, whatever type the table declares."""

_NOT_CODE = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*.*?(?:\*/|\Z)", re.DOTALL)
"""What may hold any character: texts, quoted names, comments."""

_TABLE = re.compile(r"\b(?:(?<!distinct )from|join)\s+(?:\w+\s*\.\s*)?(\w+)\b(?!\s*\()", re.IGNORECASE)

_FORBIDDEN_FUNCTIONS = frozenset({"load_extension", "readfile", "writefile", "edit"})

_KNOWN = {
    "outcome_rewards": (
        *("id", "session_id", "total_reward", "achievements_count", "total_steps", "created_at", "reward_metadata"),
        *("annotation", "objective_key"),
    ),
    "session_traces": (
        *("session_id", "created_at", "num_timesteps", "num_events", "num_messages", "metadata", "experiment_id"),
        "embedding",
    ),
}
"""Columns of every version of the producer, for a look at a condition before there is a database."""


OUTCOME, SESSION = "streamer_outcome", "streamer_session"
_FROM = f"FROM {OUTCOME} AS outcome_rewards LEFT JOIN {SESSION} AS session_traces USING (session_id)"
"""The tables have names that no condition knows, so that a subquery on the producer's tables fails."""


class Columns(NamedTuple):
    """The columns of the two tables with their declared types. ``sessions`` is empty where that table is missing."""

    outcomes: Mapping[str, str]
    sessions: Mapping[str, str]


class Plan(NamedTuple):
    """How to evaluate a condition: the columns to copy of each table, and SQL for the process that evaluates it."""

    outcomes: tuple[str, ...]
    sessions: tuple[str, ...]
    tables: tuple[str, ...]
    statements: tuple[str, ...]


def check_condition(where: str) -> None:
    """Refuse what cannot be a condition, as far as that is known without a trace database.

    Raises:
        ConfigError: it is not an SQL condition, or looks at another table.
    """
    _refuse_several_statements(where)
    with closing(sqlite3.connect(":memory:")) as db:
        try:
            db.execute(f"CREATE VIEW syntax AS SELECT 1 WHERE ({where}\n)")  # SQLite resolves no name in it
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise bad_condition(where, error) from error
    try:
        plan(where, Columns(*(dict.fromkeys(names, "") for names in _KNOWN.values())))
    except ConfigError:
        # It may name columns that only this user's tables have. It may not select from another table.
        if table := _other_table(where):
            raise _bad_table(where, table) from None


def plan(where: str, columns: Columns) -> Plan:
    """Return how to evaluate a condition over tables with ``columns``.

    Raises:
        ConfigError: SQLite cannot evaluate it over these tables.
    """
    _refuse_several_statements(where)
    used: dict[str, set[str]] = {OUTCOME: set(), SESSION: set()}

    def note(action: int, table: str | None, column: str | None, _db: str | None, _inner: str | None) -> int:
        if action == sqlite3.SQLITE_FUNCTION and column in _FORBIDDEN_FUNCTIONS:
            return sqlite3.SQLITE_DENY
        if action != sqlite3.SQLITE_READ or table is None:
            return sqlite3.SQLITE_OK
        if table in used and column:
            used[table].add(column)
        # json_each looks at ROWID of sqlite_master when it is made.
        return sqlite3.SQLITE_DENY if table.startswith("sqlite_") and column != "ROWID" else sqlite3.SQLITE_OK

    with closing(sqlite3.connect(":memory:")) as db:
        for table in _tables(columns.outcomes, columns.sessions):
            db.execute(table)
        db.set_authorizer(note)
        try:
            # Where rows are chosen an aggregate is an error; where columns are listed it would fold all rows into one.
            db.execute(f"EXPLAIN SELECT 1 {_FROM} WHERE ({where}\n)")
        except (sqlite3.Error, sqlite3.Warning) as error:
            if other := _other_table(where):
                raise _bad_table(where, other) from error
            raise bad_condition(where, error) from error
    return _plan(where, columns, used)


def _plan(where: str, columns: Columns, used: Mapping[str, set[str]]) -> Plan:
    outcomes = tuple(name for name in columns.outcomes if name in used[OUTCOME] and name != "session_id")
    sessions = tuple(name for name in columns.sessions if name in used[SESSION] and name != "session_id")
    tables = _tables(
        {"session_id": columns.outcomes.get("session_id", ""), **{name: columns.outcomes[name] for name in outcomes}},
        {"session_id": columns.sessions.get("session_id", ""), **{name: columns.sessions[name] for name in sessions}},
    )
    marks = [",".join("?" * (1 + len(names))) for names in (outcomes, sessions)]
    return Plan(
        outcomes,
        sessions,
        tables,
        (
            f"DELETE FROM {OUTCOME}",
            f"DELETE FROM {SESSION}",
            f"INSERT INTO {OUTCOME} (rowid, {_names('session_id', *outcomes)}) VALUES (?, {marks[0]})",
            f"INSERT INTO {SESSION} ({_names('session_id', *sessions)}) VALUES ({marks[1]})",
            f"SELECT CASE WHEN ({where}\n) THEN 1 ELSE 0 END {_FROM}",
        ),
    )


def _tables(outcomes: Mapping[str, str], sessions: Mapping[str, str]) -> tuple[str, str]:
    numbers = {name: "NUMERIC" if name in NUMBERS else _affinity(declared) for name, declared in outcomes.items()}
    others = {name: _affinity(declared) for name, declared in sessions.items()} or {"session_id": "TEXT"}
    return _table(OUTCOME, numbers), _table(SESSION, others)


def _table(name: str, columns: Mapping[str, str]) -> str:
    return f"CREATE TABLE {name} ({', '.join(f'{_names(column)} {kind}' for column, kind in columns.items())})"


def quoted(name: str) -> str:
    """Return a name quoted for SQL."""
    return '"' + name.replace('"', '""') + '"'


def text_literal(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def needs_sessions(where: str, columns: Columns) -> bool:
    """Say whether a condition would be one if the table session_traces were there."""
    try:
        plan(where, columns._replace(sessions=dict.fromkeys(_KNOWN["session_traces"], "")))
    except ConfigError:
        return False
    return True


def _names(*names: str) -> str:
    return ", ".join(map(quoted, names))


def _affinity(declared: str) -> str:
    """Return the affinity of a declared type (https://sqlite.org/datatype3.html#determination_of_column_affinity)."""
    kind = declared.upper()
    if "INT" in kind:
        return "INTEGER"
    if any(part in kind for part in ("CHAR", "CLOB", "TEXT")):
        return "TEXT"
    if "BLOB" in kind or not kind:
        return "BLOB"
    return "REAL" if any(part in kind for part in ("REAL", "FLOA", "DOUB")) else "NUMERIC"


def _other_table(where: str) -> str | None:
    """Return the name of a table that a condition selects from, or None. Functions such as json_each are no tables."""
    code = re.sub(r"\s+", " ", _NOT_CODE.sub(" '' ", where))
    own = set(re.findall(r"(?:\bwith(?: recursive)?|,) (\w+)(?: ?\([^)]*\))? as ?\(", code, re.IGNORECASE))
    return next((name for name in _TABLE.findall(code) if name not in own), None)


def _refuse_several_statements(where: str) -> None:
    if ";" in _NOT_CODE.sub("", where):
        raise bad_condition(where, "it has a ; and is more than a condition")


def bad_condition(where: str, error: Exception | str) -> ConfigError:
    """Return the error of a condition that cannot be used."""
    return ConfigError(
        "use the condition",
        "qualify.where",
        f"{where!r}: {error}",
        "it is an SQL condition over outcome_rewards and session_traces, such as total_reward > 0;"
        " name the table where both have the column, as in outcome_rewards.created_at",
    )


def _bad_table(where: str, table: str) -> ConfigError:
    return ConfigError(
        "use the condition",
        "qualify.where",
        f"{where!r}: it selects from {table}",
        "a condition sees one row of outcome_rewards and the row of its session in session_traces, and no table:"
        " it is evaluated outside the trace database, which it must not hold up",
    )
