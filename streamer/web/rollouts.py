"""View of one rollout: its turns in order, its outcomes and rewards, and the verdict on each line."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from streamer.base.errors import StreamerError
from streamer.config import Config, Dataset
from streamer.config.database_url import locate
from streamer.core.records import layouts
from streamer.core.records.layouts import MalformedError
from streamer.core.records.model import State
from streamer.sources.database_file import open_for_batch
from streamer.store.ledger.paths import is_apart
from streamer.store.views.explain import Explainer, LineFound, Reason
from streamer.store.views.explain_subjects import OutcomeRow
from streamer.store.views.snapshot import open_ledger
from streamer.web.errors import not_found
from streamer.web.pictures import Picture
from streamer.web.records import Preview, RecordView, image_of_shard, of_session, of_shard, preview

LONGEST_SUBJECT = 4096
"""Maximum length of an id or of a shard name, in characters."""

_TURNS_SHOWN = 200
_REASONS_SHOWN = 500
_EVENTS_SHOWN = 200
_FOUND_SHOWN = 20
_SHARDS_SEARCHED = 10_000
_EXAMPLES_SHOWN = 20
_SPANS_SEARCHED = 200_000
"""Newest spans to search for examples: some hundredths of a second."""

_MAX_BYTES = 64 << 20
_READ_SECONDS = 0.1
"""Timeout of a read of the trace database in seconds: a longer one would delay the producer."""

_BUSY_SECONDS = 0.25
_STEPS = 10_000
_LEDGER_SECONDS = 2.0
"""Timeout of a search in the ledger, in seconds."""

_HIGHEST = "\U0010ffff"


class _Turn(msgspec.Struct, frozen=True):
    """One line of a rollout. ``src`` is the URL of its conversation; None if it cannot be read any more."""

    shard_id: int
    shard: str
    line: int
    turn: Any
    state: str
    reason: str
    because: str
    offset: int | None
    src: str | None
    preview: Preview | None


class _EventReward(msgspec.Struct, frozen=True):
    """One row of ``event_rewards``."""

    turn: int | None
    value: float | None
    type: str | None
    key: str | None
    annotation: str | None
    source: str | None
    created_at: str | None


class _RolloutView(msgspec.Struct, frozen=True):
    """All data on a rollout, a shard, or a line of one."""

    session: str
    outcomes: list[OutcomeRow]
    reasons: list[Reason]
    note: str
    turns: list[_Turn]
    more_turns: int
    events: list[_EventReward]
    events_note: str


class _SessionFound(msgspec.Struct, frozen=True):
    """A session that a search found, and the number of its lines by state."""

    session: str
    lines: int
    states: dict[str, int]


class _ShardFound(msgspec.Struct, frozen=True):
    """A shard that a search found, and the number of its lines without a session by state."""

    shard: str
    lines: int
    states: dict[str, int]


class _Search(msgspec.Struct, frozen=True):
    """Sessions in order of their ids; ``more`` says that the list is cut off.

    ``shards`` are the newest ones with lines that name no session.
    """

    sessions: list[_SessionFound]
    shards: list[_ShardFound]
    more: bool


class _Example(msgspec.Struct, frozen=True):
    """Consecutive lines with one verdict, first read at ``since``."""

    shard_id: int
    shard: str
    first_line: int
    lines: int
    session: str
    state: str
    reason: str
    because: str
    since: float


class _Examples(msgspec.Struct, frozen=True):
    """Newest examples of one state; not ``complete`` if older spans were not searched."""

    state: str
    reason: str | None
    complete: bool
    examples: list[_Example]


def search(config: Config, prefix: str) -> _Search:
    """Return sessions whose id begins with a prefix, and shards with such a name and lines without a session.

    Raises:
        StreamerError: The ledger cannot be read, or not within two seconds.
    """
    with _open_ledger(config) as db:
        if db is None:
            return _Search([], [], more=False)
        found = sorted({*_sessions(db, "span", prefix), *_sessions(db, "outcome", prefix)})
        shown = [_session(db, session) for session in found[:_FOUND_SHOWN]]
        shards = _shards(db, prefix)
    return _Search(shown, shards, more=len(found) > _FOUND_SHOWN)


def rollout(config: Config, subject: str) -> _RolloutView:
    """Return all data on a session, a shard, or ``SHARD:LINE``.

    Raises:
        RefusedRequestError: It is unknown.
        StreamerError: The ledger cannot be read.
    """
    with _open_ledger(config) as db:
        explainer = Explainer(db, config.dataset.path, _REASONS_SHOWN) if db is not None else None
        found = explainer.explain(subject, details=False) if explainer is not None else None
        if explainer is None or found is None:
            raise not_found("nothing is known of it: no line of such a session or shard was read, and no such outcome")
        turns = list(_turns(explainer, subject))
        lines = sum(reason.lines for reason in found.reasons)
    session = found.subject if found.outcomes or not found.reasons else found.reasons[0].session
    turns = _with_records(turns, config.dataset, session)
    events, note = _events(config, session)
    return _RolloutView(
        session=found.subject,
        outcomes=found.outcomes,
        reasons=found.reasons,
        note=found.note,
        turns=turns,
        more_turns=lines - len(turns),
        events=events,
        events_note=note,
    )


def line(config: Config, shard_id: int, number: int) -> RecordView:
    """Return the record of one line of a shard, by shard id and line number.

    Raises:
        RefusedRequestError: There is no such line, or it cannot be read any more.
    """
    data, shard = _line(config, shard_id, number)
    return of_shard(data, shard, f"/api/lines/{shard_id}/{number}")


def line_image(config: Config, shard_id: int, number: int, image: int) -> Picture:
    """Return an image of one line of a shard.

    Raises:
        RefusedRequestError: There is none, or it cannot be shown.
    """
    data, shard = _line(config, shard_id, number)
    return image_of_shard(data, shard, image)


def examples(config: Config, state: State, reason: str | None) -> _Examples:
    """Return the newest examples of lines in a state, of one reason or of any.

    Raises:
        StreamerError: The ledger cannot be read.
    """
    with _open_ledger(config) as db:
        if db is None:
            return _Examples(state, reason, complete=True, examples=[])
        (last,) = db.execute("SELECT coalesce(max(id), 0) FROM span").fetchone()
        among, values = "span.state = ? AND span.id > ?", [state, last - _SPANS_SEARCHED]
        if reason is not None:
            among, values = f"{among} AND span.reason = ?", [*values, reason]
        explainer = Explainer(db, config.dataset.path, _EXAMPLES_SHOWN)
        found = [
            _Example(
                shard_id, why.shard, why.first_line, why.lines, why.session, why.state, why.reason, why.because, at
            )
            for shard_id, at, why in explainer.examples(among, values)
        ]
    complete = len(found) == _EXAMPLES_SHOWN or last <= _SPANS_SEARCHED
    return _Examples(state, reason, complete=complete, examples=found)


def _sessions(db: sqlite3.Connection, table: str, prefix: str) -> list[str]:
    """Return the first sessions of a table with a prefix, each by one index lookup."""
    found: list[str] = []
    after, includes = prefix, ">="
    while len(found) <= _FOUND_SHOWN:
        row = db.execute(
            f"SELECT min(session) FROM {table} WHERE session {includes} ? AND session < ?",
            (after, prefix + _HIGHEST),
        ).fetchone()
        if row[0] is None:
            break
        after, includes = row[0], ">"
        if after:  # dead letters name no session
            found.append(after)
    return found


def _shards(db: sqlite3.Connection, prefix: str) -> list[_ShardFound]:
    """Return the newest shards with lines without a session whose path or name has a prefix."""
    rows = db.execute(
        "SELECT shard.path, span.state, sum(span.lines) FROM span JOIN shard ON shard.id = span.shard"
        " WHERE span.session = '' AND NOT shard.replaced GROUP BY shard.id, span.state ORDER BY shard.id DESC LIMIT ?",
        (_SHARDS_SEARCHED,),
    )
    found: dict[str, dict[str, int]] = {}
    for path, state, lines in rows:
        shard = os.fsdecode(path)
        if shard.startswith(prefix) or os.path.basename(shard).startswith(prefix):
            found.setdefault(shard, {})[state] = lines
    return [_ShardFound(shard, sum(states.values()), states) for shard, states in list(found.items())[:_FOUND_SHOWN]]


def _session(db: sqlite3.Connection, session: str) -> _SessionFound:
    rows = db.execute("SELECT state, sum(lines) FROM span WHERE session = ? GROUP BY state", (session,))
    states = dict(rows.fetchall())
    return _SessionFound(session, sum(states.values()), states)


def _turns(explainer: Explainer, subject: str) -> Iterator[_Turn]:
    read = 0
    for shown, found in enumerate(explainer.lines(subject)):
        read += len(found.data or b"")
        if shown == _TURNS_SHOWN or read > _MAX_BYTES:
            return
        yield _turn(found)


def _turn(found: LineFound) -> _Turn:
    turn, short = None, None
    if found.data is not None:
        try:
            record = layouts.read(found.data, found.shard)
        except MalformedError:
            pass
        else:
            turn, short = record.turn, preview(record.messages)
    src = f"/api/lines/{found.shard_id}/{found.number}" if short is not None else None
    if found.offset is not None and found.state == State.ACCEPTED:
        src = f"/api/records/{found.offset}"
    return _Turn(
        found.shard_id, found.shard, found.number, turn, found.state, found.reason, found.because, found.offset, src,
        short,
    )  # fmt: skip


def _with_records(turns: list[_Turn], dataset: Dataset, session: str) -> list[_Turn]:
    """Add records of the dataset to the accepted turns of a session that was read from the trace database.

    Records were appended in the order of turns, so equal counts assign each one to its turn.
    """
    missing = [i for i, turn in enumerate(turns) if turn.state == State.ACCEPTED and is_apart(turn.shard)]
    if not missing:
        return turns
    found = of_session(dataset, session, _MAX_BYTES)
    if len(found) != len(missing):
        return turns
    completed = list(turns)
    for i, (offset, number, short) in zip(missing, found, strict=True):
        completed[i] = msgspec.structs.replace(
            turns[i], turn=number, offset=offset, src=f"/api/records/{offset}", preview=short
        )
    return completed


def _line(config: Config, shard_id: int, number: int) -> tuple[bytes, str]:
    with _open_ledger(config) as db:
        found = Explainer(db, config.dataset.path).line(shard_id, number) if db is not None else None
    if found is None:
        raise not_found("no such line was read")
    if found.data is None:
        raise not_found("the line cannot be read any more: it is not in a shard, or the shard has changed")
    return found.data, found.shard


def _events(config: Config, session: str) -> tuple[list[_EventReward], str]:
    """Return rows of ``event_rewards`` from one short read; or none, and the reason."""
    place = locate(config.source.database, config.source.token)
    if not isinstance(place, Path):
        return [], "the trace database is on a server, which is not asked for single rollouts"
    try:
        with open_for_batch(place, _BUSY_SECONDS) as db:
            deadline = time.monotonic() + _BUSY_SECONDS + _READ_SECONDS
            db.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
            if not db.execute("SELECT 1 FROM pragma_table_info('event_rewards')").fetchone():
                return [], "the trace database has no event rewards"
            rows = db.execute(
                'SELECT turn_number, reward_value, reward_type, "key", substr(annotation, 1, 2000), source, created_at'
                " FROM event_rewards WHERE session_id = ? ORDER BY id LIMIT ?",
                (session, _EVENTS_SHOWN),
            ).fetchall()
    except StreamerError as error:
        return [], f"the trace database cannot be read now: {error.cause}"
    except sqlite3.Error as error:
        return [], f"they cannot be read now: {error}"
    return [_EventReward(*(_plain(value) for value in row)) for row in rows], "" if rows else "there are none"


def _plain(value: Any) -> Any:
    return None if isinstance(value, bytes) else value


@contextmanager
def _open_ledger(config: Config) -> Iterator[sqlite3.Connection | None]:
    """Open the ledger for short reads, with a timeout."""
    with open_ledger(config.dataset.ledger) as db:
        if db is not None:
            deadline = time.monotonic() + _LEDGER_SECONDS
            db.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
        yield db
