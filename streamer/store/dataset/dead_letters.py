"""The dead letters: one JSON line for each shard line that cannot be taken, with place and reason.

The file follows the ledger: what lies past the committed length is cut at start, as the lines in question
are read again; and a file that the ledger does not know is written anew from the shards.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from streamer.base.append_file import digest_before, write_all
from streamer.base.errors import translate_errors
from streamer.base.files import Files, sync_folder


def dead_letters_path(dataset: Path) -> Path:
    """Return where the dead letters of a dataset are."""
    return dataset.with_name(f"{dataset.name}.dead.jsonl")


class DeadLetters:
    """The one writer of ``<dataset>.dead.jsonl``; the file appears with the first dead letter."""

    def __init__(self, path: Path, files: Files) -> None:
        self.path = path
        self.length = 0
        self._files = files
        self._fd = -1
        self._disk = translate_errors("write the dead letters", path, "see `df`; it is retried")

    def recover(self, length: int, tail: bytes) -> bool:
        """Cut what the ledger has not committed; say whether the file is one that it does not describe.

        Then (an older ledger was restored) all letters have to be written anew, after ``clear``. A file that a
        person removed or emptied is taken as it is.

        Args:
            length: bytes that the ledger has committed.
            tail: the digest of the last of them.
        """
        with self._disk:
            if not self.path.exists() or not self._files.stat(self.path).st_size:
                return False
            self._open()
            size = self._files.fstat(self._fd).st_size
            ours = size >= length and (not length or digest_before(self._files, self._fd, length) == tail)
            if ours and size > length:
                self._files.ftruncate(self._fd, length)
        self.length = length
        return not ours

    def clear(self) -> None:
        """Empty the file."""
        with self._disk:
            self._files.ftruncate(self._fd, 0)
        self.length = 0

    def tail_digest(self) -> bytes:
        """Return the digest of the last bytes before ``length``."""
        with self._disk:
            return digest_before(self._files, self._fd, self.length) if self.length else b""

    def append(self, data: bytes) -> None:
        """Append whole lines and return when they are on the disk.

        Raises:
            UnavailableError: the disk did not take them.
        """
        self._begin_if_removed()
        with self._disk:
            write_all(self._files, self._fd, data)
            self._files.fdatasync(self._fd)
        self.length += len(data)

    def _begin_if_removed(self) -> None:
        """Open the file, and another one if a person removed it meanwhile."""
        if self._fd >= 0 and not self._is_there():
            self.close()
            self.length = 0
        if self._fd < 0:
            self._open()

    def _is_there(self) -> bool:
        try:
            there, mine = self._files.stat(self.path), self._files.fstat(self._fd)
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)

    def close(self) -> None:
        """Give the descriptor up."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):  # what counts was synced before
                self._files.close(fd)

    def _open(self) -> None:
        with self._disk:
            is_new = not self.path.exists()
            self._fd = self._files.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
            if is_new:
                sync_folder(self._files, self.path.parent)
