"""Journals of producer and chaos, which note each act before they do it: the oracle's only source beside the disk.

Each entry is one JSON line, written with one ``write``, so that a kill costs at most an entry whose act had
not begun. Each process has a journal of its own.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

import msgspec
from blake3 import blake3


class Said(msgspec.Struct, frozen=True, tag="said", omit_defaults=True):
    """A line with a record. Only its conversation contains ``mark``.

    ``line`` is the digest of the line's bytes, ``messages`` the digest of the conversation that a trainer should
    get. ``time_us`` is the record's own time in microseconds since 1970, or None.
    """

    line: str
    mark: str
    session: str
    messages: str
    turn: int | None = None
    time_us: int | None = None


class Bad(msgspec.Struct, frozen=True, tag="bad"):
    """A line that no daemon can use. ``mark`` stands near its beginning."""

    line: str
    mark: str


class Shard(msgspec.Struct, frozen=True, tag="shard"):
    """A shard is about to be written; ``anew`` if that overwrites its old bytes."""

    path: str
    anew: bool
    lines: list[Said | Bad]


class Closed(msgspec.Struct, frozen=True, tag="closed"):
    """A shard is finished: the producer will not touch it again."""

    path: str


class ShardMove(msgspec.Struct, frozen=True, tag="moved"):
    """A shard is about to be renamed or copied."""

    source: str
    target: str


class Scoring(msgspec.Struct, frozen=True, tag="scoring"):
    """An outcome row is about to get a reward: its first, or a corrected one."""

    session: str
    created_at: str
    reward: int


class TraceCommitted(msgspec.Struct, frozen=True, tag="committed"):
    """A write to the trace database ended; ``fault`` is the cause of its failure, or empty."""

    session: str
    seconds: float
    fault: str = ""


class Did(msgspec.Struct, frozen=True, tag="did"):
    """Something was injected, ``times`` times."""

    what: str
    times: int = 1


Entry = Shard | Closed | ShardMove | Scoring | TraceCommitted | Did


class SoakJournal:
    """The writer of one journal, as a context manager."""

    def __init__(self, folder: Path, name: str) -> None:
        self.counts: Counter[str] = Counter()
        self._path = folder / f"{name}.jsonl"

    def __enter__(self) -> Self:
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def note(self, entry: Entry) -> None:
        """Write an entry, before its act."""
        rest = memoryview(msgspec.json.encode(entry) + b"\n")
        while rest:
            rest = rest[os.write(self._fd, rest) :]

    def did(self, what: str, times: int = 1) -> None:
        """Count and note something that was injected."""
        if times:
            self.counts[what] += times
            self.note(Did(what, times))


class Journals:
    """The reader of all journals of one soak, in order of their names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, int] = {}
        self._decode = msgspec.json.Decoder(Entry).decode

    def new_entries(self) -> Iterator[Entry]:
        """Yield the entries that are new since the last call."""
        for name in sorted(os.listdir(self._folder)):
            with open(self._folder / name, "rb") as journal:
                journal.seek(self._read.get(name, 0))
                for line in _whole_lines(journal):
                    self._read[name] = self._read.get(name, 0) + len(line)
                    yield self._decode(line)


def _whole_lines(lines: Iterable[bytes]) -> Iterator[bytes]:
    return (line for line in lines if line.endswith(b"\n"))


def digest(data: bytes) -> str:
    """Return the digest of bytes, as a journal has it."""
    return blake3(data).hexdigest(10)
