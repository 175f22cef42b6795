"""A dataset that rolls: when parts are closed and removed, what they are called, what survives a crash in between."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import msgspec
import pytest

from streamer.base.env import Env
from streamer.base.errors import RefusedError, UnavailableError
from streamer.base.events import PartClosed, PartRemoved, PartsMissing
from streamer.base.files import Files
from streamer.commands.doctor.checks import Level, examine
from streamer.commands.export.lines import Lines
from streamer.commands.verify.inspect import inspect
from streamer.core.records.key import DedupBy
from streamer.daemon.build import open_pipeline
from streamer.reader.follow import follow
from streamer.reader.tail import Follower
from streamer.store.parts.files import open_dataset
from streamer.store.parts.parts import (
    Part,
    RetainRules,
    RollRules,
    closed_numbers,
    expired,
    manifest_path,
    part_path,
)
from streamer.store.views.explain import explain
from tests.helpers.crash import dies, working_off
from tests.helpers.producer import (
    FakeClock,
    accounts,
    add_outcome,
    jsonl,
    make_traces,
    messages,
    records,
    settings,
    settle,
    work_off,
    written,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from streamer.config import Config

ROOT = Path(__file__).resolve().parents[2]
LINES = 20
BATCH = 7
"""Lines in one batch, so that parts end within batches and between them."""

STEPS = ("appended", "synced", "part named", "part closed", "committed", "manifest written")


def prepare(folder: Path) -> Path:
    """Lay out twenty records of one good rollout."""
    (folder / "shards").mkdir(parents=True)
    add_outcome(make_traces(folder / "traces.db"), "good", 3, 9)
    write_shard(folder, 1, range(LINES))
    return folder


def write_shard(folder: Path, number: int, turns: Iterable[int]) -> None:
    """Write a shard with records of the good rollout."""
    lines = jsonl(*[messages("good", turn, f"text {turn}") for turn in turns])
    (folder / "shards" / f"{number}.jsonl").write_bytes(lines)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with input that was not read yet."""
    return prepare(tmp_path / "work")


def rolling(
    folder: Path, retain: RetainRules | None = None, by: DedupBy = DedupBy.CONVERSATION, **rules: int
) -> Config:
    """Return the settings of a dataset that rolls."""
    config = settings(folder, batch=BATCH, by=by)
    return msgspec.structs.replace(config, roll=RollRules(**rules), retain=retain or RetainRules())


def lines_by_file(config: Config) -> dict[str, int]:
    """Return how many lines each file of the dataset holds."""
    with open_dataset(config.dataset.path) as files:
        return {file.path.name: len(list(file.lines())) for file in files.files}


def turns(config: Config) -> list[int]:
    """Return the turns of all records, in order of the files."""
    return [record["metadata"]["turn"] for record in records(config)]


def described(config: Config) -> list[dict[str, object]]:
    """Return the parts that the manifest lists, after seeing that each of them is as it says."""
    listed: list[dict[str, object]] = json.loads(manifest_path(config.dataset.path).read_bytes())["parts"]
    for part in listed:
        data = config.dataset.path.with_name(str(part["path"])).read_bytes()
        assert (len(data), data.count(b"\n"), hashlib.sha256(data).hexdigest()) == (
            part["bytes"], part["records"], part["sha256"],
        )  # fmt: skip
    assert [part["number"] for part in listed] == closed_numbers(config.dataset.path)
    return listed


class TestClosing:
    """The table roll."""

    @pytest.mark.parametrize("size", [1, 3, 7, 20, 21])
    def test_a_part_has_exactly_so_many_records(self, folder: Path, size: int) -> None:
        """Wherever batches end; the live file has the rest, one line at least."""
        config = rolling(folder, records=size)
        work_off(config)
        assert turns(config) == list(range(LINES))
        *closed, live = lines_by_file(config).values()
        assert closed == [size] * ((LINES - 1) // size)
        assert live == LINES - sum(closed)
        assert len(described(config)) == len(closed) if closed else not manifest_path(config.dataset.path).exists()
        assert accounts(config).parts == len(closed)

    def test_no_part_is_longer_than_configured(self, folder: Path) -> None:
        """And none could have taken the next line."""
        work_off(rolling(folder))
        whole = written(rolling(folder).dataset.path)
        other = prepare(folder.with_name("other"))
        config = rolling(other, bytes=2 * len(whole) // LINES + 9)
        work_off(config)
        assert bare_ids(written(config.dataset.path)) == bare_ids(whole)
        assert set(lines_by_file(config).values()) == {2}

    def test_a_line_longer_than_a_part_is_a_part(self, folder: Path) -> None:
        """It is not lost, and nothing else is in it."""
        config = rolling(folder, bytes=10)
        work_off(config)
        assert set(lines_by_file(config).values()) == {1}
        assert turns(config) == list(range(LINES))

    def test_a_part_is_closed_when_it_is_old(self, folder: Path) -> None:
        """Counted from its first line, over restarts; an empty live file does not get old."""
        config = rolling(folder, age=1000)
        clock = FakeClock()
        work_off(config, clock)
        assert lines_by_file(config) == {"good.jsonl": LINES}
        clock.advance(500)
        work_off(config, clock)
        assert lines_by_file(config) == {"good.jsonl": LINES}
        clock.advance(500)
        events = work_off(config, clock)
        assert lines_by_file(config) == {"good-00001.jsonl": LINES, "good.jsonl": 0}
        assert next(event for event in events if isinstance(event, PartClosed)).part == "good-00001.jsonl"
        clock.advance(5000)
        work_off(config, clock)
        assert lines_by_file(config) == {"good-00001.jsonl": LINES, "good.jsonl": 0}

    def test_a_closed_part_never_changes(self, folder: Path) -> None:
        """Whatever comes later."""
        config = rolling(folder, records=8)
        work_off(config)
        before = {number: part_path(config.dataset.path, number).read_bytes() for number in (1, 2)}
        write_shard(folder, 2, range(90, 99))
        work_off(config)
        assert lines_by_file(config) == {f"good-0000{n}.jsonl": 8 for n in (1, 2, 3)} | {"good.jsonl": 5}
        assert {number: part_path(config.dataset.path, number).read_bytes() for number in (1, 2)} == before

    def test_a_dataset_can_begin_and_cease_to_roll(self, folder: Path) -> None:
        """What is there stays where it is."""
        work_off(rolling(folder))
        config = rolling(folder, records=25)
        write_shard(folder, 2, range(90, 99))
        work_off(config)
        assert lines_by_file(config) == {"good-00001.jsonl": 25, "good.jsonl": 4}
        write_shard(folder, 3, range(190, 230))
        config = rolling(folder)
        work_off(config)
        assert lines_by_file(config) == {"good-00001.jsonl": 25, "good.jsonl": 44}
        described(config)

    def test_a_file_that_has_the_name_of_a_part_is_not_overwritten(self, folder: Path) -> None:
        """The daemon says so and waits; what was appended stays."""
        config = rolling(folder, records=8)
        config.dataset.path.parent.mkdir()
        mine = part_path(config.dataset.path, 1)
        mine.write_text("my own notes\n")
        with pytest.raises(UnavailableError, match=r"good-00001\.jsonl is there already"):
            work_off(config)
        assert mine.read_text() == "my own notes\n"

    def test_without_a_manifest_files_with_such_names_are_none_of_ours(self, folder: Path) -> None:
        """A dataset that does not roll looks at no other file."""
        config = rolling(folder)
        config.dataset.path.parent.mkdir()
        part_path(config.dataset.path, 1).write_text("my own notes\n")
        work_off(config)
        assert lines_by_file(config) == {"good.jsonl": LINES}


class TestDeath:
    """SIGKILL at every named point of a roll."""

    @pytest.mark.parametrize("times", [1, 2, 3])
    @pytest.mark.parametrize("point", STEPS)
    def test_a_death_anywhere_loses_nothing_and_doubles_nothing(self, folder: Path, point: str, times: int) -> None:
        """Rules 1 to 3; parts that were closed stay as they were."""
        config = rolling(folder, records=3)
        assert dies(working_off, config, point, times)
        seen = written(config.dataset.path)
        before = {path: path.read_bytes() for path in config.dataset.path.parent.glob("good-*.jsonl")}
        work_off(config)
        assert written(config.dataset.path).startswith(seen)
        assert {path: path.read_bytes() for path in before} == before
        assert turns(config) == list(range(LINES))
        assert list(lines_by_file(config).values()) == [3, 3, 3, 3, 3, 3, 2]
        assert accounts(config).adopted == 0
        described(config)

    @pytest.mark.parametrize("point", ["recovery: part closed", "recovery: tail mended", "manifest written"])
    def test_a_death_while_recovering_from_a_death(self, folder: Path, point: str) -> None:
        """Two parts were closed without the ledger's knowledge."""
        config = rolling(folder, records=3)
        assert dies(working_off, config, "synced", 1)
        assert closed_numbers(config.dataset.path) == [1, 2]
        assert dies(working_off, config, point, 1)
        work_off(config)
        assert turns(config) == list(range(LINES))
        assert list(lines_by_file(config).values()) == [3, 3, 3, 3, 3, 3, 2]

    @pytest.mark.parametrize("point", ["parts given up", "manifest written"])
    @pytest.mark.parametrize("times", [1, 2])
    def test_a_death_while_parts_are_removed(self, folder: Path, point: str, times: int) -> None:
        """What was given up is gone after the next start, what is kept is there."""
        config = rolling(folder, RetainRules(records=8), records=3)
        assert dies(working_off, config, point, times)
        work_off(config)
        assert turns(config) == list(range(12, LINES))
        assert [part["number"] for part in described(config)] == [5, 6]

    def test_a_part_that_was_never_committed_can_go_with_its_keys(self, folder: Path) -> None:
        """Its lines are appended again, as their keys are not known any more, and counted once."""
        config = rolling(folder, RetainRules(records=3, forget_keys=True), records=3)
        assert dies(working_off, config, "synced", 1)
        work_off(config)
        assert accounts(config).counts["appended"] == LINES
        assert turns(config) == list(range(18, LINES))

    def test_every_point_of_the_path_has_its_death(self, folder: Path) -> None:
        """A new point needs a new test."""
        points: list[str] = []
        work_off(rolling(folder, RetainRules(records=8), records=3), failpoint=points.append)
        assert {*points} == {*STEPS, "listing", "read", "parts given up", "recovery: tail mended"}


class TestLedger:
    """What the ledger makes of parts."""

    def test_a_ledger_that_is_gone_is_made_anew_from_all_parts(self, folder: Path) -> None:
        """Keys are computed from every file; nothing is written twice."""
        config = rolling(folder, records=3)
        work_off(config)
        before = lines_by_file(config)
        config.dataset.ledger.unlink()
        work_off(config)
        assert lines_by_file(config) == before
        assert turns(config) == list(range(LINES))
        described(config)

    def test_an_older_ledger_learns_of_the_parts_that_were_closed_since(self, folder: Path) -> None:
        """As it learns of lines."""
        config = rolling(folder, records=3)
        shard = folder / "shards" / "1.jsonl"
        whole = shard.read_bytes()
        shard.write_bytes(b"".join(whole.splitlines(keepends=True)[:5]))
        work_off(config)
        older = config.dataset.ledger.read_bytes()
        shard.write_bytes(whole)
        work_off(config)
        config.dataset.ledger.write_bytes(older)
        work_off(config)
        assert turns(config) == list(range(LINES))
        assert list(lines_by_file(config).values()) == [3, 3, 3, 3, 3, 3, 2]
        assert accounts(config).adopted == 0

    def test_keys_of_another_meaning_are_computed_from_all_parts(self, folder: Path) -> None:
        """``dedup.by`` was changed."""
        work_off(rolling(folder, records=3))
        config = rolling(folder, by=DedupBy.PROMPT, records=3)
        (folder / "shards" / "2.jsonl").write_bytes((folder / "shards" / "1.jsonl").read_bytes())
        work_off(config)
        assert turns(config) == list(range(LINES))
        assert accounts(config).counts["duplicate"] == LINES

    def test_numbers_go_on_when_ledger_and_parts_are_gone(self, folder: Path) -> None:
        """No name is used for two different files, as long as the manifest is there."""
        config = rolling(folder, records=3)
        work_off(config)
        config.dataset.ledger.unlink()
        for number in closed_numbers(config.dataset.path):
            part_path(config.dataset.path, number).unlink()
        work_off(config)
        work_off(config)
        assert closed_numbers(config.dataset.path)[0] == 7
        assert sorted(turns(config)) == list(range(LINES))

    def test_a_part_that_a_person_removed_is_taken_as_removed(self, folder: Path) -> None:
        """Its keys are kept: the records do not come back."""
        config = rolling(folder, records=3)
        work_off(config)
        part_path(config.dataset.path, 2).unlink()
        assert PartsMissing(1) in work_off(config)
        assert turns(config) == [turn for turn in range(LINES) if turn not in (3, 4, 5)]
        assert accounts(config).removed_lines == 3
        assert not [event for event in work_off(config) if isinstance(event, PartsMissing)]

    def test_a_part_of_another_length_is_refused(self, folder: Path) -> None:
        """With its name and the way out."""
        config = rolling(folder, records=3)
        work_off(config)
        os.truncate(part_path(config.dataset.path, 2), 10)
        with pytest.raises(RefusedError, match=r"good-00002\.jsonl: it holds 10 bytes"):
            work_off(config)


class TestReaders:
    """Commands that look at a dataset of several files."""

    def test_verify_looks_at_every_file(self, folder: Path) -> None:
        """Lines are counted through all of them; a fault is named with its file."""
        config = rolling(folder, records=8)
        work_off(config)
        report = inspect(config.dataset.path)
        assert (report.files, report.lines, report.bytes) == (3, LINES, len(written(config.dataset.path)))
        assert not report.problems.counts
        with config.dataset.path.open("ab") as live:
            live.write(part_path(config.dataset.path, 1).read_bytes().splitlines(keepends=True)[2])
        (found,) = inspect(config.dataset.path).problems.first
        assert (found.file, found.line) == ("good.jsonl", LINES + 1)
        assert "the same as line 3" in found.detail

    @pytest.mark.parametrize("keep", [None, 9])
    def test_export_takes_every_file_up_to_what_is_committed(self, folder: Path, keep: int | None) -> None:
        """In order, with or without parts that are not kept any more."""
        config = rolling(folder, RetainRules(records=keep), records=3)
        work_off(config)
        with config.dataset.path.open("ab") as live:
            live.write(b"{}\n")  # a batch that is under way
        with Lines(config.dataset.path, config.dataset.ledger) as lines:
            found = [line.data for line in lines]
            again = [lines.read(line.position, line.length) for line in lines]
        assert again == found
        assert b"".join(line or b"" for line in found) == written(config.dataset.path)[:-3]

    def test_doctor_counts_the_bytes_of_every_file(self, folder: Path) -> None:
        """It does not call a dataset short that rolls, and calls one short that is."""
        config = rolling(folder, records=3)
        work_off(config)
        assert not [found.what for found in examine([config], {}) if "its ledger has committed" in found.what]
        os.truncate(config.dataset.path, 10)
        assert [found.level for found in examine([config], {}) if "its ledger has committed" in found.what] == [
            Level.PROBLEM
        ]

    def test_explain_names_the_file_that_holds_a_record(self, folder: Path) -> None:
        """And says so when that part is not kept any more."""
        config = rolling(folder, RetainRules(records=9), records=3)
        work_off(config)
        for line, place in (
            (1, "in a part that is not kept any more"),
            (14, "of good-00005.jsonl"),
            (20, "of the dataset"),
        ):
            found = explain(config.dataset.ledger, config.dataset.path, f"1.jsonl:{line}")
            assert found is not None
            (detail,) = found.reasons[0].details
            assert place in detail
            assert ("turn" in detail) is (line > 12)


class TestRetention:
    """The table retain."""

    def test_whole_old_parts_are_removed(self, folder: Path) -> None:
        """As few as make the rest fit; their keys are kept by default."""
        config = rolling(folder, RetainRules(records=9), records=3)
        events = work_off(config)
        assert turns(config) == list(range(12, LINES))
        assert [event.part for event in events if isinstance(event, PartRemoved)] == [
            f"good-0000{number}.jsonl" for number in (1, 2, 3, 4)
        ]
        (folder / "shards" / "2.jsonl").write_bytes((folder / "shards" / "1.jsonl").read_bytes())
        work_off(config)
        assert accounts(config).counts["duplicate"] == LINES
        assert turns(config) == list(range(12, LINES))

    def test_keys_can_go_with_their_part(self, folder: Path) -> None:
        """Then equal records may come in again."""
        config = rolling(folder, RetainRules(records=9, forget_keys=True), records=3)
        work_off(config)
        (folder / "shards" / "2.jsonl").write_bytes((folder / "shards" / "1.jsonl").read_bytes())
        work_off(config)
        assert accounts(config).counts["duplicate"] < LINES

    def test_parts_get_too_old(self, folder: Path) -> None:
        """Counted from when they were closed."""
        config = rolling(folder, RetainRules(age=1000), records=3)
        clock = FakeClock()
        work_off(config, clock)
        assert len(closed_numbers(config.dataset.path)) == 6
        clock.advance(2000)
        work_off(config, clock)
        assert turns(config) == [18, 19]

    def test_what_is_removed_is_decided_by_all_limits(self) -> None:
        """Bytes, records, age: pure."""
        parts = [Part(i, 10 * i, 10 * i + 10, 2, "", float(i)) for i in range(1, 6)]

        def gone(**rules: float) -> list[int]:
            return [part.number for part in expired(parts, 5, 1, msgspec.convert(rules, RetainRules), 10.0)]

        assert gone() == []
        assert gone(bytes=55) == []
        assert gone(bytes=54) == [1]
        assert gone(records=7) == [1, 2]
        assert gone(age=7.5) == [1, 2]
        assert gone(age=7.5, records=1) == [1, 2, 3, 4, 5]
        assert gone(bytes=1) == [1, 2, 3, 4, 5]


def bare_ids(data: bytes) -> bytes:
    """Return lines without the random ids of tool calls and the time."""
    return re.sub(rb'"id":"[^"]*"', b"", data)


def test_a_full_disk_while_a_part_is_closed_passes(folder: Path) -> None:
    """The folder takes no new name for a while; the daemon's next life goes on."""

    @dataclass
    class Full(Files):
        left: int = 1

        def rename(self, old: str | os.PathLike[str], new: str | os.PathLike[str]) -> None:
            if "good-00002" in os.fspath(new) and self.left:
                self.left -= 1
                raise OSError(28, "No space left on device")
            super().rename(old, new)

    config, files, clock = rolling(folder, records=3), Full(), FakeClock()
    with pytest.raises(UnavailableError, match="No space left"):
        work_off(config, clock, files)
    work_off(config, clock, files)
    assert turns(config) == list(range(LINES))
    assert list(lines_by_file(config).values()) == [3, 3, 3, 3, 3, 3, 2]
    described(config)


def test_a_reader_that_opens_all_files_while_one_is_closed_misses_nothing(folder: Path) -> None:
    """The files are opened at every point of the path."""
    config = rolling(folder, records=3)
    sizes: list[int] = []

    def look(_point: str) -> None:
        if config.dataset.path.exists():
            sizes.append(len(written(config.dataset.path)))

    async def main() -> None:
        clock = FakeClock()
        async with open_pipeline(config, Env(clock=clock, failpoint=look)) as pipeline:
            await settle(pipeline, clock)

    anyio.run(main)
    assert sizes == sorted(sizes)
    assert sizes[-1] == accounts(config).dataset_bytes


class TestFollowing:
    """Readers of a dataset that rolls under them."""

    def test_a_follower_passes_over_every_roll(self, folder: Path) -> None:
        """Also over parts that were closed between two of its looks; each line is told once, in order."""
        config = rolling(folder, records=3)
        with Follower(config.dataset.path) as follower:
            work_off(config)
            assert len(closed_numbers(config.dataset.path)) == 6
            before = written(config.dataset.path)
            assert lines_of(follower) == before
            write_shard(folder, 2, range(100, 117))
            work_off(config)
            assert before + lines_of(follower) == written(config.dataset.path)

    def test_a_follower_that_looks_all_the_time_sees_the_same(self, folder: Path) -> None:
        """At every point of the path."""
        config = rolling(folder, records=2)
        told: list[bytes] = []
        with Follower(config.dataset.path) as follower:
            work_off(config, failpoint=lambda _point: told.append(lines_of(follower)))
            told.append(lines_of(follower))
        assert b"".join(told) == written(config.dataset.path)

    @pytest.mark.parametrize("last", [0, 1, 2, 3, 7, 19, 20, 50])
    def test_the_last_lines_reach_back_into_parts(self, folder: Path, last: int) -> None:
        """As many as were asked for, if there are so many."""
        config = rolling(folder, records=3)
        work_off(config)
        with Follower(config.dataset.path, last=last) as follower:
            expected = written(config.dataset.path).splitlines(keepends=True)[LINES - min(last, LINES) :]
            assert lines_of(follower) == b"".join(expected)

    def test_what_was_removed_meanwhile_is_passed_over(self, folder: Path) -> None:
        """A reader that comes too late goes on with the oldest part that is there."""
        config = rolling(folder, RetainRules(records=8), records=3)
        with Follower(config.dataset.path) as follower:
            config.dataset.path.parent.mkdir()
            config.dataset.path.touch()
            follower.read()
            work_off(config)
            assert lines_of(follower).endswith(written(config.dataset.path))

    def test_a_token_is_good_after_its_part_was_closed(self, folder: Path) -> None:
        """Each record of each file; the beginning is that of the first part."""
        config = rolling(folder, records=3)
        work_off(config)
        tokens = [record.token for record in follow(config.dataset.path, wait=False)]
        assert len(tokens) == LINES
        for number, token in enumerate(tokens, 1):
            rest = [record.metadata["turn"] for record in follow(config.dataset.path, start=token, wait=False)]
            assert rest == list(range(number, LINES))

    def test_a_token_of_a_part_that_is_gone_is_refused(self, folder: Path) -> None:
        """Better than records twice."""
        config = rolling(folder, records=3)
        work_off(config)
        first = next(follow(config.dataset.path))
        part_path(config.dataset.path, 1).unlink()
        with pytest.raises(RefusedError, match="not kept any more"):
            follow(config.dataset.path, start=first.token)


def lines_of(follower: Follower) -> bytes:
    """Return everything that a follower has to tell now."""
    found = b""
    while lines := follower.read():
        found += b"".join(line.data for line in lines)
    return found
