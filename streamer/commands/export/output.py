"""The folder of an export: made beside its place, and put there when it is complete.

::

    .OUT.part/new       becomes OUT, in one step, also where an older export stands
    .OUT.part/scratch   what the pass has to remember

A reader sees the old folder or the new one, whole. What a killed export left is removed by the next one.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Self

from streamer.base.errors import ConfigError, LockedError, RefusedError, translate_errors
from streamer.base.files import Files, sync_folder
from streamer.base.text import printable

REPORT = "export.json"
"""The file by which an older export is recognised: nothing else is ever replaced."""

_FOLDER = 0o750
_AT_FDCWD = -100
_EXCHANGE = 2
_NOT_HERE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


class ExportFolder:
    """Writes the files of one export. Leaving it without ``publish`` leaves everything as it was.

    Args:
        path: the folder to make.
        overwrite: an older export that stands there is replaced.
        files: the system calls.
    """

    def __init__(self, path: Path, *, overwrite: bool, files: Files | None = None) -> None:
        self._path = Path(os.path.abspath(path))
        self._overwrite = overwrite
        self._files = files or Files()
        self._part = self._path.with_name(f".{self._path.name}.part")
        self._new = self._part / "new"
        self.scratch = self._part / "scratch"

    def __enter__(self) -> Self:
        self._refuse()
        with self._translated():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                os.mkdir(self._part, _FOLDER)
            self._fd = os.open(self._part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                self._claim()
            except BaseException:
                os.close(self._fd)
                raise
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._part, ignore_errors=True)
        os.close(self._fd)

    def write(self, name: str, data: bytes) -> None:
        """Write a whole file.

        Raises:
            UnavailableError: the disk did not take it.
        """
        with self.open(name) as file:
            file.write(data)

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Open a new file for writing; it is on the disk when it is closed.

        Raises:
            UnavailableError: the disk did not take it.
        """
        path = self._new / name
        with self._translated():
            os.makedirs(path.parent, _FOLDER, exist_ok=True)
            fd = self._files.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW)
            with os.fdopen(fd, "wb") as file:
                yield file
                file.flush()
                self._files.fdatasync(fd)

    def exists(self, name: str) -> bool:
        """Say whether a file was written."""
        return (self._new / name).exists()

    def size(self, name: str) -> int:
        """Return the bytes of a file that was written."""
        return (self._new / name).stat().st_size

    def rename(self, old: str, new: str) -> None:
        """Give a file that was written another name."""
        with self._translated():
            self._files.rename(self._new / old, self._new / new)

    def publish(self) -> None:
        """Put the folder in its place, once all of it is on the disk.

        Raises:
            UnavailableError: the disk refused; what stood there is as it was.
        """
        with self._translated():
            for folder, _, _ in os.walk(self._new):
                sync_folder(self._files, folder)
            if self._path.exists():
                self._replace()
            else:
                os.rename(self._new, self._path)
            sync_folder(self._files, self._path.parent)

    def _refuse(self) -> None:
        shown = printable(str(self._path))
        if not self._path.exists() and not self._path.is_symlink():
            return
        if not self._overwrite:
            raise ConfigError("export", shown, "it exists", "name another folder, or give --overwrite")
        if self._path.is_symlink() or not self._path.is_dir():
            raise RefusedError("replace the output", shown, "it is not a folder", "name another folder")
        if any(self._path.iterdir()) and not (self._path / REPORT).is_file():
            raise RefusedError(
                "replace the output", shown, f"it has no {REPORT}: it is no export", "name another folder"
            )

    def _claim(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine, there = os.fstat(self._fd), os.stat(self._part, follow_symlinks=False)
        except (BlockingIOError, FileNotFoundError):
            raise self._in_use() from None
        if not os.path.samestat(mine, there):
            raise self._in_use()
        for left in (self._new, self.scratch):
            shutil.rmtree(left, ignore_errors=True)
            os.mkdir(left, _FOLDER)

    def _in_use(self) -> LockedError:
        return LockedError(
            "write the output", printable(str(self._path)), "another export is writing it", "wait for it to end"
        )

    def _replace(self) -> None:
        """Exchange the folders, so that one of them is there at any moment, and let the old one go."""
        if not _exchange(self._new, self._path):
            # Some file systems cannot; then the path is gone for a moment.
            old = self._part / "old"
            os.rename(self._path, old)
            os.rename(self._new, self._path)

    def _translated(self) -> translate_errors:
        return translate_errors("write the output", printable(str(self._path)), "see `df` and the folder's rights")


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names; return False where the file system or the C library cannot."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    if call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NOT_HERE:
        return False
    raise OSError(code, os.strerror(code))
