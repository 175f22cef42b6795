"""Follows a dataset as a reader does, and checks that no whole line ever changes or disappears.

The watcher remembers one digest for each block, 16 bytes for a MiB. Each look reads the new lines and compares
some of the old blocks with the file, so that all of them are compared again and again.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

from blake3 import blake3

from streamer.commands.soak.problem import BrokenPromise, Complain

_BLOCK = 1 << 20
_COMPARED = 8
"""Number of old blocks that one look compares."""

_LONGEST = 1 << 26
"""Upper limit of the bytes of a line."""


class Watcher:
    """The watcher of one dataset, as a context manager; it complains once, then it stops watching."""

    def __init__(self, path: Path, complain: Complain) -> None:
        self.length = 0
        self._path = path
        self._report = complain
        self._fd = -1
        self._given_up = False
        self._blocks: list[bytes] = []
        self._last = blake3()
        self._next = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def look(self) -> None:
        """Read the new whole lines, and compare some of the old ones."""
        if self._is_there():
            self._read_new()
            self._compare(_COMPARED)

    def look_at_all(self) -> None:
        """Read the new whole lines, and compare all of the old ones."""
        if self._is_there():
            self._read_new()
            self._next = 0
            self._compare(len(self._blocks) + 1)

    def _is_there(self) -> bool:
        if self._given_up:
            return False
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            if self._fd >= 0:
                self._complain("the file went away")
            return False
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        mine = os.fstat(self._fd)
        if (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino):
            self._complain("another file stands in its place")
        elif mine.st_size < self.length:
            self._complain(f"it is {mine.st_size} bytes long, after whole lines up to {self.length} had been seen")
        return not self._given_up

    def _read_new(self) -> None:
        size = _BLOCK
        while data := self._settled(size):
            whole = data[: data.rfind(b"\n") + 1]
            if whole:
                self._remember(whole)
            elif len(data) < size or size >= _LONGEST:
                return  # the last line is not finished
            else:
                size *= 2  # a line that is longer than what was read of it

    def _settled(self, size: int) -> bytes:
        """Read the new bytes until two reads agree: a tail may be cut and rewritten during a read."""
        data, again = b"", os.pread(self._fd, size, self.length)
        while data != again:
            data, again = again, os.pread(self._fd, size, self.length)
        return data

    def _remember(self, whole: bytes) -> None:
        while whole:
            room = _BLOCK - self.length % _BLOCK
            self._last.update(whole[:room])
            self.length += len(whole[:room])
            if self.length % _BLOCK == 0:
                self._blocks.append(self._last.digest(16))
                self._last = blake3()
            whole = whole[room:]

    def _compare(self, blocks: int) -> None:
        for _ in range(min(blocks, len(self._blocks) + 1)):
            number = self._next % (len(self._blocks) + 1)
            self._next = number + 1
            start = number * _BLOCK
            stop = min(start + _BLOCK, self.length)
            expected = self._blocks[number] if number < len(self._blocks) else self._last.digest(16)
            if blake3(os.pread(self._fd, stop - start, start)).digest(16) != expected:
                self._complain(f"bytes {start} to {stop}, seen as whole lines before, have changed")
                return

    def _complain(self, what: str) -> None:
        self._given_up = True
        self._report(BrokenPromise("line_changed", str(self._path), what))
