"""Death and failure at every point of the path, and contradictions between dataset and ledger (rule 3)."""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import anyio
import pytest

from streamer.base.env import Env
from streamer.base.errors import RefusedError, StreamerError, UnavailableError
from streamer.base.events import Recovered
from streamer.base.files import Files
from streamer.core.records.key import DedupBy
from streamer.daemon.build import open_pipeline
from streamer.store.dataset.dead_letters import dead_letters_path
from streamer.store.dataset.writer import DatasetWriter
from streamer.store.parts.parts import RollRules
from tests.helpers.crash import HALF_A_REWRITE, HALF_A_WRITE, dies, working_off
from tests.helpers.producer import (
    FakeClock,
    accounts,
    add_outcome,
    dialogue,
    jsonl,
    make_traces,
    messages,
    records,
    settings,
    settle,
    work_off,
)

if TYPE_CHECKING:
    from streamer.base.events import Event
    from streamer.config import Config

ROOT = Path(__file__).resolve().parents[2]
BATCH = 4
"""Lines in one batch, so that there are many."""

STEPS = ("listing", "read", "dead letters written", "appended", "synced", "committed", HALF_A_WRITE)
MENDED = "recovery: tail mended"
ADOPTED = "recovery: some lines adopted"


def prepare(folder: Path) -> Path:
    """Lay out lines of every kind: good, equal, below the bar, bad, and without an outcome."""
    (folder / "shards").mkdir(parents=True)
    traces = make_traces(folder / "traces.db")
    for session, reward in (("good", 3), ("best", 5), ("bad", 0)):
        add_outcome(traces, session, reward, 9)
    for number, session in enumerate(("good", "bad", "best", "open")):
        lines = [dialogue(session, turn, f"{session} {turn}", image=turn == 1) for turn in range(5)]
        mixed = jsonl(*lines[:3]) + b"nonsense\n" + jsonl(*lines[2:], messages("good", 0, "shared"))
        (folder / "shards" / f"{number}.jsonl").write_bytes(mixed)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with input that was not read yet."""
    return prepare(tmp_path / "work")


@pytest.fixture
def config(folder: Path) -> Config:
    """Return the settings by which the folder is worked off in many batches."""
    return settings(folder, batch=BATCH)


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Return the lines that an undisturbed run writes, sorted."""
    config = settings(prepare(tmp_path_factory.mktemp("oracle") / "work"), batch=BATCH)
    work_off(config)
    assert accounts(config).counts == {
        "appended": 11, "duplicate": 5, "below_bar": 6, "waiting": 6, "never_scored": 0, "dead_lettered": 4,
    }  # fmt: skip
    return without_ids(config.dataset.path)


def without_ids(dataset: Path) -> list[bytes]:
    """Return the sorted lines of a dataset, with the random ids of tool calls left out."""
    return sorted(re.sub(rb'"id":"[^"]*"', b"", line) for line in dataset.read_bytes().splitlines())


def die(folder: Path, point: str, times: int, by: DedupBy = DedupBy.CONVERSATION) -> bool:
    """Work the folder off in another process that dies; say whether it came to that."""
    return dies(working_off, settings(folder, batch=BATCH, by=by), point, times)


def visible(config: Config) -> bytes:
    """Return the whole lines that a reader of the dataset may have seen."""
    data = config.dataset.path.read_bytes() if config.dataset.path.exists() else b""
    return data[: data.rfind(b"\n") + 1]


def all_is_well(config: Config, oracle: list[bytes], seen: bytes) -> None:
    """See that an undisturbed run makes everything as if nothing had happened."""
    work_off(config)
    assert config.dataset.path.read_bytes().startswith(seen)
    assert without_ids(config.dataset.path) == oracle
    final = accounts(config)
    assert final.adopted == 0
    assert final.counts == {
        "appended": 11, "duplicate": 5, "below_bar": 6, "waiting": 6, "never_scored": 0, "dead_lettered": 4,
    }  # fmt: skip
    before = config.dataset.path.read_bytes()
    work_off(config)
    assert config.dataset.path.read_bytes() == before


class TestDeath:
    """SIGKILL at every named point."""

    @pytest.mark.parametrize("times", [1, 3])
    @pytest.mark.parametrize("point", STEPS)
    def test_a_death_anywhere_loses_nothing_and_doubles_nothing(
        self, folder: Path, config: Config, oracle: list[bytes], point: str, times: int
    ) -> None:
        """Rules 1, 2 and 3, whichever batch it hits."""
        assert die(folder, point, times)
        all_is_well(config, oracle, visible(config))

    def test_every_point_of_the_path_has_its_death(self, config: Config) -> None:
        """A new point needs a new test."""
        points: list[str] = []
        work_off(config, failpoint=points.append)
        assert {*points} <= {*STEPS, MENDED, ADOPTED}
        assert {*STEPS, MENDED} - {*points} == {HALF_A_WRITE}

    @pytest.mark.parametrize("point", ["synced", HALF_A_WRITE])
    @pytest.mark.parametrize("recovery", [MENDED, HALF_A_REWRITE, "committed"])
    def test_a_death_while_recovering_from_a_death_changes_nothing(
        self, folder: Path, config: Config, oracle: list[bytes], point: str, recovery: str
    ) -> None:
        """Recovery can be interrupted like everything else."""
        assert die(folder, point, 2)
        seen = visible(config)
        die(folder, recovery, 1)
        assert visible(config).startswith(seen)
        all_is_well(config, oracle, visible(config))

    def test_a_death_in_every_batch_comes_to_the_end_all_the_same(
        self, folder: Path, config: Config, oracle: list[bytes]
    ) -> None:
        """Each life takes one step."""
        for _ in range(5):
            assert die(folder, "committed", 1)
        all_is_well(config, oracle, visible(config))

    @pytest.mark.parametrize("point", [MENDED, HALF_A_REWRITE])
    def test_a_death_while_keys_are_computed_anew_keeps_the_accounts(
        self, folder: Path, config: Config, point: str
    ) -> None:
        """After a change of ``dedup.by`` every line is keyed again; it was counted before, once."""
        work_off(config)
        seen = visible(config)
        assert die(folder, point, 1, DedupBy.NONE)
        work_off(settings(folder, batch=BATCH, by=DedupBy.NONE))
        assert config.dataset.path.read_bytes() == seen
        assert accounts(config).adopted == 0

    def test_a_change_of_the_key_after_a_death_keeps_the_accounts(self, folder: Path, config: Config) -> None:
        """Lines that were appended and not committed are keyed like the others, and claimed when they are read."""
        assert die(folder, "synced", 2)
        seen = visible(config)
        config = settings(folder, batch=BATCH, by=DedupBy.NONE)
        work_off(config)
        assert config.dataset.path.read_bytes().startswith(seen)
        assert accounts(config).adopted == 0

    def test_a_death_between_chunks_of_an_adoption_goes_on_where_it_was(self, tmp_path: Path) -> None:
        """A ledger that is rebuilt from a long dataset."""
        folder = tmp_path / "work"
        (folder / "shards").mkdir(parents=True)
        add_outcome(make_traces(folder / "traces.db"), "good", 3, 9)
        lines = [{"run_id": "good", "messages": [{"role": "assistant", "content": f"{i}"}]} for i in range(4100)]
        (folder / "shards" / "a.jsonl").write_bytes(jsonl(*lines))
        config = settings(folder)
        work_off(config)
        seen = visible(config)
        forget(config)
        assert die(folder, ADOPTED, 1)
        assert die(folder, ADOPTED, 1)
        work_off(config)
        assert config.dataset.path.read_bytes() == seen
        assert accounts(config).counts["appended"] == 4100


class Failure(NamedTuple):
    """What fails, the how-manieth time, and with which error; ``half`` if half of it is done first."""

    call: str
    times: int
    error: int
    half: bool = False


class FailingFiles(Files):
    """Real files of which one call fails, once."""

    def __init__(self, failure: Failure) -> None:
        self._failure = failure
        self._left = failure.times
        self.failed = False

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """Write, or fail."""
        if self._is_due("write"):
            if self._failure.half:
                super().write(fd, data[: len(data) // 2])
            self._fail()
        return super().write(fd, data)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        """Write, or fail."""
        if self._is_due("pwrite"):
            self._fail()
        return super().pwrite(fd, data, offset)

    def fdatasync(self, fd: int) -> None:
        """Sync, or fail."""
        if self._is_due("fdatasync"):
            self._fail()
        super().fdatasync(fd)

    def fstat(self, fd: int) -> os.stat_result:
        """Look, or fail."""
        if self._is_due("fstat"):
            self._fail()
        return super().fstat(fd)

    def ftruncate(self, fd: int, length: int) -> None:
        """Cut, or fail."""
        if self._is_due("ftruncate"):
            self._fail()
        super().ftruncate(fd, length)

    def _is_due(self, call: str) -> bool:
        self._left -= call == self._failure.call
        return call == self._failure.call and self._left == 0

    def _fail(self) -> None:
        self.failed = True
        raise OSError(self._failure.error, os.strerror(self._failure.error))


class ShortFiles(Files):
    """Real files that never write more than some bytes at once."""

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """Write a little."""
        return super().write(fd, data[:7])


class TestFailure:
    """A disk that is full, broken, or slow to take it all."""

    @pytest.mark.parametrize("times", [1, 2, 5])
    @pytest.mark.parametrize(
        "failure",
        [Failure("write", 0, errno.ENOSPC), Failure("write", 0, errno.ENOSPC, half=True),
         Failure("fdatasync", 0, errno.EIO), Failure("fdatasync", 0, errno.ENOSPC)],
        ids=str,
    )  # fmt: skip
    def test_a_failing_disk_ends_one_pipeline_and_the_next_one_recovers(
        self, config: Config, oracle: list[bytes], failure: Failure, times: int
    ) -> None:
        """The error can be retried, and says where; nothing is lost or doubled."""
        files = FailingFiles(failure._replace(times=times))
        with pytest.raises(UnavailableError) as caught:
            work_off(config, files=files)
        assert files.failed
        assert caught.value.where in (str(config.dataset.path), str(dead_letters_path(config.dataset.path)))
        assert os.strerror(failure.error) in caught.value.cause
        all_is_well(config, oracle, visible(config))

    @pytest.mark.parametrize(
        "failure",
        [Failure("ftruncate", 1, errno.EIO), Failure("pwrite", 1, errno.ENOSPC), Failure("fdatasync", 1, errno.EIO),
         Failure("fstat", 1, errno.ESTALE)],
        ids=str,
    )  # fmt: skip
    def test_a_recovery_that_fails_is_done_again(self, config: Config, oracle: list[bytes], failure: Failure) -> None:
        """A torn tail is not mended on a full disk, but later."""
        with pytest.raises(UnavailableError):
            work_off(config, files=FailingFiles(Failure("fdatasync", 2, errno.EIO)))
        with config.dataset.path.open("ab") as file:
            file.write(b'{"messages":')
        seen = visible(config)
        files = FailingFiles(failure)
        with pytest.raises(UnavailableError):
            work_off(config, files=files)
        assert files.failed
        all_is_well(config, oracle, seen)

    def test_a_disk_that_takes_a_few_bytes_at_a_time_gets_them_all(self, config: Config, oracle: list[bytes]) -> None:
        """A short write is no failure."""
        work_off(config, files=ShortFiles())
        all_is_well(config, oracle, visible(config))

    def test_after_a_failed_sync_the_descriptor_is_not_used_again(self, folder: Path) -> None:
        """The pipeline is closed with it; the lines are put into the file once more by the next one."""
        rewritten: list[int] = []

        class Watching(Files):
            def pwrite(self, fd: int, data: bytes, offset: int) -> int:
                rewritten.append(len(data))
                return super().pwrite(fd, data, offset)

        config = settings(folder)
        with pytest.raises(UnavailableError):
            work_off(config, files=FailingFiles(Failure("fdatasync", 2, errno.EIO)))
        written = config.dataset.path.stat().st_size
        assert written
        work_off(config, files=Watching())
        assert sum(rewritten) == written


def forget(config: Config) -> None:
    """Move the ledger away, with what belongs to it."""
    for path in list(config.dataset.ledger.parent.glob(f"{config.dataset.ledger.name}*")):
        path.rename(path.with_name(f"{path.name}.old"))


def refused(config: Config) -> StreamerError:
    """Return the error with which the path refuses to go on; the dataset stays as it is."""
    before = visible(config)
    with pytest.raises(RefusedError) as caught:
        work_off(config)
    assert visible(config) == before
    assert caught.value.where == str(config.dataset.path)
    assert f"mv '{config.dataset.ledger}'" in caught.value.hint
    return caught.value


class TestContradiction:
    """Dataset and ledger that do not agree (rule 3)."""

    @pytest.mark.parametrize("lines", [0, 5])
    def test_a_dataset_that_is_shorter_than_committed_is_refused(self, config: Config, lines: int) -> None:
        """Both lengths are named."""
        work_off(config)
        size = config.dataset.path.stat().st_size
        left = b"".join(config.dataset.path.read_bytes().splitlines(keepends=True)[:lines])
        config.dataset.path.write_bytes(left)
        error = refused(config)
        assert f"{len(left)} bytes" in error.cause
        assert str(size) in error.cause

    def test_a_dataset_that_was_deleted_is_refused(self, config: Config) -> None:
        """It is a dataset without lines."""
        work_off(config)
        config.dataset.path.unlink()
        assert "0 bytes" in refused(config).cause

    @pytest.mark.parametrize("longer", [b"", b"{}\n"])
    def test_another_dataset_is_refused(self, config: Config, longer: bytes) -> None:
        """Even if it has just as many bytes, or more."""
        work_off(config)
        data = config.dataset.path.read_bytes()
        config.dataset.path.write_bytes(data[:-20] + b"x" * 19 + b"\n" + longer)
        assert "not those that its ledger committed" in refused(config).cause

    def test_the_way_out_writes_removed_records_again(self, config: Config, oracle: list[bytes]) -> None:
        """As the hint says: keys are rebuilt, what is there is not doubled, what is missing comes back."""
        work_off(config)
        config.dataset.path.write_bytes(b"".join(config.dataset.path.read_bytes().splitlines(keepends=True)[:5]))
        refused(config)
        forget(config)
        all_is_well(config, oracle, visible(config))

    def test_a_ledger_that_was_deleted_is_rebuilt_from_the_dataset(self, config: Config, oracle: list[bytes]) -> None:
        """Every line is adopted, then claimed by the shard line it came from."""
        work_off(config)
        seen = visible(config)
        forget(config)
        assert Recovered(adopted=11, foreign=0, cut_bytes=0) in work_off(config)
        assert visible(config) == seen
        all_is_well(config, oracle, seen)

    @pytest.mark.parametrize("batches", [0, 1, 4])
    def test_an_older_copy_of_the_ledger_is_brought_up_to_the_dataset(
        self, folder: Path, config: Config, oracle: list[bytes], batches: int
    ) -> None:
        """It lags behind, like the ledger of a machine that lost its power."""
        older = folder / "older"
        if batches:
            die(folder, "committed", batches)
            work = Path(f"{config.dataset.ledger}-wal")
            shutil.copy(config.dataset.ledger, older)
            shutil.copy(work, f"{older}-wal")
        work_off(config)
        seen = visible(config)
        forget(config)
        if batches:
            shutil.copy(older, config.dataset.ledger)
            shutil.copy(f"{older}-wal", f"{config.dataset.ledger}-wal")
        work_off(config)
        assert visible(config) == seen
        all_is_well(config, oracle, seen)

    def test_records_whose_shards_are_gone_stay_adopted(self, folder: Path, config: Config) -> None:
        """The dataset outlives the shards; a new ledger says so, and the accounts still add up."""
        work_off(config)
        seen = visible(config)
        forget(config)
        shutil.rmtree(folder / "shards")
        (folder / "shards").mkdir()
        work_off(config)
        assert visible(config) == seen
        assert (accounts(config).adopted, accounts(config).read) == (11, 0)

    @pytest.mark.parametrize("tail", [b"{", b'{"messages": [{"role"', b"\0" * 100, b"\xff"])
    def test_a_torn_tail_is_cut(self, config: Config, oracle: list[bytes], tail: bytes) -> None:
        """It was never a line."""
        work_off(config)
        seen = visible(config)
        with config.dataset.path.open("ab") as file:
            file.write(tail)
        assert Recovered(adopted=0, foreign=0, cut_bytes=len(tail)) in work_off(config)
        all_is_well(config, oracle, seen)

    def test_a_last_line_that_lacks_only_its_newline_is_ended(
        self, folder: Path, config: Config, oracle: list[bytes]
    ) -> None:
        """A follower may have read it to the last brace."""
        assert die(folder, "appended", 3)
        data = config.dataset.path.read_bytes()
        os.truncate(config.dataset.path, len(data) - 1)
        work_off(config)
        assert visible(config).startswith(data)
        all_is_well(config, oracle, data)

    def test_lines_of_someone_else_are_left_as_they_are(self, config: Config) -> None:
        """They are no records, and no reason to stop; new records come after them."""
        work_off(config)
        strange = b'{"text": "not ours"}\n[1]\nnonsense\n'
        with config.dataset.path.open("ab") as file:
            file.write(strange)
        seen = visible(config)
        found = [event for event in work_off(config) if isinstance(event, Recovered)]
        assert [(event.foreign, event.cut_bytes) for event in found] == [(3, 0)]
        (config.source.shards / "new.jsonl").write_bytes(jsonl(dialogue("good", 77, "new")))
        assert not [event for event in work_off(config) if isinstance(event, Recovered)]
        assert visible(config).startswith(seen)
        assert visible(config)[len(seen) :].count(b"\n") == 1

    def test_a_record_that_someone_appended_by_hand_is_not_written_again(self, config: Config) -> None:
        """It is recognised by its conversation."""
        (config.source.shards / "0.jsonl").rename(config.source.shards.parent / "later")
        work_off(config)
        line = jsonl({"messages": [{"role": "assistant", "content": "by hand"}],
                      "metadata": {"run_id": "x", "turn": 0, "timestamp": None}})  # fmt: skip
        with config.dataset.path.open("ab") as file:
            file.write(line)
        work_off(config)
        seen = visible(config)
        value = {"run_id": "good", "messages": [{"role": "assistant", "content": "by hand"}]}
        (config.source.shards / "new.jsonl").write_bytes(jsonl(value))
        work_off(config)
        assert visible(config) == seen
        accounts(config)

    def test_a_change_of_the_key_computes_all_keys_again(self, folder: Path) -> None:
        """From the lines themselves; nothing that is in goes out, and nothing is counted twice."""
        usual, prompts = settings(folder), settings(folder, by=DedupBy.PROMPT)
        work_off(usual)
        seen = visible(usual)
        other_reply = dialogue("good", 0, "good 0", assistant={"content": "another reply"})
        (folder / "shards" / "new.jsonl").write_bytes(jsonl(other_reply))
        work_off(prompts)
        assert visible(usual) == seen
        assert accounts(usual).counts["duplicate"] == 6
        work_off(usual)
        assert visible(usual) == seen
        (folder / "shards" / "new.jsonl").write_bytes(jsonl(other_reply, other_reply))
        work_off(usual)
        accounts(usual)


class TestCompany:
    """A dataset that someone else touches while the path is open."""

    def run(self, config: Config, meanwhile: object) -> list[Event]:
        """Work a first shard off, let something happen, and go on with the others."""
        events: list[Event] = []
        clock = FakeClock()
        later = [path for path in config.source.shards.iterdir() if path.name != "0.jsonl"]
        away = config.source.shards.parent / "away"
        away.mkdir()
        for path in later:
            path.rename(away / path.name)

        async def main() -> None:
            async with open_pipeline(config, Env(clock=clock, emit=events.append)) as pipeline:
                await settle(pipeline, clock)
                assert callable(meanwhile)
                meanwhile()
                for path in later:
                    (away / path.name).rename(path)
                await settle(pipeline, clock)

        anyio.run(main)
        return events

    def test_bytes_of_another_writer_are_noticed_before_ours_follow(self, config: Config, oracle: list[bytes]) -> None:
        """Half a line of theirs and ours would make a line that neither wrote."""
        torn = b'{"half a'

        def meanwhile() -> None:
            with config.dataset.path.open("ab") as file:
                file.write(torn)

        with pytest.raises(UnavailableError, match="bytes long"):
            self.run(config, meanwhile)
        assert config.dataset.path.read_bytes().endswith(torn)
        all_is_well(config, oracle, visible(config))

    def test_a_dataset_that_is_moved_away_is_noticed(self, config: Config) -> None:
        """Lines would go where no one looks for them."""
        moved = config.dataset.path.with_name("moved")
        with pytest.raises(UnavailableError, match="append to the dataset"):
            self.run(config, lambda: config.dataset.path.rename(moved))
        lines = moved.read_bytes().count(b"\n")
        moved.rename(config.dataset.path)
        work_off(config)
        assert len(records(config)) > lines
        accounts(config)

    def test_a_dataset_that_is_replaced_is_noticed_and_refused(self, config: Config) -> None:
        """Its ledger belongs to the other one."""

        def meanwhile() -> None:
            other = config.dataset.path.with_name("other")
            other.write_bytes(b"{}\n")
            other.rename(config.dataset.path)

        with pytest.raises(UnavailableError, match="another file"):
            self.run(config, meanwhile)
        refused(config)


def test_a_dataset_is_readable_by_owner_and_group_only(config: Config) -> None:
    """What models wrote is not for everyone; the same for all that lies beside it."""
    work_off(config)
    for path in config.dataset.path.parent.iterdir():
        assert path.stat().st_mode & 0o007 == 0, path


def test_a_dataset_that_cannot_be_opened_is_waited_for(tmp_path: Path) -> None:
    """A folder in its place, say: the error names it."""
    path = tmp_path / "good.jsonl"
    path.mkdir()
    with pytest.raises(UnavailableError) as caught:
        DatasetWriter(path, Env(), RollRules()).open()
    assert caught.value.where == str(path)
    assert caught.value.retry
