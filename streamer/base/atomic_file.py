"""An output file that replaces the old one only when it is whole and on the disk.

A reader sees the old file or the new one. The new one is written as ``.<output>.part`` in the same folder, under a
lock; the next pass overwrites the remains of a killed one.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Self

from streamer.base.append_file import write_all
from streamer.base.errors import LockedError, RefusedError, translate_errors
from streamer.base.files import PRIVATE, Files, sync_folder
from streamer.base.lock import holder

_BUFFER = 1 << 20


class AtomicFile:
    """Writes the lines of one output; without ``publish``, the old file stays.

    Args:
        path: The file to make or to replace.
        files: The system calls.
    """

    def __init__(self, path: Path, files: Files) -> None:
        self.path = path
        self._part = path.with_name(f".{path.name}.part")
        self._files = files
        self._fd = -1
        self._buffer = bytearray()

    def __enter__(self) -> Self:
        self._refuse_dataset()
        with self._translated():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = self._files.open(self._part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
            try:
                self._claim()
            except BaseException:
                self._files.close(self._fd)
                raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            with suppress(OSError):
                os.unlink(self._part)
            self._close()

    def write(self, line: bytes) -> None:
        """Add one line.

        Raises:
            UnavailableError: the disk did not take it.
        """
        self._buffer += line
        if len(self._buffer) >= _BUFFER:
            self._flush()

    def publish(self) -> None:
        """Sync the file, and put it in its place.

        Raises:
            UnavailableError: the disk refused; the old file is as it was.
        """
        self._flush()
        with self._translated():
            os.fchmod(self._fd, PRIVATE)
            self._files.fsync(self._fd)
            os.rename(self._part, self.path)
            self._close()
            sync_folder(self._files, self.path.parent)

    def _refuse_dataset(self) -> None:
        ledger = self.path.with_name(f"{self.path.name}.ledger")
        daemon = holder(self.path)
        if daemon is not None:
            raise LockedError(
                "replace the output", str(self.path), f"it is the dataset of {daemon}", "name another one"
            )
        if ledger.exists():
            cause = f"it is the dataset of a daemon: {ledger.name} belongs to it"
            raise RefusedError("replace the output", str(self.path), cause, "name another output")

    def _claim(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._in_use() from None
        mine, there = self._files.fstat(self._fd), self._files.stat(self._part)
        if (mine.st_dev, mine.st_ino) != (there.st_dev, there.st_ino):
            raise self._in_use()
        self._files.ftruncate(self._fd, 0)

    def _in_use(self) -> LockedError:
        return LockedError("write the output", str(self.path), "another process is writing it", "wait for it to end")

    def _translated(self) -> translate_errors:
        return translate_errors("write the output", self.path, _hint)

    def _flush(self) -> None:
        with self._translated():
            write_all(self._files, self._fd, bytes(self._buffer))
        self._buffer.clear()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        self._files.close(fd)


def _hint(error: Exception) -> str:
    is_link = isinstance(error, OSError) and error.errno == errno.ELOOP
    return "remove that link" if is_link else "see `df` and the folder's rights"
