"""``streamer doctor``: each thing that is wrong is found, and its remedy named."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import msgspec
import pytest
from typer.testing import CliRunner

from streamer.base.lock import DatasetLock, lock_file
from streamer.commands.cli import _app
from streamer.commands.doctor.checks import DoctorFinding, Level, examine
from streamer.config import From
from streamer.core.verdicts.near.rules import Near
from streamer.core.verdicts.qualify import RecordRules
from streamer.core.verdicts.turns import Turns
from tests.helpers.producer import add_outcome, dialogue, jsonl, make_traces, messages, settings, work_off
from tests.helpers.traces import add_messages, add_reward, decision, make_conversations

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.config import Config


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder in which all is well: a shard of a good rollout, and its outcome."""
    add_outcome(make_traces(tmp_path / "traces.db"), "run", 3, 9)
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "run.jsonl").write_bytes(jsonl(dialogue("run")))
    (tmp_path / "out").mkdir()
    return tmp_path


def found(config: Config, level: Level, **environ: str) -> list[str]:
    """Return the findings of a level, each with its remedy; warnings about a full disk are the machine's."""
    findings = [one for one in examine([config], environ) if one.level is level]
    return [f"{one.what} -> {one.remedy}" for one in findings if "make room" not in one.remedy]


def finding(config: Config, level: Level, **environ: str) -> str:
    """Return the one finding of a level."""
    (one,) = found(config, level, **environ)
    return one


def test_nothing_is_wrong_where_all_is_well(folder: Path) -> None:
    """Each check says what it saw."""
    config = settings(folder)
    assert found(config, Level.PROBLEM) == found(config, Level.WARNING) == []
    seen = "\n".join(found(config, Level.OK))
    assert "holds 1 shard " in seen
    assert "1 outcomes, 1 meet: total_reward > 0" in seen
    assert "1 of 1 sessions of shards have an outcome" in seen
    assert "no daemon holds the dataset" in seen
    assert list((folder / "out").iterdir()) == []


class TestShards:
    """The shard folder, and what is in it."""

    def test_a_folder_that_is_not_there_is_a_problem(self, folder: Path) -> None:
        """The remedy names the variable of the task app."""
        (folder / "shards").rename(folder / "away")
        assert "is not there -> set SFT_OUTPUT_DIR" in finding(settings(folder), Level.PROBLEM)

    def test_files_of_another_name_are_a_problem(self, folder: Path) -> None:
        """The remedy is the pattern."""
        (folder / "shards" / "run.jsonl").rename(folder / "shards" / "run.json")
        assert "none of the 1 files" in finding(settings(folder), Level.PROBLEM)

    def test_an_empty_folder_is_a_warning_or_says_that_tracing_is_off(self, folder: Path) -> None:
        """A rollout may not have ended yet."""
        (folder / "shards" / "run.jsonl").unlink()
        assert "is empty -> if rollouts have ended" in finding(settings(folder), Level.WARNING)
        assert "records nothing" in finding(settings(folder), Level.PROBLEM, TASKAPP_TRACING_ENABLED="off")

    def test_empty_and_unterminated_shards_are_a_warning(self, folder: Path) -> None:
        """Three of them are named."""
        (folder / "shards" / "empty.jsonl").touch()
        (folder / "shards" / "torn.jsonl").write_bytes(jsonl(dialogue("run", 1))[:-1])
        said = finding(settings(folder), Level.WARNING)
        assert "1 shard empty, 1 without a newline at the end (empty.jsonl, torn.jsonl)" in said

    def test_shards_of_other_runs_are_a_problem_if_no_outcome_is_theirs(self, folder: Path) -> None:
        """Some without an outcome are only a warning; a line that is no record is passed over."""
        (folder / "shards" / "other.jsonl").write_bytes(jsonl(dialogue("other")))
        (folder / "shards" / "bad.jsonl").write_bytes(b"nonsense\n")
        assert "1 of 2 sessions" in finding(settings(folder), Level.WARNING)
        (folder / "shards" / "run.jsonl").unlink()
        assert "0 of 1 sessions" in finding(settings(folder), Level.PROBLEM)


class TestDatabase:
    """The trace database."""

    def test_a_database_that_is_not_there_is_a_problem(self, folder: Path) -> None:
        """It is said once, not by every check that would read it."""
        (folder / "traces.db").unlink()
        assert "the trace database" in finding(settings(folder, conversations=From.BOTH), Level.PROBLEM)

    def test_a_database_without_outcomes_is_a_warning(self, folder: Path) -> None:
        """They may still come."""
        with closing(sqlite3.connect(folder / "traces.db")) as db, db:
            db.execute("DELETE FROM outcome_rewards")
        assert "has no outcome rows yet" in found(settings(folder), Level.WARNING)[0]

    def test_a_condition_that_no_outcome_meets_is_a_warning(self, folder: Path) -> None:
        """The remedy is a query that shows the rewards."""
        said = finding(settings(folder, where="total_reward > 3"), Level.WARNING)
        assert "none of the 1 outcomes" in said
        assert "GROUP BY 1" in said

    def test_a_database_without_the_table_is_a_problem_of_two_checks(self, folder: Path) -> None:
        """What cannot be read, and what follows from that."""
        with closing(sqlite3.connect(folder / "traces.db")) as db, db:
            db.execute("DROP TABLE outcome_rewards")
        assert ["cannot" in one for one in found(settings(folder), Level.PROBLEM)] == [True, True]

    @pytest.mark.parametrize(("kind", "level"), [("achievement_delta", Level.OK), ("other", Level.WARNING)])
    def test_a_type_of_event_reward_without_rows_is_a_warning(self, folder: Path, kind: str, level: Level) -> None:
        """With some it is fine."""
        (folder / "traces.db").unlink()
        add_outcome(make_conversations(folder / "traces.db"), "run", 3, 9)
        add_reward(folder / "traces.db", "run", 0, 1.0, seconds=0.5)
        config = settings(folder, records=RecordRules(turns=Turns.REWARDED, reward_type=kind))
        assert any(f"rewards of the type {kind}" in one for one in found(config, level))

    def test_a_database_without_messages_is_a_warning_where_conversations_come_from_it(self, folder: Path) -> None:
        """With shards alone no one needs them."""
        traces = folder / "traces.db"
        traces.unlink()
        add_outcome(make_conversations(traces), "run", 3, 9)
        config = settings(folder, conversations=From.BOTH)
        assert "has no messages to take conversations from" in finding(config, Level.WARNING)
        add_messages(traces, "run", decision(0))
        assert any("holds conversations" in one for one in found(config, Level.OK))


class TestDataset:
    """Dataset and ledger."""

    def test_a_dataset_that_became_shorter_is_a_problem(self, folder: Path) -> None:
        """The remedy is the recovery command."""
        config = settings(folder)
        work_off(config)
        config.dataset.path.write_bytes(b"")
        assert "holds 0 bytes, its ledger has committed" in finding(config, Level.PROBLEM)

    def test_lines_that_no_outcome_can_decide_and_dead_letters_are_warnings(self, folder: Path) -> None:
        """A record that is younger than every outcome of its session, and a line that is no record."""
        (folder / "shards" / "run.jsonl").write_bytes(jsonl(dialogue("run", seconds=99)) + b"nonsense\n")
        config = settings(folder)
        work_off(config)
        late, dead = found(config, Level.WARNING)
        assert "1 waiting lines are younger than every outcome" in late
        assert "1 line could not be taken -> jq -r .reason" in dead

    def test_the_daemon_that_holds_the_dataset_is_named(self, folder: Path) -> None:
        """That is no fault."""
        config = settings(folder)
        with DatasetLock(lock_file(config.dataset.path)):
            assert any("is held by a daemon" in one for one in found(config, Level.OK))

    def test_what_finds_near_duplicates_is_looked_for(self, folder: Path) -> None:
        """Only where the configuration asks for it."""
        config = msgspec.structs.replace(settings(folder), near=Near(threshold=0.8))
        assert any("near-duplicates" in one for one in [*found(config, Level.OK), *found(config, Level.PROBLEM)])
        assert not any("near-duplicates" in one for one in found(settings(folder), Level.OK))


def test_findings_of_several_datasets_name_theirs(folder: Path) -> None:
    """What they have in common is said once."""
    config = settings(folder)
    other = msgspec.structs.replace(
        config, dataset=msgspec.structs.replace(config.dataset, path=config.dataset.path.with_name("other.jsonl"))
    )
    said = [one.what for one in examine([config, other], {})]
    assert sum("no daemon holds" in one for one in said) == 2
    assert sum("the shard folder" in one for one in said) == 1
    assert any(one.startswith("other.jsonl: ") for one in said)


def doctor(*arguments: str) -> tuple[int, str]:
    """Run the command; return exit code and output."""
    done = CliRunner().invoke(_app(["doctor"]), ["doctor", *arguments], catch_exceptions=False)
    return done.exit_code, done.output


def test_a_problem_is_exit_code_1_in_words_and_in_json(folder: Path) -> None:
    """The words have the remedy on a line of its own; control characters of names are escaped."""
    (folder / "shards").rename(folder / "away")
    place = ["--shards", str(folder / "shards\x1b[2J"), "--database", str(folder / "traces.db")]
    code, output = doctor(*place, "--dataset", str(folder / "out" / "good.jsonl"))
    assert code == 1
    assert "\x1b" not in output
    assert "SFT_OUTPUT_DIR" in output
    code, output = doctor(*place, "--dataset", str(folder / "out" / "good.jsonl"), "--json")
    assert code == 1
    findings = msgspec.convert(json.loads(output)["findings"], list[DoctorFinding])
    assert [one.level for one in findings].count(Level.PROBLEM) == 1


def test_a_wrong_configuration_is_the_only_finding(tmp_path: Path) -> None:
    """Nothing else can be looked at."""
    (tmp_path / "config.toml").write_text("[source]\nshard = 'x'\n")
    code, output = doctor("--config", str(tmp_path / "config.toml"))
    assert code == 1
    assert "source.shard" in output


def test_all_is_well_is_exit_code_0(folder: Path) -> None:
    """Lines in the second layout, too."""
    (folder / "shards" / "run.jsonl").write_bytes(jsonl(messages("run")))
    (folder / "config.toml").write_text(
        '[source]\nshards = "shards"\ndatabase = "traces.db"\n[dataset]\npath = "out/good.jsonl"\n'
    )
    code, output = doctor("--config", str(folder / "config.toml"))
    assert code == 0, output
