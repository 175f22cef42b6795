"""Near-duplicates and caps on their way through the whole path: crashes, older ledgers, settings that change."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from streamer.config import Batch
from streamer.core.verdicts.caps import Cap
from streamer.core.verdicts.near.rules import Near, Scope
from streamer.core.verdicts.near.signature import Signer
from streamer.store.parts.files import open_dataset
from streamer.store.parts.parts import RetainRules, RollRules, closed_numbers, part_path
from streamer.store.views.explain import explain
from tests.helpers.crash import HALF_A_WRITE, dies, working_off
from tests.helpers.producer import (
    accounts,
    add_outcome,
    dialogue,
    jsonl,
    make_traces,
    records,
    settings,
    work_off,
)
from tests.helpers.traces import add_session, make_conversations

if TYPE_CHECKING:
    from streamer.config import Config
    from streamer.store.views.explain import Explanation

ROOT = Path(__file__).resolve().parents[2]
BATCH = 5
TAKEN_UP = "recovery: some lines taken up"
NEAR = Near(threshold=0.7, ngram=1, scope=Scope.USER)
CAPS = (Cap("run_id", 3), Cap("metadata.env_seed", 5))
POINTS = ("read", "appended", "synced", "committed", HALF_A_WRITE, TAKEN_UP)
COUNTS = {
    "appended": 10, "duplicate": 17, "below_bar": 13, "waiting": 0, "never_scored": 0, "dead_lettered": 0,
}  # fmt: skip


def text(number: int, change: int = 0) -> str:
    """Return what a user says: of one number all nearly the same, of another one nothing in common."""
    return " ".join(f"w{number}x{word}" for word in range(40)) + f" c{change}"


def prepare(folder: Path) -> Path:
    """Lay out rollouts of two seeds whose turns resemble each other now and then."""
    (folder / "shards").mkdir(parents=True)
    traces = make_traces(folder / "traces.db")
    for run in range(5):
        add_outcome(traces, f"run-{run}", int(run != 4), 9, env_seed=run % 2)
        turns = [dialogue(f"run-{run}", turn, text(8 * run + turn // 3 * 3, turn)) for turn in range(8)]
        if run == 3:
            turns[5] = dialogue("run-3", 5, text(100))
        (folder / "shards" / f"{run}.jsonl").write_bytes(jsonl(*turns))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with input that was not read yet."""
    return prepare(tmp_path / "work")


def curated(folder: Path, batch: int = BATCH) -> Config:
    """Return settings that leave out near-duplicates, and what is beyond two caps."""
    return msgspec.structs.replace(settings(folder, batch=batch), near=NEAR, cap=CAPS)


@pytest.fixture
def config(folder: Path) -> Config:
    """Return the settings by which the folder is worked off in many batches."""
    return curated(folder)


def remembered(config: Config) -> list[list[Any]]:
    """Return what the ledger holds of the dataset for near-duplicates and caps."""
    queries = (
        "SELECT offset, slots, images FROM near_record ORDER BY number",
        "SELECT * FROM cap_count ORDER BY cap, value",
        "SELECT * FROM curation ORDER BY part",
    )
    with closing(sqlite3.connect(config.dataset.ledger)) as db:
        return [db.execute(query).fetchall() for query in queries]


def explained(config: Config, subject: str) -> Explanation:
    """Return what is known of a rollout or line."""
    found = explain(config.dataset.ledger, config.dataset.path, subject)
    assert found is not None
    return found


def all_is_well(config: Config) -> None:
    """See that the rules hold between the records that are there, and that all others have a reason that is true."""
    work_off(config)
    seen = accounts(config)
    assert seen.adopted == 0
    lines = config.dataset.path.read_bytes().splitlines(keepends=True)
    signer = Signer(config.near)
    signatures = [signature for line in lines if (signature := signer.sign(line))]
    assert len(signatures) == len(lines)
    for number, one in enumerate(signatures):
        assert not any(signer.similarity(one, other) for other in signatures[:number])
    assert [sum(row["metadata"]["run_id"] == f"run-{run}" for row in records(config)) for run in range(5)][4] == 0
    left_out = 0
    for run in range(4):
        for reason in explained(config, f"run-{run}").reasons:
            if "nearly equals" in reason.because or "the cap on" in reason.because:
                assert len(reason.details) == reason.lines
                left_out += reason.lines
    assert left_out == seen.counts["duplicate"] + seen.counts["below_bar"] - 8
    at_rest = config.dataset.path.read_bytes(), remembered(config)
    forgotten = msgspec.structs.replace(config, near=Near(), cap=())
    with closing(sqlite3.connect(config.dataset.ledger)) as db, db:
        db.execute("UPDATE curation SET meaning = ''")
    work_off(forgotten)
    work_off(config)
    assert (config.dataset.path.read_bytes(), remembered(config)) == at_rest


class TestPath:
    """A run without mishaps."""

    def test_each_line_has_its_reason_and_all_add_up(self, config: Config) -> None:
        """In every batch size the same dataset."""
        all_is_well(config)
        seen = accounts(config)
        assert seen.counts == COUNTS
        assert seen.reasons["duplicate"] == {"near": 17}
        assert seen.reasons["below_bar"] == {"where": 8, "cap metadata.env_seed": 5}

    @pytest.mark.parametrize("batch", [1, 3, 2000])
    def test_the_size_of_batches_changes_nothing(self, config: Config, tmp_path: Path, batch: int) -> None:
        """In order within a batch as between batches."""
        work_off(config)
        other = curated(prepare(tmp_path / "other"), batch)
        work_off(other)
        assert [row["metadata"] for row in records(other)] == [row["metadata"] for row in records(config)]
        assert accounts(other).reasons == accounts(config).reasons

    def test_of_equal_records_of_two_runs_in_one_batch_each_counts_for_its_own(self, config: Config) -> None:
        """The one that is taken for its run; and if a cap keeps the first one out, the other may come in."""
        cap = (Cap("run_id", 1),)
        shared, other, third = text(300), text(301), text(302)
        (config.source.shards / "equal.jsonl").write_bytes(
            jsonl(
                dialogue("run-0", 0, shared), dialogue("run-1", 0, shared), dialogue("run-0", 1, other),
                dialogue("run-1", 1, other), dialogue("run-1", 2, third),
            )
        )  # fmt: skip
        for run in range(5):
            (config.source.shards / f"{run}.jsonl").unlink()
        work_off(msgspec.structs.replace(config, cap=cap))
        assert [(row["metadata"]["run_id"], row["metadata"]["turn"]) for row in records(config)] == [
            ("run-0", 0), ("run-1", 1),
        ]  # fmt: skip
        assert accounts(config).reasons["below_bar"] == {"cap run_id": 2}

    def test_it_is_told_what_a_near_duplicate_resembles(self, config: Config) -> None:
        """The place in the dataset, the run, the turn, and how alike they are."""
        work_off(config)
        (reason,) = explained(config, "0.jsonl:2").reasons
        assert reason.state == "duplicate"
        assert reason.because.endswith("but the dataset holds a record that it nearly equals")
        (detail,) = reason.details
        assert detail.startswith("line 2 is alike by 0.9")
        assert detail.endswith("to the line at byte 0 of the dataset, from 0.jsonl, run run-0, turn 0")

    def test_it_is_told_which_cap_was_full_and_by_whom(self, config: Config) -> None:
        """With the value and the count."""
        config = msgspec.structs.replace(config, near=Near(), cap=(Cap("metadata.env_seed", 3),))
        work_off(config)
        (reason,) = explained(config, "0.jsonl:4").reasons
        assert reason.state == "below_bar"
        assert reason.because.endswith("but the cap on metadata.env_seed was full")
        (detail,) = reason.details
        assert detail.startswith("line 4 counts as 0, of which 3 of 3 were there, the last one at byte ")
        assert detail.endswith("run run-0, turn 2")

    def test_of_many_lines_the_first_are_told(self, config: Config, folder: Path) -> None:
        """As of duplicates."""
        (folder / "shards" / "long.jsonl").write_bytes(
            jsonl(*(dialogue("run-1", turn, text(500, turn)) for turn in range(50)))
        )
        work_off(msgspec.structs.replace(config, batch=Batch()))
        (reason,) = explained(config, "long.jsonl").reasons
        assert (len(reason.details), reason.details[-1]) == (21, "and 30 more lines")
        (one,) = explained(config, "long.jsonl:45").reasons
        assert one.details[0].startswith("line 45 ")

    def test_what_is_asked_of_the_outcome_stands_in_the_line(self, config: Config) -> None:
        """Unless the record says it itself."""
        config = msgspec.structs.replace(config, cap=(Cap("metadata.env_seed", 99),))
        path = config.source.shards / "own.jsonl"
        own = dialogue("run-1", 9, text(900)) | {"metadata": {"env_seed": "mine", "user_has_image": False}}
        path.write_bytes(jsonl(own))
        work_off(config)
        found = {row["metadata"]["shard"]: row["metadata"]["env_seed"] for row in records(config)}
        assert found == {"0.jsonl": 0, "1.jsonl": 1, "2.jsonl": 0, "3.jsonl": 1, "own.jsonl": "mine"}

    def test_nothing_is_made_and_nothing_is_added_without_the_settings(self, config: Config) -> None:
        """A ledger gets its tables when they are first needed."""
        work_off(msgspec.structs.replace(config, near=Near(), cap=()))
        with closing(sqlite3.connect(config.dataset.ledger)) as db:
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert not tables & {"curation", "near_record", "cap_count", "refused"}
        assert not any("env_seed" in row["metadata"] for row in records(config))

    @pytest.mark.parametrize("hostile", ["not JSON", "[]", '{"env_seed": {"a": {}}}', '{"env_seed": ["' + "x" * 70_000])
    def test_hostile_metadata_of_an_outcome_is_no_value(self, config: Config, hostile: str) -> None:
        """The record is taken without it."""
        with closing(sqlite3.connect(config.source.database)) as db, db:
            db.execute("UPDATE outcome_rewards SET reward_metadata = ?", (hostile,))
        work_off(config)
        assert records(config)
        assert not any("env_seed" in row["metadata"] for row in records(config))

    def test_decisions_of_the_database_are_compared_and_counted_like_lines(self, tmp_path: Path) -> None:
        """And explained without a shard."""
        traces = make_conversations(tmp_path / "traces.db")
        for run in range(3):
            add_session(traces, f"s{run}", [1], turns=4)
        config = settings(tmp_path, batch=BATCH)
        source = msgspec.structs.replace(config.source, conversations="database")
        config = msgspec.structs.replace(
            config, source=source, cap=(Cap("run_id", 2),), near=Near(threshold=0.6, ngram=1, scope=Scope.USER)
        )
        work_off(config)
        assert accounts(config).reasons == {"appended": {"": 6}, "below_bar": {"cap run_id": 6}}
        (told,) = [reason for reason in explained(config, "s1").reasons if reason.state == "below_bar"]
        assert [detail.split(",")[0] for detail in told.details] == [
            f'line {number} counts as "s1"' for number in (3, 4)
        ]


class TestWindow:
    """Of near-duplicates the newest records are kept in mind."""

    @pytest.mark.parametrize("batch", [1, 4, 2000])
    def test_what_is_further_back_is_forgotten(self, folder: Path, batch: int) -> None:
        """In the ledger as well; exact duplicates never are."""
        near = Near(threshold=0.7, ngram=1, scope=Scope.USER, keep=2)
        config = msgspec.structs.replace(settings(folder, batch=batch), near=near)
        turns = [dialogue("run-0", turn, text(1000 + turn % 3, turn)) for turn in range(6)]
        turns += [dialogue("run-0", 6, text(1002, 9)), dialogue("run-0", 7, text(1001, 4))]
        for shard in config.source.shards.iterdir():
            shard.unlink()
        (config.source.shards / "only.jsonl").write_bytes(jsonl(*turns))
        work_off(config)
        assert [row["metadata"]["turn"] for row in records(config)] == [0, 1, 2, 3, 4, 5]
        assert accounts(config).reasons["duplicate"] == {"near": 1, "": 1}
        with closing(sqlite3.connect(config.dataset.ledger)) as db:
            assert db.execute("SELECT number FROM near_record").fetchall() == [(5,), (6,)]
        work_off(msgspec.structs.replace(config, near=msgspec.structs.replace(near, keep=1)))


class TestDeath:
    """SIGKILL, and ledgers that are not what they were."""

    @pytest.mark.parametrize("times", [1, 3])
    @pytest.mark.parametrize("point", POINTS[:-1])
    def test_a_death_anywhere_breaks_no_rule(self, config: Config, point: str, times: int) -> None:
        """Counts and signatures are those of the dataset, and each line has its reason."""
        assert dies(working_off, config, point, times)
        seen = config.dataset.path.read_bytes() if config.dataset.path.exists() else b""
        all_is_well(config)
        assert config.dataset.path.read_bytes().startswith(seen[: seen.rfind(b"\n") + 1])
        assert accounts(config).counts == COUNTS

    @pytest.mark.parametrize("point", ["synced", HALF_A_WRITE])
    def test_a_death_while_the_dataset_is_taken_up_breaks_no_rule(self, config: Config, point: str) -> None:
        """It can be interrupted like everything else."""
        assert dies(working_off, config, point, 3)
        assert dies(working_off, config, TAKEN_UP, 1)
        all_is_well(config)
        assert accounts(config).counts == COUNTS

    def test_every_point_of_the_path_has_its_death(self, config: Config) -> None:
        """A new point needs a new test."""
        points: list[str] = []
        work_off(settings(config.source.shards.parent, batch=BATCH))
        work_off(config, failpoint=points.append)
        work_off(config, failpoint=points.append)
        loaded = "recovery: some signatures loaded"  # it only reads
        assert {*points} - {"recovery: tail mended", "listing", loaded} <= {*POINTS}
        assert {TAKEN_UP, loaded} <= {*points}

    @pytest.mark.parametrize("lost", ["deleted", "older"])
    def test_a_ledger_that_is_lost_or_older_is_brought_up_to_the_dataset(self, config: Config, lost: str) -> None:
        """What was left out is left out again, what is there counts."""
        shard = config.source.shards / "4.jsonl"
        ledger = config.dataset.ledger
        ledger.parent.mkdir()
        shutil.move(config.source.shards / "3.jsonl", ledger.parent / "later.jsonl")
        shard.unlink()
        work_off(config)
        older = ledger.read_bytes()
        shutil.move(ledger.parent / "later.jsonl", config.source.shards / "3.jsonl")
        work_off(config)
        before = config.dataset.path.read_bytes(), remembered(config), accounts(config).reasons
        if lost == "deleted":
            ledger.unlink()
        else:
            ledger.write_bytes(older)
        for left in ledger.parent.glob("*.ledger-*"):
            left.unlink()
        work_off(config)
        assert (config.dataset.path.read_bytes(), remembered(config), accounts(config).reasons) == before

    def test_a_ledger_of_before_is_used_on(self, config: Config) -> None:
        """It has neither the tables nor the column."""
        work_off(msgspec.structs.replace(config, near=Near(), cap=()))
        before = config.dataset.path.read_bytes()
        with closing(sqlite3.connect(config.dataset.ledger)) as db, db:
            db.execute("ALTER TABLE outcome DROP COLUMN metadata")
        (config.source.shards / "new.jsonl").write_bytes(
            jsonl(dialogue("run-1", 9, text(3, 99)), dialogue("run-1", 10, text(999)))
        )
        work_off(config)
        assert config.dataset.path.read_bytes().startswith(before)
        seen = accounts(config)
        assert seen.reasons["duplicate"] == {"near": 1}
        assert seen.reasons["below_bar"] == {"where": 8, "cap run_id": 1}
        assert seen.reasons["appended"] == {"": 32}


class TestParts:
    """A dataset that rolls: what is remembered are places through all of its files."""

    @staticmethod
    def rolling(config: Config, **retain: Any) -> Config:
        """Return settings of a dataset that rolls after three records."""
        return msgspec.structs.replace(config, roll=RollRules(records=3), retain=RetainRules(**retain))

    @staticmethod
    def there(config: Config) -> bytes:
        """Return what all files of the dataset hold, in order."""
        with open_dataset(config.dataset.path) as files:
            return files.read(files.length, 0)

    def test_records_of_all_parts_are_compared_and_counted(self, config: Config, tmp_path: Path) -> None:
        """As if the dataset were one file; explain names the part."""
        whole = curated(prepare(tmp_path / "whole"))
        work_off(whole)
        config = self.rolling(config)
        work_off(config)
        assert len(closed_numbers(config.dataset.path)) == 3
        assert [row["metadata"] for row in records(config)] == [row["metadata"] for row in records(whole)]
        assert accounts(config).reasons == accounts(whole).reasons
        assert remembered(config) == remembered(whole)
        told = [
            detail
            for run in range(4)
            for reason in explained(config, f"run-{run}").reasons
            if reason.reason == "near" or reason.reason.startswith("cap ")
            for detail in reason.details
        ]
        assert len(told) == COUNTS["duplicate"] + COUNTS["below_bar"] - 8
        assert all(", turn " in detail for detail in told)
        assert any("of good-00001.jsonl, from 0.jsonl, run run-0" in detail for detail in told)

    @pytest.mark.parametrize("times", [1, 2])
    @pytest.mark.parametrize("point", ["synced", "part named", "part closed", "committed", TAKEN_UP])
    def test_a_death_while_a_part_is_closed_breaks_no_rule(
        self, config: Config, tmp_path: Path, point: str, times: int
    ) -> None:
        """Lines that the ledger has not heard of are taken up from every file."""
        whole = curated(prepare(tmp_path / "whole"))
        work_off(whole)
        config = self.rolling(config)
        assert dies(working_off, config, "synced" if point == TAKEN_UP else point, times)
        if point == TAKEN_UP:
            assert dies(working_off, config, point, 1)
        seen = self.there(config)
        work_off(config)
        assert self.there(config).startswith(seen[: seen.rfind(b"\n") + 1])
        assert [row["metadata"] for row in records(config)] == [row["metadata"] for row in records(whole)]
        assert accounts(config).counts == COUNTS
        assert remembered(config)[:2] == remembered(whole)[:2]

    def test_a_ledger_that_is_gone_is_made_anew_from_all_parts(self, config: Config) -> None:
        """Signatures, counts and reasons are the same as before."""
        config = self.rolling(config)
        work_off(config)
        before = self.there(config), remembered(config), accounts(config).reasons
        config.dataset.ledger.unlink()
        work_off(config)
        assert (self.there(config), remembered(config), accounts(config).reasons) == before

    @pytest.mark.parametrize("lost", [False, True])
    def test_what_resembles_a_record_of_a_removed_part_is_left_out(self, config: Config, *, lost: bool) -> None:
        """And explained without it; a ledger that is made anew knows what is there, and no more."""
        config = self.rolling(config, records=5)
        work_off(config)
        assert accounts(config).removed_lines == 6
        assert len(remembered(config)[0]) == COUNTS["appended"]
        again = dialogue("run-2", 20, text(0, 99)) | {"metadata": {"env_seed": "other"}}
        if lost:
            config.dataset.ledger.unlink()
            for shard in config.source.shards.iterdir():
                shard.unlink()
        work_off(msgspec.structs.replace(config, cap=()))
        (config.source.shards / "again.jsonl").write_bytes(jsonl(again))
        work_off(msgspec.structs.replace(config, cap=()))
        (reason,) = explained(config, "again.jsonl").reasons
        assert reason.state == ("appended" if lost else "duplicate")
        if not lost:
            assert "in a part that is not kept any more" in reason.details[0]

    def test_where_keys_are_forgotten_what_resembles_them_may_come_in_again(self, config: Config) -> None:
        """An equal record resembles the one that was removed."""
        config = msgspec.structs.replace(self.rolling(config, records=5, forget_keys=True), cap=())
        work_off(config)
        first = config.source.shards / "0.jsonl"
        (config.source.shards / "again.jsonl").write_bytes(first.read_bytes().splitlines(keepends=True)[0])
        removed = accounts(config).removed_lines
        assert removed
        assert len(remembered(config)[0]) == len(records(config))
        work_off(config)
        (reason,) = explained(config, "again.jsonl").reasons
        assert reason.state == "appended"

    def test_a_new_cap_counts_the_parts_that_are_there(self, config: Config) -> None:
        """One that was removed by hand, or by a rule, is passed over and not made anew."""
        config = self.rolling(config)
        work_off(config)
        part_path(config.dataset.path, 2).unlink()
        config = msgspec.structs.replace(config, cap=(Cap("metadata.turn", 3),))
        work_off(config)
        assert not part_path(config.dataset.path, 2).exists()
        _, counts, _ = remembered(config)
        assert sum(count for cap, _, count, _ in counts if cap == "metadata.turn") == COUNTS["appended"] - 3


class TestSettings:
    """What is turned on later counts what is there already."""

    @pytest.mark.parametrize(
        "first",
        [
            {"near": Near(), "cap": ()},
            {"near": Near(threshold=0.9, ngram=1, scope=Scope.USER), "cap": (Cap("run_id", 99),)},
            {"near": Near(threshold=0.7, ngram=3), "cap": (Cap("metadata.env_seed", 99),)},
            {"near": Near(images=3), "cap": (Cap("prompt", 1),)},
        ],
    )
    def test_other_settings_go_on_from_the_dataset_as_it_is(self, config: Config, first: dict[str, Any]) -> None:
        """What is remembered is what the dataset makes it, whatever was remembered before."""
        later = {run: (config.source.shards / f"{run}.jsonl").read_bytes() for run in (1, 2, 3)}
        for run in later:
            (config.source.shards / f"{run}.jsonl").unlink()
        work_off(msgspec.structs.replace(config, **first))
        written = config.dataset.path.read_bytes()
        for run, data in later.items():
            (config.source.shards / f"{run}.jsonl").write_bytes(data)
        work_off(config)
        assert config.dataset.path.read_bytes().startswith(written)
        found = remembered(config)
        with closing(sqlite3.connect(config.dataset.ledger)) as db, db:
            for table in ("curation", "near_record", "cap_count"):
                db.execute(f"DROP TABLE {table}")
        work_off(config)
        near, counts, _ = remembered(config)
        assert near == found[0]
        assert {*counts} <= {*found[1]}
        assert {cap for cap, *_ in counts} == {"run_id", "metadata.env_seed"}

    def test_lines_of_someone_else_resemble_nothing_and_count_for_nothing(self, config: Config) -> None:
        """They are passed over, also when all is taken up."""
        config.dataset.path.parent.mkdir()
        config.dataset.path.write_bytes(b'{"hello": 1}\n[]\nnonsense\n')
        work_off(config)
        offsets = [offset for offset, *_ in remembered(config)[0]]
        assert len(offsets) == 10
        assert min(offsets) > 10
        assert all(one < other for one, other in pairwise(offsets))


def test_a_value_that_is_quoted_cannot_steer_a_terminal(config: Config) -> None:
    """A run id is hostile input."""
    run = "run\x1b[2J"
    add_outcome(Path(config.source.database), run, 1, 9)
    (config.source.shards / "evil.jsonl").write_bytes(
        jsonl(*(dialogue(run, turn, text(2000 + turn)) for turn in range(8)))
    )
    work_off(config)
    told = [detail for reason in explained(config, "evil.jsonl").reasons for detail in reason.details]
    assert len(told) == 5
    assert all(detail.split(",")[0].endswith('counts as "run\\u001b[2J"') for detail in told)
