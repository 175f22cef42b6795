"""System calls on files, and the clock, as arguments that tests can replace."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Protocol

import anyio

PRIVATE = 0o640
"""Mode of every file that streamer creates: the texts of models are not for everyone."""


class Files:
    """The real system calls; each raises ``OSError`` as the kernel does."""

    def open(self, path: str | os.PathLike[str], flags: int) -> int:
        """Open ``path``; a file that is created is private to user and group."""
        return os.open(path, flags | os.O_CLOEXEC, PRIVATE)

    def open_beneath(self, root: str | os.PathLike[str], path: str, flags: int) -> int:
        """Open ``path`` below ``root`` without following a link in any part of it, even if links appear meanwhile."""
        *folders, name = path.split("/")
        if not folders:
            return self.open(os.path.join(root, path), flags | os.O_NOFOLLOW)
        above = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for folder in folders:
                inner = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
                os.close(above)
                above = inner
            return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE, dir_fd=above)
        finally:
            os.close(above)

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        os.close(fd)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """Read up to ``size`` bytes at ``offset``; fewer only at the end of the file."""
        return os.pread(fd, size, offset)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """Write some of ``data``, and return the number of bytes."""
        return os.write(fd, data)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        """Write some of ``data`` at ``offset``, and return the number of bytes."""
        return os.pwrite(fd, data, offset)

    def fdatasync(self, fd: int) -> None:
        """Return when all written bytes are on the disk."""
        _datasync(fd)

    def fsync(self, fd: int) -> None:
        """Sync a directory, as ``fdatasync`` does a file."""
        os.fsync(fd)

    def ftruncate(self, fd: int, length: int) -> None:
        """Cut the file to ``length`` bytes."""
        os.ftruncate(fd, length)

    def rename(self, old: str | os.PathLike[str], new: str | os.PathLike[str]) -> None:
        """Rename a file, replacing a file of the new name."""
        os.replace(old, new)

    def unlink(self, path: str | os.PathLike[str]) -> None:
        """Remove a file, if it exists."""
        with suppress(FileNotFoundError):
            os.unlink(path)

    def fstat(self, fd: int) -> os.stat_result:
        """Return the state of an open file."""
        return os.fstat(fd)

    def stat(self, path: str | os.PathLike[str]) -> os.stat_result:
        """Return the state of the file at ``path``."""
        return os.stat(path)


def path_text(path: str) -> str:
    r"""Return a path as text that is valid UTF-8; other bytes of its name become ``\xff``."""
    return path if path.isascii() else os.fsencode(path).decode("utf-8", "backslashreplace")


def sync_folder(files: Files, folder: str | os.PathLike[str]) -> None:
    """Make the names in ``folder`` durable."""
    fd = files.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        files.fsync(fd)
    finally:
        files.close(fd)


_datasync = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync


class Clock(Protocol):
    """Time, as an argument. Ages, pauses and labels depend on it, verdicts do not."""

    def now(self) -> float:
        """Return seconds since 1970-01-01 UTC."""

    def monotonic(self) -> float:
        """Return seconds that never go back."""

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds``."""


class SystemClock:
    """The clock of the machine."""

    def now(self) -> float:
        """Return seconds since 1970-01-01 UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds``."""
        await anyio.sleep(seconds)
