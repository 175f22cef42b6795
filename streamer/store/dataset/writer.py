"""The dataset writer: append, rotate, recover. The dataset is the log; the ledger follows it.

Invariants
- ``length`` is the log offset at which the last whole line ends. No line before it ever changes.
- One batch is one ``append`` and one ``sync``; only then does the ledger commit.
- After any failure the descriptor is closed, and ``recover`` finds out what is on the disk, as after a crash.
- A rename closes a part: from then on it is not the live file, even if the ledger does not know it yet. So a batch may
  close parts while it is appended, and a crash leaves only one inconsistency: files ahead of the ledger.

::

    log offsets   0 ....... part 1 ....... part 2 ....... live ..................... length
                                  known to the ledger │ lines that it does not know: adopted
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import msgspec

from streamer.base.append_file import AppendFile
from streamer.base.env import Env
from streamer.base.errors import RefusedError
from streamer.core.records.dataset_line import keys_meaning, line_key
from streamer.core.records.key import DedupBy
from streamer.store.dataset.rewrite import PartRewriter
from streamer.store.ledger.ledger import DatasetHead, Ledger
from streamer.store.ledger.schema import way_out
from streamer.store.parts.cuts import OffsetMap
from streamer.store.parts.parts import (
    Live,
    Part,
    RetainRules,
    RollRules,
    closed_numbers,
    expired,
    first_number,
    manifest,
    manifest_path,
    part_path,
    write_manifest,
)

_ADOPT = 2000
"""Lines adopted in one ledger transaction."""


class DatasetWriter:
    """The only writer of a dataset: its live file and its closed parts.

    ``closed`` are parts to commit to the ledger with the next batch.
    """

    def __init__(self, path: Path, env: Env, rules: RollRules) -> None:
        self.path = path
        self.length = 0
        self.live = Live()
        self.closed: list[Part] = []
        self._files = env.files
        self._clock = env.clock
        self._rules = rules
        self.rewriter = PartRewriter(path, env.files)
        self._file = self._live_file()
        self._lines = 0

    def open(self) -> None:
        """Open the live file for appending, creating it and its folder.

        Raises:
            UnavailableError: It cannot be opened or created now.
        """
        self._file.open()

    def close(self) -> None:
        """Close the descriptor."""
        self._file.close()

    def append(self, lines: bytes, starts: Sequence[int], failpoint: Callable[[str], None]) -> None:
        """Append whole lines; they are visible at once and durable after ``sync``. Parts that are full are closed.

        Args:
            lines: The lines of one batch, joined.
            starts: The log offset of each line.
            failpoint: Called with the name of each point at which a crash must be harmless.

        Raises:
            UnavailableError: The disk did not take all lines, or another process changed the file.
        """
        first, ends = self.length, [*starts[1:], self.length + len(lines)]
        taken = 0
        while taken < len(ends):
            fit = self._fit(ends, taken)
            if fit == taken:
                self.sync()
                self.close_part(failpoint)
                continue
            self._file.append(lines[self.length - first : ends[fit - 1] - first], self.length - self.live.start)
            if self.live.opened_at is None:
                self.live = msgspec.structs.replace(self.live, opened_at=self._clock.now())
            self.length = ends[fit - 1]
            self._lines += fit - taken
            taken = fit

    def _fit(self, ends: Sequence[int], taken: int) -> int:
        """Return how many lines of a batch fit in the live file and the parts before it; ``taken`` ones are written."""
        rules, fit = self._rules, len(ends)
        if rules.records is not None:
            fit = min(fit, taken + rules.records - self._lines)
        if rules.bytes is not None:
            fit = min(fit, bisect_right(ends, self.live.start + rules.bytes))
        is_empty = self.length == self.live.start
        return max(fit, taken + 1 if is_empty else taken)  # a line that is longer than a part is a part

    def sync(self) -> None:
        """Wait until every appended line is on the disk.

        Raises:
            UnavailableError: The disk failed; the descriptor must not be used again.
        """
        self._file.sync()

    def tail_digest(self) -> bytes:
        """Return the digest of the last bytes before ``length`` in the live file."""
        return self._file.digest(self.length - self.live.start)

    @property
    def is_old(self) -> bool:
        """Whether the live file is old enough to be closed."""
        age, opened = self._rules.age, self.live.opened_at
        return age is not None and opened is not None and self._clock.now() - opened >= age

    def close_part(self, failpoint: Callable[[str], None]) -> None:
        """Close the live file, which is synced, add it to ``closed`` as a part, and begin a new live file.

        Raises:
            UnavailableError: The folder cannot be changed now, or the name of the part is taken.
        """
        if not manifest_path(self.path).exists():  # without one, files with the names of parts are not ours
            self._write_manifest([], failpoint)
        file = self._file
        sha256, lines = file.sum(self.length - self.live.start)
        file.rename(part_path(self.path, self.live.number))
        failpoint("part named")
        self._add_closed(sha256, lines)
        self._file = self._live_file()
        file.close()
        self._file.open()
        failpoint("part closed")

    def _add_closed(self, sha256: str, lines: int) -> None:
        live = self.live
        self.closed.append(Part(live.number, live.start, self.length, lines, sha256, self._clock.now()))
        self.live = Live(live.number + 1, self.length)
        self._lines = 0

    async def tidy(
        self,
        ledger: Ledger,
        rules: RetainRules,
        failpoint: Callable[[str], None],
        forget: Callable[[sqlite3.Connection, int], None],
        keep_from: int | None = None,
    ) -> Sequence[Part]:
        """Remove parts by the retention rules, and update the manifest; return the removed parts.

        Args:
            ledger: It knows all closed parts.
            rules: The retention rules.
            failpoint: As in ``append``.
            forget: Called with (db, log offset) where keys are forgotten: empties other tables before that offset.
            keep_from: Log offset from which on everything is kept, whatever the rules are.

        Raises:
            UnavailableError: The folder cannot be changed now.
        """
        parts = await ledger.parts()
        if not parts and not manifest_path(self.path).exists():
            return []
        gone = expired(parts, self.length - self.live.start, self._lines, rules, self._clock.now())
        if keep_from is not None:
            gone = [part for part in gone if part.stop <= keep_from]
        if gone:
            await ledger.remove_parts(gone, forget_keys=rules.forget_keys, also=forget)
            failpoint("parts given up")
        self._write_manifest(parts[len(gone) :], failpoint)
        self._unlink(gone)
        return gone

    def _write_manifest(self, parts: Sequence[Part], failpoint: Callable[[str], None]) -> None:
        with self._file.unavailable("list the parts of"):
            write_manifest(self.path, manifest(self.path, parts, self.live.number), self._files, failpoint)

    def _unlink(self, parts: Sequence[Part]) -> None:
        with self._file.unavailable("remove parts of"):
            for part in parts:
                self._files.unlink(part_path(self.path, part.number))

    def _live_file(self) -> AppendFile:
        return AppendFile(self.path, self._files, "the dataset")

    def _part_file(self, number: int) -> AppendFile:
        return AppendFile(part_path(self.path, number), self._files, "a part of the dataset")

    # -- recovery ----------------------------------------------------------------------------------------

    async def recover(self, ledger: Ledger, by: DedupBy, failpoint: Callable[[str], None]) -> _Recovery:
        """Make dataset and ledger agree after a start or a failure, and set ``length``.

        Args:
            ledger: It is trusted up to its length; later lines of the dataset are adopted.
            by: The identity of a record; if keys were made with another one, they are computed again.
            failpoint: As in ``append``.

        Raises:
            RefusedError: The dataset is shorter than its ledger says, or another one.
        """
        self.closed.clear()
        missing = await self._recover_parts(ledger, failpoint)
        head = await ledger.head()
        if not head.counted and head.live == Live():
            head = msgspec.structs.replace(head, live=Live(first_number(self.path)))
        found = _Recovery(missing=missing)
        while (number := self._next_unknown(head)) is not None:
            self._file.close()
            self._file = self._part_file(number)
            self._file.open()
            self.live = Live(number, head.live.start)
            found = found.plus(await self._recover_file(ledger, head, by, failpoint))
            self._add_closed(*self._file.sum(self.length - head.live.start))
            await ledger.close_parts(self.closed)
            failpoint("recovery: part closed")
            self.closed.clear()
            head = await ledger.head()
        self._file.close()
        self._file = self._live_file()
        self._file.open()
        self.live = head.live
        found = found.plus(await self._recover_file(ledger, head, by, failpoint))
        if self._rules.records is not None:
            _, self._lines = self._file.sum(self.length - self.live.start)
        if self.live.opened_at is None and self.length > self.live.start:
            self.live = msgspec.structs.replace(self.live, opened_at=self._clock.now())
        if self.live != head.live and self._rules.is_on:
            await ledger.begin(self.live)
        return found

    async def _recover_parts(self, ledger: Ledger, failpoint: Callable[[str], None]) -> int:
        """Finish compaction and removal after a crash; return how many parts a person removed."""
        parts = await ledger.parts()
        self.rewriter.finish(parts, (await ledger.head()).live.number, failpoint)
        missing = [part for part in parts if not part_path(self.path, part.number).exists()]
        if missing:
            await ledger.remove_parts(missing, forget_keys=False)
        there = set(closed_numbers(self.path))
        self._unlink([part for part in await ledger.removed_parts() if part.number in there])
        for part in parts:
            if part not in missing:
                self._check_part(part, ledger.path)
        return len(missing)

    def _check_part(self, part: Part, ledger: Path) -> None:
        path = part_path(self.path, part.number)
        with self._file.unavailable("read"):
            size = self._files.stat(path).st_size
        if size != part.bytes:
            raise RefusedError(
                "continue the dataset",
                str(path),
                f"it holds {size} bytes, and had {part.bytes} when it was closed{' or compacted' if part.cuts else ''}",
                f"bring the file back or move it away, or, to go on with what is there: {_start_over(ledger)}",
            )

    def _next_unknown(self, head: DatasetHead) -> int | None:
        """Return the number of the next closed part that the ledger does not know."""
        unknown = [number for number in closed_numbers(self.path) if number >= head.live.number]
        if not unknown or (unknown[0] != head.live.number and head.counted > head.live.start):
            return None
        return unknown[0]

    async def _recover_file(
        self, ledger: Ledger, head: DatasetHead, by: DedupBy, failpoint: Callable[[str], None]
    ) -> _Recovery:
        """Mend the open file, and adopt the lines that the ledger does not know."""
        base, known = self.live.start, head.dataset_length
        self._check_head(head, ledger.path)
        if head.keys != keys_meaning(by):
            await ledger.forget_keys(keys_meaning(by))
            known = 0
        cut = self._file.mend(max(0, head.counted - base), cut_holes=bool(head.keys))
        failpoint("recovery: tail mended")
        for part in await ledger.parts() if known < base else ():  # keys are being computed anew
            if part.stop > known:
                file = self._part_file(part.number)
                file.open()
                try:
                    await self._adopt(ledger, file, part.offsets, max(part.start, known), head.counted, by, failpoint)
                finally:
                    file.close()
        offsets, start = OffsetMap(base), max(base, known)
        adopted, foreign = await self._adopt(ledger, self._file, offsets, start, head.counted, by, failpoint)
        return _Recovery(adopted=adopted, foreign=foreign, cut=cut)

    def lines(self, parts: Sequence[Part], start: int) -> Iterator[tuple[int, bytes]]:
        """Yield (log offset, line) up to ``length``, newline included; parts whose file is gone are skipped.

        Args:
            parts: The closed parts that the ledger knows.
            start: Log offset of the first line.

        Raises:
            UnavailableError: A file cannot be read now.
        """
        for part in parts:
            yield from self.lines_of(part, start)
        yield from self.live_lines(start)

    def lines_of(self, part: Part, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """Yield (log offset, line) of one closed part, as ``lines`` does."""
        file, offsets = self._part_file(part.number), part.offsets
        if part.stop > start and file.path.exists():
            for line in file.lines(offsets.file_offset(max(start, part.start)), part.bytes):
                yield offsets.log_offset(line.offset), line.data

    def live_lines(self, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """Yield (log offset, line) of the live file, as ``lines`` does."""
        base = self.live.start
        for line in self._file.lines(max(0, start - base), self.length - base):
            yield base + line.offset, line.data

    def _check_head(self, head: DatasetHead, ledger: Path) -> None:
        base, size = self.live.start, self._file.size()
        if base + size < head.counted:
            raise RefusedError(
                "continue the dataset",
                str(self._file.path),
                f"it holds {size} bytes, its ledger has committed {head.counted - base}: lines were removed",
                f"bring the file back, or, to go on with what is there: {_start_over(ledger)}",
            )
        committed = head.dataset_length - base
        if committed > 0 and self._file.digest(committed) != head.dataset_tail:
            raise RefusedError(
                "continue the dataset",
                str(self._file.path),
                f"the bytes before {committed} are not those that its ledger committed",
                f"bring the file back, or, to go on with what is there: {_start_over(ledger)}",
            )

    async def _adopt(
        self,
        ledger: Ledger,
        file: AppendFile,
        offsets: OffsetMap,
        start: int,
        counted: int,
        by: DedupBy,
        failpoint: Callable[[str], None],
    ) -> tuple[int, int]:
        """Commit the lines of a file to the ledger; return how many are new to it, and how many are foreign.

        Args:
            ledger: It gets their keys.
            file: It is open.
            offsets: The log offsets of its lines.
            start: Log offset of the first line to adopt.
            counted: Lines before this log offset were counted when they were appended.
            by: The identity of a record.
            failpoint: As in ``append``.
        """
        self.length = start
        adopted = foreign = 0
        lines = file.rewritten_lines(offsets.file_offset(start))
        while True:
            keys: list[tuple[bytes, int]] = []
            count = stop = 0
            for line in islice(lines, _ADOPT):
                offset, stop = offsets.log_offset(line.offset), line.stop
                count += 1
                adopted += offset >= counted
                try:
                    keys.append((line_key(line.data, by), offset))
                except ValueError:
                    foreign += 1
            if not count:
                return adopted, foreign
            file.sync()
            self.length = offsets.log_offset(stop)
            await ledger.adopt(keys, counted=counted, lines=count, length=self.length, tail=file.digest(stop))
            failpoint("recovery: some lines adopted")


def _start_over(ledger: Path) -> str:
    return f"{way_out(ledger)}; what was removed is written again if its shards are still there"


class _Recovery(msgspec.Struct, frozen=True):
    """The result of ``recover``: lines adopted, foreign lines (left as they are), bytes cut, parts missing."""

    adopted: int = 0
    foreign: int = 0
    cut: int = 0
    missing: int = 0

    def plus(self, more: _Recovery) -> _Recovery:
        """Return the sum of both."""
        both = zip(msgspec.structs.astuple(self), msgspec.structs.astuple(more), strict=True)
        return _Recovery(*map(sum, both))
