"""A computer that fails: its process dies between any two calls, its disk refuses, its power goes.

Invariants
- Readers see the real files. What the *disk* holds of them is kept beside, as ``_Disk``: what was last
  synced, and the writes since then, in order.
- A sync that fails loses pages: what was written stays visible, the kernel holds it for clean, and no later
  sync brings it to the disk unless it is written again.
- When the power goes, each file is what its disk held, and some beginning of what was written since; any
  block of that may be missing (zeros, or the old bytes). Nothing from before the last sync changes.
- A dead process changes nothing any more, whatever its clean-up tries.
- All chance comes from one ``Random``, drawn in an order that depends on nothing else.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from streamer.base.files import Files
from tests.suites.faults import vfs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from random import Random

_SECTOR = 512
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
_NO_FILE = (errno.EMFILE, errno.EIO, errno.ENOSPC)


class DiedError(BaseException):
    """The process ends here."""


class _Disk:
    """One file: ``synced`` is what the disk surely holds, ``writes`` what it may hold of what came since."""

    def __init__(self, data: bytes, *, named: bool) -> None:
        self.synced = bytearray(data)
        self.writes: list[tuple[int, bytes | None]] = []
        self.named = named
        self.old_name = ""
        self.replaced: _Disk | None = None

    def sync(self) -> None:
        """Bring everything to the disk."""
        for offset, data in self.writes:
            _put(self.synced, offset, data)
        self.writes.clear()

    def lose_pages(self, rng: Random) -> None:
        """Call everything clean that was written, as a failed sync does, and have only parts of it."""
        self.synced = self.after_power_loss(rng, keep_all=True)
        self.writes.clear()

    def after_power_loss(self, rng: Random, *, keep_all: bool = False) -> bytearray:
        """Return what the disk may hold."""
        held = bytearray(self.synced)
        kept = self.writes if keep_all or rng.random() < 0.5 else self.writes[: rng.randint(0, len(self.writes))]
        torn = rng.random() < 0.3 and not keep_all
        missing = rng.choice((0.3, 1.0) if keep_all else (0.0, 0.3, 0.6, 1.0))
        for number, (offset, data) in enumerate(kept):
            last = number == len(kept) - 1
            part = data[: rng.randint(0, len(data))] if data and torn and last else data
            if part is None or not missing:
                _put(held, offset, part)
            else:
                _put_in_sectors(held, offset, part, lambda: rng.random() >= missing)
        return held


def _put(held: bytearray, offset: int, data: bytes | None) -> None:
    """Write ``data``, or cut at ``offset`` if it is None."""
    if data is None:
        del held[offset:]
        held.extend(bytes(offset - len(held)))
    else:
        held.extend(bytes(max(0, offset - len(held))))
        held[offset : offset + len(data)] = data


def _put_in_sectors(held: bytearray, offset: int, data: bytes, arrives: Callable[[], bool]) -> None:
    held.extend(bytes(max(0, offset + len(data) - len(held))))
    at = 0
    while at < len(data):
        size = _SECTOR - (offset + at) % _SECTOR
        if arrives():
            _put(held, offset + at, data[at : at + size])
        at += size


class Machine(Files):
    """The files of one folder on such a computer, for streamer's own calls and for SQLite's.

    ``error_rate`` is how often any call fails, ``failing`` how many calls of a name are still to fail; ``fuse``
    is the number of calls until the process dies, None for never. ``asleep`` lets everything through, for those
    who only look.
    """

    def __init__(self, folder: Path, rng: Random) -> None:
        self.error_rate = 0.0
        self.failing: dict[str, int] = {}
        self.fuse: int | None = None
        self.alive = True
        self.asleep = False
        self.broken: list[str] = []
        self._folder = str(folder)
        self._rng = rng
        self._disks: dict[str, _Disk] = {}
        self._paths: dict[int, str] = {}
        self._unsynced: set[int] = set()

    # -- the life of the process -----------------------------------------------------------------------

    def die(self) -> None:
        """End the process: from now on nothing changes on the disk."""
        self.alive = False

    def restart(self, *, power_loss: bool) -> None:
        """Start the computer again, after its process died or its power went."""
        if power_loss:
            for path in list(self._disks):
                self._lose_power(path)
        self._paths.clear()
        self._unsynced.clear()
        self.alive = True
        self.fuse = None

    def synced(self, path: Path) -> bytes:
        """Return what the disk surely holds of a file."""
        disk = self._disks.get(str(path))
        return bytes(disk.synced) if disk else b""

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Let everything through."""
        self.asleep = True
        try:
            yield
        finally:
            self.asleep = False

    def _lose_power(self, path: str) -> None:
        disk = self._disks[path]
        if not os.path.exists(path) or path.endswith("-shm"):
            del self._disks[path]
        elif not disk.named and self._rng.random() < 0.5:
            del self._disks[path]
            if disk.old_name:
                os.rename(path, disk.old_name)
                self._disks[disk.old_name] = disk
                self._lose_power(disk.old_name)
                if disk.replaced is not None:
                    self._disks[path] = disk.replaced
                    with open(path, "wb") as file:
                        file.write(disk.replaced.synced)
                    disk.replaced = None
                    self._lose_power(path)
            else:
                os.unlink(path)
        else:
            disk.synced = disk.after_power_loss(self._rng)
            disk.writes.clear()
            disk.named = True
            with open(path, "r+b") as file:
                file.write(disk.synced)
                file.truncate()
        if os.path.exists(f"{path}-shm"):
            os.unlink(f"{path}-shm")

    def _tick(self) -> bool:
        """Count a call; True when the process dies in the middle of it."""
        if self.asleep:
            return False
        if not self.alive:
            raise DiedError
        if self.fuse is None:
            return False
        self.fuse -= 1
        return self.fuse <= 0

    def _tick_or_die(self) -> None:
        if self._tick():
            self.die()
            raise DiedError

    def _fails(self, call: str) -> bool:
        if self.asleep:
            return False
        if self.failing.get(call, 0) > 0:
            self.failing[call] -= 1
            return True
        return self.error_rate > 0 and self._rng.random() < self.error_rate

    def _may_fail(self, call: str, numbers: tuple[int, ...] = (errno.EIO,)) -> None:
        if self._fails(call):
            number = self._rng.choice(numbers)
            raise OSError(number, os.strerror(number))

    def _disk(self, path: str) -> _Disk:
        if path not in self._disks:
            data = b""
            if os.path.exists(path):
                with open(path, "rb") as file:
                    data = file.read()
            self._disks[path] = _Disk(data, named=True)
        return self._disks[path]

    # -- what streamer calls ---------------------------------------------------------------------------

    def open(self, path: str | os.PathLike[str], flags: int) -> int:
        """Open a file, or die, or fail."""
        self._tick_or_die()
        self._may_fail("open", _NO_FILE)
        name = os.fspath(path)
        ours = os.path.dirname(name) == self._folder
        there = os.path.exists(name)
        if ours and there:
            self._disk(name)
        fd = super().open(path, flags)
        if ours and not there:
            self._disks[name] = _Disk(b"", named=False)
        if ours or name == self._folder:
            self._paths[fd] = name
        self._unsynced.discard(fd)
        return fd

    def close(self, fd: int) -> None:
        """Close a descriptor; the dead close theirs, too."""
        self._paths.pop(fd, None)
        super().close(fd)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """Read, or die, or fail."""
        self._tick_or_die()
        self._may_fail("pread")
        return super().pread(fd, size, offset)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """Write all or some, or die or fail after some of it."""
        return self._written("write", fd, bytes(data), os.fstat(fd).st_size, super().write)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        """Write all or some, or die or fail after some of it."""
        return self._written("pwrite", fd, data, offset, lambda fd, part: os.pwrite(fd, part, offset))

    def _written(self, call: str, fd: int, data: bytes, offset: int, write: Callable[[int, bytes], int]) -> int:
        dies, fails = self._tick(), self._fails(call)
        part = data[: self._rng.randint(0, len(data))] if dies or fails else data
        done = write(fd, part) if part else 0
        self._disk(self._paths[fd]).writes.append((offset, part))
        if dies:
            self.die()
            raise DiedError
        if fails and (not done or self._rng.random() < 0.5):
            number = self._rng.choice(_NO_ROOM)
            raise OSError(number, os.strerror(number))
        return done

    def fdatasync(self, fd: int) -> None:
        """Bring a file to the disk, or die before or after it, or lose pages."""
        if fd in self._unsynced:
            self.broken.append("a descriptor whose sync failed was synced again")
        disk = self._disk(self._paths[fd])
        if self._tick():
            if self._rng.random() < 0.5:
                disk.sync()
            self.die()
            raise DiedError
        if self._fails("fdatasync"):
            self._unsynced.add(fd)
            disk.lose_pages(self._rng)
            number = self._rng.choice(_NO_ROOM)
            raise OSError(number, os.strerror(number))
        disk.sync()

    def fsync(self, fd: int) -> None:
        """Make the names in a folder durable, or die, or fail."""
        self._tick_or_die()
        self._may_fail("fsync")
        if self._paths.get(fd) == self._folder:
            for disk in self._disks.values():
                disk.named = True
                disk.old_name = ""
                disk.replaced = None

    def ftruncate(self, fd: int, length: int) -> None:
        """Cut a file, or die, or fail."""
        self._tick_or_die()
        self._may_fail("ftruncate")
        super().ftruncate(fd, length)
        self._disk(self._paths[fd]).writes.append((length, None))

    def rename(self, old: str | os.PathLike[str], new: str | os.PathLike[str]) -> None:
        """Rename, or die, or fail; the disk may have the old names until the folder is synced, and what they named."""
        self._tick_or_die()
        self._may_fail("rename")
        replaced = self._disk(os.fspath(new)) if os.path.exists(new) else None
        super().rename(old, new)
        disk = self._disk(os.fspath(new)) if os.fspath(old) not in self._disks else self._disks.pop(os.fspath(old))
        disk.old_name = os.fspath(old) if disk.named else ""
        disk.replaced = replaced if disk.named else None
        disk.named = False
        self._disks[os.fspath(new)] = disk
        for fd, path in self._paths.items():  # open files go with their name
            if path == os.fspath(old):
                self._paths[fd] = os.fspath(new)

    def unlink(self, path: str | os.PathLike[str]) -> None:
        """Remove a file at once, or die, or fail."""
        self._tick_or_die()
        self._may_fail("unlink")
        super().unlink(path)
        self._disks.pop(os.fspath(path), None)

    def fstat(self, fd: int) -> os.stat_result:
        """Return the state of a file, or die, or fail."""
        self._tick_or_die()
        self._may_fail("fstat")
        return super().fstat(fd)

    def stat(self, path: str | os.PathLike[str]) -> os.stat_result:
        """Return the state of what is there, or die, or fail."""
        self._tick_or_die()
        self._may_fail("stat")
        return super().stat(path)

    # -- what SQLite calls -----------------------------------------------------------------------------

    def watches(self, path: str) -> bool:
        """Say whether this is the ledger or its log; their shared memory goes with the process."""
        return os.path.dirname(path) == self._folder and not path.endswith("-shm")

    def db_read(self, _path: str) -> int:
        """Fail at times."""
        return vfs.IOERR_READ if self.alive and self._fails("db_read") else vfs.OK

    def db_write(self, path: str, data: bytes, offset: int) -> tuple[int, int]:
        """Write, or die or fail after a part."""
        dies = self._dies_in_db()
        if dies is None:
            return vfs.IOERR_WRITE, 0
        fails = self._fails("db_write")
        disk = self._disk(path)
        if not dies and not fails:
            disk.writes.append((offset, data))
            return vfs.OK, 0
        part = self._rng.randint(0, len(data))
        disk.writes.append((offset, data[:part]))
        if dies:
            self.die()
        return (vfs.IOERR_WRITE if dies or self._rng.random() < 0.5 else vfs.FULL), part

    def db_sync(self, path: str) -> int:
        """Sync, or die, or fail; SQLite relies on pages that a failed sync leaves dirty, so they stay so."""
        dies = self._dies_in_db()
        if dies is None or dies or self._fails("db_sync"):
            if dies:
                self.die()
            return vfs.IOERR_FSYNC
        self._disk(path).sync()
        return vfs.OK

    def db_truncate(self, path: str, size: int) -> int:
        """Cut, or die, or fail."""
        dies = self._dies_in_db()
        if dies is None or dies or self._fails("db_truncate"):
            if dies:
                self.die()
            return vfs.IOERR_TRUNCATE
        self._disk(path).writes.append((size, None))
        return vfs.OK

    def db_delete(self, path: str) -> int:
        """Delete, unless the process is dead."""
        if not self.alive and not self.asleep:
            return vfs.IOERR
        self._disks.pop(path, None)
        return vfs.OK

    def _dies_in_db(self) -> bool | None:
        """Count a call of SQLite's; None when the process is dead already."""
        try:
            return self._tick()
        except DiedError:
            return None
