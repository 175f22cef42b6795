"""How the dataset grew is kept in the ledger: true, bounded, and of no weight."""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from streamer.core.records.model import State
from streamer.store.ledger.history import STEPS, History, held_at, points
from tests.helpers.producer import add_outcome, dialogue, jsonl, make_traces, settings, work_off
from tests.store.test_ledger import SAMPLE, execute, with_ledger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DAY = 86_400.0


@contextmanager
def ledger(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Give a new, empty ledger."""
    path = tmp_path / "ledger"
    with_ledger(path, lambda ledger: ledger.head())
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        yield db


def batch(db: sqlite3.Connection, history: History, now: float, lines: int = 1) -> None:
    """Do what a batch does: note what was, then change it."""
    history.note(db, now)
    db.execute(
        "INSERT INTO tally VALUES ('appended', '', ?) ON CONFLICT DO UPDATE SET lines = lines + excluded.lines",
        (lines,),
    )
    db.execute(
        "UPDATE meta SET dataset_lines = dataset_lines + ?, dataset_length = dataset_length + 100, appended_at = ?",
        (lines, now),
    )


def rows(db: sqlite3.Connection) -> int:
    """Return how many rows there are."""
    (found,) = db.execute("SELECT count(*) FROM history").fetchone()
    return int(found)


def test_what_held_is_written_when_it_changes(tmp_path: Path) -> None:
    """At the time from which it held; the present is not history yet."""
    with ledger(tmp_path) as db:
        history = History()
        for now in (1000.0, 1000.5, 1010.0, 1500.0):
            batch(db, history, now)
        assert [(point.at, point.records) for point in points(db)] == [(998.0, 0), (1000.5, 2), (1010.0, 3)]
        assert points(db)[-1].lines == {state: 3 if state is State.ACCEPTED else 0 for state in State}
        assert points(db)[-1].bytes == 300
        assert [point.records for point in points(db, 1000.5)] == [3]


def test_what_held_at_a_time_is_found(tmp_path: Path) -> None:
    """At the finest step that knows; before all that is known, the oldest."""
    with ledger(tmp_path) as db:
        assert held_at(db, 1e9) is None
        history = History()
        for now in (1000.0, 1010.0, 1100.0, 1110.0):
            batch(db, history, now)
        found = [held_at(db, time) for time in (10.0, 999.0, 1005.0, 1050.0, 1105.0)]
        assert [point.records for point in found if point is not None] == [0, 0, 1, 2, 3]


def test_a_restart_goes_on_where_it_was(tmp_path: Path) -> None:
    """The last counts of a life are written by the next one, at the time of their batch."""
    with ledger(tmp_path) as db:
        first = History()
        first.rollouts = 7
        batch(db, first, 1000.0)
        batch(db, first, 1100.0)
        second = History()
        second.resume(db)
        assert second.rollouts == 7
        batch(db, second, 2000.0)
        assert [(point.at, point.records) for point in points(db)] == [(998.0, 0), (1000.0, 1), (1100.0, 2)]


@pytest.mark.slow
def test_there_are_never_more_rows_than_said(tmp_path: Path) -> None:
    """Through two years of batches at the worst times, with coarser steps the longer ago it was."""
    most = sum(slots for _, slots in STEPS)
    assert most <= 5000
    with ledger(tmp_path) as db:
        db.execute("PRAGMA synchronous=OFF")
        db.execute("BEGIN")
        history, now = History(), 1e9
        for pause, batches in ((DAY, 500), (900.0, 1500), (60.0, 1600), (2.0, 2000)):
            for _ in range(batches):
                now += pause
                batch(db, history, now)
        assert rows(db) <= most
        found = points(db)
        assert [point.at for point in found] == sorted({point.at for point in found})
        assert [point.records for point in found] == sorted(point.records for point in found)
        ages = [now - point.at for point in found]
        assert max(ages) <= STEPS[-1][0] * STEPS[-1][1] + DAY
        assert sum(age < 3600 for age in ages) > 1700
        assert sum(age < DAY for age in ages) > 3000


def test_a_clock_that_is_set_back_does_not_break_the_bound(tmp_path: Path) -> None:
    """What lies in its future is dropped."""
    with ledger(tmp_path) as db:
        history = History()
        for now in (5000.0, 6000.0, 7000.0, 100.0, 200.0, 300.0):
            batch(db, history, now)
        found = [point.at for point in points(db)]
        assert found == sorted(found)
        assert max(found) <= 300.0


def test_one_batch_after_another_writes_once_in_two_seconds(tmp_path: Path) -> None:
    """However many there are."""
    with ledger(tmp_path) as db:
        history = History()
        for i in range(1000):
            batch(db, history, 1000.0 + i / 100)
        at_finest = [point for point in points(db) if point.at >= 1000.0]
        assert len(at_finest) == 4


def test_an_older_ledger_gets_it_when_it_is_opened(tmp_path: Path) -> None:
    """And is read without it until then."""
    path = tmp_path / "good.jsonl.ledger"
    execute(path, SAMPLE.read_text())
    with closing(sqlite3.connect(path)) as db:
        assert points(db) == []
    with_ledger(path, lambda ledger: ledger.head())
    with closing(sqlite3.connect(path)) as db:
        assert points(db) == []
        assert rows(db) == 0
        assert db.execute("PRAGMA user_version").fetchone() == (1,)


def test_a_pipeline_notes_what_it_does(tmp_path: Path) -> None:
    """A batch after another one that was long ago; and nothing when there is nothing to do."""
    config = settings(tmp_path)
    make_traces(tmp_path / "traces.db")
    add_outcome(tmp_path / "traces.db", "good", 3, 10)
    shard = config.source.shards / "a.jsonl"
    shard.parent.mkdir()
    for turn in range(2):
        with shard.open("ab") as file:
            file.write(jsonl(dialogue("good", turn, f"turn {turn}")))
        work_off(config)
    with closing(sqlite3.connect(config.dataset.ledger)) as db:
        before = rows(db)
        assert points(db)[0].records == 0
    work_off(config)
    with closing(sqlite3.connect(config.dataset.ledger)) as db:
        assert rows(db) == before
