"""Reading messages: from any id on, read-only, and as far as the tables go."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from streamer.core.records.model import SourceRecord
from streamer.sources.conversations import Conversations
from streamer.sources.database_file import open_for_batch
from streamer.sources.pages import FilePages
from tests.helpers.producer import make_traces
from tests.helpers.traces import add_session, call_records, make_conversations

if TYPE_CHECKING:
    from pathlib import Path


def test_reading_goes_on_after_an_id(tmp_path: Path) -> None:
    """Who has read up to a decision gets those after it, and no other session's."""
    path = make_conversations(tmp_path / "traces.db")
    for name in ("a", "b"):
        add_session(path, name, turns=4)
    with open_for_batch(path, 0) as db:
        reader = Conversations(FilePages(db, path))
        whole = list(reader.decisions("b"))
        assert list(reader.decisions("b", after=whole[1].last)) == whole[2:]
        assert list(reader.decisions("b", after=whole[-1].last)) == []
        assert {one.session for one in whole} == {"b"}


def test_what_was_said_comes_from_the_events(tmp_path: Path) -> None:
    """Model, provider and text of a call are those of its own timestep, also over several pages."""
    path = make_conversations(tmp_path / "traces.db")
    add_session(path, "a", turns=5, model="gpt")
    with closing(sqlite3.connect(path)) as db, db:
        for turn in range(5):
            db.execute(
                "UPDATE events SET call_records = ? WHERE timestep_id = ?",
                (call_records(f"say {turn}", "do"), turn + 1),
            )
    with open_for_batch(path, 0) as db:
        for rows in (1, 2, 100):
            found = [one.found for one in Conversations(FilePages(db, path, rows=rows)).decisions("a")]
            records = [one for one in found if isinstance(one, SourceRecord)]
            assert [one.messages[-1]["content"] for one in records] == [f"say {turn}" for turn in range(5)]
            assert {(one.model, one.provider) for one in records} == {("gpt", "custom")}


def test_a_database_without_messages_has_no_decisions(tmp_path: Path) -> None:
    """Tracing may store outcomes alone."""
    path = make_traces(tmp_path / "traces.db")
    with open_for_batch(path, 0) as db:
        assert list(Conversations(FilePages(db, path)).decisions("a")) == []


@pytest.mark.parametrize(
    "sql", ["DELETE FROM messages", "CREATE TABLE x (y)", "ATTACH 'x.db' AS x", "PRAGMA journal_mode = WAL", "BEGIN"]
)
def test_nothing_but_reading_is_allowed(tmp_path: Path, sql: str) -> None:
    """The connection of a command is as harmless as that of the daemon."""
    path = make_conversations(tmp_path / "traces.db")
    with open_for_batch(path, 0) as db, pytest.raises(sqlite3.DatabaseError):
        db.execute(sql)
