"""Poll ``outcome_rewards``: new rows at once, and every row again in slow sweeps, as rows may be corrected.

If event rewards are configured, the poller reads those of a page's sessions right after the page, so that it sees
all that the producer wrote before an outcome. The sweeps find later ones.

Invariants
- Each read is one page, fetched whole, and no lock outlives it.
- Nothing is read while the database reports no change.
- A position in a file ends with its connection: after a reopen (restart, replaced file, error) every row is read
  again, and the ledger knows which are new. A position on a server outlives errors, but only while its row is the
  one that was read. Either way it advances by rows that were returned, and never skips one.
"""

from __future__ import annotations

import asyncio
import random as randomness
import re
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3

from streamer.base.errors import ConfigError, StreamerError, UnavailableError
from streamer.base.files import Clock
from streamer.base.secret import NO_SECRET, Secret
from streamer.config.database_url import Server, server_of
from streamer.core.records.layouts import time_us
from streamer.core.records.model import Outcome
from streamer.core.verdicts.turns import SessionRewards, TurnRules
from streamer.sources.event_rewards import EventRewards
from streamer.sources.local_database import LocalDatabase
from streamer.sources.remote_database import RemoteDatabase
from streamer.sources.trace_database import Opened, StatementError, TooSlowError, TraceDatabase

PAGE = 500
"""Maximum number of rows in one read; a slow condition reduces it."""

_PAGE_WITH_REWARDS = 100
"""The same maximum if the event rewards of their sessions are read with them."""

_OPTIONAL = ("achievements_count", "total_steps", "created_at")
_NOT_CODE = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*.*?(?:\*/|\Z)", re.DOTALL)
"""SQL that may hold any character: strings, quoted names, comments."""

_MAX_METADATA = 1 << 16
"""Maximum length of ``reward_metadata`` in characters; the task app writes some hundred."""


def rule_name(where: str, keys: Sequence[str] = ()) -> str:
    """Return the ledger's name for a condition and the metadata keys that are read with it."""
    return blake3("\0".join([where.strip(), *keys]).encode()).hexdigest(8)


_PRODUCER_SCHEMA = """
CREATE TABLE outcome_rewards (id INTEGER PRIMARY KEY, session_id, total_reward, achievements_count, total_steps,
  created_at, reward_metadata);
CREATE TABLE session_traces (session_id, created_at, num_timesteps, num_events, num_messages, metadata,
  experiment_id, embedding);
"""


def check_condition(where: str) -> None:
    """Validate a condition as far as possible without a trace database.

    Raises:
        ConfigError: It is no SQL condition. Columns that are missing in the producer's tables are accepted.
    """
    _reject_several_statements(where)
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript(_PRODUCER_SCHEMA)
        try:
            db.execute(
                f"EXPLAIN SELECT 1 FROM outcome_rewards JOIN session_traces USING (session_id) WHERE ({where}\n)"
            )
        except (sqlite3.Error, sqlite3.Warning) as error:
            if not str(error).startswith("no such"):
                raise _bad_where(where, error) from error


class OutcomePoller:
    """Reads the rows of one trace database, page by page.

    Args:
        database: A path or a URL.
        where: The condition to evaluate for each row.
        clock: The current time.
        token: The token to show to a server.
        turns: The event rewards to read with rows that qualify; None reads none.
        random: Returns a number from 0 to 1, for the pauses after failures of a server.
    """

    def __init__(
        self,
        database: str,
        where: str,
        clock: Clock,
        *,
        token: Secret = NO_SECRET,
        turns: TurnRules | None = None,
        random: Callable[[], float] = randomness.random,
    ) -> None:
        server = server_of(database, token)
        self._db: TraceDatabase = RemoteDatabase(server, clock, random) if server else LocalDatabase(database, clock)
        self._clock = clock
        self._background_poll: asyncio.Task[Sequence[Outcome]] | None = None
        self._found_new = False
        self.replaced = False
        self.set_where(where, turns)

    @property
    def path(self) -> Path | Server:
        """The database's file (sqld's appears with its directory), or its server."""
        return self._db.path

    @property
    def is_waiting(self) -> bool:
        """Whether the last poll still runs in the background, waiting for a server."""
        return self._background_poll is not None

    def set_where(self, where: str, turns: TurnRules | None = None, keys: Sequence[str] = ()) -> None:
        """Set the condition and the event rewards; every row is read again under them.

        Args:
            where: The condition.
            turns: The event rewards to read.
            keys: The keys of ``reward_metadata`` to read.
        """
        self._cancel_poll()
        self.where = where
        self.rule = rule_name(where, keys)
        self._keys = keys
        self._events = self._event_rewards(turns)
        self._max_rows = self._page_rows = _PAGE_WITH_REWARDS if self._events else PAGE
        self.rewards: Sequence[SessionRewards] = ()
        # The next poll reopens the database, and prepares the statement for the condition.
        self._db.invalidate()
        self._reset()

    def _reset(self) -> None:
        self._version: int | None = None
        self._last_id = 0
        self._last_row: Outcome | None = None
        self._sweep_at: int | None = None
        self._swept_version: int | None = None
        self._next_sweep = 0.0
        self.caught_up = False

    async def poll(self) -> Sequence[Outcome]:
        """Return one page of rows that may be new or changed; empty if there are none.

        Afterwards ``rewards`` holds the event rewards of those sessions of the page that qualify, if they are
        configured, and ``caught_up`` says whether each present row has been returned once. If a server is slow to
        answer, the poll returns nothing and continues in the background (``is_waiting``): a later one has its rows.

        Raises:
            UnavailableError: The database is missing, busy or damaged; poll again later.
            ConfigError: The condition cannot be evaluated on this database.
        """
        if self._db.poll_timeout is None:
            return await self._poll()
        if self._background_poll is None:
            self._background_poll = asyncio.ensure_future(self._poll())
        await asyncio.wait([self._background_poll], timeout=self._db.poll_timeout)
        if not self._background_poll.done():
            return ()
        done, self._background_poll = self._background_poll, None
        return done.result()

    async def _poll(self) -> Sequence[Outcome]:
        self._found_new = False
        self.rewards = ()
        try:
            opened = await self._db.open(self._prepare)
            if opened is not Opened.UNCHANGED:
                self._reset()
                self.replaced |= opened is Opened.REPLACED
            if self._db.is_at_rest(caught_up=self.caught_up, sweeping=self.sweeping):
                return ()
            return await self._page()
        except StreamerError as error:
            if isinstance(error, TooSlowError):
                self._page_rows = max(1, self._page_rows // 4)
            self.caught_up = False
            if not self._db.keeps_positions:
                await self._db.close()
                self._reset()
            raise

    def pause(self, interval: float) -> float:
        """Return the seconds until the next poll after a successful one, at least ``interval``."""
        return self._db.pause(interval, found_new=self._found_new)

    def pause_after_failure(self, pause: float) -> float:
        """Return the seconds until the next poll after a failed one; ``pause`` is the usual backoff."""
        return self._db.pause_after_failure(pause)

    def hurry(self) -> None:
        """Poll soon: there may be new rows."""
        self._db.hurry()

    async def check(self, where: str, turns: TurnRules | None = None) -> None:
        """Validate a condition and the event rewards on the open database, if one is open.

        Raises:
            ConfigError: It cannot evaluate the condition, or has no event rewards.
            UnavailableError: The database cannot be read now.
        """
        if self._db.is_open:
            await self._statement(where)
            events = self._event_rewards(turns)
            if events is not None:
                await events.prepare()

    async def close(self) -> None:
        """Close the connection; the next poll reopens it and reads every row again."""
        poll = self._cancel_poll()
        if poll is not None:
            with suppress(asyncio.CancelledError, StreamerError):
                await poll
        self._reset()
        await self._db.close()

    def _cancel_poll(self) -> asyncio.Task[Sequence[Outcome]] | None:
        """Cancel the poll in the background, if there is one, and return it."""
        poll, self._background_poll = self._background_poll, None
        if poll is not None and not poll.cancel():
            poll.exception()  # it has ended, and its error no longer matters
        return poll

    async def _prepare(self) -> None:
        self._sql = await self._statement(self.where)
        if self._events is not None:
            await self._events.prepare()

    def _event_rewards(self, turns: TurnRules | None) -> EventRewards | None:
        return EventRewards(self._db, turns.type) if turns else None

    async def _page(self) -> Sequence[Outcome]:
        version = await self._db.version()
        if self._swept_version is None:
            self._swept_version = version  # the first pass reads every row in this version or a later one
            if self._db.keeps_positions:
                self._next_sweep = self._clock.monotonic() + self._db.sweep_pause
        if version != self._version or not self.caught_up:
            rows, self.caught_up = await self._new_rows()
            self._found_new = bool(rows)
            if self.caught_up:
                self._version = version
            if rows:
                return rows
        return await self._sweep_page()

    async def _new_rows(self) -> tuple[list[Outcome], bool]:
        """Return one page of new rows, and whether it was the last one.

        If positions outlive failures, the last known row is read again with them. If it is missing or another row
        has its id, the database was replaced, and is read from its start.
        """
        known = self._last_row if self._db.keeps_positions else None
        if known is None:
            rows, is_last = await self._rows_after(self._last_id)
        else:
            rows, is_last = await self._rows_after(known.id - 1, more=1)
            if not rows or _identity(rows[0]) != _identity(known):
                self.replaced |= bool(rows) and rows[0].id == known.id
                self._reset()
                return [], False
            if rows[0] == known:
                del rows[0]
        await self._read_rewards(rows)
        if rows:
            self._last_id, self._last_row = rows[-1].id, rows[-1]
        return rows, is_last

    async def _read_rewards(self, rows: Sequence[Outcome]) -> None:
        """Read the event rewards of rows, before any position advances: after a failure the rows are read again."""
        if self._events is not None:
            self.rewards = await self._events.of(row.session for row in rows if row.qualifies)

    async def _sweep_page(self) -> Sequence[Outcome]:
        """Read one page of known rows again if the database changed since the last sweep."""
        if self._sweep_at is None:
            if self._swept_version == self._version:
                return ()
            self._sweep_at, self._swept_version = 0, self._version
        if self._clock.monotonic() < self._next_sweep:
            return ()
        self._next_sweep = self._clock.monotonic() + self._db.sweep_pause
        rows, is_last = await self._rows_after(self._sweep_at)
        await self._read_rewards(rows)
        self._sweep_at = None if is_last else rows[-1].id
        return rows

    @property
    def sweeping(self) -> bool:
        """Whether a sweep is running or pending."""
        return self._sweep_at is not None or self._swept_version != self._version

    async def _rows_after(self, last: int, more: int = 0) -> tuple[list[Outcome], bool]:
        """Return one page of rows, ``more`` rows longer than usual, and whether it was the last one."""
        limit = self._page_rows + more
        rows = await self._db.fetch(self._sql, (last, limit))
        self._page_rows = min(self._max_rows, 2 * self._page_rows)  # the slow read may have been due to a busy machine
        # One row per id, even if session_traces has a session twice.
        return list({row[0]: self._outcome(row) for row in rows}.values()), len(rows) < limit

    def _outcome(self, row: Sequence[Any]) -> Outcome:
        number, *values, qualifies = row
        session, reward, achievements, steps, created_at, metadata = map(self._db.value, values)
        return Outcome(
            id=number,
            session="" if session is None else str(session),
            total_reward=reward if isinstance(reward, int | float) else None,
            achievements_count=achievements if isinstance(achievements, int) else None,
            total_steps=steps if isinstance(steps, int) else None,
            created_at=str(created_at),
            created_us=time_us(created_at),
            qualifies=bool(qualifies),
            rule=self.rule,
            metadata=_metadata_keys(metadata, self._keys),
        )

    async def _statement(self, where: str) -> str:
        _reject_several_statements(where)
        columns = await self._columns("outcome_rewards")
        missing = {"session_id", "total_reward"} - columns
        if missing:
            raise UnavailableError(
                "read outcomes",
                str(self.path),
                f"outcome_rewards has no column {', '.join(sorted(missing))}"
                if columns
                else "no table outcome_rewards yet",
                "the producer makes it with its first rollout; is tracing on, and is this the right database?",
            )
        number = "outcome_rewards.rowid"  # the same as id in tables that the producer made
        names = ["session_id", "total_reward", *(name if name in columns else None for name in _OPTIONAL)]
        read = [self._db.column(f"outcome_rewards.{name}") if name else "NULL" for name in names]
        read.append(self._db.column(_METADATA) if self._keys and "reward_metadata" in columns else "NULL")
        sessions = "LEFT JOIN session_traces USING (session_id)" if await self._columns("session_traces") else ""
        source = f"FROM outcome_rewards {sessions} WHERE {number} > ?"
        # In the WHERE clause an aggregate is an error; in the column list it would merge all rows into one.
        try:
            await self._db.validate(f"SELECT 1 {source} AND ({where}\n)", (0,))
        except StatementError as error:
            if sessions or "no such" not in str(error):
                raise _bad_where(where, error) from error
            hint = "the producer makes it with its first session"
            raise UnavailableError("read outcomes", str(self.path), "no table session_traces yet", hint) from error
        return (
            f"SELECT {number}, {', '.join(read)},\n"
            f"CASE WHEN ({where}\n) THEN 1 ELSE 0 END {source} ORDER BY {number} LIMIT ?"
        )

    async def _columns(self, table: str) -> set[str]:
        return {row[0] for row in await self._db.fetch("SELECT name FROM pragma_table_info(?)", (table,))}


_METADATA = (
    f"CASE WHEN length(outcome_rewards.reward_metadata) <= {_MAX_METADATA} THEN outcome_rewards.reward_metadata END"
)


def _metadata_keys(metadata: object, keys: Sequence[str]) -> str:
    """Return some keys of a JSON object as JSON, if they hold scalars or lists of them; empty if there are none."""
    if not keys or not isinstance(metadata, str | bytes):
        return ""
    try:
        found = msgspec.json.decode(metadata, type=dict[str, Any])
        selected = {key: found[key] for key in keys if _is_scalar(found.get(key))}
        return msgspec.json.encode(selected).decode() if selected else ""
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return ""


def _is_scalar(value: object) -> bool:
    several = value if isinstance(value, list) else [value]
    return value is not None and all(isinstance(one, str | int | float) for one in several)


def _identity(row: Outcome) -> tuple[int, str, str]:
    return row.id, row.session, row.created_at


def _reject_several_statements(where: str) -> None:
    """Reject a condition that ends its statement.

    Raises:
        ConfigError: It does.
    """
    if ";" in _NOT_CODE.sub("", where):
        raise _bad_where(where, "it has a ; and is more than a condition")


def _bad_where(where: str, error: Exception | str) -> ConfigError:
    return ConfigError(
        "use the condition",
        "qualify.where",
        f"{where!r}: {error}",
        "it is an SQL condition over outcome_rewards and session_traces, such as total_reward > 0;"
        " name the table where both have the column, as in outcome_rewards.created_at",
    )
