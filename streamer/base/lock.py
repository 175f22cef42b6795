"""The lock of a dataset: a file whose ``flock`` its one daemon holds until it ends.

The kernel drops the lock with its process, however that ends, so a crash leaves nothing to clean up. The file itself
is never unlinked: a daemon that had it open would keep a lock that no other process can see. The file holds one JSON
line that names the holder, for people; only ``flock`` decides.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec

from streamer.base.errors import LockedError, RefusedError, StreamerError, UnavailableError
from streamer.base.text import printable

if TYPE_CHECKING:
    from typing import Self

_MODE = 0o640
_LONGEST_LINE = 4096
_OPEN = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_NO_LOCKS_HERE = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS})
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_GONE_STATES = "ZX"


class Holder(msgspec.Struct, frozen=True):
    """The process that has the lock.

    ``started`` is its start time in clock ticks since boot, which distinguishes it from a later process with the same
    pid; None without ``/proc``. ``since`` is an ISO time in UTC, for people.
    """

    pid: Annotated[int, msgspec.Meta(gt=0, lt=1 << 31)]
    host: str
    started: int | None
    since: str

    @property
    def is_here(self) -> bool:
        """Whether it runs on this host; only then can its process be checked."""
        return self.host == _host()

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host} since {self.since}"


class DatasetLock:
    """The lock of one dataset, as a context manager.

    Args:
        path: The lock file, as :func:`lock_file` names it; made with mode 0640 if it is missing.

    Raises:
        LockedError: on entry, if another process has the lock; the hint is the command that stops it.
        RefusedError: on entry, if the file is not a regular file, or the file system has no locks.
        UnavailableError: on entry, if the file cannot be opened or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def __enter__(self) -> Self:
        try:
            self._acquire()
        except OSError as error:
            raise _explained("lock the dataset", self._path, error) from error
        return self

    def __exit__(self, *_: object) -> None:
        fd, self._fd = self._fd, -1
        try:
            # Still under the lock: from here on the file names no holder.
            os.ftruncate(fd, 0)
        finally:
            os.close(fd)

    def _acquire(self) -> None:
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | _OPEN, _MODE)
        try:
            _require_regular(fd, self._path)
            self._flock(fd)
            _write_if_there_is_room(fd, _myself())
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def _flock(self, fd: int) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _locked(self._path, _read(fd)) from None


def lock_file(dataset: Path) -> Path:
    """Return the lock file of a dataset: ``<dataset>.lock``, the same for each link to it."""
    real = Path(os.path.realpath(dataset))
    return real.parent / f"{real.name}.lock"


def holder(path: Path) -> Holder | None:
    """Return the live process that has the lock, or None, without touching the lock.

    A process of another host counts as alive, as it cannot be checked from here (``Holder.is_here``).

    Args:
        path: The lock file, as :func:`lock_file` names it.

    Raises:
        UnavailableError: the file exists and cannot be read.
        RefusedError: the file is not a regular file.
    """
    try:
        fd = os.open(path, os.O_RDONLY | _OPEN)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _explained("see who holds the dataset", path, error) from error
    try:
        _require_regular(fd, path)
        found = _read(fd)
    finally:
        os.close(fd)
    return found if found is not None and _may_live(found) else None


def _read(fd: int) -> Holder | None:
    line, newline, _ = os.pread(fd, _LONGEST_LINE, 0).partition(b"\n")
    try:
        found = msgspec.json.decode(line, type=Holder)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    shown = msgspec.structs.replace(found, host=printable(found.host), since=printable(found.since))
    return shown if newline else None


def _write_if_there_is_room(fd: int, who: Holder) -> None:
    """Write the holder, unless the disk is full: only people read it, and a daemon can wait for room."""
    try:
        _write(fd, who)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise


def _write(fd: int, who: Holder) -> None:
    line = msgspec.json.encode(who) + b"\n"
    os.pwrite(fd, line, 0)
    # The rest of an earlier holder's longer line is cut off last, so a reader always finds a whole first line.
    os.ftruncate(fd, len(line))


def _myself() -> Holder:
    pid = os.getpid()
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return Holder(pid=pid, host=_host(), started=_start_ticks(pid), since=since)


def _host() -> str:
    return printable(socket.gethostname())


def _may_live(who: Holder) -> bool:
    if not who.is_here:
        return True
    if who.started is None:
        return _pid_exists(who.pid)
    return _start_ticks(who.pid) == who.started


def _start_ticks(pid: int) -> int | None:
    """Return field 22 of ``/proc/<pid>/stat``; None without such a process or without ``/proc``."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            line = file.read()
    except OSError:
        return None
    # The second field is the program's name in parentheses, which may hold any character.
    state, *rest = line.rpartition(b")")[2].split()
    return None if state.decode() in _GONE_STATES else int(rest[18])


def _pid_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _require_regular(fd: int, path: Path) -> None:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise RefusedError("lock the dataset", _shown(path), "it is no regular file", "move it away")


def _locked(path: Path, who: Holder | None) -> LockedError:
    op, where = "lock the dataset", _shown(path)
    if who is None or not _may_live(who):
        return LockedError(op, where, "another process holds it", f"`fuser -v {where}` names that process")
    at = "" if who.is_here else f" on {who.host}"
    status = f"`streamer status --dataset {where.removesuffix('.lock')}` shows what it does"
    return LockedError(op, where, f"{who} holds it", f"{status}; `kill {who.pid}`{at} stops it")


def _explained(op: str, path: Path, error: OSError) -> StreamerError:
    if error.errno == errno.ELOOP:
        return RefusedError(op, _shown(path), "it is a symbolic link", "remove the link")
    if error.errno in _NO_LOCKS_HERE:
        hint = "put the dataset on a local file system"
        return RefusedError(op, _shown(path), "this file system has no locks", hint)
    hint = f"see that {printable(str(path.parent))} exists and may be written"
    return UnavailableError(op, _shown(path), error.strerror or str(error), hint)


def _shown(path: Path) -> str:
    return printable(str(path))
