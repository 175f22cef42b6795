"""Records of a dataset, present and future, for programs: ``streamer.follow``.

A *token* is a reader's position as printable text: its file offset and a digest of the bytes before it. It is valid in
another process, after a restart of the daemon, and on a copy of the dataset; in another dataset it is refused. If the
part was compacted since, the cuts in its manifest show where the reader was.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import anyio
import msgspec
from blake3 import blake3

from streamer.base.errors import ConfigError, RefusedError
from streamer.base.lines import FileLine
from streamer.base.text import printable
from streamer.core.records.schema import check_line
from streamer.reader.tail import POLL, Follower
from streamer.store.parts.cuts import TAIL, Cut, token_digest
from streamer.store.parts.parts import closed_numbers, listed_cuts

BEGINNING: Literal["beginning"] = "beginning"
END: Literal["end"] = "end"

_TOKEN = re.compile(r"streamer1-([0-9]{1,19})-([0-9a-f]{32})")

_log = logging.getLogger("streamer")


class Record(msgspec.Struct, frozen=True):
    """One record of a dataset.

    ``messages`` and ``metadata`` are those of its line, ``line`` is the line itself, newline included. ``token`` is the
    position after it: a reader that starts there gets the next record first.
    """

    messages: list[dict[str, Any]]
    metadata: dict[str, Any]
    token: str
    line: bytes


class Following:
    """A reader of a growing dataset: an iterator, an async iterator, and a context manager.

    Made by :func:`follow`. ``skipped`` counts lines that are not records; each is also logged as a warning of the
    logger ``streamer``.
    """

    def __init__(self, path: Path, *, start: str, wait: bool, poll: float, shard: tuple[int, int]) -> None:
        self._path = path
        self._wait = wait
        self._poll = poll
        self._index, self._count = shard
        self.skipped = 0
        self._lines: Iterator[FileLine] = iter(())
        if start == END:
            self._follower = self._open(last=0)
        elif start == BEGINNING:
            self._follower = self._open(part=next(iter(closed_numbers(path)), None))
        else:
            self._follower = self._open_at(start)
        self._tail = self._follower.before(TAIL)
        self._offset = self._follower.offset
        self._start = start if start not in {BEGINNING, END} else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Record:
        """Return the next record; wait for one, or stop at the end.

        Raises:
            OSError: The file exists and cannot be read.
            RefusedError: The file became shorter than what was read: it is another dataset.
        """
        while (record := self._next()) is None:
            if not self._wait:
                raise StopIteration
            time.sleep(self._poll)
        return record

    def __aiter__(self) -> AsyncIterator[Record]:
        return self

    async def __anext__(self) -> Record:
        """Do as ``__next__``, for asyncio and trio: other tasks run while it waits."""
        while (record := self._next()) is None:
            if not self._wait:
                raise StopAsyncIteration
            await anyio.sleep(self._poll)
        return record

    @property
    def token(self) -> str:
        """The position after the last returned record."""
        if self._start is not None:
            return self._start  # nothing was read since, and compaction may have removed the bytes of its digest
        return f"streamer1-{self._offset}-{token_digest(self._tail).hex()}"

    def close(self) -> None:
        """Close the file."""
        self._follower.close()

    def _next(self) -> Record | None:
        """Return the next record, None if there is none now."""
        while True:
            for line in self._lines:
                record = self._take(line)
                if record is not None:
                    return record
            found = self._follower.read()
            if not found:
                return None
            self._lines = iter(found)

    def _take(self, line: FileLine) -> Record | None:
        """Move past one line; return its record, if it is one and in this reader's shard."""
        self._start = None
        # Offsets start again at 0 in the next file, and so does the tail.
        self._tail = ((self._tail if line.offset else b"") + line.data[-TAIL:])[-TAIL:]
        self._offset = line.offset + len(line.data)
        checked = check_line(line.data)
        problem = next((found for found in checked.findings if not found.kind.is_warning), None)
        if problem is not None:
            self.skipped += 1
            place = f"{printable(str(self._path))}, byte {line.offset}"
            _log.warning("%s: not a record: %s: %s", place, problem.kind, printable(problem.detail))
            return None
        if not self._is_ours(checked.metadata, line.data):
            return None
        return Record(checked.messages, checked.metadata, self.token, line.data)

    def _is_ours(self, metadata: dict[str, Any], data: bytes) -> bool:
        if self._count == 1:
            return True
        run = metadata.get("run_id")
        key = data if run is None else str(run).encode()
        return int.from_bytes(blake3(key).digest(8)) % self._count == self._index

    def _open(self, *, part: int | None = None, start: int = 0, last: int | None = None) -> Follower:
        return Follower(self._path, part=part, start=start, last=last, on_restart=self._refuse_restart)

    def _open_at(self, token: str) -> Follower:
        parsed = _TOKEN.fullmatch(token)
        if parsed is None:
            cause = f"{printable(token[:80])!r} is neither a token nor {BEGINNING!r} or {END!r}"
            raise ConfigError("follow the dataset", "start", cause, "give the token of a record, as it was")
        offset, digest = int(parsed[1]), bytes.fromhex(parsed[2])
        parts = closed_numbers(self._path)
        if not offset:  # the token was made before the first record
            return self._open(part=parts[0] if parts else None)
        for part in (None, *reversed(parts)):
            follower = self._open(part=part, start=offset)
            if _is_valid(follower, offset, digest):
                return follower
            follower.close()
        found = self._open_compacted(set(parts), offset, digest)
        if found is not None:
            return found
        raise RefusedError(
            "follow the dataset",
            printable(str(self._path)),
            f"what stands before byte {offset:,} is not what this token was made after: it is of another dataset,"
            " or of a part that is not kept any more",
            f"give the dataset that the token is of, or start from {BEGINNING!r}",
        )

    def _open_compacted(self, there: Collection[int], offset: int, digest: bytes) -> Follower | None:
        """Return a reader at the present position of a token, if its part was compacted since."""
        compacted = {part: cuts for part, cuts in listed_cuts(self._path).items() if part in there}
        for part, cuts in reversed(compacted.items()):
            for first in reversed(range(len(cuts))):  # if the token was made before this cut
                position = _after(cuts[first:], offset, digest)
                if position is None:
                    continue
                follower = self._open(part=part, start=position.offset)
                if position.is_proven or _is_valid(follower, position.offset, digest):
                    return follower
                follower.close()
        return None

    def _refuse_restart(self) -> None:
        raise RefusedError(
            "follow the dataset",
            printable(str(self._path)),
            "it became shorter than what was read of it: another dataset stands there",
            f"start anew from {BEGINNING!r}",
        )


class _Position(NamedTuple):
    """The present file offset of a token; ``is_proven`` if a cut knows the token."""

    offset: int
    is_proven: bool


def _after(cuts: Sequence[Cut], offset: int, digest: bytes) -> _Position | None:
    """Return the position of a token after some cuts; None if it was not made of that file."""
    is_proven = False
    for cut in cuts:
        if not is_proven and cut.touches(offset):
            is_proven = cut.has(digest)
            if not is_proven:
                return None
        offset = cut.offset(offset)
    return _Position(offset, is_proven)


def _is_valid(follower: Follower, offset: int, digest: bytes) -> bool:
    return follower.size() >= offset and token_digest(follower.before(TAIL)) == digest


def follow(
    path: str | Path,
    *,
    start: str = BEGINNING,
    wait: bool = True,
    poll: float = POLL,
    shard: tuple[int, int] = (0, 1),
) -> Following:
    """Return a reader of a dataset: ``for record in …`` or ``async for record in …``.

    Args:
        path: The dataset, which need not exist yet.
        start: ``"beginning"``, ``"end"`` (only new records), or the token of a record (the records after it).
        wait: Wait for new records for ever; False stops after the last present record.
        poll: Seconds between two reads.
        shard: (index, count): only the records of every count-th rollout, by a hash of its run id. Readers with all
            indices of one count share the records: each gets its own.

    Raises:
        ConfigError: ``start`` is not a token, or ``shard`` is not within its count.
        OSError: The file exists and cannot be read.
        RefusedError: The token belongs to another dataset.
    """
    index, count = shard
    if not 0 <= index < count:
        raise ConfigError("follow the dataset", "shard", f"{shard} is no (index, count) with index below count")
    return Following(Path(path), start=start, wait=wait, poll=poll, shard=shard)
