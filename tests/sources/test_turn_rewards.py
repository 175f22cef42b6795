"""Turns by their rewards, from the tables of a task app to the dataset: in any order of coming, through any death."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio
import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from streamer.base.env import Env
from streamer.base.errors import ConfigError, UnavailableError
from streamer.commands.doctor.checks import Level, examine
from streamer.config import From
from streamer.core.verdicts.join import JoinRule
from streamer.core.verdicts.qualify import RecordRules
from streamer.core.verdicts.turns import Turns
from streamer.daemon.build import open_pipeline
from streamer.daemon.pipeline import Pipeline
from streamer.sources.event_rewards import _PAGE, _SESSIONS, EventRewards
from streamer.sources.local_database import LocalDatabase
from streamer.sources.trace_database import TooSlowError
from streamer.store.views.explain import explain
from tests.helpers.crash import HALF_A_WRITE, dies, working_off
from tests.helpers.place import Place, ended, until
from tests.helpers.producer import (
    FakeClock,
    accounts,
    add_outcome,
    correct_outcome,
    dialogue,
    jsonl,
    make_traces,
    messages,
    records,
    settings,
    settle,
    work_off,
)
from tests.helpers.traces import add_messages, add_reward, correct_reward, decision, make_conversations

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from streamer.config import Config
    from streamer.core.verdicts.turns import SessionRewards

ROOT = Path(__file__).resolve().parents[2]
REWARDED = RecordRules(turns=Turns.REWARDED)
UNTIL = RecordRules(turns=Turns.UNTIL_LAST_REWARD)
STEPS = ("read", "appended", "synced", "committed", HALF_A_WRITE)
TURNS = 4
RUN = 10.0
"""Seconds that a rollout takes: its turn 3 happens after 3 s, its outcome comes after 9."""

RUNS = (("a", 0), ("a", 1), ("b", 0))
"""Rollouts, by session: the first was run twice."""


class Row(NamedTuple):
    """A row of ``event_rewards``, of a rollout."""

    run: tuple[str, int]
    turn: int
    value: float


class RunningClock(FakeClock):
    """A clock on which much time has passed whenever someone looks at it."""

    def monotonic(self) -> float:
        """Return seconds, a second later each time."""
        self.advance(1.0)
        return super().monotonic()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an empty trace database with all tables, to copy."""
    return make_conversations(tmp_path_factory.mktemp("template") / "traces.db")


@pytest.fixture
def folder(tmp_path: Path, template: Path) -> Path:
    """Return a folder with an empty shard folder and an empty trace database."""
    return prepared(tmp_path / "work", template)


@pytest.fixture
def traces(folder: Path) -> Path:
    """Return the trace database of the folder."""
    return folder / "traces.db"


def prepared(folder: Path, template: Path) -> Path:
    """Make a folder with an empty shard folder and an empty trace database."""
    (folder / "shards").mkdir(parents=True)
    shutil.copyfile(template, folder / "traces.db")
    return folder


def shard(folder: Path, session: str, number: int = 0, turns: int = TURNS) -> None:
    """Write the shard of one rollout."""
    lines = [
        dialogue(session, turn, f"{session} {number} {turn}", seconds=number * RUN + turn) for turn in range(turns)
    ]
    (folder / "shards" / f"{session}_{number}.jsonl").write_bytes(jsonl(*lines))


def outcome(folder: Path, session: str, number: int = 0, reward: int = 1) -> int:
    """Add the outcome of one rollout."""
    return add_outcome(folder / "traces.db", session, reward, number * RUN + 9)


def reward(folder: Path, session: str, turn: int, value: float = 1.0, number: int = 0, **more: Any) -> int:
    """Add a reward of one turn of a rollout, whose event happened then."""
    return add_reward(folder / "traces.db", session, turn, value, seconds=number * RUN + turn + 0.5, **more)


def texts(config: Config) -> set[str]:
    """Return the user's text of each record of the dataset: session, rollout and turn."""
    return {record["messages"][1]["content"] for record in records(config)}


def counts(config: Config) -> dict[str, int]:
    """Return lines by reason, or by state where there is no reason, after seeing that they add up."""
    reasons = accounts(config).reasons
    return {reason or state: lines for state, split in reasons.items() for reason, lines in split.items() if lines}


def run(config: Config, act: Callable[[Pipeline, FakeClock], Awaitable[None]]) -> None:
    """Open a pipeline and do something with it."""

    async def main() -> None:
        clock = FakeClock()
        async with open_pipeline(config, Env(clock=clock)) as pipeline:
            await act(pipeline, clock)

    anyio.run(main)


class TestOrder:
    """Shards, outcomes and rewards come in any order, and the dataset is the same."""

    @staticmethod
    def expected(rules: RecordRules, rows: Sequence[Row]) -> set[str]:
        """Return the records that the dataset must have in the end."""
        turns = rules.turn_rules
        assert turns is not None
        taken = set()
        for run in RUNS:
            sums = [[row.value for row in rows if (row.run, row.turn) == (run, turn)] for turn in range(TURNS)]
            good = [bool(values) and turns.is_rewarded(sum(values)) for values in sums]
            last = max((turn for turn in range(TURNS) if good[turn]), default=-1)
            chosen = {Turns.ALL: TURNS - 1, Turns.UNTIL_LAST_REWARD: last}.get(turns.turns, -1)
            taken |= {f"{run[0]} {run[1]} {turn}" for turn in range(TURNS) if turn <= chosen or
                      (turns.turns is Turns.REWARDED and good[turn])}  # fmt: skip
        return taken

    @pytest.mark.slow
    @given(
        rows=st.lists(
            st.builds(Row, st.sampled_from(RUNS), st.integers(0, TURNS - 1), st.sampled_from([0.0, 0.5, 1.0])),
            max_size=8,
        ),
        rules=st.builds(
            RecordRules,
            turns=st.sampled_from(Turns),
            reward_type=st.just("achievement_delta"),
            min_turn_reward=st.sampled_from([None, 1.0]),
        ),
        batch=st.sampled_from([1, 3, 2000]),
        data=st.data(),
    )
    @budget(max_examples=60)
    def test_whatever_comes_first_the_dataset_is_the_same(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        template: Path,
        rows: list[Row],
        rules: RecordRules,
        batch: int,
        data: st.DataObject,
    ) -> None:
        """And each step leaves accounts that add up, with or without a restart after it; nothing is taken back."""
        folder = prepared(tmp_path_factory.mktemp("order") / "work", template)
        config = settings(folder, records=rules, batch=batch)
        steps: list[tuple[Any, ...]] = [(shard, *run) for run in RUNS]
        steps += [(outcome, *run) for run in RUNS]
        steps += [(reward, row.run[0], row.turn, row.value, row.run[1]) for row in rows]
        steps = data.draw(st.permutations(steps))
        first, second = sorted(steps.index((outcome, "a", number)) for number in (0, 1))
        steps[first], steps[second] = (outcome, "a", 0), (outcome, "a", 1)  # a second run ends after the first
        looks = data.draw(st.lists(st.sampled_from(["look", "restart", ""]), min_size=len(steps), max_size=len(steps)))
        expected = self.expected(rules, rows)

        async def main() -> None:
            todo = list(zip(steps, looks, strict=True))
            clock = FakeClock()
            while todo:
                async with open_pipeline(config, Env(clock=clock)) as pipeline:
                    while todo:
                        (step, *arguments), look = todo.pop(0)
                        step(folder, *arguments)
                        if look:
                            await settle(pipeline, clock)
                            assert texts(config) <= expected
                            accounts(config)
                        if look == "restart":
                            break
                    await settle(pipeline, clock)

        anyio.run(main)
        assert texts(config) == expected
        assert len(records(config)) == len(expected)
        assert accounts(config).counts["waiting"] == 0

    @pytest.mark.parametrize("join", JoinRule)
    def test_a_session_that_was_run_twice_is_rewarded_for_each_run(self, folder: Path, join: JoinRule) -> None:
        """The other rules take it for one rollout, and add up."""
        for number in (0, 1):
            shard(folder, "a", number)
            outcome(folder, "a", number)
        reward(folder, "a", 1, number=0)
        reward(folder, "a", 3, number=1)
        config = settings(folder, records=REWARDED, join=join)
        work_off(config)
        both = {"a 0 1", "a 0 3", "a 1 1", "a 1 3"}
        assert texts(config) == ({"a 0 1", "a 1 3"} if join is JoinRule.AS_OF else both)

    def test_what_a_run_that_goes_on_achieves_is_none_of_the_last_one(self, folder: Path) -> None:
        """Until its own outcome comes; the first run's turn 3 stays out."""
        shard(folder, "a")
        outcome(folder, "a")
        reward(folder, "a", 3, number=1)
        config = settings(folder, records=REWARDED)
        work_off(config)
        assert counts(config) == {"turn_reward": 4}
        outcome(folder, "a", 1)
        shard(folder, "a", 1)
        work_off(config)
        assert texts(config) == {"a 1 3"}

    @pytest.mark.parametrize("seconds", [None, 3.0])
    def test_a_judge_that_comes_an_hour_later_is_heard(self, folder: Path, traces: Path, seconds: float | None) -> None:
        """With or without an event that says when it happened."""
        shard(folder, "a")
        outcome(folder, "a")
        config = settings(folder, records=REWARDED)
        work_off(config)
        assert counts(config) == {"turn_reward": 4}
        add_reward(traces, "a", 3, 1.0, seconds=seconds, recorded=3600.0)
        work_off(config)
        assert texts(config) == {"a 0 3"}


class TestVerdicts:
    """Which records are accepted or rejected, and what changes the verdict."""

    def test_a_correction_up_lets_in_what_stayed_out(self, folder: Path, traces: Path) -> None:
        """As a corrected outcome does."""
        shard(folder, "a")
        outcome(folder, "a")
        row = reward(folder, "a", 2, 0.5)
        config = settings(folder, records=RecordRules(turns=Turns.REWARDED, min_turn_reward=1.0))
        work_off(config)
        assert texts(config) == set()
        correct_reward(traces, row, 2.0)
        work_off(config)
        assert texts(config) == {"a 0 2"}
        assert counts(config) == {"appended": 1, "turn_reward": 3}

    def test_a_correction_down_leaves_what_was_written_and_keeps_out_what_comes_later(
        self, folder: Path, traces: Path
    ) -> None:
        """A line that was written is final."""
        shard(folder, "a", turns=2)
        outcome(folder, "a")
        row = reward(folder, "a", 1)
        config = settings(folder, records=REWARDED)
        work_off(config)
        before = config.dataset.path.read_bytes()
        correct_reward(traces, row, 0.0)
        (folder / "shards" / "again.jsonl").write_bytes(jsonl(dialogue("a", 1, "another", seconds=1.0)))
        work_off(config)
        assert config.dataset.path.read_bytes() == before
        assert counts(config) == {"appended": 1, "turn_reward": 2}

    def test_types_are_never_added(self, folder: Path) -> None:
        """Three types that each say 1 are a reward of 1, whichever is asked for."""
        shard(folder, "a")
        outcome(folder, "a")
        for written in ("sparse", "achievement_delta", "unique_achievement_delta"):
            reward(folder, "a", 2, 1.0, reward_type=written)
        for number, kind in enumerate((None, "sparse", "unique_achievement_delta")):
            rules = RecordRules(turns=Turns.REWARDED, reward_type=kind)
            config = settings(folder, records=rules)
            other = config.dataset.path.with_name(f"{number}") / "good.jsonl"
            dataset = msgspec.structs.replace(config.dataset, path=other, ledger=other.with_suffix(".ledger"))
            config = msgspec.structs.replace(config, dataset=dataset)
            work_off(config)
            assert [record["metadata"]["turn_reward"] for record in records(config)] == [1.0]

    def test_a_rollout_that_does_not_qualify_is_not_asked_for_its_rewards(self, folder: Path, traces: Path) -> None:
        """But as soon as its outcome is corrected."""
        shard(folder, "a")
        row = outcome(folder, "a", reward=0)
        reward(folder, "a", 1)
        config = settings(folder, records=REWARDED)
        work_off(config)
        assert counts(config) == {"where": 4}
        with closing(sqlite3.connect(config.dataset.ledger)) as db:
            assert db.execute("SELECT count(*) FROM turn_reward").fetchone() == (0,)
        correct_outcome(traces, row, 5)
        work_off(config)
        assert texts(config) == {"a 0 1"}

    def test_records_without_a_turn_stay_out(self, folder: Path) -> None:
        """They cannot be found to be good."""
        value = messages("a", 0, "no turn")
        del value["metadata"]["turn"]
        (folder / "shards" / "a.jsonl").write_bytes(jsonl(value, messages("a", 1, "turn 1")))
        outcome(folder, "a")
        reward(folder, "a", 1)
        for rules in (REWARDED, UNTIL):
            config = settings(folder, records=rules)
            work_off(config)
            assert texts(config) == {"turn 1"}

    @pytest.mark.parametrize("mode", [From.DATABASE, From.BOTH])
    def test_decisions_of_the_database_are_chosen_alike(self, folder: Path, traces: Path, mode: From) -> None:
        """And judged again when a reward comes late."""
        outcome(folder, "a")
        for turn in range(TURNS):
            add_messages(traces, "a", decision(turn, f"a 0 {turn}"), turn)
        reward(folder, "a", 1)
        config = settings(folder, records=UNTIL, conversations=mode)
        work_off(config)
        assert texts(config) == {"a 0 0", "a 0 1"}
        assert counts(config) == {"appended": 2, "after_last_reward": 2}
        reward(folder, "a", 2)
        work_off(config)
        assert texts(config) == {"a 0 0", "a 0 1", "a 0 2"}
        assert counts(config) == {"appended": 3, "after_last_reward": 1}

    def test_a_reward_that_comes_while_its_shard_is_away_counts_when_it_is_back(self, folder: Path) -> None:
        """The line is judged again then."""
        shard(folder, "a")
        outcome(folder, "a")
        config = settings(folder, records=REWARDED)
        work_off(config)
        path = folder / "shards" / "a_0.jsonl"
        path.rename(folder / "away")
        reward(folder, "a", 3)
        work_off(config)
        assert counts(config) == {"unreadable": 4}
        (folder / "away").rename(path)
        work_off(config)
        assert texts(config) == {"a 0 3"}
        assert counts(config) == {"appended": 1, "turn_reward": 3}


class TestLines:
    """The turn metadata of a dataset line."""

    def test_a_plain_configuration_neither_reads_rewards_nor_mentions_them(self, folder: Path, tmp_path: Path) -> None:
        """Its lines and its ledger are the same where there are no event rewards at all."""
        shard(folder, "a")
        outcome(folder, "a")
        reward(folder, "a", 1, achievements=["x"])
        bare = tmp_path / "bare"
        (bare / "shards").mkdir(parents=True)
        shutil.copyfile(folder / "shards" / "a_0.jsonl", bare / "shards" / "a_0.jsonl")
        make_traces(bare / "traces.db")
        outcome(bare, "a")
        for place in (folder, bare):
            work_off(settings(place))
        data = [settings(place).dataset.path.read_bytes() for place in (folder, bare)]
        assert data[0] == data[1]
        assert b"turn_" not in data[0]
        for place in (folder, bare):
            with closing(sqlite3.connect(settings(place).dataset.ledger)) as db:
                assert db.execute("SELECT count(*) FROM sqlite_master WHERE name LIKE 'turn%'").fetchone() == (0,)

    def test_where_rewards_are_read_every_line_has_the_same_keys(self, folder: Path) -> None:
        """After the ten that all lines have; a turn without a reward says so, and no source can say otherwise."""
        value = dialogue("a", 0, "a 0 0", metadata={"turn_reward": 99, "turn_achievements": 9, "seed": 7})
        (folder / "shards" / "a.jsonl").write_bytes(jsonl(value, *(dialogue("a", n, f"a 0 {n}") for n in (1, 2))))
        outcome(folder, "a")
        reward(folder, "a", 1, 0.0)
        reward(folder, "a", 2, 1.0, achievements=["wake_up", "wake_up", 3])
        reward(folder, "a", 2, 0.5, achievements=["eat\u2028cow"])
        config = settings(folder, records=RecordRules(reward_type="achievement_delta"))
        work_off(config)
        found = [record["metadata"] for record in records(config)]
        assert [list(metadata)[10:12] for metadata in found] == [["turn_reward", "turn_achievements"]] * 3
        assert [metadata["turn_reward"] for metadata in found] == [None, 0.0, 1.5]
        assert [metadata["turn_achievements"] for metadata in found] == [[], [], ["wake_up", "eat\u2028cow"]]
        assert found[0]["seed"] == 7

    def test_datasets_of_one_configuration_have_one_schema(self, folder: Path) -> None:
        """A reward is a number with a point, or null; achievements are a list."""
        shard(folder, "a")
        outcome(folder, "a")
        reward(folder, "a", 1, 2)
        config = settings(folder, records=UNTIL)
        work_off(config)
        assert b'"turn_reward":null,"turn_achievements":[]' in config.dataset.path.read_bytes()
        assert b'"turn_reward":2.0,"turn_achievements":[]' in config.dataset.path.read_bytes()


class TestChanges:
    """Other settings judge from then on."""

    def test_rewards_that_were_not_read_yet_are_waited_for(self, folder: Path, traces: Path) -> None:
        """A ledger that knows an outcome need not know its rewards; explain says that, too."""
        outcome(folder, "a")
        reward(folder, "a", 1)
        work_off(settings(folder))
        shard(folder, "a")
        config = settings(folder, records=REWARDED)

        async def without_a_poll(pipeline: Pipeline, _clock: FakeClock) -> None:
            await pipeline.scan()
            while await pipeline.step():
                pass

        run(config, without_a_poll)
        assert counts(config) == {"turn_rewards_unread": 4}
        found = explain(config.dataset.ledger, config.dataset.path, "a")
        assert found is not None
        assert "event rewards have not been read yet" in found.reasons[0].because
        away = traces.with_name("away.db")
        traces.rename(away)
        with pytest.raises(UnavailableError):
            run(config, lambda pipeline, _clock: pipeline.outcomes.poll())  # type: ignore[arg-type, return-value]
        away.rename(traces)
        work_off(config)
        assert texts(config) == {"a 0 1"}
        assert counts(config) == {"appended": 1, "turn_reward": 3}

    def test_another_type_or_choice_judges_from_then_on(self, folder: Path) -> None:
        """Earlier verdicts stay until a reward of the rollout changes."""
        config = settings(folder, records=REWARDED)
        shard(folder, "a")
        outcome(folder, "a")
        reward(folder, "a", 1)
        reward(folder, "a", 2, reward_type="sparse")
        sparse = msgspec.structs.replace(config, records=RecordRules(turns=Turns.REWARDED, reward_type="sparse"))

        async def act(pipeline: Pipeline, clock: FakeClock) -> None:
            await settle(pipeline, clock)
            assert texts(config) == {"a 0 1"}
            pipeline.configure(sparse)
            await pipeline.describe()
            await settle(pipeline, clock)
            assert texts(config) == {"a 0 1"}
            found = explain(config.dataset.ledger, config.dataset.path, "a_0.jsonl:3")
            assert found is not None
            assert "turn 2 has a sparse reward of 1; it was judged under other settings" in found.reasons[0].details[0]
            shard(folder, "b")
            outcome(folder, "b")
            reward(folder, "b", 3, reward_type="sparse")
            await settle(pipeline, clock)
            assert texts(config) == {"a 0 1", "b 0 3"}
            reward(folder, "a", 3, reward_type="sparse")
            await settle(pipeline, clock)

        run(config, act)
        assert texts(config) == {"a 0 1", "a 0 2", "a 0 3", "b 0 3"}

    def test_a_type_that_is_changed_and_changed_back_before_it_was_read_forgets_no_line(self, folder: Path) -> None:
        """Lines that wait for another type's rewards are judged by the ones that are known."""
        config = settings(folder, records=REWARDED)
        outcome(folder, "a")
        reward(folder, "a", 1)
        work_off(config)
        shard(folder, "a")
        other = msgspec.structs.replace(config, records=RecordRules(turns=Turns.REWARDED, reward_type="sparse"))

        async def act(pipeline: Pipeline, clock: FakeClock) -> None:
            await pipeline.scan()
            await pipeline.step()
            assert counts(config) == {"turn_rewards_unread": 4}
            pipeline.configure(config)
            await pipeline.describe()
            await settle(pipeline, clock)

        run(other, act)
        assert counts(config) == {"appended": 1, "turn_reward": 3}


class TestDatabase:
    """Valid and invalid rows of ``event_rewards``."""

    @staticmethod
    def read(traces: Path, *sessions: str, clock: FakeClock | None = None) -> dict[str, SessionRewards]:
        """Return the rewards read for some sessions."""

        async def main() -> list[SessionRewards]:
            db = LocalDatabase(str(traces), clock or FakeClock())
            events = EventRewards(db, "achievement_delta")
            await db.open(events.prepare)
            try:
                return await events.of(sessions)
            finally:
                await db.close()

        return {one.session: one for one in anyio.run(main)}

    def test_rows_that_are_no_reward_of_a_turn_are_passed_over(self, traces: Path) -> None:
        """And hold no other row up."""
        for turn, value in ((None, 1), ("x", 1), (1, "much"), (1, float("inf")), (1.5, 1), (2, 3)):
            add_reward(traces, "s", turn, value)
        found = self.read(traces, "s", "other")
        assert [(row.turn, row.value) for row in found["s"].rewards] == [(2, 3.0)]
        assert found["other"].rewards == []

    def test_an_annotation_of_megabytes_holds_nobody_up(self, traces: Path) -> None:
        """Its rewards count; its annotation is ignored."""
        add_reward(traces, "a", 1, 1.0, achievements=["x"])
        add_reward(traces, "b", 1, 2.0, achievements=["y" * (2 << 20)])
        add_reward(traces, "b", 2, 1.0, achievements=["z"])
        add_reward(traces, "c", 1, 1.0, achievements=["z", "y" * (20 << 10)])
        found = self.read(traces, "a", "b", "c")
        assert found["a"].rewards[0].achievements == ("x",)
        assert [(row.turn, row.value) for row in found["b"].rewards] == [(1, 2.0), (2, 1.0)]
        assert found["c"].rewards[0].achievements == ()

    def test_many_sessions_and_long_ones_are_read_in_pages(self, traces: Path) -> None:
        """Each whole, whatever others hold."""
        rows = [(f"s{number}", turn) for turn in range(_PAGE // _SESSIONS + 5) for number in range(2 * _SESSIONS + 1)]
        rows += [("long", turn) for turn in range(2 * _PAGE)]
        with closing(sqlite3.connect(traces)) as db, db:
            db.executemany(
                "INSERT INTO event_rewards (event_id, session_id, turn_number, reward_value, reward_type, created_at)"
                " VALUES (0, ?, ?, 1, 'achievement_delta', '2026-01-01')",
                rows,
            )
        found = self.read(traces, *{session for session, _ in rows})
        assert sorted((one.session, row.turn) for one in found.values() for row in one.rewards) == sorted(rows)

    def test_a_lost_index_is_told_and_no_read_goes_through_all_sessions(self, traces: Path) -> None:
        """A read that would take long is broken off; with the producer's index none is long enough for that."""
        with closing(sqlite3.connect(traces)) as db, db:
            db.execute(
                "INSERT INTO event_rewards (event_id, session_id, turn_number, reward_value, reward_type, created_at)"
                " WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000)"
                " SELECT 0, 's' || (i / 10), i % 10, 1, 'achievement_delta', '2026-01-01' FROM n"
            )
        assert len(self.read(traces, "s7", "s8", clock=RunningClock())["s7"].rewards) == 10
        with closing(sqlite3.connect(traces)) as db, db:
            db.execute("DROP INDEX idx_event_rewards_session")
        with pytest.raises(TooSlowError) as raised:
            self.read(traces, "s7", "s8", clock=RunningClock())
        assert "index on session_id" in raised.value.hint

    def test_a_database_without_event_rewards_is_refused_as_soon_as_that_is_sure(self, tmp_path: Path) -> None:
        """The producer makes its tables one after the other: before its first row, the last may be still to come."""
        (tmp_path / "shards").mkdir()
        traces = make_traces(tmp_path / "traces.db")
        config = settings(tmp_path, records=REWARDED)
        told: list[str] = []

        async def act(pipeline: Pipeline, clock: FakeClock) -> None:
            await pipeline.poll()
            told.append(str(pipeline.error))
            outcome(tmp_path, "a")
            clock.advance(60)
            with pytest.raises(ConfigError, match="no table event_rewards") as raised:
                await pipeline.poll()
            told.append(raised.value.hint)

        run(config, act)
        assert "no table event_rewards yet" in told[0]
        assert 'records.turns = "all"' in told[1]
        with closing(sqlite3.connect(traces)) as db, db:
            db.execute("CREATE TABLE event_rewards (session_id, turn_number, reward_value, reward_type)")
            db.execute("INSERT INTO event_rewards VALUES ('a', 1, 1, 'achievement_delta')")
        shard(tmp_path, "a")
        work_off(config)
        assert texts(config) == {"a 0 1"}


class TestWhatIsTold:
    """``explain`` and ``doctor``."""

    @staticmethod
    def because(config: Config, subject: str) -> list[str]:
        """Return the explanation of each rejected span, and its lines."""
        found = explain(config.dataset.ledger, config.dataset.path, subject)
        assert found is not None
        return [text for reason in found.reasons if reason.state == "below_bar" for text in
                (reason.because, *reason.details)]  # fmt: skip

    def test_explain_says_which_turns_had_what(self, folder: Path) -> None:
        """For a rollout, and for one line."""
        shard(folder, "a")
        outcome(folder, "a")
        reward(folder, "a", 0, 0.5)
        reward(folder, "a", 1, 2.0)
        reward(folder, "a", 3, number=1)
        config = settings(folder, records=RecordRules(turns=Turns.REWARDED, min_turn_reward=1.0))
        work_off(config)
        said = self.because(config, "a")
        assert said[0].endswith(
            "only its turn 1 had an achievement_delta reward of 1 or more; still taken if one comes"
        )
        assert said[1] == "line 1: turn 0 has an achievement_delta reward of 0.5"
        assert self.because(config, "a_0.jsonl:3")[1] == "line 3: turn 2 has no achievement_delta reward"
        assert self.because(config, "a_0.jsonl:4")[1].endswith(
            "one of an event after the newest outcome of the session"
        )

    def test_explain_says_which_turn_was_the_last_one(self, folder: Path) -> None:
        """Or that there is none."""
        for session in ("a", "b"):
            shard(folder, session)
            outcome(folder, session)
        reward(folder, "a", 1, reward_type="sparse")
        config = settings(folder, records=RecordRules(turns=Turns.UNTIL_LAST_REWARD, reward_type="sparse"))
        work_off(config)
        said = self.because(config, "a")
        assert "turn 1 is its last one with a sparse reward of more than 0" in said[0]
        assert said[1:] == [f"line {turn + 1}: turn {turn} has no sparse reward" for turn in (2, 3)]
        assert "no turn of it has a sparse reward of more than 0" in self.because(config, "b")[0]

    def test_doctor_tells_a_type_that_no_row_has(self, folder: Path) -> None:
        """A misspelt one would keep everything out, and say nothing."""
        outcome(folder, "a")
        outcome(folder, "b")
        reward(folder, "a", 1)
        for kind, level, said in (("achievement_delta", Level.OK, "1 of 2"), ("achivement", Level.WARNING, "0 of 2")):
            rules = RecordRules(turns=Turns.REWARDED, reward_type=kind)
            found = [one for one in examine([settings(folder, records=rules)], {}) if "of the type" in one.what]
            assert [(one.level, one.what[:6]) for one in found] == [(level, said)]


class TestDeath:
    """SIGKILL at every named point, with rewards that come in between."""

    @staticmethod
    def stages(folder: Path) -> Iterator[None]:
        """Let a producer write, a part at a time."""
        for session in ("a", "b", "c"):
            shard(folder, session)
            outcome(folder, session)
            reward(folder, session, 1)
        yield
        reward(folder, "a", 3)
        shard(folder, "d")
        yield
        outcome(folder, "d")
        reward(folder, "d", 2)
        reward(folder, "b", 0)
        yield

    @pytest.mark.parametrize("turns", [Turns.REWARDED, Turns.UNTIL_LAST_REWARD])
    @pytest.mark.parametrize("times", [1, 2])
    @pytest.mark.parametrize("point", STEPS)
    def test_a_death_anywhere_loses_nothing_and_doubles_nothing(
        self, folder: Path, point: str, times: int, turns: Turns
    ) -> None:
        """Rules 1, 2 and 3, at every moment of arrival."""
        config = settings(folder, records=RecordRules(turns=turns), batch=3)
        died = 0
        seen = b""
        for _ in self.stages(folder):
            died += dies(working_off, config, point, times)
            data = config.dataset.path.read_bytes()
            assert data.startswith(seen)
            seen = data[: data.rfind(b"\n") + 1]
        assert died
        work_off(config)
        assert config.dataset.path.read_bytes().startswith(seen)
        rewarded = {"a 0 1", "a 0 3", "b 0 0", "b 0 1", "c 0 1", "d 0 2"}
        before = {"a 0 0", "a 0 2", "c 0 0", "d 0 0", "d 0 1"}
        assert texts(config) == (rewarded if turns is Turns.REWARDED else rewarded | before)
        assert len(records(config)) == len(texts(config))
        assert accounts(config).adopted == 0

    def test_a_ledger_that_was_lost_is_brought_up_to_the_dataset(self, folder: Path) -> None:
        """Rewards are read again, and the lines are claimed."""
        config = settings(folder, records=REWARDED)
        for _ in self.stages(folder):
            work_off(config)
        before = config.dataset.path.read_bytes()
        config.dataset.ledger.unlink()
        work_off(config)
        assert config.dataset.path.read_bytes() == before
        assert accounts(config).adopted == 0


class TestExecutable:
    """The real commands on files as a task app leaves them."""

    @pytest.fixture
    def place(self, tmp_path: Path, template: Path) -> Place:
        """Return a place with an empty trace database that asks for turns up to the last reward."""
        place = Place(tmp_path)
        shutil.copyfile(template, place.traces)
        place.configure('[records]\nturns = "until_last_reward"')
        return place

    @pytest.mark.slow
    def test_a_daemon_takes_turns_as_their_rewards_come(self, place: Place) -> None:
        """Late ones, and corrected ones, while it runs; and says of all others why not."""
        with place.daemon() as process:
            shard(place.folder, "a")
            outcome(place.folder, "a")
            reward(place.folder, "a", 1, achievements=["collect_wood"])
            until(lambda: place.holds(2))
            assert place.status()["reasons"]["below_bar"] == {"after_last_reward": 2}
            row = reward(place.folder, "a", 2, 0.0)
            reward(place.folder, "a", 3, 0.0)
            correct_reward(place.traces, row, 1.0)
            until(lambda: place.holds(3))
            process.send_signal(signal.SIGTERM)
            assert ended(process) == 0
        assert place.texts() == {"a 0 0", "a 0 1", "a 0 2"}
        metadata = [record["metadata"] for record in place.records()]
        assert [(one["turn_reward"], one["turn_achievements"]) for one in metadata] == [
            (None, []), (1.0, ["collect_wood"]), (1.0, []),
        ]  # fmt: skip
        said = place.call("explain", "a_0.jsonl:4").stdout
        assert "line 4: turn 3 has an achievement_delta reward of 0" in said
        assert "turn 2 is its last one with an achievement_delta reward of more than 0" in said
        assert place.call("verify", "good.jsonl").returncode == 0

    @pytest.mark.slow
    def test_a_database_without_event_rewards_is_a_clear_error(self, place: Place) -> None:
        """With the remedy; and works as ever where turns are not asked for."""
        place.traces.unlink()
        make_traces(place.traces)
        shard(place.folder, "a")
        outcome(place.folder, "a")
        done = place.once()
        assert done.returncode == 2
        assert "no table event_rewards" in done.stderr
        assert 'records.turns = "all"' in done.stderr
        assert "Traceback" not in done.stderr
        doctor = place.call("doctor")
        assert doctor.returncode == 1
        assert "no table event_rewards" in doctor.stdout
        place.configure()
        assert place.once().returncode == 0
        assert len(place.records()) == 4

    @pytest.mark.slow
    def test_a_reload_can_ask_for_turns_and_is_refused_without_event_rewards(self, place: Place) -> None:
        """The old configuration stays in force, or the new one judges from then on."""
        place.configure()
        shard(place.folder, "a")
        outcome(place.folder, "a")
        with place.daemon() as process:
            until(lambda: place.holds(4))
            place.configure('[records]\nturns = "rewarded"')
            process.send_signal(signal.SIGHUP)
            until(lambda: place.events("reloaded"))
            reward(place.folder, "b", 2)
            shard(place.folder, "b")
            outcome(place.folder, "b")
            until(lambda: place.holds(5))
        with place.log.open() as log:
            reloaded = [json.loads(line) for line in log if '"reloaded"' in line]
        assert "records.turns" in reloaded[0]["changed"]
        assert place.texts() == {"a 0 0", "a 0 1", "a 0 2", "a 0 3", "b 0 2"}
