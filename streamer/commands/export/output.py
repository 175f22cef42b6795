"""The folder of an export: written beside its path, and renamed to it when it is complete.

::

    .OUT.part/new       becomes OUT, in one step, also in place of an older export
    .OUT.part/scratch   temporary files of the passes

A reader sees the old folder or the new one, whole. The next export removes the files of a killed one.
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
"""The file that marks a folder as an export: no other folder is ever replaced."""

_FOLDER = 0o750
_AT_FDCWD = -100
_EXCHANGE = 2
_NOT_HERE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


class ExportFolder:
    """Writes the files of one export. Without ``publish``, leaving the context changes nothing.

    Args:
        path: The folder to make.
        overwrite: Whether to replace an older export at ``path``.
        files: The system calls.
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
        """Open a new file for writing; it is synced when it is closed.

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
        """Return whether a file was written."""
        return (self._new / name).exists()

    def size(self, name: str) -> int:
        """Return the size of a written file in bytes."""
        return (self._new / name).stat().st_size

    def rename(self, old: str, new: str) -> None:
        """Rename a written file."""
        with self._translated():
            self._files.rename(self._new / old, self._new / new)

    def publish(self) -> None:
        """Sync all files, and put the folder in its place.

        Raises:
            UnavailableError: the disk refused; an older export is unchanged.
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
        """Exchange the new folder and the old one, so that one of them is in place at any moment."""
        if not _exchange(self._new, self._path):
            # Some file systems cannot exchange names; then the path is missing for a moment.
            old = self._part / "old"
            os.rename(self._path, old)
            os.rename(self._new, self._path)

    def _translated(self) -> translate_errors:
        return translate_errors("write the output", printable(str(self._path)), "see `df` and the folder's rights")


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names; return False if the file system or the C library cannot."""
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
