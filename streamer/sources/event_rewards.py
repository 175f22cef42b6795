"""Read the rows of ``event_rewards`` of some sessions, right after their outcomes.

Invariants
- Only the rows of the given sessions are read, through the producer's index on them.
- Each read is one short page, fetched whole, and no lock outlives it.
- A row that is no reward of a turn (no turn, no finite number) is skipped; no row blocks the others.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from streamer.base.errors import ConfigError, UnavailableError
from streamer.core.records.layouts import time_us
from streamer.core.records.number import number_of
from streamer.core.verdicts.turns import SessionRewards, TurnReward, achievements_in, is_turn
from streamer.sources.trace_database import TooSlowError, TraceDatabase

_SESSIONS = 8
"""Sessions in one read: with 50 turns each some 1,000 rows, which take two milliseconds."""

_PAGE = 1000
"""Rows of one read."""

_MOST_ROWS = 100_000
"""Maximum number of rows of one session, the oldest, to bound memory."""

_LONGEST_ANNOTATION = 16 << 10
"""Maximum length of an annotation in characters; longer ones are ignored."""

_NEEDED = ("session_id", "turn_number", "reward_value", "reward_type")


class EventRewards:
    """Reads the rewards of one type from an open database.

    Args:
        db: The database.
        reward_type: The type of the rows; rows of other types count the same events again.
    """

    def __init__(self, db: TraceDatabase, reward_type: str) -> None:
        self._db = db
        self._type = reward_type
        self._columns = self._from = ""
        self._annotation = "NULL"

    async def prepare(self) -> None:
        """Check the tables of the database, and prepare the statement.

        Raises:
            ConfigError: It has no event rewards, and will have none.
            UnavailableError: It has none yet, or cannot be read now.
        """
        names = await self._names("event_rewards")
        missing = [name for name in _NEEDED if name not in names]
        if missing:
            await self._raise_missing(names, missing)
        column = self._db.column
        has_events = {"event_id"} <= names and {"event_time"} <= await self._names("events")
        annotation = f"CASE WHEN length(annotation) <= {_LONGEST_ANNOTATION} THEN annotation END"
        read = [column("event_rewards.session_id"), column("turn_number"), column("reward_value")]
        read += [column("events.event_time") if has_events else "NULL"]
        read += [column("event_rewards.created_at") if "created_at" in names else "NULL"]
        self._columns = f"event_rewards.rowid, {', '.join(read)}"
        self._annotation = column(annotation) if "annotation" in names else "NULL"
        events = "LEFT JOIN events ON events.rowid = event_rewards.event_id" if has_events else ""
        self._from = f"FROM event_rewards {events}"

    async def of(self, sessions: Iterable[str]) -> list[SessionRewards]:
        """Return all rewards of each of ``sessions``.

        Raises:
            UnavailableError: The database cannot be read now; TooSlowError if it took too long.
        """
        wanted = sorted(set(sessions))
        found: list[SessionRewards] = []
        for start in range(0, len(wanted), _SESSIONS):
            found += await self._read(wanted[start : start + _SESSIONS])
        return found

    async def _read(self, sessions: Sequence[str]) -> list[SessionRewards]:
        """Read some sessions together, or one by one if that fails or yields too many rows."""
        is_one = len(sessions) == 1
        try:
            found, is_complete = await self._read_all(sessions, self._annotation)
        except UnavailableError as error:
            is_slow = isinstance(error, TooSlowError)
            is_too_long = isinstance(error.__cause__, sqlite3.DataError)  # an annotation above SQLite's length limit
            if not is_slow and not is_too_long:
                raise
            if is_one and is_slow:
                raise self._too_slow() from error
            if is_one:
                return (await self._read_all(sessions, "NULL"))[0]
        else:
            if is_one or is_complete:
                return found
        return [one for session in sessions for one in await self._read([session])]

    async def _read_all(self, sessions: Sequence[str], annotation: str) -> tuple[list[SessionRewards], bool]:
        """Return the rewards of sessions, and whether they are complete."""
        marks = ",".join("?" * len(sessions))
        sql = (  # the + keeps SQLite from using the index on types, which would scan all sessions
            f"SELECT {self._columns}, {annotation} {self._from} WHERE event_rewards.session_id IN ({marks})"
            " AND +event_rewards.reward_type = ? AND event_rewards.rowid > ? ORDER BY event_rewards.rowid LIMIT ?"
        )
        rewards: dict[str, list[TurnReward]] = {session: [] for session in sessions}
        last, is_complete = 0, False
        for _ in range(0, _MOST_ROWS, _PAGE):
            rows = await self._db.fetch(sql, (*sessions, self._type, last, _PAGE))
            for row in rows:
                self._add(rewards, row)
            is_complete = len(rows) < _PAGE
            if is_complete:
                break
            last = rows[-1][0]
        return [SessionRewards(session, self._type, found) for session, found in rewards.items()], is_complete

    def _add(self, rewards: dict[str, list[TurnReward]], row: Sequence[Any]) -> None:
        session, turn, value, happened, recorded, annotation = map(self._db.value, row[1:])
        number = number_of(value).value
        if session in rewards and is_turn(turn) and number is not None:
            names = achievements_in(annotation if isinstance(annotation, str) else None)
            rewards[session].append(TurnReward(turn, float(number), time_us(happened), time_us(recorded), names))

    def _too_slow(self) -> TooSlowError:
        hint = "it is tried again; if that does not end: has event_rewards lost its index on session_id?"
        return TooSlowError("read event rewards", str(self._db.path), "those of one session took too long", hint)

    async def _raise_missing(self, names: set[str], missing: Sequence[str]) -> None:
        cause = f"event_rewards has no column {', '.join(missing)}" if names else "there is no table event_rewards"
        if not names and not await self._db.fetch("SELECT 1 FROM outcome_rewards LIMIT 1"):
            # The producer makes its tables one after the other, all of them before the first row.
            hint = "the producer makes it with its first rollout"
            raise UnavailableError("read event rewards", str(self._db.path), f"{cause} yet", hint)
        raise ConfigError(
            "read event rewards",
            str(self._db.path),
            cause,
            'this database says nothing about turns: set records.turns = "all" and no records.reward_type, or name'
            " another database",
        )

    async def _names(self, table: str) -> set[str]:
        return {row[0] for row in await self._db.fetch("SELECT name FROM pragma_table_info(?)", (table,))}
