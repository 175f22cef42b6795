"""Conversations from the trace database, live: each decision once, in any order of arrival, after any crash."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from streamer.base.env import Env
from streamer.base.errors import ConfigError
from streamer.base.events import FailureBegan, FailureEnded, ShardOverwritten
from streamer.commands import status_text
from streamer.commands.doctor.checks import Level, examine
from streamer.config import Flags, From, load
from streamer.core.records.dataset_line import line_key
from streamer.core.records.key import DedupBy
from streamer.core.records.model import Cursor
from streamer.core.records.trace_messages import Row
from streamer.core.verdicts.join import JoinRule
from streamer.daemon.build import open_pipeline
from streamer.daemon.pipeline import Pipeline
from streamer.sources.lag import Lag, measure
from streamer.sources.pages import FilePages
from streamer.sources.reader import Budget
from streamer.sources.rollout_reader import RolloutReader, SessionRead, ToRead
from streamer.store.ledger.paths import session_at, session_path
from streamer.store.views.explain import explain
from tests.helpers.crash import HALF_A_WRITE, dies, working_off
from tests.helpers.place import environment, until
from tests.helpers.producer import (
    DEEP,
    FakeClock,
    accounts,
    add_outcome,
    correct_outcome,
    dialogue,
    jsonl,
    records,
    settings,
    work_off,
)
from tests.helpers.traces import add_messages, add_session, decision, make_conversations, payload, tool_reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from streamer.base.events import Event
    from streamer.config import Config

ROOT = Path(__file__).resolve().parents[2]
MODES = [From.DATABASE, From.BOTH]
STEPS = ("read", "dead letters written", "appended", "synced", "committed", HALF_A_WRITE)
DOES = ("move_left", "do")
"""The reply of ``producer.dialogue``, so that shard and database hold the same conversation."""


def rows(text: str, turn: int = 0, reply: str | None = None) -> list[Row]:
    """Return the rows of one decision."""
    return decision(turn, text, tool_reply(*DOES) if reply is None else reply)


def told(path: Path, session: str, *texts: str, seconds: float = 0.0) -> None:
    """Add a decision for each text, a second after the other."""
    for turn, text in enumerate(texts):
        add_messages(path, session, rows(text, turn), seconds + turn)


def shard(folder: Path, session: str, *texts: str, seconds: float = 0.0) -> None:
    """Write the shard of the same decisions."""
    lines = [dialogue(session, turn, text, seconds=seconds + turn) for turn, text in enumerate(texts)]
    (folder / "shards" / f"{session}.jsonl").write_bytes(jsonl(*lines))


def texts(config: Config) -> list[str]:
    """Return the user's text of each record of the dataset."""
    return [record["messages"][-2]["content"] for record in records(config)]


def counts(config: Config) -> dict[str, int]:
    """Return the accounts that are not zero, after seeing that they add up."""
    return {state: lines for state, lines in accounts(config).counts.items() if lines}


def dead(config: Config) -> list[dict[str, Any]]:
    """Return the dead letters."""
    path = config.dataset.path.with_name("good.jsonl.dead.jsonl")
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def run(config: Config, act: Callable[[Pipeline, FakeClock], Awaitable[None]]) -> list[Event]:
    """Open a pipeline, run a function with it, and return its events."""
    events: list[Event] = []

    async def main() -> None:
        clock = FakeClock()
        async with open_pipeline(config, Env(clock=clock, emit=events.append)) as pipeline:
            await act(pipeline, clock)

    anyio.run(main)
    return events


async def live(pipeline: Pipeline) -> None:
    """Run one round of the daemon, which waits for shards, unlike a drain."""
    await pipeline.scan()
    while await pipeline.poll():
        pass
    while await pipeline.step():
        pass


@asynccontextmanager
async def held(path: Path) -> AsyncIterator[None]:
    """Hold a database as a producer that commits for long."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN EXCLUSIVE")
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with an empty shard folder and an empty trace database."""
    (tmp_path / "shards").mkdir()
    make_conversations(tmp_path / "traces.db")
    return tmp_path


@pytest.fixture
def traces(folder: Path) -> Path:
    """Return the trace database."""
    return folder / "traces.db"


@pytest.fixture
def config(folder: Path) -> Config:
    """Return the settings of a daemon that reads the database alone."""
    return settings(folder, conversations=From.DATABASE)


class TestWhatIsRead:
    """Which decisions become lines."""

    def test_a_rollout_gives_the_same_records_from_either_source(self, folder: Path, traces: Path) -> None:
        """Equal keys, and the same keys of metadata in the same places."""
        for session, reward in (("good", 3), ("bad", 0)):
            said = [f"{session} {i}" for i in range(3)]
            told(traces, session, *said)
            shard(folder, session, *said)
            add_outcome(traces, session, reward, 9)
        keys: dict[From, list[bytes]] = {}
        metadata: dict[From, Any] = {}
        for mode in From:
            config = settings(folder, conversations=mode)
            work_off(config)
            lines = config.dataset.path.read_bytes().splitlines()
            keys[mode] = sorted(line_key(line, DedupBy.CONVERSATION) for line in lines)
            metadata[mode] = [json.loads(line)["metadata"] for line in lines]
            accounts(config)
            shutil.rmtree(config.dataset.path.parent)
        assert keys[From.SHARDS] == keys[From.DATABASE] == keys[From.BOTH]
        assert len(keys[From.SHARDS]) == 3
        own = {"shard", "model", "provider", "has_image"}  # the shard names its model, there are no events here
        for one, other in zip(metadata[From.SHARDS], metadata[From.DATABASE], strict=True):
            assert {k: v for k, v in other.items() if k not in own}.items() <= one.items()
            assert other["shard"] == "//messages/good"

    def test_a_rollout_that_does_not_qualify_is_not_read(self, traces: Path, config: Config) -> None:
        """It is not read until its outcome is corrected."""
        told(traces, "bad", "one", "two")
        row = add_outcome(traces, "bad", 0, 9)
        work_off(config)
        assert counts(config) == {}
        correct_outcome(traces, row, 2)
        work_off(config)
        assert texts(config) == ["one", "two"]

    def test_a_decision_belongs_to_the_outcome_of_its_time(self, traces: Path, config: Config) -> None:
        """Those of another rollout of the session are below the bar, until that one is corrected."""
        told(traces, "s", "a", "b", seconds=0)
        first = add_outcome(traces, "s", 0, 5)
        told(traces, "s", "c", "d", seconds=10)
        add_outcome(traces, "s", 1, 15)
        work_off(config)
        assert texts(config) == ["c", "d"]
        assert counts(config) == {"appended": 2, "below_bar": 2}
        correct_outcome(traces, first, 2)
        work_off(config)
        assert texts(config) == ["c", "d", "a", "b"]
        assert counts(config) == {"appended": 4}

    def test_a_session_is_read_on_with_its_next_outcome(self, traces: Path, config: Config) -> None:
        """Decisions after the last outcome wait; the last one, which may be incomplete, is not even read."""

        async def act(pipeline: Pipeline, clock: FakeClock) -> None:
            told(traces, "s", "a", "b")
            add_outcome(traces, "s", 1, 5)
            await pipeline.drain()
            assert counts(config) == {"appended": 2}
            told(traces, "s", "c", seconds=10)
            add_messages(traces, "s", rows("d", 1)[:2], 12)
            clock.advance(60)
            await pipeline.drain()
            assert counts(config) == {"appended": 2, "waiting": 1}
            add_messages(traces, "s", rows("d", 1)[2:], 13)
            add_outcome(traces, "s", 1, 15)
            clock.advance(60)
            await pipeline.drain()

        run(config, act)
        assert texts(config) == ["a", "b", "c", "d"]
        assert counts(config) == {"appended": 4}

    def test_the_end_of_a_rollout_is_read_whatever_the_clocks_say(self, folder: Path, traces: Path) -> None:
        """Who joins by ``max`` has times that cannot be compared; a missing reply is still waited for."""
        told(traces, "s", "a", "b", seconds=3600)
        add_messages(traces, "s", rows("c", 2)[:2], 3700)
        add_outcome(traces, "s", 1, 5)
        config = settings(folder, conversations=From.DATABASE, join=JoinRule.MAX)
        work_off(config)
        assert texts(config) == ["a", "b"]
        assert counts(config) == {"appended": 2}

    def test_messages_that_come_after_their_outcome_are_found(self, traces: Path, config: Config) -> None:
        """A sweep checks known sessions again, whether all messages come late or only some."""

        async def act(pipeline: Pipeline, clock: FakeClock) -> None:
            for text, seconds in (("", 0), ("a", 1), ("b", 2)):
                if text:
                    told(traces, "s", text, seconds=seconds)
                else:
                    add_outcome(traces, "s", 1, 9)
                clock.advance(60)
                await pipeline.drain()

        run(config, act)
        assert texts(config) == ["a", "b"]

    def test_prompt_and_completion_serve_where_there_are_no_messages(self, traces: Path, config: Config) -> None:
        """Messages that come after all are read, too."""
        said = {"prompt": "ask", "completion": "tell", "model": "m"}
        add_session(traces, "s", [1], rows=[], metadata=said)
        add_session(traces, "half", [1], rows=[], metadata={"prompt": "ask"})
        add_session(traces, "none", [1], rows=[])
        work_off(config)
        assert [(r["messages"][-1]["content"], r["metadata"]["model"]) for r in records(config)] == [("tell", "m")]
        assert [letter["reason"] for letter in dead(config)] == ["reply_missing"]
        told(traces, "s", "later")
        work_off(config)
        assert texts(config) == ["ask", "later"]
        assert counts(config) == {"appended": 2, "dead_lettered": 1}

    @pytest.mark.parametrize("batch", [1, 2, 3, 2000])
    def test_a_system_prompt_that_was_said_once_is_part_of_every_record(
        self, folder: Path, traces: Path, batch: int
    ) -> None:
        """Wherever a batch ended, and in a second run of the session, with another one."""
        for run_of, start in (("x", 0), ("y", 50)):
            add_messages(traces, "s", [Row(0, None, "system", payload("system", f"be {run_of}"))], start)
            for turn in range(4):
                said = rows(f"{run_of}{turn}", turn)[1:]
                add_messages(traces, "s", said, start + turn)
        add_outcome(traces, "s", 1, 99)
        config = settings(folder, conversations=From.DATABASE, batch=batch)
        work_off(config)
        found = [(r["messages"][0]["content"], r["messages"][1]["content"]) for r in records(config)]
        assert found == [(f"be {one}", f"{one}{turn}") for one in "xy" for turn in range(4)]

    def test_hostile_rows_are_dead_letters_with_a_reason(self, traces: Path, config: Config) -> None:
        """Never a placeholder; their neighbours go their way, and the letter names the rows."""
        calls = [{"tool_name": "interact_many", "arguments": {"actions": ["do"] * 2000}}]
        bad = {
            "reply_truncated": json.dumps(calls)[:4000] + "…",
            "reply_missing": "",
            "bad_message": '[{"arguments": {}}]',
            "too_deep": DEEP.decode(),
        }
        texts_of = ["first", *bad, "last"]
        for turn, text in enumerate(texts_of):
            add_messages(traces, "s", rows(text, turn, bad.get(text)), turn)
        add_messages(traces, "s", [Row(0, 99, "robot", "x"), Row(0, 100, "tool_result", "{}")], 9)
        add_outcome(traces, "s", 1, 10)
        work_off(config)
        assert texts(config) == ["first", "last"]
        assert [letter["reason"] for letter in dead(config)] == [*bad, "unknown_role", "bad_message"]
        for letter in dead(config):
            assert letter["shard"] == "//messages/s"
            assert letter["line"] in range(1, 9)
            inside = (letter["offset"], letter["offset"] + letter["bytes"])
            with closing(sqlite3.connect(traces)) as db:
                sql = "SELECT DISTINCT timestep_id FROM messages WHERE session_id = 's' AND id BETWEEN ? AND ?"
                assert db.execute(sql, inside).fetchall() in ([(letter["line"],)], [(99,)], [(100,)])

    @pytest.mark.parametrize("session", ["../../etc/passwd", "a\0b", "é\u202e\x1b[31m", "//messages/x", "x:1", ""])
    def test_a_session_may_be_called_anything(self, traces: Path, config: Config, session: str) -> None:
        """Its name is no path."""
        told(traces, session, "a")
        add_outcome(traces, session, 1, 9)
        work_off(config)
        assert [record["metadata"]["run_id"] for record in records(config)] == [session]
        assert session_at(session_path(session)) == session
        found = explain(config.dataset.ledger, config.dataset.path, session)
        assert found is not None
        assert [reason.state for reason in found.reasons] == ["appended"]


class TestBoth:
    """Shards and database at once."""

    def test_a_session_with_a_shard_is_not_read_from_the_database(self, folder: Path, traces: Path) -> None:
        """One without is; whichever side of the shard came first."""
        for session in ("before", "after", "none"):
            told(traces, session, session)
        shard(folder, "before", "before")
        config = settings(folder, conversations=From.BOTH)

        async def act(pipeline: Pipeline, clock: FakeClock) -> None:
            await live(pipeline)
            for session in ("before", "after", "none"):
                add_outcome(traces, session, 1, clock.now() - 1_767_225_600)
            clock.advance(2)
            await live(pipeline)
            assert texts(config) == ["before"]
            shard(folder, "after", "after")
            await live(pipeline)
            assert texts(config) == ["before", "after"]
            clock.advance(60)
            await live(pipeline)

        run(config, act)
        assert texts(config) == ["before", "after", "none"]
        assert [record["metadata"]["shard"][:2] for record in records(config)] == ["be", "af", "//"]
        assert counts(config) == {"appended": 3}

    def test_a_shard_that_comes_too_late_brings_duplicates(self, folder: Path, traces: Path) -> None:
        """How long it is waited for decides nothing but where a record is read."""
        told(traces, "s", "a", "b")
        add_outcome(traces, "s", 1, 9)
        config = settings(folder, conversations=From.BOTH)
        work_off(config)
        shard(folder, "s", "a", "b", "c")
        work_off(config)
        assert texts(config) == ["a", "b", "c"]
        assert counts(config) == {"appended": 3, "duplicate": 2}

    def test_a_time_that_cannot_be_believed_is_waited_for_no_longer(self, folder: Path, traces: Path) -> None:
        """An outcome of the year 2100 is not held for ever."""
        told(traces, "s", "a")
        add_outcome(traces, "s", 1, 74 * 366 * 86_400.0)
        config = settings(folder, conversations=From.BOTH)

        async def act(pipeline: Pipeline, clock: FakeClock) -> None:
            await live(pipeline)
            assert texts(config) == []
            clock.advance(10)
            await live(pipeline)

        run(config, act)
        assert texts(config) == ["a"]

    def test_it_needs_keys_that_do_not_know_the_source(self, tmp_path: Path) -> None:
        """With ``dedup.by = "none"`` the time is part of the key, and each source has its own."""
        file = tmp_path / "config.toml"
        file.write_text('[source]\nconversations = "both"\n[dedup]\nby = "none"\n')
        with pytest.raises(ConfigError, match=r"source\.conversations"):
            load(file, {}, Flags(shards="s", database="d"))


def prepare(folder: Path) -> Path:
    """Lay out decisions of every kind, with a shard for one of the sessions."""
    (folder / "shards").mkdir(parents=True)
    traces = make_conversations(folder / "traces.db")
    for session, reward in (("good", 3), ("best", 5), ("bad", 0), ("open", None)):
        for turn in range(5):
            add_messages(traces, session, rows(f"{session} {turn}", turn), turn)
        add_messages(traces, session, rows("cut", 5, '[{"tool_name": "x"…'), 5)
        add_messages(traces, session, rows("shared", 6), 6)
        if reward is not None:
            add_outcome(traces, session, reward, 9)
    add_outcome(traces, "best", 0, 2.5)
    shard(folder, "best", *(f"best {turn}" for turn in range(5)), "shared")
    return folder


def without_ids(config: Config) -> list[bytes]:
    """Return the sorted lines of a dataset, without values that depend on the order of reading."""
    data = config.dataset.path.read_bytes()
    return sorted(re.sub(rb'"id":"[^"]*"|"shard":"[^"]*"|"run_id":"[^"]*"', b"", line) for line in data.splitlines())


class TestDeath:
    """SIGKILL at every named point, a lost ledger, an older one, another database."""

    @pytest.mark.slow
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("point", STEPS)
    def test_a_death_anywhere_loses_nothing_and_doubles_nothing(self, tmp_path: Path, point: str, mode: From) -> None:
        """Lines that a reader saw stay, and the counts are those of an undisturbed run."""
        oracle = settings(prepare(tmp_path / "oracle"), batch=2, conversations=mode)
        work_off(oracle)
        config = settings(prepare(tmp_path / "work"), batch=2, conversations=mode)
        times = 1 if point == "dead letters written" else 2
        assert dies(working_off, config, point, times)
        seen = config.dataset.path.read_bytes()
        work_off(config)
        assert config.dataset.path.read_bytes().startswith(seen[: seen.rfind(b"\n") + 1])
        assert without_ids(config) == without_ids(oracle)
        assert counts(config) == counts(oracle)
        before = config.dataset.path.read_bytes()
        work_off(config)
        assert config.dataset.path.read_bytes() == before

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("batches", [0, 2])
    def test_a_ledger_that_was_lost_or_is_older_is_brought_up_to_the_dataset(
        self, tmp_path: Path, mode: From, batches: int
    ) -> None:
        """Decisions that are read again claim the lines that they wrote: they count as appended."""
        config = settings(prepare(tmp_path / "work"), batch=2, conversations=mode)
        old = tmp_path / "old"
        old.mkdir()
        left = batches

        class Enough(Exception):  # noqa: N818 - it is none
            pass

        def at(point: str) -> None:
            nonlocal left
            left -= point == "committed"
            if point == "committed" and left == 0:
                raise Enough

        if batches:
            with pytest.raises(Enough):
                work_off(config, failpoint=at)
            shutil.copytree(config.dataset.path.parent, old, dirs_exist_ok=True)
        work_off(config)
        final, lines = counts(config), config.dataset.path.read_bytes()
        for path in config.dataset.path.parent.glob("good.jsonl.ledger*"):
            path.unlink()
        for path in old.glob("good.jsonl.ledger*"):
            shutil.copy(path, config.dataset.path.parent)
        work_off(config)
        assert config.dataset.path.read_bytes() == lines
        assert counts(config) == final
        assert accounts(config).adopted == 0

    def test_another_database_with_the_same_session_is_read_from_its_start(self, traces: Path, config: Config) -> None:
        """Its ids start again; a cursor alone would skip all of it."""
        told(traces, "other", *"xyz")
        told(traces, "s", "a", "b")
        add_outcome(traces, "s", 1, 9)
        work_off(config)
        traces.unlink()
        make_conversations(traces)
        told(traces, "s", "b", "c", seconds=20)
        add_outcome(traces, "s", 1, 29)
        events = work_off(config)
        assert texts(config) == ["a", "b", "c"]
        assert [event.shard for event in events if isinstance(event, ShardOverwritten)] == ["//messages/s"]
        assert counts(config) == {"appended": 3, "duplicate": 1}

    def test_decisions_that_are_gone_when_their_outcome_is_corrected_are_told(
        self, traces: Path, config: Config
    ) -> None:
        """They leave the accounts as overwritten lines do, and nothing is held up."""
        told(traces, "s", "a")
        row = add_outcome(traces, "s", 0, 5)
        told(traces, "s", "b", seconds=10)
        add_outcome(traces, "s", 1, 15)
        work_off(config)
        with closing(sqlite3.connect(traces)) as db, db:
            db.execute("DELETE FROM messages WHERE id <= 3")
        correct_outcome(traces, row, 1)
        work_off(config)
        assert texts(config) == ["b"]
        accounts(config)

    def test_a_start_finds_what_a_death_left_unread(self, traces: Path, config: Config) -> None:
        """Outcomes that are in the ledger are not new any more; a sweep looks at them."""
        told(traces, "s", "a")
        add_outcome(traces, "s", 1, 9)

        async def poll_and_die(pipeline: Pipeline, _: FakeClock) -> None:
            while await pipeline.poll():
                pass

        run(config, poll_and_die)

        async def only_step(pipeline: Pipeline, _: FakeClock) -> None:
            while await pipeline.step():
                pass

        run(config, only_step)
        assert texts(config) == ["a"]


class TestProducer:
    """The daemon never harms the producer, and no change of its database harms the daemon."""

    @pytest.mark.slow
    def test_no_lock_outlives_a_page_of_a_rollout_of_50_000_messages(self, traces: Path) -> None:
        """A producer can commit between any two pages; a batch stays within its limits."""
        said = [row for turn in range(16_667) for row in rows("x", turn)]
        add_messages(traces, "s", said, 0)
        pages = 0

        def between() -> None:
            nonlocal pages
            pages += 1
            with closing(sqlite3.connect(traces, timeout=0, isolation_level=None)) as other:
                other.execute("BEGIN EXCLUSIVE")
                other.execute("ROLLBACK")

        largest = 0

        def counted(db: sqlite3.Connection, path: Path) -> FilePages:
            class Counted(FilePages):
                def page(self, *arguments: Any) -> tuple[list[Any], bool]:
                    nonlocal largest
                    found = super().page(*arguments)
                    largest = max(largest, len(found[0]))
                    return found

            return Counted(db, path, between)

        reader = RolloutReader(str(traces), 1 << 20, counted)
        cursor, read, more = Cursor(session_path("s"), id=1), 0, True
        while more:
            (result,) = reader.read([ToRead(cursor, 1 << 62)], JoinRule.AS_OF, Budget(4000, 8 << 20))
            assert isinstance(result, SessionRead)
            assert len(result.decisions) <= 4000
            cursor, more, read = result.cursor, result.more, read + len(result.decisions)
        assert (read, cursor.lines, cursor.offset) == (16_667, 16_667, 50_002)
        assert pages > 200
        assert largest <= 4000

    @pytest.mark.parametrize("mode", MODES)
    def test_a_busy_database_holds_up_nothing_but_itself(self, folder: Path, traces: Path, mode: From) -> None:
        """The failure is reported once, shards go on, and the rollout is read after recovery."""
        config = settings(folder, conversations=mode)
        told(traces, "s", "a")
        add_outcome(traces, "s", 1, 9)
        add_outcome(traces, "t", 1, 9)

        async def act(pipeline: Pipeline, clock: FakeClock) -> None:
            await pipeline.poll()
            async with held(traces):
                shard(folder, "t", "b")
                await pipeline.scan()
                while await pipeline.step():
                    pass
                assert pipeline.error is not None
                assert texts(config) == (["b"] if mode is From.BOTH else [])
            clock.advance(1)
            await pipeline.drain()
            assert pipeline.error is None

        events = run(config, act)
        assert "a" in texts(config)
        assert [type(event) for event in events if isinstance(event, FailureBegan | FailureEnded)] == [
            FailureBegan,
            FailureEnded,
        ]

    def test_decisions_that_are_due_wait_for_a_database_that_is_away(self, folder: Path, traces: Path) -> None:
        """Lines of shards that are due do not wait with them."""
        config = settings(folder, conversations=From.BOTH)
        told(traces, "s", "a")
        bad = [add_outcome(traces, "s", 0, 5), add_outcome(traces, "t", 0, 5)]
        told(traces, "s", "b", seconds=10)
        add_outcome(traces, "s", 1, 15)
        shard(folder, "t", "c")
        work_off(config)
        assert texts(config) == ["b"]

        async def act(pipeline: Pipeline, clock: FakeClock) -> None:
            await pipeline.drain()
            for row in bad:
                correct_outcome(traces, row, 1)
            clock.advance(60)
            while await pipeline.poll():
                clock.advance(1)
            async with held(traces):
                while await pipeline.step():
                    pass
                assert texts(config) == ["b", "c"]
            clock.advance(60)
            await pipeline.drain()

        run(config, act)
        assert texts(config) == ["b", "c", "a"]

    def test_more_new_rollouts_than_are_held_are_found_by_a_sweep(self, traces: Path, config: Config) -> None:
        """Memory is bounded; nothing is forgotten."""
        with closing(sqlite3.connect(traces)) as db, db:
            db.executemany(
                "INSERT INTO outcome_rewards (session_id, total_reward, achievements_count, total_steps, created_at)"
                " VALUES (?, 0, 1, 8, '2026-01-01T00:00:09+00:00')",
                [(f"{i}",) for i in range(10_050)],
            )
            db.execute("UPDATE outcome_rewards SET total_reward = 1 WHERE id = 10050")
        told(traces, "10049", "a")
        work_off(config)
        assert texts(config) == ["a"]

    @pytest.mark.parametrize(
        "sql", ["DROP TABLE messages", "DROP TABLE events", "ALTER TABLE session_traces RENAME TO gone"]
    )
    def test_tables_that_are_not_there_are_no_trouble(self, traces: Path, config: Config, sql: str) -> None:
        """A producer makes them with its first rollout."""
        add_outcome(traces, "s", 1, 9)
        told(traces, "s", "a")
        with closing(sqlite3.connect(traces)) as db, db:
            db.execute("PRAGMA foreign_keys = OFF")
            db.execute(sql)
        work_off(config)
        assert texts(config) == ([] if "messages" in sql else ["a"])


class TestWhatIsTold:
    """``explain``, ``status``, ``doctor`` and the configuration."""

    def test_explain_tells_of_decisions(self, traces: Path, config: Config) -> None:
        """By session and by place, dead letters among them."""
        told(traces, "s", "a", "b")
        add_messages(traces, "s", rows("c", 2, ""), 3)
        add_outcome(traces, "s", 1, 9)
        add_outcome(traces, "empty", 1, 9)
        add_outcome(traces, "bad", 0, 9)
        work_off(config)

        def asked(subject: str) -> Any:
            return explain(config.dataset.ledger, config.dataset.path, subject)

        found = [(r.shard, r.first_line, r.lines, r.state) for r in asked("s").reasons]
        assert found == [("//messages/s", 1, 2, "appended"), ("//messages/s", 3, 1, "dead_lettered")]
        assert [r.state for r in asked("//messages/s:3").reasons] == ["dead_lettered"]
        assert "table messages" in asked("empty").note
        assert "none of its outcome rows qualifies" in asked("bad").note
        assert asked("nobody") is None

    def test_status_counts_sessions_apart_from_shards(self, folder: Path, traces: Path) -> None:
        """And they are no part of the lag."""
        told(traces, "s", "a")
        add_outcome(traces, "s", 1, 9)
        shard(folder, "t", "b")
        config = settings(folder, conversations=From.BOTH)
        work_off(config)
        seen = accounts(config)
        assert (seen.shards, seen.sessions, seen.unfinished) == (1, 1, 0)
        assert measure(config.dataset.ledger, seen) == Lag()
        assert "2 lines of 1 shard and 1 session" in "\n".join(status_text.lines(seen, Lag()))

    def test_without_shards_no_folder_is_needed(self, tmp_path: Path, traces: Path) -> None:
        """Neither by the configuration nor by ``doctor``; and none is looked at."""
        file = tmp_path / "config.toml"
        file.write_text('[source]\nconversations = "database"\n')
        config = load(file, {}, Flags(database=str(traces), dataset=str(tmp_path / "good.jsonl")))
        add_outcome(traces, "s", 1, 9)
        told(traces, "s", "a")
        work_off(config)
        assert len(records(config)) == 1
        found = list(examine([config], {}))
        assert {finding.level for finding in found} == {Level.OK}
        assert not any("shard folder" in finding.what for finding in found)
        with pytest.raises(ConfigError, match=r"source\.shards"):
            load(None, {}, Flags(database=str(traces)))

    def test_a_change_of_the_source_leaves_what_was_read_in_order(self, folder: Path, traces: Path) -> None:
        """Decisions that wait are judged when their outcome comes, though no others are read any more."""
        told(traces, "s", "a")
        add_outcome(traces, "s", 1, 5)
        told(traces, "s", "b", "c", seconds=10)
        work_off(settings(folder, conversations=From.DATABASE))
        add_outcome(traces, "s", 1, 20)
        config = settings(folder)
        work_off(config)
        assert texts(config) == ["a", "b"]
        work_off(settings(folder, conversations=From.DATABASE))
        assert texts(config) == ["a", "b", "c"]


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["decide", "ask", "answer", "restart", "shard"]), st.sampled_from("st")),
        st.tuples(st.just("outcome"), st.sampled_from("st"), st.integers(0, 1)),
        st.tuples(st.just("correct"), st.integers(0, 3)),
        st.tuples(st.just("work"), st.sampled_from(["live", "drain"])),
    ),
    max_size=14,
)


class Story:
    """A producer that acts step by step, and the dataset that must result."""

    def __init__(self, folder: Path, mode: From) -> None:
        (folder / "shards").mkdir()
        self.folder = folder
        self.config = settings(folder, conversations=mode, batch=2)
        self.traces = make_conversations(folder / "traces.db")
        self._now = 0
        self._turn = 0
        self._asked: dict[str, str] = {}
        self._said: list[tuple[str, str, int]] = []
        self._outcomes: list[list[Any]] = []

    def act(self, name: str, *values: Any) -> None:
        """Do one thing, later than all before."""
        self._now += 10
        getattr(self, f"_{name}")(*values)

    def _decide(self, session: str) -> None:
        self._answer(session)
        self._ask(session)
        self._answer(session)

    def _ask(self, session: str) -> None:
        self._answer(session)
        self._turn += 1
        self._asked[session] = f"{session}{self._turn}"
        add_messages(self.traces, session, rows(self._asked[session], self._turn)[:2], self._now)

    def _answer(self, session: str) -> None:
        text = self._asked.pop(session, None)
        if text is not None:
            turn = int(text[1:])
            add_messages(self.traces, session, rows(text, turn)[2:], self._now + 1)
            self._said.append((session, text, self._now + 1))

    def _outcome(self, session: str, reward: int) -> None:
        self._answer(session)
        self._now += 10
        self._outcomes.append([session, self._now, reward, add_outcome(self.traces, session, reward, self._now)])

    def _correct(self, number: int) -> None:
        if number < len(self._outcomes):
            self._outcomes[number][2] = 1
            correct_outcome(self.traces, self._outcomes[number][3], 1)

    def _shard(self, session: str) -> None:
        lines = [dialogue(of, int(text[1:]), text, seconds=at) for of, text, at in self._said if of == session]
        (self.folder / "shards" / f"{session}.jsonl").write_bytes(jsonl(*lines))

    def expected(self) -> set[str]:
        """Return the texts of all decisions whose outcome qualifies."""
        found = set()
        for session, text, at in self._said:
            later = [(when, reward) for of, when, reward, _ in self._outcomes if of == session and when >= at]
            if later and min(later)[1]:
                found.add(text)
        return found


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@budget(max_examples=25)
@given(actions=ACTIONS)
def test_in_any_order_each_decision_whose_outcome_qualifies_is_there_once(
    tmp_path_factory: pytest.TempPathFactory, mode: From, actions: list[tuple[Any, ...]]
) -> None:
    """Live, restarted, incomplete, corrected, with a shard at any moment: nothing lost, nothing twice."""
    story = Story(tmp_path_factory.mktemp("story"), mode)

    async def life(left: list[tuple[Any, ...]]) -> None:
        clock = FakeClock()
        async with open_pipeline(story.config, Env(clock=clock)) as pipeline:
            while left:
                name, *values = left.pop(0)
                if name == "restart":
                    return
                if name == "work":
                    clock.advance(60)
                    await (live if values == ["live"] else Pipeline.drain)(pipeline)
                else:
                    story.act(name, *values)

    left = list(actions)
    while left:
        anyio.run(life, left)
    for session in "st" if mode is From.BOTH else "":
        story.act("answer", session)
        story.act("shard", session)
    work_off(story.config)
    found = texts(story.config)
    assert len(found) == len(set(found))
    assert set(found) == story.expected()
    accounts(story.config)


@pytest.mark.slow
def test_a_filter_that_follows_is_a_daemon(tmp_path: Path) -> None:
    """It accepts the same records as the filter, follows new outcomes, ends with SIGTERM, and never repeats one."""
    traces = make_conversations(tmp_path / "traces.db")
    output = tmp_path / "out.jsonl"
    told(traces, "early", "a", "b")
    add_outcome(traces, "early", 3, 9)
    told(traces, "bad", "x")
    add_outcome(traces, "bad", 1, 9)
    file = tmp_path / "filter.toml"
    file.write_text('[filter]\ndb = "traces.db"\noutput = "out.jsonl"\nmin_official_score = 2\n')
    command = [sys.executable, "-m", "streamer", "filter", "--config", str(file)]

    def call(*flags: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *flags], cwd=tmp_path, env=environment(), check=False, capture_output=True, text=True, timeout=30
        )

    def lines() -> list[Any]:
        data = output.read_bytes() if output.exists() else b""
        return [json.loads(line) for line in data.splitlines() if line.endswith(b"}")]

    for later in ("late", "later"):
        with subprocess.Popen(
            [*command, "--follow"], cwd=tmp_path, env=environment(), stderr=subprocess.PIPE
        ) as daemon:
            until(lambda: len(lines()) >= 2)
            told(traces, later, later)
            add_outcome(traces, later, 2, 9)
            until(lambda: lines()[-1]["messages"][1]["content"] == later)  # noqa: B023 - within the loop
            daemon.send_signal(signal.SIGTERM)
            daemon.communicate(timeout=20)
            assert daemon.returncode == 0
    assert [line["messages"][1]["content"] for line in lines()] == ["a", "b", "late", "later"]
    assert call("--follow", "--dry-run").returncode == 2
    assert call().returncode == 5
    file.write_text(file.read_text() + "limit = 3\n")
    assert "filter.limit" in call("--follow").stderr
