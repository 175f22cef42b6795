"""Append-only file of lines: append, sync, mend. The dataset and each of its parts is one.

Invariants
- Bytes before the end of the last whole line never change.
- After any failure the descriptor is closed, and the state of the file is found out again, as after a crash::

    0 ............ committed ............ last newline ........ end of file
      known to the ledger │ whole lines           │ torn tail: cut (or completed, if it is whole JSON)
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
from blake3 import blake3

from streamer.base.errors import translate_errors
from streamer.base.files import Files, sync_folder
from streamer.base.lines import BLOCK, FileLine, complete_read, line_ends_before, whole_lines
from streamer.base.text import invalid_utf8

_TAIL = 4096
"""Bytes before the committed length whose digest ties a ledger to its file."""

_UNSURE = 128 << 20
"""Bytes at the end of the file that may never have been synced: more than any batch holds."""


class AppendFile:
    """The only writer of a file. Offsets are bytes of this file.

    Args:
        path: Where the file is, or will be.
        files: The system calls.
        what: Name of the file in errors, such as "the dataset".
    """

    def __init__(self, path: Path, files: Files, what: str) -> None:
        self.path = path
        self._files = files
        self._what = what
        self._fd = -1

    def open(self) -> None:
        """Open the file for appending, creating it and its folder.

        Raises:
            UnavailableError: It cannot be opened or created now.
        """
        with self.unavailable("open"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = self._files.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
            sync_folder(self._files, self.path.parent)

    def close(self) -> None:
        """Close the descriptor."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):  # everything committed was synced before
                self._files.close(fd)

    def append(self, data: bytes, length: int) -> None:
        """Append whole lines; they are visible at once and durable after ``sync``.

        Args:
            data: The lines.
            length: The expected length of the file.

        Raises:
            UnavailableError: The disk did not take all lines, or another process changed the file.
        """
        with self.unavailable("append to"):
            self._check_ours(length)
            write_all(self._files, self._fd, data)

    def sync(self) -> None:
        """Wait until every appended line is on the disk.

        Raises:
            UnavailableError: The disk failed; the descriptor must not be used again.
        """
        with self.unavailable("sync"):
            self._files.fdatasync(self._fd)

    def size(self) -> int:
        """Return the length of the file."""
        with self.unavailable("read"):
            return self._files.fstat(self._fd).st_size

    def digest(self, length: int) -> bytes:
        """Return the digest of the last bytes before ``length``."""
        with self.unavailable("read"):
            return digest_before(self._files, self._fd, length)

    def sum(self, length: int) -> tuple[str, int]:
        """Return the SHA-256 of the first ``length`` bytes, in hexadecimal, and the number of their lines."""
        sha, lines, position = hashlib.sha256(), 0, 0
        with self.unavailable("read"):
            while position < length and (block := self._files.pread(self._fd, min(BLOCK, length - position), position)):
                sha.update(block)
                lines += block.count(b"\n")
                position += len(block)
        return sha.hexdigest(), lines

    def rename(self, path: Path) -> None:
        """Rename the file durably; the descriptor stays valid.

        Raises:
            UnavailableError: The name is taken, or the folder cannot be changed now.
        """
        with self.unavailable("rename"):
            if path.exists():
                raise FileExistsError(errno.EEXIST, f"its next name is taken: {path.name} is there already")
            self._files.rename(self.path, path)
            sync_folder(self._files, path.parent)

    def mend(self, committed: int, *, cut_holes: bool) -> int:
        """Cut a torn last line, or end it if it is whole JSON; return the number of bytes cut.

        A power loss can leave holes in unsynced bytes, zeros in place of lines. All from the first hole on is cut.

        Args:
            committed: Length up to which all lines are whole.
            cut_holes: Whether to look for holes after ``committed``.
        """
        with self.unavailable("mend"):
            size = whole = self._files.fstat(self._fd).st_size
            if cut_holes:
                whole = self._first_hole(committed, size)
            end = next(line_ends_before(self._read, whole, committed), committed)
            if end == size:
                return 0
            if self._is_whole(end, size):
                write_all(self._files, self._fd, b"\n")
                return 0
            self._files.ftruncate(self._fd, end)
            return size - end

    def lines(self, start: int, stop: int) -> Iterator[FileLine]:
        """Yield the whole lines between two line ends; nothing is created.

        Raises:
            UnavailableError: The file cannot be read now, or is shorter.
        """
        with self.unavailable("read"):
            fd = self._files.open(self.path, os.O_RDONLY)
            try:
                yield from whole_lines(complete_read(self._files, fd, stop), start, stop)
            finally:
                self._files.close(fd)

    def rewritten_lines(self, start: int) -> Iterator[FileLine]:
        """Yield the whole lines from ``start`` on, and write the same bytes over each block that was read.

        After a failed sync the kernel may call pages clean that never reached the disk; writing the same
        bytes through a new descriptor makes it write them. More than the last batches were synced before.
        """
        with self.unavailable("mend"):
            fd = self._files.open(self.path, os.O_RDWR)
            try:
                size = self._files.fstat(fd).st_size

                def read(length: int, offset: int) -> bytes:
                    block = self._files.pread(fd, length, offset)
                    if offset + len(block) > size - _UNSURE:
                        _write_all_at(self._files, fd, block, offset)
                    return block

                yield from whole_lines(read, start, size)
            finally:
                self._files.close(fd)

    def unavailable(self, op: str) -> translate_errors:
        """Turn an ``OSError`` in a block into an error that says what was done, where, and what to do."""
        return translate_errors(f"{op} {self._what}", self.path, "see `df` and the folder's rights; it is retried")

    def _check_ours(self, length: int) -> None:
        """Check that the path still names this file and that no other process wrote to it."""
        mine = self._files.fstat(self._fd)
        there = self._files.stat(self.path)
        if (mine.st_dev, mine.st_ino) != (there.st_dev, there.st_ino):
            raise OSError("another file stands at this path now")
        if mine.st_size != length:
            raise OSError(f"it is {mine.st_size} bytes long where {length} were written")

    def _first_hole(self, start: int, size: int) -> int:
        """Return the offset of the first zero byte, ``size`` without one: no line holds one."""
        while start < size:
            block = self._files.pread(self._fd, BLOCK, start)
            found = block.find(b"\0")
            if found >= 0:
                return start + found
            start += len(block)
        return size

    def _is_whole(self, start: int, stop: int) -> bool:
        line = self._files.pread(self._fd, stop - start, start)
        try:
            return invalid_utf8(line) is None and isinstance(msgspec.json.decode(line), dict)
        except (msgspec.MsgspecError, RecursionError):
            return False

    def _read(self, size: int, offset: int) -> bytes:
        return self._files.pread(self._fd, size, offset)


def write_all(files: Files, fd: int, data: bytes) -> None:
    """Write all of ``data``; after an ``OSError``, an unknown part of it is written."""
    rest = memoryview(data)
    while rest:
        rest = rest[files.write(fd, rest) :]


def _write_all_at(files: Files, fd: int, data: bytes, offset: int) -> None:
    """Write all of ``data`` at ``offset``."""
    done = 0
    while done < len(data):
        done += files.pwrite(fd, data[done:], offset + done)


def digest_before(files: Files, fd: int, length: int) -> bytes:
    """Return the digest of the last bytes before ``length``, which ties a ledger to its file."""
    start = max(0, length - _TAIL)
    return blake3(files.pread(fd, length - start, start)).digest(16)
