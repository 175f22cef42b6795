"""The dataset: append, sync, recover. The dataset is the log; the ledger follows it.

Invariants
- ``length`` is where the last whole line ends. Nothing before it is ever written again with other bytes.
- One batch is one ``append`` and one ``sync``; only then does the ledger commit.
- After any failure the descriptor is given up, and ``recover`` decides what holds, as after a crash::

    0 ............ committed ............ last newline ........ end of file
      known to the ledger │ whole lines: adopted │ torn tail: cut (or completed, if it is whole JSON)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3

from streamer.conversation import from_messages, of_messages
from streamer.dedup import KEY_VERSION, DedupBy, record_key
from streamer.errors import RefusedError, UnavailableError
from streamer.files import Files, sync_folder
from streamer.ledger import Head, Ledger
from streamer.ledger_file import way_out
from streamer.model import Outcome, Record

_TAIL = 4096
"""Bytes before the committed length whose digest ties a ledger to its dataset."""

_BLOCK = 1 << 20
_UNSURE = 128 << 20
"""Bytes at the end of the file that may never have been synced: more than any batch holds."""

_ADOPT = 2000
"""Lines adopted in one ledger transaction."""


class _Line(msgspec.Struct, gc=False):
    messages: msgspec.Raw
    metadata: dict[str, Any]


_json = msgspec.json.Encoder().encode
_line = msgspec.json.Decoder(_Line).decode
_LINE_ENDS = (("\u2028".encode(), b"\\u2028"), ("\u2029".encode(), b"\\u2029"), ("\x85".encode(), b"\\u0085"))
"""Characters that some line splitters take for a line end; they stand only inside strings, so escaping is exact."""


class _Metadata(msgspec.Struct, gc=False):
    """The keys that stand first in the metadata of every line."""

    run_id: str
    turn: Any
    model: Any
    provider: Any
    total_reward: float | int | None
    achievements_count: int | None
    total_steps: int | None
    has_image: bool
    timestamp: Any
    shard: str


_OURS = frozenset(_Metadata.__struct_fields__)


def encode_line(record: Record, outcome: Outcome, shard: str) -> bytes:
    """Return the dataset line of a record, newline included: the same metadata keys in every line."""
    metadata = _json(
        _Metadata(
            record.session,
            record.turn,
            record.model,
            record.provider,
            outcome.total_reward,
            outcome.achievements_count,
            outcome.total_steps,
            record.has_image,
            record.timestamp,
            shard if shard.isascii() else os.fsencode(shard).decode("utf-8", "backslashreplace"),
        )
    )
    theirs = {key: value for key, value in record.metadata.items() if key not in _OURS}
    if theirs:
        metadata = b"%b,%b" % (metadata[:-1], _json(theirs)[1:])
    line = b'{"messages":%b,"metadata":%b}\n' % (record.conversation.encoded, metadata)
    if not line.isascii():
        for raw, escaped in _LINE_ENDS:
            line = line.replace(raw, escaped)
    return line


def line_key(line: bytes, by: DedupBy) -> bytes:
    """Return the key of a dataset line.

    Raises:
        ValueError: the line is not one of ours.
    """
    try:
        found = _line(line)
        identity = (found.metadata["run_id"], found.metadata["turn"], found.metadata["timestamp"])
        said = from_messages(found.messages) or of_messages(msgspec.json.decode(found.messages))
        return record_key(said, by, identity)
    except (msgspec.MsgspecError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(str(error)) from error


def keys_meaning(by: DedupBy) -> str:
    """Return the name under which a ledger remembers how its keys were computed."""
    return f"{by}/{KEY_VERSION}"


class Dataset:
    """The one writer of a dataset file."""

    def __init__(self, path: Path, files: Files) -> None:
        self.path = path
        self.length = 0
        self._files = files
        self._fd = -1

    def open(self) -> None:
        """Open the file for appending, creating it and its folder.

        Raises:
            UnavailableError: it cannot be opened or created now.
        """
        with _unavailable("open the dataset", self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = self._files.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
            sync_folder(self._files, self.path.parent)

    def close(self) -> None:
        """Give the descriptor up."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):  # what counts was synced before
                self._files.close(fd)

    def append(self, data: bytes) -> None:
        """Append whole lines; they are visible at once and durable after ``sync``.

        Raises:
            UnavailableError: the disk did not take all of it, or someone else touched the file.
        """
        with _unavailable("append to the dataset", self.path):
            self._check_ours()
            write_all(self._files, self._fd, data)
        self.length += len(data)

    def sync(self) -> None:
        """Return when every line that was appended is on the disk.

        Raises:
            UnavailableError: the disk refused; the descriptor must not be used again.
        """
        with _unavailable("sync the dataset", self.path):
            self._files.fdatasync(self._fd)

    def tail_digest(self) -> bytes:
        """Return the digest of the last bytes before ``length``."""
        with _unavailable("read the dataset", self.path):
            return self._digest(self.length)

    async def recover(self, ledger: Ledger, by: DedupBy, at: Callable[[str], None]) -> Recovery:
        """Make dataset and ledger agree, whatever happened before; then ``length`` is right.

        Args:
            ledger: its head is believed up to its length, and brought up to the dataset's.
            by: what keys mean now; keys of another meaning are computed again from the lines.
            at: called with the name of each point at which a crash must be harmless.

        Raises:
            RefusedError: the dataset is shorter than the ledger says, or not the one it describes.
        """
        head = await ledger.head()
        self._check_head(head, ledger.path)
        start = head.dataset_length
        if head.keys != keys_meaning(by):
            await ledger.forget_keys(keys_meaning(by))
            start = 0
        cut = self._mend_tail(head.counted, cut_holes=bool(head.keys))
        at("recovery: tail mended")
        adopted, foreign = await self._adopt(ledger, start, head.counted, by, at)
        return Recovery(adopted=adopted, foreign=foreign, cut=cut)

    def _check_ours(self) -> None:
        """See that the path still names our file and that no one else wrote to it."""
        mine = self._files.fstat(self._fd)
        there = self._files.stat(self.path)
        if (mine.st_dev, mine.st_ino) != (there.st_dev, there.st_ino):
            raise OSError("another file stands at this path now")
        if mine.st_size != self.length:
            raise OSError(f"it is {mine.st_size} bytes long where {self.length} were written")

    def _check_head(self, head: Head, ledger: Path) -> None:
        with _unavailable("read the dataset", self.path):
            size = self._files.fstat(self._fd).st_size
            if size < head.counted:
                raise RefusedError(
                    "continue the dataset",
                    str(self.path),
                    f"it holds {size} bytes, its ledger has committed {head.counted}: lines were removed",
                    f"bring the file back, or, to go on with what is there: {_start_over(ledger)}",
                )
            if self._digest(head.dataset_length) != head.dataset_tail and head.dataset_length:
                raise RefusedError(
                    "continue the dataset",
                    str(self.path),
                    f"the bytes before {head.dataset_length} are not those that its ledger committed",
                    f"bring the file back, or, to go on with what is there: {_start_over(ledger)}",
                )

    def _digest(self, length: int) -> bytes:
        return digest_before(self._files, self._fd, length)

    def _mend_tail(self, committed: int, *, cut_holes: bool) -> int:
        """Cut a torn last line, or end it if it is whole; return how many bytes were cut.

        A power loss can leave holes in what was never synced, zeros in place of lines. From the first
        hole on nothing is believed, if the ledger says where the unsynced part begins.
        """
        with _unavailable("mend the dataset", self.path):
            size = whole = self._files.fstat(self._fd).st_size
            if cut_holes:
                whole = self._first_hole(committed, size)
            end = self._last_line_end(committed, whole)
            if end == size:
                return 0
            if self._is_whole(end, size):
                write_all(self._files, self._fd, b"\n")
                return 0
            self._files.ftruncate(self._fd, end)
            return size - end

    def _first_hole(self, start: int, size: int) -> int:
        """Return where the first zero byte stands: no line of ours holds one."""
        while start < size:
            block = self._files.pread(self._fd, _BLOCK, start)
            found = block.find(b"\0")
            if found >= 0:
                return start + found
            start += len(block)
        return size

    def _is_whole(self, start: int, stop: int) -> bool:
        try:
            return isinstance(msgspec.json.decode(self._files.pread(self._fd, stop - start, start)), dict)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            return False

    def _last_line_end(self, floor: int, size: int) -> int:
        stop = size
        while stop > floor:
            start = max(floor, stop - _BLOCK)
            found = self._files.pread(self._fd, stop - start, start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            stop = start
        return floor

    async def _adopt(
        self, ledger: Ledger, start: int, counted: int, by: DedupBy, at: Callable[[str], None]
    ) -> tuple[int, int]:
        """Bring lines from ``start`` on into the ledger; return (lines past ``counted``, foreign lines)."""
        self.length = start
        adopted = foreign = lines = 0
        keys: list[tuple[bytes, int]] = []
        for offset, line in self._rewritten_lines(start):
            lines += 1
            adopted += offset >= counted
            try:
                keys.append((line_key(line, by), offset))
            except ValueError:
                foreign += 1
            if lines == _ADOPT:
                await self._adopt_chunk(ledger, keys, counted, lines, offset + len(line))
                at("recovery: some lines adopted")
                keys, lines = [], 0
        if lines:
            with _unavailable("mend the dataset", self.path):
                end = self._files.fstat(self._fd).st_size
            await self._adopt_chunk(ledger, keys, counted, lines, end)
        return adopted, foreign

    async def _adopt_chunk(
        self, ledger: Ledger, keys: list[tuple[bytes, int]], counted: int, lines: int, end: int
    ) -> None:
        with _unavailable("sync the dataset", self.path):
            self._files.fdatasync(self._fd)
            tail = self._digest(end)
        self.length = end
        await ledger.adopt(keys, counted=counted, lines=lines, length=end, tail=tail)

    def _rewritten_lines(self, start: int) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, line) from ``start`` on, putting each block's very bytes into the file again.

        After a failed sync the kernel may call pages clean that never reached the disk; writing the same
        bytes through a new descriptor makes it write them. More than the last batches were synced before.
        """
        with _unavailable("mend the dataset", self.path):
            fd = self._files.open(self.path, os.O_RDWR)
            try:
                carry = b""
                position = start
                unsure = self._files.fstat(fd).st_size - _UNSURE
                while block := self._files.pread(fd, _BLOCK, position):
                    if position + len(block) > unsure:
                        write_all_at(self._files, fd, block, position)
                    position += len(block)
                    offset = position - len(block) - len(carry)
                    *whole, carry = (carry + block).split(b"\n")
                    for line in whole:
                        yield offset, line + b"\n"
                        offset += len(line) + 1
            finally:
                self._files.close(fd)


def _start_over(ledger: Path) -> str:
    return f"{way_out(ledger)}; what was removed is written again if its shards are still there"


class Recovery(msgspec.Struct, frozen=True):
    """What ``recover`` found: lines adopted, lines that are not ours (left as they are), bytes cut."""

    adopted: int
    foreign: int
    cut: int


def write_all(files: Files, fd: int, data: bytes) -> None:
    """Write all of ``data``; ``OSError`` leaves an unknown part of it written."""
    rest = memoryview(data)
    while rest:
        rest = rest[files.write(fd, rest) :]


def write_all_at(files: Files, fd: int, data: bytes, offset: int) -> None:
    """Write all of ``data`` at ``offset``."""
    done = 0
    while done < len(data):
        done += files.pwrite(fd, data[done:], offset + done)


def digest_before(files: Files, fd: int, length: int) -> bytes:
    """Return the digest of the last bytes before ``length``: it ties a ledger to a file that it describes."""
    start = max(0, length - _TAIL)
    return blake3(files.pread(fd, length - start, start)).digest(16)


class _unavailable:  # noqa: N801 - reads as a phrase at the `with`
    """Turn an ``OSError`` into an error that says what was done, where, and what to do."""

    def __init__(self, op: str, path: Path) -> None:
        self._op = op
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OSError):
            raise UnavailableError(
                self._op,
                str(self._path),
                error.strerror or str(error),
                "see `df` and the folder's rights; it is retried",
            ) from error
