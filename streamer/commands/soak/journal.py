"""What producer and chaos do, written down before they do it: the oracle's only source beside the disk.

One JSON line for each entry, with one ``write`` each, so that a kill costs at most an entry whose act had
not begun. Each process that is started has a journal of its own.
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
    """A record in a line: ``mark`` is in its conversation and in no other one's.

    ``line`` is the digest of the line's bytes, ``messages`` that of the conversation that a trainer should
    get. ``time_us`` is the record's own time in microseconds since 1970, None if it has none.
    """

    line: str
    mark: str
    session: str
    messages: str
    turn: int | None = None
    time_us: int | None = None


class Bad(msgspec.Struct, frozen=True, tag="bad"):
    """A line that no one can take. ``mark`` stands near its beginning."""

    line: str
    mark: str


class Shard(msgspec.Struct, frozen=True, tag="shard"):
    """A shard is about to be written; ``anew`` if that takes its old bytes away."""

    path: str
    anew: bool
    lines: list[Said | Bad]


class Closed(msgspec.Struct, frozen=True, tag="closed"):
    """The producer will not touch a shard again."""

    path: str


class ShardMove(msgspec.Struct, frozen=True, tag="moved"):
    """A shard is about to be renamed or copied."""

    source: str
    target: str


class Scoring(msgspec.Struct, frozen=True, tag="scoring"):
    """An outcome row is about to have a reward: a new one, or one that is corrected."""

    session: str
    created_at: str
    reward: int


class TraceCommitted(msgspec.Struct, frozen=True, tag="committed"):
    """A write to the trace database took so many seconds; ``fault`` says why it failed, if it did."""

    session: str
    seconds: float
    fault: str = ""


class Did(msgspec.Struct, frozen=True, tag="did"):
    """Something was injected, so many times."""

    what: str
    times: int = 1


Entry = Shard | Closed | ShardMove | Scoring | TraceCommitted | Did


class SoakJournal:
    """The writer of one journal; use it as a context manager."""

    def __init__(self, folder: Path, name: str) -> None:
        self.counts: Counter[str] = Counter()
        self._path = folder / f"{name}.jsonl"

    def __enter__(self) -> Self:
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def note(self, entry: Entry) -> None:
        """Write an entry; the act that it tells of comes after it."""
        rest = memoryview(msgspec.json.encode(entry) + b"\n")
        while rest:
            rest = rest[os.write(self._fd, rest) :]

    def did(self, what: str, times: int = 1) -> None:
        """Count something that was injected."""
        if times:
            self.counts[what] += times
            self.note(Did(what, times))


class Journals:
    """All journals of one soak, in order of their names; each entry is told once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, int] = {}
        self._decode = msgspec.json.Decoder(Entry).decode

    def news(self) -> Iterator[Entry]:
        """Yield the entries that were not told yet."""
        for name in sorted(os.listdir(self._folder)):
            with open(self._folder / name, "rb") as journal:
                journal.seek(self._read.get(name, 0))
                for line in _whole_lines(journal):
                    self._read[name] = self._read.get(name, 0) + len(line)
                    yield self._decode(line)


def _whole_lines(lines: Iterable[bytes]) -> Iterator[bytes]:
    return (line for line in lines if line.endswith(b"\n"))


def digest(data: bytes) -> str:
    """Return the digest under which bytes stand in a journal."""
    return blake3(data).hexdigest(10)
