"""The dead letters: one JSON line for each shard line that cannot be taken, with place and reason.

The file follows the ledger: what lies past the committed length is cut at start, as the lines in question
are read again.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from streamer.dataset import write_all
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

    def recover(self, length: int) -> None:
        """Cut what the ledger has not committed. A file that a person shortened or removed is taken as it is."""
        try:
            size = self._files.stat(self.path).st_size
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._unavailable(error) from error
        self._open()
        try:
            if size > length:
                self._files.ftruncate(self._fd, length)
        except OSError as error:
            raise self._unavailable(error) from error
        self.length = min(size, length)

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
            self._fd = self._files.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        except OSError as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: OSError) -> UnavailableError:
        return UnavailableError(
            "write the dead letters", str(self.path), error.strerror or str(error), "see `df`; it is retried"
        )
