"""``streamer compact``: which records it removes from closed parts, which stay, and how it survives crashes."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import pytest

from streamer.base.env import Env
from streamer.base.errors import RefusedError, UnavailableError
from streamer.base.events import PartCompacted
from streamer.base.files import Files
from streamer.base.lock import DatasetLock, lock_file
from streamer.commands.compact.run import Compacted, Sum, compact
from streamer.commands.export.lines import Lines
from streamer.commands.verify.inspect import inspect
from streamer.config import Dataset, From
from streamer.core.records.key import DedupBy
from streamer.core.verdicts.caps import Cap
from streamer.core.verdicts.near.rules import Near, Scope
from streamer.core.verdicts.qualify import RecordRules
from streamer.core.verdicts.reasons import NO_REWARD
from streamer.core.verdicts.turns import Turns
from streamer.reader.follow import follow
from streamer.reader.tail import Follower
from streamer.sources.folder import shard_folder
from streamer.store.parts.parts import RetainRules, RollRules, closed_numbers, manifest_path, part_path
from streamer.store.views.explain import explain
from streamer.store.views.snapshot import open_ledger
from streamer.web.records import at as record_at
from streamer.web.records import newest
from tests.helpers.crash import HALF_A_WRITE, compacting, dies
from tests.helpers.producer import (
    FakeClock,
    accounts,
    add_outcome,
    conversations,
    correct_outcome,
    dialogue,
    jsonl,
    make_traces,
    messages,
    records,
    settings,
    work_off,
    written,
)
from tests.helpers.traces import add_reward, add_session, make_conversations
from tests.store.test_parts import described

if TYPE_CHECKING:
    from streamer.base.events import Event
    from streamer.config import Config

ROOT = Path(__file__).resolve().parents[2]
RUNS = {"best": 5, "good": 3, "fair": 1, "gone": 2, "bad": 0}
TURNS = 6

STEPS = ("part rewritten", "manifest written", "compaction committed", "part replaced", "compacted", HALF_A_WRITE)


def prepare(folder: Path) -> Path:
    """Write rollouts, each in two shards, with some duplicate turns."""
    (folder / "shards").mkdir(parents=True)
    traces = make_traces(folder / "traces.db")
    for run, reward in RUNS.items():
        add_outcome(traces, run, reward, 99)
    for part in range(2):
        for run in RUNS:
            turns = range(part * TURNS // 2, (part + 1) * TURNS // 2)
            lines = [dialogue(run, turn, f"{run} {turn}", image=turn == 1, seconds=float(turn)) for turn in turns]
            shared = dialogue(run, 7, f"said by all {part}", seconds=7.0)
            (folder / "shards" / f"{part}-{run}.jsonl").write_bytes(jsonl(*lines, shared) + b"nonsense\n")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with input that no daemon has read."""
    return prepare(tmp_path / "work")


def rolling(folder: Path, size: int = 4, **more: Any) -> Config:
    """Return the settings of a dataset with ``records`` in each part."""
    return msgspec.structs.replace(settings(folder, batch=5), roll=RollRules(records=size), **more)


def withdraw(folder: Path, run: str, reward: int = 0) -> None:
    """Correct the outcome of a rollout."""
    correct_outcome(folder / "traces.db", list(RUNS).index(run) + 1, reward)


def compacted(
    config: Config,
    *,
    files: Files | None = None,
    events: list[Event] | None = None,
    clock: FakeClock | None = None,
    close_live: bool = False,
) -> Compacted:
    """Compact a dataset in this process."""
    told: list[Event] = [] if events is None else events

    async def run() -> Compacted:
        return await compact(
            config, Env(files=files or Files(), clock=clock or FakeClock(), emit=told.append), close_live=close_live
        )

    return anyio.run(run)


def runs(config: Config) -> list[str]:
    """Return the rollouts of all records, in order."""
    return [record["metadata"]["run_id"] for record in records(config)]


def as_if_new(config: Config, folder: Path) -> list[str]:
    """Return the content of a dataset made from the same shards and outcomes by the rules of today."""
    fresh = folder.with_name("fresh")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(folder, fresh, ignore=shutil.ignore_patterns("out"))
    other = settings(fresh)
    source = msgspec.structs.replace(config.source, shards=other.source.shards, database=other.source.database)
    config = msgspec.structs.replace(config, source=source, dataset=other.dataset, roll=RollRules())
    work_off(config)
    return conversations(records(config))


def is_as_if_new(config: Config, folder: Path) -> None:
    """Check that after the next run the dataset equals one made today, and that the counts add up."""
    work_off(config)
    assert conversations(records(config)) == as_if_new(config, folder)
    assert accounts(config).adopted == 0
    described(config)
    assert not list(config.dataset.path.parent.glob("*.compacting"))
    before = written(config.dataset.path)
    work_off(config)
    assert written(config.dataset.path) == before


def executed(config: Config, *options: str, command: str = "compact") -> tuple[int, str, str]:
    """Run the command with the rules of a configuration's flags; return exit code, output and errors."""
    words = [sys.executable, "-m", "streamer", command, "--dataset", str(config.dataset.path), *options]
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("STREAMER_", "SFT_", "TURSO_"))
    }
    done = subprocess.run(words, cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=60)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


class TestExecutable:
    """Run as a command in another process."""

    @pytest.mark.slow
    def test_a_withdrawn_rollout_is_taken_out(self, folder: Path) -> None:
        """The command finds shards and database by itself; status, explain and verify report the change."""
        config = rolling(folder)
        work_off(config)
        before = len(records(config))
        withdraw(folder, "gone")
        code, output, errors = executed(config, "--close-live")
        assert code == 0, errors
        assert " 6 records taken out: " in output
        assert " 6 withdrawn" in output
        assert "gone" not in runs(config)
        assert len(records(config)) == before - 6
        assert accounts(config).reasons["below_bar"]["withdrawn"] == 6
        code, output, _ = executed(config, "gone", command="explain")
        assert code == 0
        assert "its rollout was withdrawn: outcome row 4 (total_reward 0) was corrected" in output
        assert "; taken out of the dataset by `streamer compact` at 20" in output
        words = [sys.executable, "-m", "streamer", "verify", str(config.dataset.path)]
        assert subprocess.run(words, cwd=ROOT, check=False, capture_output=True, timeout=60).returncode == 0
        is_as_if_new(config, folder)

    @pytest.mark.slow
    def test_a_stricter_condition_takes_out_more(self, folder: Path) -> None:
        """The condition is a flag, as for run. A dry run reports the same in JSON."""
        config = rolling(folder)
        work_off(config)
        withdraw(folder, "gone")
        options = ("--where", "total_reward >= 3", "--close-live", "--json")
        before = written(config.dataset.path)
        code, output, _ = executed(config, *options, "--dry-run")
        trial = json.loads(output)
        assert (code, trial["dry_run"], written(config.dataset.path)) == (0, True, before)
        code, output, _ = executed(config, *options)
        done = json.loads(output)
        assert code == 0
        assert {reason: one["records"] for reason, one in done["removed"].items()} == {"where": 6, "withdrawn": 6}
        assert done["removed"] == trial["removed"]
        assert done["parts"] == trial["parts"]
        assert done["left"] == {"records": len(records(config)), "bytes": len(written(config.dataset.path))}
        assert set(runs(config)) == {"best", "good"}
        strict = msgspec.structs.replace(config, qualify=settings(folder, where="total_reward >= 3").qualify)
        is_as_if_new(strict, folder)

    @pytest.mark.slow
    def test_the_live_file_is_left_alone_and_told_of(self, folder: Path) -> None:
        """A dataset without closed parts has only a live file: the command names --close-live."""
        config = settings(folder)
        work_off(config)
        withdraw(folder, "gone")
        before = written(config.dataset.path)
        code, output, _ = executed(config)
        assert code == 0
        assert " 0 records taken out" in output
        assert "6 more would go from the live file (6 withdrawn): --close-live closes it first" in output
        assert written(config.dataset.path) == before
        code, output, _ = executed(config, "--close-live")
        assert " 6 records taken out" in output
        assert closed_numbers(config.dataset.path) == [1]
        is_as_if_new(config, folder)

    @pytest.mark.slow
    def test_a_running_daemon_is_not_disturbed(self, folder: Path) -> None:
        """The command ends with the exit code of a locked dataset, and changes nothing."""
        config = rolling(folder)
        work_off(config)
        with DatasetLock(lock_file(config.dataset.path)):
            code, _, errors = executed(config)
        assert code == 4
        assert "what to do" in errors

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("change", "code", "text"),
        [
            ("dataset", 2, "there is no such file"),
            ("where", 2, "no such column"),
            ("database", 3, "there is no such file"),
        ],
    )
    def test_what_is_wrong_is_said(self, folder: Path, change: str, code: int, text: str) -> None:
        """Each error has its exit code, and no file is made or changed."""
        config = rolling(folder)
        if change != "dataset":
            work_off(config)
        if change == "database":
            (folder / "traces.db").unlink()
        options = ["--where", "nonsense > 0"] if change == "where" else []
        options += ["--shards", str(folder / "shards"), "--database", str(folder / "traces.db")]
        found, _, errors = executed(config, *options)
        assert found == code
        assert text in errors
        assert config.dataset.path.exists() is (change != "dataset")

    @pytest.mark.slow
    def test_a_hostile_run_id_is_only_a_name(self, tmp_path: Path) -> None:
        """A run id of the producer is neither run as SQL nor used as a path, and is escaped on a terminal."""
        (tmp_path / "shards").mkdir()
        traces = make_traces(tmp_path / "traces.db")
        names = ["'; DROP TABLE record; --", "../../etc/passwd", "\x1b[31mred\u2028", "%", "a' OR '1'='1"]
        for name in names:
            add_outcome(traces, name, 1, 9)
        add_outcome(traces, "plain", 1, 9)
        lines = [messages(name, turn, f"{turn} {name}") for turn in range(3) for name in [*names, "plain"]]
        (tmp_path / "shards" / "a.jsonl").write_bytes(jsonl(*lines))
        config = rolling(tmp_path)
        work_off(config)
        for number in range(1, len(names) + 1):
            correct_outcome(traces, number, 0)
        code, output, errors = executed(config, "--close-live")
        assert code == 0, errors
        assert "\x1b" not in output + errors
        assert runs(config) == ["plain"] * 3
        is_as_if_new(config, tmp_path)


class TestWhatGoes:
    """Which records are removed, and which stay."""

    def test_nothing_goes_where_nothing_changed(self, folder: Path) -> None:
        """No byte of any file of the dataset changes."""
        config = rolling(folder)
        work_off(config)
        before = {path: path.read_bytes() for path in config.dataset.path.parent.glob("good*.jsonl*json*")}
        done = compacted(config)
        assert (done.removed, done.live, done.unjudged, done.parts) == ({}, {}, {}, 0)
        assert {path: path.read_bytes() for path in before} == before

    @pytest.mark.parametrize(
        ("rules", "reason", "gone"),
        [
            (RecordRules(min_turn=2), "turn", 2),
            (RecordRules(max_turn=3), "turn", 2),
            (RecordRules(models=("another",)), "models", 6),
            (RecordRules(images="without"), "images", 1),  # type: ignore[arg-type]
        ],
    )
    def test_a_stricter_rule_for_records_takes_out_some_of_a_rollout(
        self, folder: Path, rules: RecordRules, reason: str, gone: int
    ) -> None:
        """The shard is read to find the removed lines; the other lines stay accepted, and explain shows each."""
        config = rolling(folder)
        work_off(config)
        config = msgspec.structs.replace(config, records=rules)
        done = compacted(config, close_live=True)
        assert done.removed[reason].records >= 4 * gone
        assert accounts(config).reasons["below_bar"][reason] == done.removed[reason].records
        is_as_if_new(config, folder)
        for shard in sorted((folder / "shards").iterdir()):
            for number in range(1, 5):
                one = explain(config.dataset.ledger, config.dataset.path, f"{shard.name}:{number}")
                assert one is not None
                (why,) = one.reasons
                assert (why.state == "appended") is any("is the line at" in detail for detail in why.details)

    def test_event_rewards_that_are_asked_for_later_count(self, folder: Path) -> None:
        """A turn without a reward is removed; a rollout whose rewards were not read stays."""
        traces = folder / "traces.db"
        traces.unlink()
        make_conversations(traces)
        for run, reward in RUNS.items():
            add_outcome(traces, run, reward, 99)
            add_reward(traces, run, 2, 1, recorded=50.0)
        config = rolling(folder)
        work_off(config)
        config = msgspec.structs.replace(config, records=RecordRules(turns=Turns.REWARDED))
        done = compacted(config, close_live=True)
        assert done.removed[NO_REWARD].records == 4 * (TURNS - 1) + 2
        assert [record["metadata"]["turn"] for record in records(config)] == [2] * 4
        is_as_if_new(config, folder)

    def test_what_a_rollout_that_went_had_kept_out_comes_in(self, folder: Path) -> None:
        """The next run judges every duplicate again."""
        config = rolling(folder)
        work_off(config)
        shared = [record for record in records(config) if "said by all" in json.dumps(record)]
        first = shared[0]["metadata"]["run_id"]
        withdraw(folder, first)
        compacted(config, close_live=True)
        assert sum("said by all" in json.dumps(record) for record in records(config)) == 0
        is_as_if_new(config, folder)
        shared = [record for record in records(config) if "said by all" in json.dumps(record)]
        assert len(shared) == 2
        assert first not in {record["metadata"]["run_id"] for record in shared}

    def test_a_rollout_comes_back_when_its_outcome_is_corrected_upwards(self, folder: Path) -> None:
        """Its lines are judged again as other rejected lines are."""
        config = rolling(folder)
        work_off(config)
        withdraw(folder, "gone")
        compacted(config, close_live=True)
        withdraw(folder, "gone", reward=2)
        is_as_if_new(config, folder)
        assert runs(config).count("gone") == TURNS

    def test_of_two_rollouts_of_one_session_only_the_withdrawn_one_goes(self, tmp_path: Path) -> None:
        """A record belongs to the first outcome after it, so the other rollout's records stay."""
        (tmp_path / "shards").mkdir()
        traces = make_traces(tmp_path / "traces.db")
        first, _ = add_outcome(traces, "run", 1, 10), add_outcome(traces, "run", 1, 20)
        lines = [dialogue("run", turn, f"text {turn}", seconds=float(turn)) for turn in range(20)]
        (tmp_path / "shards" / "a.jsonl").write_bytes(jsonl(*lines))
        config = rolling(tmp_path)
        work_off(config)
        correct_outcome(traces, first, 0)
        compacted(config, close_live=True)
        assert [record["metadata"]["turn"] for record in records(config)] == list(range(11, 20))
        is_as_if_new(config, tmp_path)

    def test_whole_rollouts_go_without_their_shards(self, folder: Path) -> None:
        """The lines of the dataset are enough to remove a whole rollout."""
        config = rolling(folder)
        work_off(config)
        withdraw(folder, "gone")
        shutil.rmtree(folder / "shards")
        (folder / "shards").mkdir()
        done = compacted(config, close_live=True)
        assert done.removed["withdrawn"].records == TURNS
        assert "gone" not in runs(config)
        assert accounts(config).reasons["below_bar"]["withdrawn"] == TURNS

    def test_some_records_of_a_rollout_stay_without_their_shard(self, folder: Path) -> None:
        """Without the shard the lines of the removed records are unknown, and the counts would be wrong."""
        config = rolling(folder)
        work_off(config)
        before = written(config.dataset.path)
        (folder / "shards" / "0-best.jsonl").unlink()
        config = msgspec.structs.replace(config, records=RecordRules(max_turn=3))
        done = compacted(config, close_live=True)
        assert "best" in runs(config)
        assert done.unjudged["shard of their other lines cannot be read"] >= 2
        assert done.removed["turn"].records > 0
        assert len(written(config.dataset.path)) == len(before) - done.removed["turn"].bytes
        accounts(config)

    def test_what_is_in_the_live_file_stays_until_that_is_closed(self, folder: Path) -> None:
        """A rollout with records in parts and in the live file loses those in parts, which its shards identify."""
        config = rolling(folder, 17)
        work_off(config)
        run = next(run for run in RUNS if run in runs(config)[:17] and run in runs(config)[17:])
        withdraw(folder, run)
        live = runs(config)[17:].count(run)
        done = compacted(config)
        assert done.live == {"withdrawn": Sum(live, done.live["withdrawn"].bytes)}
        assert runs(config).count(run) == live
        assert accounts(config).withdrawn_rollouts == 1
        compacted(config, close_live=True)
        assert run not in runs(config)
        assert accounts(config).withdrawn_rollouts == 0
        is_as_if_new(config, folder)

    def test_what_cannot_be_judged_stays(self, folder: Path) -> None:
        """The new condition was never tested on a row that is no longer in the database."""
        config = rolling(folder)
        work_off(config)
        with closing(sqlite3.connect(folder / "traces.db")) as db, db:
            db.execute("DELETE FROM outcome_rewards WHERE session_id = 'fair'")
        strict = msgspec.structs.replace(config, qualify=settings(folder, where="total_reward >= 5").qualify)
        done = compacted(strict, close_live=True)
        assert done.unjudged == {"outcome not read under the present condition": runs(config).count("fair")}
        assert set(runs(config)) == {"best", "fair"}
        accounts(config)

    def test_lines_that_are_not_ours_stay(self, folder: Path) -> None:
        """A daemon adopted them without judging them."""
        config = rolling(folder)
        work_off(config)
        with config.dataset.path.open("ab") as live:
            live.write(b'{"mine": 1}\n')
        withdraw(folder, "gone")
        done = compacted(config, close_live=True)
        assert done.unjudged == {"no record of streamer": 1}
        assert b'{"mine": 1}\n' in written(config.dataset.path)
        assert "gone" not in runs_of(written(config.dataset.path))

    def test_decisions_from_the_trace_database_go_as_well(self, tmp_path: Path) -> None:
        """If only some records of a session are removed, the session is read again."""
        traces = make_conversations(tmp_path / "traces.db")
        (tmp_path / "shards").mkdir()
        for session in ("one", "two"):
            add_session(traces, session, rewards=[1], turns=6)
        config = rolling(tmp_path, source=settings(tmp_path, conversations=From.DATABASE).source)
        work_off(config)
        assert len(records(config)) == 12
        correct_outcome(traces, 1, 0)
        config = msgspec.structs.replace(config, records=RecordRules(max_turn=3))
        done = compacted(config, close_live=True)
        assert {reason: one.records for reason, one in done.removed.items()} == {"withdrawn": 6, "turn": 2}
        assert [record["metadata"]["turn"] for record in records(config)] == [0, 1, 2, 3]
        is_as_if_new(config, tmp_path)


def runs_of(data: bytes) -> list[str]:
    """Return the rollouts of the lines that streamer wrote."""
    values = [json.loads(line) for line in data.splitlines()]
    return [value["metadata"]["run_id"] for value in values if "metadata" in value]


class TestDeath:
    """SIGKILL at every named point, and a disk without room."""

    @pytest.mark.parametrize("times", [1, 2])
    @pytest.mark.parametrize("point", STEPS)
    def test_a_death_anywhere_loses_nothing_and_doubles_nothing(self, folder: Path, point: str, times: int) -> None:
        """The next start of the daemon finishes or undoes the compaction, which can then be repeated."""
        config = rolling(folder)
        work_off(config)
        withdraw(folder, "gone")
        withdraw(folder, "fair")
        before = written(config.dataset.path)
        died = dies(compacting, config, point, times)
        assert died or times == 2
        is_cut_short(written(config.dataset.path), before)
        work_off(config)
        accounts(config)
        described(config)
        compacted(config, close_live=True)
        assert not {"gone", "fair"} & {*runs(config)}
        is_as_if_new(config, folder)

    @pytest.mark.slow
    @pytest.mark.parametrize("again", STEPS[:-1])
    @pytest.mark.parametrize("point", ["part rewritten", "compaction committed", "part replaced"])
    def test_a_death_while_compacting_after_a_death(self, folder: Path, point: str, again: str) -> None:
        """The command itself recovers, as the daemon does."""
        config = rolling(folder)
        work_off(config)
        withdraw(folder, "gone")
        before = written(config.dataset.path)
        assert dies(compacting, config, point, 1)
        dies(compacting, config, again, 1)
        is_cut_short(written(config.dataset.path), before)
        compacted(config, close_live=True)
        assert "gone" not in runs(config)
        is_as_if_new(config, folder)

    def test_every_point_has_its_death(self, folder: Path) -> None:
        """Each failpoint of a compaction is among the tested ones."""
        config, points = rolling(folder), list[str]()
        work_off(config)
        withdraw(folder, "gone")

        async def run() -> None:
            await compact(config, Env(clock=FakeClock(), failpoint=points.append), close_live=True)

        anyio.run(run)
        roll = {"recovery: tail mended", "part named", "part closed"}
        assert {*points} == {*STEPS, *roll} - {HALF_A_WRITE}

    @pytest.mark.parametrize("call", ["open", "write", "fdatasync", "fsync", "rename"])
    def test_a_disk_without_room_leaves_everything_as_it_was(self, folder: Path, call: str) -> None:
        """The error names the cause, and the command succeeds when there is room again."""
        config = rolling(folder)
        work_off(config)
        withdraw(folder, "gone")
        before = written(config.dataset.path)
        full = Full(call)
        with pytest.raises(UnavailableError, match="No space left on device"):
            compacted(config, files=full)
        assert full.failed
        is_cut_short(written(config.dataset.path), before)
        if call != "rename":
            assert written(config.dataset.path) == before
            assert not list(config.dataset.path.parent.glob("*.compacting"))
        work_off(config)
        accounts(config)
        described(config)
        compacted(config, close_live=True)
        assert "gone" not in runs(config)
        is_as_if_new(config, folder)

    def test_a_part_that_is_not_what_was_closed_is_not_rewritten(self, folder: Path) -> None:
        """A rewrite would give the changed part a new checksum, and hide the change."""
        config = rolling(folder)
        work_off(config)
        part = part_path(config.dataset.path, 1)
        data = bytearray(part.read_bytes())
        data[data.index(b"playing")] ^= 1
        part.write_bytes(data)
        withdraw(folder, "gone")
        for run in RUNS:
            withdraw(folder, run)
        with pytest.raises(RefusedError, match="not those that it was closed with"):
            compacted(config)
        assert part.read_bytes() == data

    def test_what_lies_beside_a_part_and_is_no_part_is_removed(self, folder: Path) -> None:
        """The next start removes the files of an interrupted compaction, and no other files."""
        config = rolling(folder)
        work_off(config)
        left = config.dataset.path.with_name("good-00001.jsonl.compacting")
        left.write_bytes(b"".join(part_path(config.dataset.path, 1).read_bytes().splitlines(keepends=True)[1:]))
        mine = config.dataset.path.with_name("mine.jsonl.compacting")
        mine.write_bytes(b"mine")
        before = written(config.dataset.path)
        work_off(config)
        assert written(config.dataset.path) == before
        assert not left.exists()
        assert mine.read_bytes() == b"mine"


class Full(Files):
    """A disk on which one call fails for the new file of a part."""

    def __init__(self, call: str) -> None:
        self.failed = False
        self._call = call
        self._fds: set[int] = set()
        self._begun = False

    def _fails(self, call: str, ours: bool) -> None:  # noqa: FBT001 - a fact
        if ours and call == self._call:
            self.failed = True
            raise OSError(28, "No space left on device")

    def open(self, path: str | os.PathLike[str], flags: int) -> int:
        """Open, or fail."""
        ours = os.fspath(path).endswith(".compacting")
        self._fails("open", ours)
        fd = super().open(path, flags)
        self._fds.discard(fd)
        if ours:
            self._begun = True
            self._fds.add(fd)
        return fd

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """Write, or fail after half of it."""
        if fd in self._fds and self._call == "write":
            super().write(fd, data[: len(data) // 2])
        self._fails("write", fd in self._fds)
        return super().write(fd, data)

    def fdatasync(self, fd: int) -> None:
        """Sync, or fail."""
        self._fails("fdatasync", fd in self._fds)
        super().fdatasync(fd)

    def fsync(self, fd: int) -> None:
        """Sync a folder, or fail."""
        self._fails("fsync", self._begun)
        super().fsync(fd)

    def rename(self, old: str | os.PathLike[str], new: str | os.PathLike[str]) -> None:
        """Rename, or fail."""
        self._fails("rename", os.fspath(old).endswith(".compacting"))
        super().rename(old, new)


def is_cut_short(now: bytes, before: bytes) -> None:
    """Check that the remaining lines keep their order, and that only retracted records were removed."""
    lines = iter(before.splitlines(keepends=True))
    gone: list[bytes] = []
    for line in now.splitlines(keepends=True):
        for other in lines:
            if other == line:
                break
            gone.append(other)
        else:
            pytest.fail("a line is there that was not there before, or in another place")
    assert {*runs_of(b"".join([*gone, *lines]))} <= {"gone", "fair"}


def test_what_is_to_take_the_place_of_a_part_is_no_shard(folder: Path) -> None:
    """The source ignores new files of parts, even if the dataset is in the shard folder and each name matches."""
    dataset = Dataset(folder / "shards" / "good.jsonl", folder / "shards" / "good.jsonl.ledger")
    config = rolling(folder, dataset=dataset)
    work_off(config)
    assert manifest_path(dataset.path).exists()
    dataset.path.with_name("good-00001.jsonl.compacting").touch()
    dataset.path.with_name("mine.jsonl.compacting").touch()
    config = msgspec.structs.replace(config, source=msgspec.structs.replace(config.source, pattern="*.compacting"))
    assert [found.path for found in shard_folder(config).scan()] == ["mine.jsonl.compacting"]


class TestReaders:
    """Open readers and tokens survive a compaction."""

    def test_a_token_is_good_after_any_number_of_compactions(self, folder: Path) -> None:
        """A token of any record and any state of the dataset continues after that record, without repetition."""
        config = rolling(folder)
        work_off(config)
        states: list[list[tuple[str, bytes]]] = []
        for run in ("gone", "good", "fair"):
            states.append([(record.token, record.line) for record in follow(config.dataset.path, wait=False)])
            withdraw(folder, run)
            compacted(config, close_live=True)
        states.append([(record.token, record.line) for record in follow(config.dataset.path, wait=False)])
        left = {line for _, line in states[-1]}
        assert len(left) == len(states[-1]) < len(states[0])
        for state in states:
            for number, (token, _) in enumerate(state, 1):
                rest = [record.line for record in follow(config.dataset.path, start=token, wait=False)]
                assert rest == [line for _, line in state[number:] if line in left]

    def test_a_token_is_good_at_every_point_of_a_compaction(self, folder: Path) -> None:
        """It holds between the writes of the ledger, the manifest and the names, too."""
        config = rolling(folder)
        work_off(config)
        told = [(record.token, record.line) for record in follow(config.dataset.path, wait=False)]
        withdraw(folder, "gone")
        looks = 0

        def look(point: str) -> None:
            nonlocal looks
            if point in STEPS:
                looks += 1
                for number, (token, _) in enumerate(told, 1):
                    rest = [record.line for record in follow(config.dataset.path, start=token, wait=False)]
                    stays = [line for _, line in told[number:] if '"gone"' not in line.decode()]
                    assert [line for line in rest if b'"gone"' not in line] == stays

        async def run() -> None:
            await compact(config, Env(clock=FakeClock(), failpoint=look), close_live=True)

        anyio.run(run)
        assert looks > 4

    def test_a_token_of_another_dataset_is_refused_all_the_same(self, folder: Path) -> None:
        """The stored cuts accept only tokens that were valid before."""
        config = rolling(folder)
        work_off(config)
        token = next(follow(config.dataset.path)).token
        for run in RUNS:
            withdraw(folder, run)
        compacted(config, close_live=True)
        assert written(config.dataset.path) == b""
        reader = follow(config.dataset.path, start=token, wait=False)
        assert list(reader) == []
        assert reader.token == token
        foreign = token[:-32] + "0" * 32
        with pytest.raises(RefusedError, match="of another dataset"):
            follow(config.dataset.path, start=foreign)

    def test_a_token_of_the_end_is_one_of_the_end_where_the_live_file_is_empty(self, folder: Path) -> None:
        """After --close-live with an empty last part, the reader gets each later record once."""
        config = rolling(folder)
        work_off(config)
        withdraw(folder, runs(config)[-1])
        compacted(config, close_live=True)
        assert config.dataset.path.read_bytes() == b""
        with follow(config.dataset.path, start="end", wait=False) as reader:
            token = reader.token
            assert list(reader) == []
        before = written(config.dataset.path)
        (folder / "shards" / "new.jsonl").write_bytes(jsonl(dialogue("best", 50, "new", seconds=50.0)))
        work_off(config)
        new = [record.line for record in follow(config.dataset.path, start=token, wait=False)]
        assert b'"turn":50' in new[-1]
        assert before + b"".join(new) == written(config.dataset.path)

    def test_a_reader_in_the_middle_of_a_part_reads_it_as_it_was(self, folder: Path) -> None:
        """It continues with the next part in its new state."""
        config = rolling(folder)
        work_off(config)
        before = written(config.dataset.path)
        withdraw(folder, "gone")
        with Follower(config.dataset.path, part=2) as follower:
            (first, *_) = follower.read()
            old = part_path(config.dataset.path, 2).read_bytes()
            follower.offset = first.offset + len(first.data)
            compacted(config, close_live=True)
            told = first.data
            while lines := follower.read():
                told += b"".join(line.data for line in lines)
        assert told.startswith(old)
        later = b"".join(
            part_path(config.dataset.path, n).read_bytes() for n in closed_numbers(config.dataset.path)[2:]
        )
        assert told == old + later
        assert b'"gone"' in before

    def test_the_page_finds_every_record_at_its_place(self, folder: Path) -> None:
        """Log offsets stay valid; an open page continues behind the removed records."""
        config = rolling(folder)
        work_off(config)
        shown = newest(config.dataset, None, 100).records
        withdraw(folder, "gone")
        compacted(config, close_live=True)
        now = newest(config.dataset, None, 100).records
        stays = [one for one in shown if getattr(one, "session", None) != "gone"]
        assert [one.offset for one in now] == [one.offset for one in stays]
        for one in stays:
            assert record_at(config.dataset, one.offset or 0).session == getattr(one, "session", None)
        for number, one in enumerate(shown):
            page = newest(config.dataset, one.offset, 100)
            rest = [other.offset for other in shown[number + 1 :] if other in stays]
            assert [other.offset for other in page.records] == rest

    def test_export_explain_and_verify_read_what_is_left(self, folder: Path) -> None:
        """They read up to the committed length; explain names the file offset after the compaction."""
        config = rolling(folder)
        work_off(config)
        withdraw(folder, "gone")
        compacted(config)
        with config.dataset.path.open("ab") as live:
            live.write(b"{}\n")  # a batch that is under way
        with Lines(config.dataset.path, config.dataset.ledger) as lines:
            assert b"".join(line.data or b"" for line in lines) == written(config.dataset.path)[:-3]
        assert {found.line for found in inspect(config.dataset.path).problems.first} == {len(records(config))}
        found = explain(config.dataset.ledger, config.dataset.path, "1-good.jsonl:1")
        assert found is not None
        assert "run good, turn 3" in found.reasons[0].details[0]
        work_off(config)


class TestLedger:
    """Other data about records: keys, near-duplicates, caps, history, events."""

    def test_a_ledger_that_is_gone_is_made_anew(self, folder: Path) -> None:
        """The new ledger has the remaining records; no removed record returns."""
        config = rolling(folder)
        work_off(config)
        withdraw(folder, "gone")
        compacted(config, close_live=True)
        before = written(config.dataset.path)
        config.dataset.ledger.unlink()
        work_off(config)
        assert written(config.dataset.path).startswith(before)
        is_as_if_new(config, folder)

    @pytest.mark.parametrize("by", [DedupBy.NONE, DedupBy.PROMPT])
    def test_keys_of_another_meaning_are_computed_from_what_is_left(self, folder: Path, by: DedupBy) -> None:
        """Each key gets the log offset of its record, which the next compaction needs."""
        config = rolling(folder)
        work_off(config)
        withdraw(folder, "gone")
        compacted(config, close_live=True)
        with open_ledger(config.dataset.ledger) as db:
            assert db is not None
            places = db.execute("SELECT offset FROM record ORDER BY 1").fetchall()
        config = msgspec.structs.replace(config, dedup=msgspec.structs.replace(config.dedup, by=by))
        before = written(config.dataset.path)
        work_off(config)
        assert written(config.dataset.path).startswith(before)
        with open_ledger(config.dataset.ledger) as db:
            assert db is not None
            assert db.execute("SELECT offset FROM record ORDER BY 1").fetchall()[: len(places)] == places
        withdraw(folder, "good")
        compacted(config, close_live=True)
        assert not {"gone", "good"} & {*runs(config)}
        work_off(config)
        accounts(config)

    def test_near_duplicates_and_caps_forget_what_went(self, folder: Path) -> None:
        """The next run accepts records that a removed one had kept out."""
        near = Near(threshold=0.6, ngram=1, scope=Scope.USER)
        config = rolling(folder, near=near, cap=(Cap("metadata.model", 5), Cap("run_id", 3)))
        work_off(config)
        first = runs(config)
        assert len(first) == 5
        withdraw(folder, first[0])
        done = compacted(config, close_live=True)
        taken = done.removed["withdrawn"].records
        assert taken == first.count(first[0])
        with open_ledger(config.dataset.ledger) as db:
            assert db is not None
            counts = dict(db.execute("SELECT cap, sum(records) FROM cap_count GROUP BY cap"))
            (signed,) = db.execute("SELECT count(*) FROM near_record").fetchone()
        assert counts == {"metadata.model": 5 - taken, "run_id": 5 - taken}
        assert signed == 5 - taken
        work_off(config)
        assert len(records(config)) == 5
        assert first[0] not in runs(config)
        assert max(runs(config).count(run) for run in runs(config)) <= 3
        accounts(config)
        explained = explain(config.dataset.ledger, config.dataset.path, first[0])
        assert explained is not None
        assert explained.reasons

    def test_parts_that_are_not_kept_any_more_change_nothing(self, folder: Path) -> None:
        """Records of dropped parts stay accepted, because a trainer has read them."""
        config = rolling(folder, retain=RetainRules(records=9))
        work_off(config)
        removed = accounts(config).removed_lines
        run = runs(config)[0]
        withdraw(folder, run)
        done = compacted(config, close_live=True)
        assert done.removed["withdrawn"].records > 0
        assert run not in runs(config)
        assert accounts(config).removed_lines >= removed
        work_off(config)
        accounts(config)
        described(config)

    def test_an_emptied_part_is_listed_and_goes_with_the_oldest(self, folder: Path) -> None:
        """A token that ends in the empty part stays valid, and no part number is reused."""
        config = rolling(folder)
        work_off(config)
        for run in RUNS:
            withdraw(folder, run)
        compacted(config, close_live=True)
        parts = described(config)
        assert [part["records"] for part in parts] == [0] * len(parts)
        withdraw(folder, "best", reward=1)
        work_off(config)
        assert {*runs(config)} == {"best"}
        assert described(config)[-1]["number"] == len(parts) + 1
        work_off(msgspec.structs.replace(config, retain=RetainRules(records=4)))
        assert described(config) == []
        assert runs(config) == ["best"] * 4
        assert json.loads(manifest_path(config.dataset.path).read_bytes())["next"] == len(parts) + 2
        accounts(config)

    def test_history_is_true_before_and_after(self, folder: Path) -> None:
        """The last point of the history has the present counts."""
        config, clock = rolling(folder), FakeClock()
        work_off(config, clock)
        withdraw(folder, "gone")
        clock.advance(60)
        compacted(config, clock=clock, close_live=True)
        with open_ledger(config.dataset.ledger) as db:
            assert db is not None
            counts = [row[0] for row in db.execute("SELECT records FROM history WHERE step = 2 ORDER BY at")]
        assert counts[-1] == len(records(config))
        assert max(counts) == len(records(config)) + TURNS

    def test_each_part_is_told(self, folder: Path) -> None:
        """The event has the name of the part, and the numbers of removed and remaining records."""
        config = rolling(folder)
        work_off(config)
        withdraw(folder, "gone")
        events: list[Event] = []
        done = compacted(config, events=events, close_live=True)
        told = [event for event in events if isinstance(event, PartCompacted)]
        assert len(told) == done.parts
        assert sum(event.removed for event in told) == TURNS
        assert "taken out of good-0000" in told[0].message()

    def test_the_manifest_says_what_was_taken_out(self, folder: Path) -> None:
        """The manifest has the removed ranges as offsets of the old file."""
        config = rolling(folder)
        work_off(config)
        old = {
            part["path"]: config.dataset.path.with_name(str(part["path"])).read_bytes() for part in described(config)
        }
        withdraw(folder, "gone")
        compacted(config)
        listed = json.loads(manifest_path(config.dataset.path).read_bytes())["parts"]
        assert any("cuts" in part for part in listed)
        for part in listed:
            data = old[part["path"]]
            for start, stop in reversed([each for cut in part.get("cuts", ()) for each in cut["removed"]]):
                assert {*runs_of(data[start:stop])} == {"gone"}
                data = data[:start] + data[stop:]
            assert config.dataset.path.with_name(part["path"]).read_bytes() == data
