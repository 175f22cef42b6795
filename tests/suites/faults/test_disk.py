"""Disks that are full, over quota or broken, under the dataset, the ledger or both (case 7).

The daemon is the real one, in this process; it is never started again. What fails is said once, and all
that was written meanwhile arrives as soon as there is room.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import anyio
import msgspec
import pytest

from streamer.base.events import FailureBegan, FailureEnded
from streamer.base.files import Files
from streamer.store.views.snapshot import snapshot
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
from tests.suites.faults.process import Executable, eventually, lines, running, soon

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import Any

    from streamer.base.events import Event
    from streamer.config import Config

ERRORS = {"ENOSPC": errno.ENOSPC, "EDQUOT": errno.EDQUOT, "EIO": errno.EIO}


class Failing(Files):
    """A disk that fails for as long as ``error`` is set: SQLite's calls and ours, writes or syncs."""

    def __init__(self, folder: Path, targets: str, call: str) -> None:
        self.error = 0
        self.failures: dict[str, int] = {"dataset": 0, "ledger": 0}
        self._folder = str(folder)
        self._targets = targets
        self._call = call
        self._dataset: set[int] = set()

    def _fails(self, target: str, call: str) -> bool:
        fails = bool(self.error) and call == self._call and self._targets in {target, "both"}
        self.failures[target] += fails
        return fails

    def open(self, path: str | os.PathLike[str], flags: int) -> int:
        """Open, and remember what is the dataset."""
        fd = super().open(path, flags)
        self._dataset.discard(fd)
        if os.fspath(path).endswith("good.jsonl"):
            self._dataset.add(fd)
        return fd

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """Write, or fail after half of it."""
        if fd in self._dataset and self._fails("dataset", "write"):
            super().write(fd, data[: len(data) // 2])
            raise OSError(self.error, os.strerror(self.error))
        return super().write(fd, data)

    def fdatasync(self, fd: int) -> None:
        """Sync, or fail."""
        if fd in self._dataset and self._fails("dataset", "sync"):
            raise OSError(self.error, os.strerror(self.error))
        super().fdatasync(fd)

    def watches(self, path: str) -> bool:
        """Watch the ledger and what lies beside it."""
        return path.startswith(self._folder) and ".ledger" in path and not path.endswith("-shm")

    def db_write(self, _path: str, data: bytes, _offset: int) -> tuple[int, int]:
        """Write, or fail after half of it; SQLite tells a full disk from all other errors."""
        if self._fails("ledger", "write"):
            return vfs.FULL if self.error == errno.ENOSPC else vfs.IOERR_WRITE, len(data) // 2
        return vfs.OK, 0

    def db_sync(self, _path: str) -> int:
        """Sync, or fail."""
        return vfs.IOERR_FSYNC if self._fails("ledger", "sync") else vfs.OK

    def db_read(self, _path: str) -> int:
        """Read."""
        return vfs.OK

    def db_truncate(self, _path: str, _size: int) -> int:
        """Cut."""
        return vfs.OK

    def db_delete(self, _path: str) -> int:
        """Delete."""
        return vfs.OK


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Return the settings of a daemon that looks around often, with an outcome for every record of ``run``."""
    (tmp_path / "shards").mkdir()
    add_outcome(make_traces(tmp_path / "traces.db"), "run", 1, 9)
    config = settings(tmp_path, batch=5)
    return msgspec.structs.replace(
        config, source=msgspec.structs.replace(config.source, scan_interval=0.05, poll_interval=0.02)
    )


def values(start: int, stop: int, size: int = 20) -> list[dict[str, Any]]:
    """Return records of one run."""
    return [dialogue("run", turn, f"{turn} {'x' * size}") for turn in range(start, stop)]


def write(config: Config, name: str, some: list[dict[str, Any]]) -> None:
    """Write a shard."""
    (config.source.shards / name).write_bytes(jsonl(*some))


def begun(told: Sequence[Event]) -> list[str]:
    """Return what could not be done, each time that it was said."""
    return [event.op for event in told if isinstance(event, FailureBegan)]


@pytest.mark.parametrize("call", ["write", "sync"])
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("targets", ["dataset", "ledger", "both"])
def test_a_disk_that_fails_is_waited_for_and_loses_nothing(config: Config, targets: str, error: str, call: str) -> None:
    """Said once, retried without a restart; what a reader saw meanwhile stays; said once more when it is over."""
    if targets != "dataset" and not vfs.available():
        pytest.skip("this SQLite cannot be reached from outside")
    failing = Failing(config.dataset.path.parent, targets, call)
    last = 900 if (targets, call) == ("ledger", "sync") else 30

    async def main() -> None:
        async with running(config, files=failing) as told:
            write(config, "sft_run.jsonl", values(0, 12))
            await soon(lambda: lines(config.dataset.path) == 12)
            failing.error = ERRORS[error]
            write(config, "sft_run.2.jsonl", values(12, last))
            if targets == "ledger" and call == "sync":
                # SQLite syncs the ledger only when it folds its log back: this is no trouble for a batch.
                await soon(lambda: failing.failures["ledger"] > 1)
                await soon(lambda: lines(config.dataset.path) == last)
            else:
                await soon(lambda: sum(failing.failures.values()) > 1 and begun(told))
                assert len(begun(told)) == len(set(begun(told)))
            seen = config.dataset.path.read_bytes()
            failing.error = 0
            # There is news, so no one waits any longer.
            write(config, "sft_run.3.jsonl", values(last, last + 5))
            await soon(lambda: lines(config.dataset.path) == last + 5)
            if failing.failures["dataset"] or call == "write":
                await soon(lambda: any(isinstance(event, FailureEnded) for event in told))
            assert config.dataset.path.read_bytes().startswith(seen[: seen.rfind(b"\n") + 1])

    with vfs.sqlite_asks(failing) if vfs.available() else nullcontext():
        anyio.run(main)
    assert conversations(records(config)) == conversations(values(0, last + 5))
    assert accounts(config).adopted == 0


@pytest.mark.skipif(not vfs.available(), reason="this SQLite cannot be reached from outside")
@pytest.mark.parametrize("call", ["write", "sync"])
def test_a_disk_that_fails_from_the_first_moment_is_waited_for(config: Config, call: str) -> None:
    """The ledger cannot even be created; when there is room, it is, and everything arrives."""
    failing = Failing(config.dataset.path.parent, "both", call)
    failing.error = errno.ENOSPC
    write(config, "sft_run.jsonl", values(0, 12))

    async def main() -> None:
        async with anyio.create_task_group() as tasks:

            async def make_room() -> None:
                await soon(lambda: failing.failures["ledger"] > 1)
                failing.error = 0

            tasks.start_soon(make_room)
            async with running(config, files=failing):
                await soon(lambda: lines(config.dataset.path) == 12)

    with vfs.sqlite_asks(failing):
        anyio.run(main)
    assert conversations(records(config)) == conversations(values(0, 12))
    assert accounts(config).adopted == 0


class Written(Files):
    """Real files, whose first sync of the dataset fails; every call on the dataset is remembered."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, bytes]] = []
        self._opened = 0
        self._which: dict[int, int] = {}

    def open(self, path: str | os.PathLike[str], flags: int) -> int:
        """Open, and give each descriptor of the dataset a number of its own."""
        fd = super().open(path, flags)
        self._which.pop(fd, None)
        if os.fspath(path).endswith("good.jsonl"):
            self._opened += 1
            self._which[fd] = self._opened
        return fd

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """Write, and remember."""
        if fd in self._which:
            self.calls.append(("write", self._which[fd], bytes(data)))
        return super().write(fd, data)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        """Write, and remember."""
        self.calls.append(("write again", self._which[fd], data))
        return super().pwrite(fd, data, offset)

    def fdatasync(self, fd: int) -> None:
        """Sync, and remember; the first time, fail."""
        if fd in self._which:
            self.calls.append(("sync", self._which[fd], b""))
            if [name for name, _, _ in self.calls].count("sync") == 1:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().fdatasync(fd)


def test_after_a_failed_sync_the_bytes_are_written_again_through_a_new_descriptor(config: Config) -> None:
    """A kernel that failed to write pages holds them for clean: only other writes bring them to the disk."""
    write(config, "sft_run.jsonl", values(0, 5))
    files = Written()

    async def main() -> None:
        async with running(config, files=files):
            await soon(lambda: snapshot(config.dataset.path).counts["appended"] == 5)

    anyio.run(main)
    failed = next(at for at, (name, _, _) in enumerate(files.calls) if name == "sync")
    _, first, _ = files.calls[failed]
    appended = b"".join(data for name, _, data in files.calls[:failed] if name == "write")
    later = files.calls[failed + 1 :]
    assert all(which != first for _, which, _ in later)
    again = b"".join(data for name, _, data in later if name == "write again")
    assert again == appended == config.dataset.path.read_bytes()
    assert [name for name, _, _ in later][:2] == ["write again", "sync"]


# -- for real ----------------------------------------------------------------------------------------------


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """Mount a file system of so many bytes; skip where that is not allowed."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no `mount` here")
    if done.returncode:
        pytest.skip(f"only root can mount a small file system: {done.stderr.decode().strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(disk: Path) -> Path:
    """Take all the room that is left on a disk."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            while True:
                try:
                    file.write(bytes(size))
                except OSError as error:
                    assert error.errno == errno.ENOSPC  # noqa: PT017
                    break
    return filler


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
@pytest.mark.parametrize("full", ["dataset", "ledger", "both"])
def test_a_disk_that_is_really_full_is_waited_for_by_the_real_executable(tmp_path: Path, full: str) -> None:
    """A small file system, filled to the last byte under the running daemon, and then given room again."""
    make_traces(tmp_path / "traces.db")
    add_outcome(tmp_path / "traces.db", "run", 1, 9)
    roomy = tmp_path / "roomy"
    roomy.mkdir()
    with small_disk(tmp_path / "small", "8m") as small:
        dataset, ledger = (small if full in {name, "both"} else roomy for name in ("dataset", "ledger"))
        executable = Executable(tmp_path, more="[batch]\nrecords = 4\n")
        text = (tmp_path / "config.toml").read_text()
        new = f'path = "{dataset}/good.jsonl"\nledger = "{ledger}/good.jsonl.ledger"'
        (tmp_path / "config.toml").write_text(text.replace('path = "out/good.jsonl"', new))
        config = settings(tmp_path)
        config = msgspec.structs.replace(
            config,
            dataset=msgspec.structs.replace(
                config.dataset, path=dataset / "good.jsonl", ledger=ledger / "good.jsonl.ledger"
            ),
        )
        with executable.daemon() as daemon:
            executable.shard("sft_run.jsonl", *values(0, 10, 5000))
            eventually(lambda: lines(dataset / "good.jsonl") == 10)
            filler = fill(small)
            executable.shard("sft_run.jsonl", *values(10, 40, 5000))
            eventually(lambda: executable.events("trouble"))
            seen = (dataset / "good.jsonl").read_bytes()
            assert daemon.poll() is None
            filler.unlink()
            eventually(lambda: lines(dataset / "good.jsonl") == 40)
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(timeout=10) == 0
        assert (dataset / "good.jsonl").read_bytes().startswith(seen[: seen.rfind(b"\n") + 1])
        assert executable.events("trouble_over")
        work_off(config)
        assert conversations(records(config)) == conversations(values(0, 40, 5000))
        assert accounts(config).adopted == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_dataset_whose_disk_is_full_does_not_hold_up_another_one(tmp_path: Path) -> None:
    """It waits and goes on alone, with all that came meanwhile."""
    make_traces(tmp_path / "traces.db")
    add_outcome(tmp_path / "traces.db", "run", 1, 9)
    with small_disk(tmp_path / "small", "8m") as small:
        executable = Executable(tmp_path, more="[batch]\nrecords = 4\n")
        text = (tmp_path / "config.toml").read_text()
        one, other = '[[dataset]]\npath = "out/good.jsonl"', f'[[dataset]]\npath = "{small}/good.jsonl"'
        (tmp_path / "config.toml").write_text(
            text.replace('[dataset]\npath = "out/good.jsonl"', "") + f"\n{other}\n{one}\n"
        )
        there, here = small / "good.jsonl", executable.dataset
        with executable.daemon() as daemon:
            executable.shard("sft_run.jsonl", *values(0, 10, 5000))
            eventually(lambda: lines(there) == lines(here) == 10)
            filler = fill(small)
            executable.shard("sft_run.jsonl", *values(10, 40, 5000))
            eventually(lambda: executable.events("trouble"))
            eventually(lambda: lines(here) == 40)
            assert lines(there) < 40
            assert {event["dataset"] for event in executable.events("trouble")} == {str(there)}
            filler.unlink()
            eventually(lambda: lines(there) == 40)
            eventually(lambda: executable.events("trouble_over"))
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(timeout=10) == 0
        for path in (there, here):
            config = settings(tmp_path)
            dataset = msgspec.structs.replace(config.dataset, path=path, ledger=path.with_name("good.jsonl.ledger"))
            config = msgspec.structs.replace(config, dataset=dataset)
            assert conversations(records(config)) == conversations(values(0, 40, 5000))
            assert accounts(config).adopted == 0
