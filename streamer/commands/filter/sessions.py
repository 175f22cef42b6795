"""Reads all sessions with their outcomes, by three short statements for each page of sessions."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from streamer.base.errors import UnavailableError
from streamer.commands.filter.conditions import Session
from streamer.core.records.layouts import latest_us, time_us
from streamer.core.records.model import Outcome
from streamer.core.records.number import number_of
from streamer.core.records.trace_messages import as_object
from streamer.core.verdicts.reasons import NOT_A_NUMBER
from streamer.sources.pages import Pages, columns_of

_PAGE_SESSIONS = 500

_NEEDED = {
    "session_traces": {"session_id", "created_at", "metadata"},
    "outcome_rewards": {"session_id", "total_reward"},
}
_SESSIONS = "SELECT rowid, session_id, created_at, metadata FROM session_traces WHERE rowid > ? ORDER BY rowid LIMIT ?"
_OUTCOMES = """
SELECT rowid, session_id, total_reward, {achievements_count}, {total_steps}, {created_at} FROM outcome_rewards
WHERE session_id IN (SELECT value FROM json_each(?)) AND rowid > ? ORDER BY rowid LIMIT ?
"""
_MODELS = """
SELECT DISTINCT session_id, model_name FROM events
WHERE session_id IN (SELECT value FROM json_each(?)) AND event_type = 'cais' AND model_name IS NOT NULL
"""
_METADATA = "SELECT metadata FROM session_traces WHERE rowid = ? AND session_id = ?"
_LONG = ("prompt", "completion")
_PAGE_OUTCOMES = 5000


class Sessions:
    """The sessions of one trace database.

    Args:
        pages: Reads the database.
        with_models: Whether to read the models that a session called.

    Raises:
        UnavailableError: the database has no table of sessions, or cannot be read now.
    """

    def __init__(self, pages: Pages, *, with_models: bool) -> None:
        self._pages = pages
        columns = {table: columns_of(pages, table) for table in ("session_traces", "outcome_rewards", "events")}
        for table, needed in _NEEDED.items():
            missing = needed - columns[table]
            if missing and (columns[table] or table == "session_traces"):
                cause = f"{table} has no column {', '.join(sorted(missing))}" if columns[table] else f"no table {table}"
                raise UnavailableError("read sessions", str(pages.path), cause, "is this the trace database?")
        optional = ("achievements_count", "total_steps", "created_at")
        names = {name: name if name in columns["outcome_rewards"] else "NULL" for name in optional}
        self._outcomes_sql = _OUTCOMES.format(**names) if columns["outcome_rewards"] else ""
        self._with_models = with_models and {"model_name", "event_type"} <= columns["events"]

    def __iter__(self) -> Iterator[Session]:
        """Yield every session in insertion order.

        Raises:
            UnavailableError: the database cannot be read now.
        """
        last, more = -(1 << 62), True
        while more:
            rows, full = self._pages.page(_SESSIONS, (last, _PAGE_SESSIONS), _metadata_size)
            more = full or len(rows) == _PAGE_SESSIONS
            if rows:
                last = rows[-1][0]
                yield from self._complete(rows)

    def metadata(self, session: Session) -> dict[str, Any]:
        """Return all metadata of a session, including prompt and completion.

        Raises:
            UnavailableError: the database cannot be read now.
        """
        rows, _ = self._pages.page(_METADATA, (session.row, session.id), lambda _: 0)
        return _metadata(rows[0][0]) if rows else {}

    def _complete(self, rows: list[Any]) -> Iterator[Session]:
        ids = json.dumps([str(row[1]) for row in rows])
        outcomes = self._outcomes(ids)
        models: defaultdict[str, list[str]] = defaultdict(list)
        if self._with_models:
            for session, model in self._pages.page(_MODELS, (ids,), lambda _: 0)[0]:
                models[str(session)].append(str(model))
        for number, session, created_at, metadata in rows:
            yield Session(
                row=number,
                id=str(session),
                created_at=created_at,
                created_us=time_us(created_at),
                metadata={key: value for key, value in _metadata(metadata).items() if key not in _LONG},
                outcomes=outcomes[str(session)],
                models=models[str(session)],
            )

    def _outcomes(self, ids: str) -> defaultdict[str, list[Outcome]]:
        outcomes: defaultdict[str, list[Outcome]] = defaultdict(list)
        last, more = -(1 << 62), bool(self._outcomes_sql)
        while more:
            rows, full = self._pages.page(self._outcomes_sql, (ids, last, _PAGE_OUTCOMES), lambda _: 0)
            more = full or len(rows) == _PAGE_OUTCOMES
            for row in rows:
                outcome = _outcome(*row)
                outcomes[outcome.session].append(outcome)
                last = outcome.id
        return outcomes


def _metadata(text: Any) -> dict[str, Any]:
    return as_object(text if isinstance(text, str) else None)


def _outcome(number: int, session: Any, reward: Any, achievements: Any, steps: Any, created_at: Any) -> Outcome:
    numbers = [number_of(value) for value in (reward, achievements, steps)]
    return Outcome(
        id=number,
        session=str(session),
        total_reward=numbers[0].value,
        achievements_count=numbers[1].value,
        total_steps=numbers[2].value,
        created_at=str(created_at),
        created_us=latest_us(created_at),
        qualifies=True,
        rule="",
        problem=NOT_A_NUMBER if any(found.problem for found in numbers) else "",
    )


def _metadata_size(row: Any) -> int:
    return len(row[3]) if isinstance(row[3], str | bytes) else 0
