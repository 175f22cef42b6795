"""The whole thing, through the real executable: what goes in, what comes out, signals and exit codes."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers.place import PATIENCE, REAL, Place, Rollouts, ended, environment, until
from tests.helpers.producer import (
    add_outcome,
    bare,
    conversation,
    conversations,
    correct_outcome,
    dialogue,
    jsonl,
    make_traces,
    messages,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Return a place without a trace database."""
    return Place(tmp_path)


@pytest.fixture
def scored(place: Place) -> Place:
    """Return a place in which rollout ``good`` was good and ``bad`` was not."""
    make_traces(place.traces)
    add_outcome(place.traces, "good", 3, 10)
    add_outcome(place.traces, "bad", 0, 10)
    return place


class TestOnce:
    """A single pass."""

    def test_two_layouts_become_one_dataset(self, scored: Place) -> None:
        """Each conversation of the good rollout once, with tool calls, images and reward; and the sums."""
        values = [dialogue("good", turn, f"turn {turn}", image=turn == 1) for turn in range(3)]
        values += [messages("good", 9, "another"), messages("good", 0, "turn 0")]
        scored.shard("good_2026-01-01_00-00-00.jsonl", *values[:3])
        scored.shard("sft_good.jsonl", *values[3:], messages("bad", 0, "no"), "nonsense")
        done = scored.once()
        assert done.returncode == 0, done.stderr
        assert [line.split()[0] for line in done.stdout.splitlines()[:7]] == ["7", "4", "1", "1", "0", "0", "1"]
        assert conversations(scored.records()) == conversations(values[:4])
        assert [record["messages"] for record in scored.records()] == [conversation(value) for value in values[:4]]
        assert {record["metadata"]["total_reward"] for record in scored.records()} == {3}
        assert [record["metadata"]["has_image"] for record in scored.records()] == [False, True, False, False]

    @pytest.mark.slow
    def test_a_second_pass_appends_nothing(self, scored: Place) -> None:
        """The dataset stays as it is, byte for byte."""
        scored.shard("a.jsonl", dialogue("good"), dialogue("bad"))
        assert scored.once().returncode == 0
        before = scored.dataset.read_bytes()
        done = scored.once()
        assert done.returncode == 0
        assert scored.dataset.read_bytes() == before
        assert done.stdout.splitlines()[0] == "2 lines read"

    @pytest.mark.slow
    def test_flags_override_the_file(self, scored: Place) -> None:
        """Another condition, another dataset."""
        scored.shard("a.jsonl", dialogue("good", 0, "a"), dialogue("bad", 0, "b"))
        done = scored.once("--where", "total_reward = 0", "--dataset", "other.jsonl")
        assert done.returncode == 0, done.stderr
        assert json.loads((scored.folder / "other.jsonl").read_text())["metadata"]["run_id"] == "bad"
        assert not scored.dataset.exists()

    @pytest.mark.slow
    def test_a_name_that_cannot_be_decoded_is_a_name(self, scored: Place) -> None:
        """Of a shard, and so of its session, its dead letters and its records."""
        add_outcome(scored.traces, "\\xff", 3, 10)
        with open(os.fsencode(scored.shards) + b"/sft_\xff.jsonl", "wb") as file:
            file.write(jsonl({"messages": conversation(dialogue("x"))}, "nonsense"))
        done = scored.once()
        assert done.returncode == 0, done.stderr
        (record,) = scored.records()
        assert (record["metadata"]["run_id"], record["metadata"]["shard"]) == ("\\xff", "sft_\\xff.jsonl")
        dead = scored.dataset.with_name("good.jsonl.dead.jsonl")
        assert json.loads(dead.read_text())["shard"] == "sft_\\xff.jsonl"
        assert scored.status()["accounting"]["read"] == 2

    @pytest.mark.slow
    @pytest.mark.parametrize("missing", ["shards", "traces.db"])
    def test_what_is_missing_is_named(self, scored: Place, missing: str) -> None:
        """Exit code 3: nothing to read must not look like nothing found."""
        (scored.folder / missing).rename(scored.folder / "away")
        done = scored.once()
        assert done.returncode == 3
        assert missing in done.stderr
        assert "what to do" in done.stderr
        assert not (scored.folder / missing).exists()

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("text", "named"),
        [
            ("[qualify]\nwere = 1", "were"),
            ("[batch]\nrecords = 0", "batch.records"),
            ("[qualify]\nwhere = 'no_such_column > 1'", "no_such_column"),
            ("[oops", "config.toml"),
        ],
    )
    def test_a_wrong_configuration_is_named(self, scored: Place, text: str, named: str) -> None:
        """Exit code 2, without a traceback, and no dataset."""
        scored.configure(text)
        done = scored.once()
        assert done.returncode == 2
        assert named in done.stderr
        assert "Traceback" not in done.stderr

    @pytest.mark.slow
    def test_a_dataset_that_became_shorter_is_refused(self, scored: Place) -> None:
        """Exit code 5, with the way out: a person decides."""
        scored.shard("a.jsonl", dialogue("good", 0, "a"), dialogue("good", 1, "b"))
        scored.once()
        scored.dataset.write_bytes(b"".join(scored.dataset.read_bytes().splitlines(keepends=True)[:1]))
        done = scored.once()
        assert done.returncode == 5
        assert "lines were removed" in done.stderr
        assert "mv '" in done.stderr

    def test_a_busy_database_is_waited_for(self, scored: Place) -> None:
        """A single pass during a commit of the producer is no empty one."""
        scored.shard("a.jsonl", dialogue("good", 0, "a"))
        with closing(sqlite3.connect(scored.traces, isolation_level=None)) as producer:
            producer.execute("BEGIN EXCLUSIVE")
            command = [sys.executable, "-m", "streamer", "run", "--config", str(scored.config), "--once"]
            with (
                scored.log.open("ab") as log,
                subprocess.Popen(
                    command, cwd=scored.folder, env=environment(), stdout=subprocess.DEVNULL, stderr=log
                ) as process,
            ):
                until(lambda: scored.events("trouble"))
                producer.execute("COMMIT")
                assert process.wait(timeout=PATIENCE) == 0
        assert scored.texts() == {"a"}


class TestLive:
    """The daemon."""

    @pytest.mark.slow
    def test_records_arrive_whichever_side_comes_first(self, scored: Place) -> None:
        """Shard before outcome, outcome before shard, and a line that is finished later; then SIGTERM."""
        with scored.daemon() as daemon:
            scored.shard("a.jsonl", dialogue("late", 0, "a", seconds=20), dialogue("good", 0, "b"))
            until(lambda: scored.texts() == {"b"})
            add_outcome(scored.traces, "late", 2, 30)
            until(lambda: scored.texts() == {"a", "b"})
            add_outcome(scored.traces, "early", 2, 30)
            line = jsonl(dialogue("early", 0, "c", seconds=20))
            with (scored.shards / "b.jsonl").open("ab", buffering=0) as file:
                file.write(line[:50])
                scored.shard("a.jsonl", dialogue("good", 1, "d"))
                until(lambda: scored.texts() == {"a", "b", "d"})
                file.write(line[50:])
            until(lambda: scored.texts() == {"a", "b", "c", "d"})
            (scored.shards / "new").mkdir()
            scored.shard("new/c.jsonl", dialogue("good", 2, "e"))
            until(lambda: "e" in scored.texts())
            daemon.send_signal(signal.SIGTERM)
            assert ended(daemon) == 0
        assert len(scored.records()) == 5
        assert scored.events("stopped")[0]["dataset_bytes"] == scored.dataset.stat().st_size

    @pytest.mark.slow
    def test_a_corrected_outcome_lets_a_record_in(self, scored: Place) -> None:
        """A judge may come late."""
        with scored.daemon() as daemon:
            scored.shard("a.jsonl", dialogue("bad", 0, "a"), dialogue("good", 0, "b"))
            until(lambda: scored.texts() == {"b"})
            correct_outcome(scored.traces, 2, 4)
            until(lambda: scored.texts() == {"a", "b"})
            daemon.send_signal(signal.SIGINT)
            assert ended(daemon) == 0

    @pytest.mark.slow
    def test_what_is_not_there_yet_is_waited_for(self, place: Place) -> None:
        """Neither database nor folder; both are said once, and SIGTERM is heard meanwhile."""
        place.shards.rmdir()
        with place.daemon() as daemon:
            until(lambda: len(place.events("trouble")) == 2)
            place.shards.mkdir()
            place.shard("a.jsonl", dialogue("good", 0, "a"))
            make_traces(place.traces)
            add_outcome(place.traces, "good", 3, 10)
            until(lambda: place.texts() == {"a"})
            until(lambda: len(place.events("trouble_over")) == 2)
            daemon.send_signal(signal.SIGTERM)
            assert ended(daemon) == 0

    @pytest.mark.slow
    def test_it_stops_while_it_waits(self, place: Place) -> None:
        """A missing database does not hold it up."""
        with place.daemon() as daemon:
            until(lambda: place.events("trouble"))
            daemon.send_signal(signal.SIGTERM)
            assert ended(daemon) == 0

    @pytest.mark.slow
    def test_a_second_daemon_names_the_first(self, scored: Place) -> None:
        """Rule 9: exit code 4; the first one goes on."""
        with scored.daemon() as daemon:
            until(lambda: scored.events("started"))
            for arguments in (("run",), ("run", "--once")):
                done = scored.call(*arguments)
                assert done.returncode == 4
                assert f"pid {daemon.pid}" in done.stderr
            scored.shard("a.jsonl", dialogue("good", 0, "a"))
            until(lambda: scored.texts() == {"a"})

    @pytest.mark.slow
    def test_status_adds_up_with_the_daemon_up_and_down(self, scored: Place) -> None:
        """And says which it is."""
        scored.shard("a.jsonl", dialogue("good", 0, "a"), dialogue("bad"), dialogue("open"), "nonsense")
        with scored.daemon() as daemon:
            until(lambda: scored.events("committed"))
            up = scored.status()
            assert (up["alive"], up["daemon"]["pid"]) == (True, daemon.pid)
            daemon.send_signal(signal.SIGTERM)
            assert ended(daemon) == 0
        down = scored.status()
        assert (down["alive"], down["daemon"]) == (False, None)
        assert down["accounting"] == up["accounting"] == {
            "read": 4, "appended": 1, "duplicate": 0, "below_bar": 1, "waiting": 1, "never_scored": 0,
            "dead_lettered": 1,
        }  # fmt: skip

    @pytest.mark.slow
    def test_a_refusal_ends_it_with_the_way_out(self, scored: Place) -> None:
        """Only a person can decide; no traceback."""
        scored.shard("a.jsonl", dialogue("good"))
        scored.once()
        scored.dataset.write_bytes(b"")
        with scored.daemon() as daemon:
            assert daemon.wait(timeout=PATIENCE) == 5
        assert "mv '" in scored.log.read_text()
        assert "Traceback" not in scored.log.read_text()


class TestReload:
    """SIGHUP."""

    @contextmanager
    def running(self, place: Place) -> Iterator[subprocess.Popen[bytes]]:
        """Run a daemon that has taken its first record."""
        place.shard("first.jsonl", dialogue("good", 0, "first"))
        with place.daemon() as daemon:
            until(lambda: place.texts() == {"first"})
            yield daemon
            assert daemon.poll() is None
            daemon.send_signal(signal.SIGTERM)
            assert ended(daemon) == 0

    @pytest.mark.slow
    def test_a_new_condition_is_in_force_without_a_restart(self, scored: Place) -> None:
        """For what comes from now on."""
        with self.running(scored) as daemon:
            scored.configure("[qualify]\nwhere = 'total_reward = 0'")
            daemon.send_signal(signal.SIGHUP)
            until(lambda: scored.events("reloaded"))
            assert scored.events("reloaded")[0]["changed"] == "qualify.where"
            scored.shard("b.jsonl", dialogue("good", 1, "good"), dialogue("bad", 1, "bad"))
            until(lambda: scored.texts() == {"first", "bad"})
        assert scored.status()["accounting"]["below_bar"] == 1

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("text", "named"),
        [
            ("[qualify]\nwhere = 'no_such_column = 0'", "no_such_column"),
            ("[qualify]\nwhere = 5", "qualify.where"),
            ("[oops", "TOML"),
        ],
    )
    def test_a_wrong_configuration_leaves_the_old_one_in_force(self, scored: Place, text: str, named: str) -> None:
        """It is named in the log; the daemon goes on."""
        with self.running(scored) as daemon:
            scored.configure(text)
            daemon.send_signal(signal.SIGHUP)
            until(lambda: scored.events("reload_failed"))
            assert named in scored.events("reload_failed")[0]["cause"]
            scored.shard("b.jsonl", dialogue("good", 1, "second"), dialogue("bad"))
            until(lambda: scored.texts() == {"first", "second"})

    @pytest.mark.slow
    def test_a_key_that_cannot_change_waits_for_a_restart(self, scored: Place) -> None:
        """It is named, and the others are in force."""
        with self.running(scored) as daemon:
            scored.configure("[dedup]\nby = 'none'\n[join]\nrule = 'max'", source='pattern = "*.other"')
            daemon.send_signal(signal.SIGHUP)
            until(lambda: scored.events("reloaded"))
            (event,) = scored.events("reloaded")
            assert event["changed"] == "join.rule"
            assert set(event["refused"].split(", ")) == {"dedup.by", "source.pattern"}
            scored.shard("b.jsonl", dialogue("good", 1, "first"), dialogue("good", 1, "second"))
            until(lambda: scored.texts() == {"first", "second"})
        assert len(scored.records()) == 2

    @pytest.mark.slow
    def test_a_reload_while_the_producer_holds_its_database_ends_nothing(self, scored: Place) -> None:
        """The new condition is in force afterwards, or the log says that it is not."""
        with self.running(scored) as daemon:
            scored.configure("[qualify]\nwhere = 'total_reward = 0'")
            with closing(sqlite3.connect(scored.traces, isolation_level=None)) as producer:
                producer.execute("BEGIN EXCLUSIVE")
                daemon.send_signal(signal.SIGHUP)
                until(lambda: scored.events("trouble") or scored.events("reload_failed") or daemon.poll() is not None)
                producer.execute("COMMIT")
            assert daemon.poll() is None, scored.log.read_text()[-2000:]
            until(lambda: scored.events("reloaded") or scored.events("reload_failed"))
            scored.shard("b.jsonl", dialogue("good", 1, "good"), dialogue("bad", 1, "bad"))
            wanted = {"first", "bad"} if scored.events("reloaded") else {"first", "good"}
            until(lambda: scored.texts() == wanted)


class TestRealOutput:
    """What the real task app wrote, or what is written here in its place."""

    @pytest.fixture(params=["", "repeated"], ids=["rollouts", "repeated run ids"])
    def written(self, request: pytest.FixtureRequest, place: Place) -> Path:
        """Return a folder with ``shards`` and ``traces.db``."""
        folder: Path = REAL / request.param
        if (folder / "traces.db").exists():
            return folder
        made = place.folder / "made"
        self.make(made, repeated=bool(request.param))
        return made

    @staticmethod
    def make(folder: Path, *, repeated: bool) -> None:
        """Write rollouts in the layout of the task app, half with images; or the same run ids twice."""
        (folder / "shards").mkdir(parents=True)
        traces = make_traces(folder / "traces.db")
        for number in range(12):
            run, start = f"eval-{900 + (number % 6 if repeated else number)}", 100 * number
            turns = [
                dialogue(run, turn, f"{run} {number} {turn % 3}", image=number % 2 == 0, seconds=start + turn)
                for turn in range(4)
            ]
            add_outcome(traces, run, number % 3, start + 50)
            (folder / "shards" / f"{run}_2026-01-01_00-{number:02}-00.jsonl").write_bytes(jsonl(*turns))

    @pytest.mark.slow
    def test_each_conversation_of_each_good_rollout_is_there_once(self, place: Place, written: Path) -> None:
        """With its tool calls, its images, and the reward of the rollout that it belongs to."""
        done = place.once("--shards", str(written / "shards"), "--database", str(written / "traces.db"))
        assert done.returncode == 0, done.stderr
        expected = list(self.good(written))
        records = place.records()
        assert records
        assert conversations(records) == sorted({json.dumps(bare(talk), sort_keys=True) for talk, _ in expected})
        for record in records:
            assert (record["messages"], record["metadata"]["total_reward"]) in expected
        assert any(message.get("tool_calls") for record in records for message in record["messages"])
        images = [record for record in records if record["metadata"]["has_image"]]
        assert bool(images) is any("data:image" in json.dumps(talk) for talk, _ in expected)
        assert all("data:image" in json.dumps(record["messages"]) for record in images)
        sums = place.status()["accounting"]
        lines = sum(path.read_bytes().count(b"\n") for path in (written / "shards").iterdir())
        assert (sums["read"], sums["appended"] + sums["duplicate"]) == (lines, len(expected))

    @staticmethod
    def good(folder: Path) -> Iterator[tuple[list[dict[str, Any]], int]]:
        """Yield conversation and reward of each line that belongs to a good rollout, by the rule of the join."""
        with closing(sqlite3.connect(f"file:{folder / 'traces.db'}?mode=ro", uri=True)) as db:
            rows = db.execute("SELECT session_id, created_at, total_reward FROM outcome_rewards ORDER BY id").fetchall()
        for path in sorted((folder / "shards").iterdir()):
            for value in map(json.loads, path.read_bytes().splitlines()):
                when = datetime.fromisoformat(value["timestamp"]).replace(tzinfo=UTC)
                mine = [row for row in rows if row[0] == value["run_id"] and datetime.fromisoformat(row[1]) >= when]
                if mine and mine[0][2] > 0:
                    yield conversation(value), mine[0][2]


@pytest.mark.slow
def test_twenty_deaths_during_a_live_run_lose_nothing_and_double_nothing(scored: Place, tmp_path: Path) -> None:
    """Rules 1 to 3: the same records as of an undisturbed run, and no line that was visible ever changed."""
    scored.configure("[batch]\nrecords = 5\nmilliseconds = 1")
    rollouts = Rollouts(scored, seed=20)
    seen = b""
    for _ in range(20):
        with scored.daemon() as daemon:
            for _ in range(6):
                rollouts.write()
            some = rollouts.random.randrange(6 * rollouts.good - seen.count(b"\n"))
            until(partial(scored.holds, seen.count(b"\n") + some))
            os.kill(daemon.pid, signal.SIGKILL)
            daemon.wait()
        data = scored.dataset.read_bytes()
        assert data.startswith(seen)
        seen = data[: data.rfind(b"\n") + 1]
    assert scored.once().returncode == 0
    assert scored.dataset.read_bytes().startswith(seen)
    other = tmp_path / "undisturbed.jsonl"
    assert scored.once("--dataset", str(other)).returncode == 0
    assert conversations(scored.records()) == conversations(map(json.loads, other.read_bytes().splitlines()))
    assert scored.status()["adopted"] == 0
