"""One daemon for each dataset, with real locks and real processes."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest

from streamer.base.errors import LockedError, RefusedError, UnavailableError
from streamer.base.lock import DatasetLock, Holder, holder, lock_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOLD = """
import sys
from pathlib import Path
from streamer.base.lock import DatasetLock
with DatasetLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""

LOOK = """
import sys
from pathlib import Path
from streamer.base.lock import holder
events = []
sys.addaudithook(lambda event, _: events.append(event))
print(holder(Path(sys.argv[1])), *events, sep="\\n")
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the lock file of a dataset that is not there yet."""
    return lock_file(tmp_path / "out.jsonl")


@pytest.fixture
def other(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start another process and return it as soon as it holds the lock; closing its stdin ends it."""
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def write(path: Path, **fields: object) -> None:
    """Write what some holder, dead or far away, may have left in the lock file."""
    known = {"pid": os.getpid(), "host": socket.gethostname(), "started": 1, "since": "2025-01-01"}
    path.write_bytes(msgspec.json.encode(known | fields) + b"\n")


class TestLock:
    """Taking the lock."""

    def test_the_second_daemon_says_who_holds_the_lock_and_what_to_do(
        self, path: Path, other: subprocess.Popen[bytes]
    ) -> None:
        """Rule 9: pid, host and time; the commands to look and to stop it."""
        with pytest.raises(LockedError) as caught, DatasetLock(path):
            pass
        assert f"pid {other.pid} on {socket.gethostname()} since 20" in caught.value.cause
        assert f"streamer status --dataset {str(path).removesuffix('.lock')}`" in caught.value.hint
        assert f"`kill {other.pid}`" in caught.value.hint
        assert caught.value.exit_code == 4

    def test_a_killed_daemon_leaves_no_lock(self, path: Path, other: subprocess.Popen[bytes]) -> None:
        """The kernel drops the lock with the process; the file stays and is taken over."""
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert holder(path) is None
        with DatasetLock(path):
            found = holder(path)
            assert found is not None
            assert found.pid == os.getpid()

    def test_the_lock_can_be_taken_again_after_an_orderly_end(self, path: Path, other: subprocess.Popen[bytes]) -> None:
        """Leaving the context releases it, and nobody is named any more."""
        other.communicate()
        assert path.read_bytes() == b""
        with DatasetLock(path):
            pass
        with DatasetLock(path):
            pass

    def test_a_process_cannot_hold_the_lock_twice(self, path: Path) -> None:
        """Two pipelines in one process are two daemons."""
        with DatasetLock(path), pytest.raises(LockedError), DatasetLock(path):
            pass

    def test_a_refused_entry_leaves_the_holders_line_as_it_is(self, path: Path, other: subprocess.Popen[bytes]) -> None:
        """The one that did not get in must not sign."""
        before = path.read_bytes()
        with pytest.raises(LockedError), DatasetLock(path):
            pass
        assert path.read_bytes() == before
        assert other.poll() is None

    def test_the_file_is_never_unlinked(self, path: Path) -> None:
        """Its inode is the lock."""
        with DatasetLock(path):
            inode = path.stat().st_ino
        with DatasetLock(path):
            assert path.stat().st_ino == inode

    def test_the_file_holds_one_json_line(self, path: Path) -> None:
        """A longer line of an earlier holder leaves nothing behind."""
        write(path, host="h" * 500)
        with DatasetLock(path):
            line = path.read_bytes()
        assert line.count(b"\n") == 1
        assert line.endswith(b"\n")
        assert set(msgspec.json.decode(line)) == {"pid", "host", "started", "since"}

    def test_others_cannot_read_the_file(self, path: Path) -> None:
        """Mode 0640, less what the umask takes."""
        with DatasetLock(path):
            assert stat.S_IMODE(path.stat().st_mode) & ~0o640 == 0

    def test_a_child_process_does_not_inherit_the_lock(self, path: Path) -> None:
        """A program that the daemon starts must not keep the lock for it."""
        with DatasetLock(path):
            child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False)
        with child, DatasetLock(path):
            child.communicate()

    def test_a_symbolic_link_is_refused(self, path: Path) -> None:
        """What it leads to would be truncated."""
        target = path.with_name("precious")
        target.write_text("precious")
        path.symlink_to(target)
        with pytest.raises(RefusedError, match="symbolic link"), DatasetLock(path):
            pass
        assert target.read_text() == "precious"

    def test_a_pipe_is_refused(self, path: Path) -> None:
        """Neither taking the lock nor looking at it waits for the other end."""
        os.mkfifo(path)
        with pytest.raises(RefusedError, match="no regular file"), DatasetLock(path):
            pass
        with pytest.raises(RefusedError, match="no regular file"):
            holder(path)

    def test_a_missing_folder_is_told(self, tmp_path: Path) -> None:
        """It may still be mounted, so trying again can help."""
        with (
            pytest.raises(UnavailableError, match="No such file") as caught,
            DatasetLock(tmp_path / "no" / "x"),
        ):
            pass
        assert caught.value.retry

    def test_two_names_of_one_dataset_share_one_lock(self, tmp_path: Path) -> None:
        """A link to the dataset, or to its folder, leads to the same lock file."""
        (tmp_path / "real").mkdir()
        (tmp_path / "folder").symlink_to("real")
        (tmp_path / "link.jsonl").symlink_to("real/out.jsonl")
        expected = tmp_path / "real" / "out.jsonl.lock"
        assert lock_file(tmp_path / "folder" / "out.jsonl") == expected
        assert lock_file(tmp_path / "link.jsonl") == expected

    def test_an_unknown_holder_is_told_as_such(self, path: Path, other: subprocess.Popen[bytes]) -> None:
        """Whatever the file says: if no such process is alive, it is not named."""
        write(path, pid=other.pid, started=1)
        with pytest.raises(LockedError, match="another process holds it") as caught, DatasetLock(path):
            pass
        assert "fuser" in caught.value.hint

    def test_a_holder_on_another_host_is_told_with_its_host(self, path: Path, other: subprocess.Popen[bytes]) -> None:
        """On a shared file system, `kill` has to be typed elsewhere; what a host wrote is not obeyed."""
        write(path, host="far\x1b[2J", pid=other.pid)
        with pytest.raises(LockedError) as caught, DatasetLock(path):
            pass
        assert caught.value.hint.endswith(f"`kill {other.pid}` on far\\x1b[2J stops it")


class TestHolder:
    """Looking at the lock."""

    def test_the_live_holder_is_found(self, path: Path, other: subprocess.Popen[bytes]) -> None:
        """By what it wrote, and by its being alive."""
        found = holder(path)
        assert found is not None
        assert (found.pid, found.is_here) == (other.pid, True)

    def test_looking_never_takes_the_lock(self, path: Path) -> None:
        """Python reports every call of flock and lockf: a starting daemon cannot fail by a look."""
        with DatasetLock(path):
            done = subprocess.run([sys.executable, "-c", LOOK, str(path)], capture_output=True, text=True, check=True)
        found, *events = done.stdout.split("\n")
        assert found.startswith(f"pid {os.getpid()} ")
        assert "open" in events
        assert not [event for event in events if event.startswith("fcntl.")]

    def test_no_file_is_no_holder(self, path: Path) -> None:
        """And looking does not make the file."""
        assert holder(path) is None
        assert not path.exists()

    def test_a_later_process_with_the_same_pid_is_not_the_holder(self, path: Path) -> None:
        """The start time tells them apart."""
        write(path, started=1)
        assert holder(path) is None

    def test_without_a_start_time_the_pid_has_to_do(self, path: Path) -> None:
        """As written where there is no /proc."""
        write(path, started=None)
        assert holder(path) is not None

    def test_a_process_that_is_gone_is_not_the_holder(self, path: Path) -> None:
        """With or without a start time."""
        with subprocess.Popen(["true"]) as process:
            process.wait()
        for started in (None, 1):
            write(path, pid=process.pid, started=started)
            assert holder(path) is None

    def test_a_process_on_another_host_counts_as_alive(self, path: Path) -> None:
        """It cannot be seen from here."""
        write(path, host="far", pid=1)
        assert holder(path) == Holder(pid=1, host="far", started=1, since="2025-01-01")

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\n",
            b"{}\n",
            b"\xff\xfe\n",
            b'{"pid": 1',
            b'{"pid": -1, "host": "far", "started": 1, "since": ""}\n',
            b'{"pid": 99999999999999, "host": "far", "started": 1, "since": ""}\n',
            b'{"pid": 1, "host": "far", "started": 1, "since": ""}',
            b'{"pid": 1, "host": "\xff", "started": 1, "since": ""}\n',
        ],
    )
    def test_a_file_with_anything_else_names_no_one(self, path: Path, content: bytes) -> None:
        """A torn or foreign file is no reason to fail, and no obstacle to the next daemon."""
        path.write_bytes(content)
        assert holder(path) is None
        with DatasetLock(path):
            assert holder(path) is not None

    def test_a_zombie_is_not_the_holder(self, path: Path) -> None:
        """A daemon that has ended but was not waited for holds nothing."""
        with subprocess.Popen(
            [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.kill()
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            assert holder(path) is None
