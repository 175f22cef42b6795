"""A ledger that was damaged, lost, or is not the one of the dataset, and the ways out (case 2).

What ``tests/daemon/test_crash.py`` and ``tests/store/test_ledger.py`` show in the process is done here as a person
would do it, with the commands that the messages name; and damage that SQLite itself may not notice.
"""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
from contextlib import closing, suppress
from functools import partial
from itertools import count
from random import Random
from typing import TYPE_CHECKING

import msgspec
import pytest

from streamer.base.errors import RefusedError, UnavailableError
from tests.helpers.producer import (
    accounts,
    add_outcome,
    conversations,
    dialogue,
    jsonl,
    make_traces,
    records,
    settings,
    work_off,
)
from tests.suites.faults import vfs
from tests.suites.faults.machine import DiedError, Machine
from tests.suites.faults.process import Executable, child

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from streamer.config import Config

PAGE = 4096


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Return the settings of a folder in which 60 good records were worked off."""
    (tmp_path / "shards").mkdir()
    add_outcome(make_traces(tmp_path / "traces.db"), "run", 1, 9)
    (tmp_path / "shards" / "sft_run.jsonl").write_bytes(jsonl(*values(60)))
    config = settings(tmp_path, batch=20)
    work_off(config)
    return config


def values(count: int) -> list[dict[str, object]]:
    """Return so many records of one run."""
    return [dialogue("run", turn, f"{turn}") for turn in range(count)]


def refused(config: Config) -> RefusedError:
    """Return the error with which the path refuses to go on."""
    with pytest.raises(RefusedError) as caught:
        work_off(config)
    return caught.value


def follow(hint: str, folder: Path) -> None:
    """Do what a hint says, to the letter: run the command in it."""
    command = re.search(r"mv '[^']+' '[^']+'", hint)
    assert command is not None, hint
    subprocess.run(["sh", "-c", command[0]], check=True, cwd=folder)


def killed_at(point: str) -> Callable[[str], None]:
    """Return what kills a process at a point of the path."""

    def at(passed: str) -> None:
        if passed == point:
            os.kill(os.getpid(), signal.SIGKILL)

    return at


def leave_a_log_behind(config: Config) -> None:
    """Be killed after a commit, so that the ledger's last words are in its -wal file alone."""
    with child(partial(work_off, config, failpoint=killed_at("committed"))) as process:
        assert process.wait() == -signal.SIGKILL
    assert config.dataset.ledger.with_name(f"{config.dataset.ledger.name}-wal").stat().st_size


@pytest.mark.parametrize("elsewhere", [False, True], ids=["ledger beside it", "ledger elsewhere"])
@pytest.mark.parametrize("killed", [False, True], ids=["after a stop", "after a kill"])
def test_the_way_out_of_a_dataset_that_is_too_short_works_to_the_letter(
    tmp_path: Path, config: Config, *, elsewhere: bool, killed: bool
) -> None:
    """The command in the message is run as it stands; what was cut off is written again, nothing twice."""
    if elsewhere:
        ledger = tmp_path / "state" / "of streamer.db"
        ledger.parent.mkdir()
        config.dataset.ledger.rename(ledger)
        config = msgspec.structs.replace(config, dataset=msgspec.structs.replace(config.dataset, ledger=ledger))
    if killed:
        (tmp_path / "shards" / "sft_run.jsonl").write_bytes(jsonl(*values(90)))
        leave_a_log_behind(config)
    data = config.dataset.path.read_bytes()
    config.dataset.path.write_bytes(data[: data.find(b"\n", len(data) // 3) + 1])
    error = refused(config)
    assert "were removed" in error.cause
    follow(error.hint, tmp_path)
    work_off(config)
    assert conversations(records(config)) == conversations(values(90 if killed else 60))
    assert accounts(config).adopted == 0


@pytest.mark.parametrize("zeros", ["first page", "all of it"])
@pytest.mark.parametrize("killed", [False, True], ids=["after a stop", "after a kill"])
def test_the_way_out_of_a_zero_filled_ledger_works_to_the_letter(
    tmp_path: Path, config: Config, zeros: str, *, killed: bool
) -> None:
    """Whatever lies beside the ledger: the moved one is not missed, and its log not mistaken for the new one's."""
    if killed:
        (tmp_path / "shards" / "sft_run.jsonl").write_bytes(jsonl(*values(90)))
        leave_a_log_behind(config)
    before = config.dataset.path.read_bytes()
    with open(config.dataset.ledger, "r+b") as file:
        file.write(bytes(PAGE if zeros == "first page" else config.dataset.ledger.stat().st_size))
    follow(refused(config).hint, tmp_path)
    work_off(config)
    assert config.dataset.path.read_bytes().startswith(before)
    assert conversations(records(config)) == conversations(values(90 if killed else 60))
    assert accounts(config).adopted == 0


def test_the_executable_says_the_way_out_and_it_works(tmp_path: Path, config: Config) -> None:
    """Its own exit code, the message on stderr; after the command in it, exit code 0 and a whole dataset."""
    data = config.dataset.path.read_bytes()
    config.dataset.path.write_bytes(data[: data.find(b"\n") + 1])
    executable = Executable(tmp_path)
    assert executable.start("--once").wait() == RefusedError.exit_code
    follow(executable.log.read_text(), tmp_path)
    assert executable.start("--once").wait() == 0
    assert conversations(records(config)) == conversations(values(60))


def refused_or_right(config: Config, damaged: bytes, expected: list[str]) -> bool:
    """Say whether a daemon with a damaged ledger either refuses to go on or goes on as if it were sound."""
    before = config.dataset.path.read_bytes()
    config.dataset.ledger.write_bytes(damaged)
    try:
        work_off(config)
    except RefusedError as error:
        return "mv " in error.hint
    else:
        return conversations(records(config)) == expected
    finally:
        config.dataset.path.write_bytes(before)
        for path in config.dataset.ledger.parent.glob("good.jsonl.ledger*"):
            path.unlink()


@pytest.mark.parametrize("half", [0, PAGE // 2], ids=["first half", "second half"])
def test_half_a_page_of_zeros_is_refused_or_does_no_harm(tmp_path: Path, config: Config, half: int) -> None:
    """For each page of the ledger: whoever goes on, goes on right; whoever cannot, says so."""
    sound = config.dataset.ledger.read_bytes()
    (tmp_path / "shards" / "sft_run.jsonl").write_bytes(jsonl(*values(70)))
    (tmp_path / "shards" / "copy.jsonl").write_bytes(jsonl(*values(70)))
    expected = conversations(values(70))
    harmed = []
    for page in range(len(sound) // PAGE):
        start = page * PAGE + half
        if not refused_or_right(config, sound[:start] + bytes(PAGE // 2) + sound[start + PAGE // 2 :], expected):
            harmed.append((page, owner(sound, page, tmp_path)))
    assert not harmed


def owner(sound: bytes, page: int, folder: Path) -> str:
    """Return the name of the table or index whose root is a page."""
    path = folder / "sound.db"
    path.write_bytes(sound)
    with closing(sqlite3.connect(path)) as db:
        row = db.execute("SELECT name FROM sqlite_master WHERE rootpage = ?", (page + 1,)).fetchone()
    return row[0] if row else ""


@pytest.mark.parametrize("cut", [PAGE // 2, PAGE, 2 * PAGE, 10 * PAGE + 1])
def test_a_ledger_that_was_cut_is_refused_or_does_no_harm(tmp_path: Path, config: Config, cut: int) -> None:
    """In the middle of a page, or between two: it says of itself how long it should be."""
    sound = config.dataset.ledger.read_bytes()
    (tmp_path / "shards" / "sft_run.jsonl").write_bytes(jsonl(*values(70)))
    assert refused_or_right(config, sound[:-cut], conversations(values(70)))


# -- power loss in the first moments of a ledger -----------------------------------------------------------


def dies(machine: Machine, point: str | None = None) -> Callable[[str], None]:
    """Return what makes a machine die at a point of the path."""

    def at(passed: str) -> None:
        if passed == point:
            machine.die()
            raise DiedError

    return at


def lose_power(config: Config, seed: int, *, fuse: int | None = None, point: str | None = None) -> bool:
    """Live until the power goes, at a point or after so many calls; say whether it did."""
    machine = Machine(config.dataset.path.parent, Random(seed))
    machine.fuse = fuse
    with vfs.sqlite_asks(machine):
        with suppress(DiedError, UnavailableError):
            work_off(config, files=machine, failpoint=dies(machine, point))
        if machine.alive:
            return False
        machine.restart(power_loss=True)
    return True


@pytest.fixture
def fresh(config: Config) -> Config:
    """Return the settings of a folder whose dataset has not been begun."""
    for path in config.dataset.path.parent.iterdir():
        path.unlink()
    return config


@pytest.mark.skipif(not vfs.available(), reason="this SQLite cannot be reached from outside")
def test_a_ledger_whose_creation_lost_its_power_is_begun_again(fresh: Config) -> None:
    """After any call: what is not whole yet holds nothing, so there is nothing that a person has to decide."""
    refusals = []
    for fuse in range(1, 40):
        assert lose_power(fresh, fuse, fuse=fuse)
        try:
            work_off(fresh)
        except RefusedError as error:
            refusals.append((fuse, error.cause))
        else:
            assert accounts(fresh).counts["appended"] == 60
        for path in fresh.dataset.path.parent.iterdir():
            path.unlink()
    assert not refusals


@pytest.mark.skipif(not vfs.available(), reason="this SQLite cannot be reached from outside")
def test_a_power_loss_in_the_first_moments_leaves_no_holes_in_a_new_dataset(fresh: Config) -> None:
    """Nothing was synced yet but an empty ledger and dataset: lines past a hole are not believed."""
    holes = 0
    for seed in range(20):
        assert lose_power(fresh, seed, point="appended")
        holes += b"\0" in fresh.dataset.path.read_bytes()
        work_off(fresh)
        assert b"\0" not in fresh.dataset.path.read_bytes()
        assert conversations(records(fresh)) == conversations(values(60))
        for path in fresh.dataset.path.parent.iterdir():
            path.unlink()
    assert holes


# -- older copies ------------------------------------------------------------------------------------------


def test_an_older_ledger_that_is_killed_while_it_catches_up_loses_nothing_and_doubles_nothing(
    tmp_path: Path, config: Config
) -> None:
    """A copy from before half of the records, put back; the daemon that adopts the rest is killed, too."""
    older = config.dataset.ledger.read_bytes()
    (tmp_path / "shards" / "sft_run.jsonl").write_bytes(jsonl(*values(90)))
    work_off(config)
    before = config.dataset.path.read_bytes()
    config.dataset.ledger.write_bytes(older)
    for point in ("recovery: tail mended", "read", "committed"):
        with child(partial(work_off, config, failpoint=killed_at(point))) as process:
            assert process.wait() == -signal.SIGKILL
    work_off(config)
    assert config.dataset.path.read_bytes() == before
    assert accounts(config).adopted == 0
    assert accounts(config).counts["appended"] == 90


# -- a disk that refuses to be read ------------------------------------------------------------------------


class Unread(Machine):
    """A machine whose ledger cannot be read, once, after so many reads."""

    def __init__(self, folder: Path, reads: int) -> None:
        super().__init__(folder, Random(0))
        self.left = reads

    def db_read(self, _path: str) -> int:
        """Fail once."""
        self.left -= 1
        return vfs.OK if self.left else vfs.IOERR_READ


# A thread of aiosqlite whose connection failed may outlive the event loop of a test that ends with it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.skipif(not vfs.available(), reason="this SQLite cannot be reached from outside")
def test_a_read_error_is_no_damage(config: Config) -> None:
    """Whichever page cannot be read: that may pass, and nobody has to move a sound ledger away."""
    for reads in count(1):
        machine = Unread(config.dataset.path.parent, reads)
        with vfs.sqlite_asks(machine), suppress(UnavailableError):
            work_off(config)
        if machine.left > 0:
            break
    assert reads > 10
    work_off(config)
    assert accounts(config).counts["appended"] == 60
