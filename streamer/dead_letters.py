"""The dead letters: one JSON line for each shard line that cannot be taken, with place and reason.

The file follows the ledger: what lies past the committed length is cut at start, as the lines in question
are read again; and a file that the ledger does not know is written anew from the shards.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from streamer.dataset import digest_before, write_all
from streamer.errors import UnavailableError
from streamer.files import Files
from streamer.model import Line

HEAD_BYTES = 200
"""How much of a line a dead letter quotes."""


def encode_dead_letter(line: Line, reason: str, detail: str) -> bytes:
    """Return the dead letter of one line, newline included."""
    return (
        msgspec.json.encode(
            {
                "shard": os.fsencode(line.shard).decode("utf-8", "backslashreplace"),
                "line": line.number,
                "offset": line.start,
                "bytes": line.stop - line.start - 1,
                "reason": reason,
                "detail": detail,
                "head": line.head.decode("utf-8", "backslashreplace"),
            }
        )
        + b"\n"
    )


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

    def recover(self, length: int, tail: bytes) -> bool:
        """Cut what the ledger has not committed; say whether all letters have to be written anew.

        They have to when the file is not the one that the ledger describes (an older ledger was restored):
        it is emptied. A file that a person removed or emptied is taken as it is.

        Args:
            length: bytes that the ledger has committed.
            tail: the digest of the last of them.
        """
        try:
            if not self.path.exists() or not self._files.stat(self.path).st_size:
                return False
            self._open()
            size = self._files.fstat(self._fd).st_size
            ours = size >= length and (not length or digest_before(self._files, self._fd, length) == tail)
            self.length = length if ours else 0
            if size > self.length:
                self._files.ftruncate(self._fd, self.length)
        except OSError as error:
            raise self._unavailable(error) from error
        return not ours

    def tail_digest(self) -> bytes:
        """Return the digest of the last bytes before ``length``."""
        return digest_before(self._files, self._fd, self.length) if self.length else b""

    def append(self, data: bytes) -> None:
        """Append whole lines and return when they are on the disk.

        Raises:
            UnavailableError: the disk did not take them.
        """
        if self._fd < 0:
            self._open()
        try:
            write_all(self._files, self._fd, data)
            self._files.fdatasync(self._fd)
        except OSError as error:
            raise self._unavailable(error) from error
        self.length += len(data)

    def close(self) -> None:
        """Give the descriptor up."""
        if self._fd >= 0:
            self._files.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        try:
            self._fd = self._files.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        except OSError as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: OSError) -> UnavailableError:
        return UnavailableError(
            "write the dead letters", str(self.path), error.strerror or str(error), "see `df`; it is retried"
        )
