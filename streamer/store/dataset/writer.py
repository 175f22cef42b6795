"""The dataset: append, roll, recover. The dataset is the log; the ledger follows it.

Invariants
- ``length`` is the place where the last whole line ends. No line before it ever changes.
- One batch is one ``append`` and one ``sync``; only then does the ledger commit.
- After any failure the descriptor is given up, and ``recover`` decides what holds, as after a crash.
- A part is closed by its new name: from then on it is no live file, whether the ledger has heard of it or not. So a
  batch may close parts on its way, and what a crash leaves behind is one thing only: files ahead of the ledger.

::

    places   0 ....... part 1 ....... part 2 ....... live ..................... length
                             known to the ledger │ lines that it does not know: adopted
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from streamer.base.append_file import LogFile, write_all
from streamer.base.errors import RefusedError
from streamer.base.files import Clock, Files, sync_folder
from streamer.base.lines import FileLine
from streamer.core.records.dataset_line import keys_meaning, line_key
from streamer.core.records.key import DedupBy
from streamer.store.ledger.ledger import DatasetHead, Ledger
from streamer.store.ledger.schema import way_out
from streamer.store.parts.cuts import TAIL, Cut, OffsetMap, joined, kept_digest, touches
from streamer.store.parts.parts import (
    COMPACTING,
    Live,
    Part,
    RetainRules,
    RollRules,
    closed_numbers,
    compacting_path,
    expired,
    first_number,
    manifest,
    manifest_path,
    part_names,
    part_path,
    write_manifest,
)

_ADOPT = 2000
"""Lines adopted in one ledger transaction."""

_BLOCK = 1 << 20
"""Bytes of a part that are written at a time when it is compacted; or else one longer line."""


class DatasetWriter:
    """The one writer of a dataset: the live file, and the parts that were closed before it.

    ``closed`` are parts that the ledger has to hear of with the next commit.
    """

    def __init__(self, path: Path, files: Files, clock: Clock, rules: RollRules) -> None:
        self.path = path
        self.length = 0
        self.live = Live()
        self.closed: list[Part] = []
        self._files = files
        self._clock = clock
        self._rules = rules
        self._file = self._live_file()
        self._lines = 0

    def open(self) -> None:
        """Open the live file for appending, creating it and its folder.

        Raises:
            UnavailableError: it cannot be opened or created now.
        """
        self._file.open()

    def close(self) -> None:
        """Give the descriptor up."""
        self._file.close()

    def append(self, lines: bytes, starts: Sequence[int], failpoint: Callable[[str], None]) -> None:
        """Append whole lines; they are visible at once and durable after ``sync``. Parts that are full are closed.

        Args:
            lines: the lines of one batch, one behind the other.
            starts: the places where they begin.
            failpoint: called with the name of each point at which a crash must be harmless.

        Raises:
            UnavailableError: the disk did not take all of it, or someone else touched the file.
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
        """Return how many lines of a batch, the ``taken`` ones included, the live file and those before it can hold."""
        rules, fit = self._rules, len(ends)
        if rules.records is not None:
            fit = min(fit, taken + rules.records - self._lines)
        if rules.bytes is not None:
            fit = min(fit, bisect_right(ends, self.live.start + rules.bytes))
        is_empty = self.length == self.live.start
        return max(fit, taken + 1 if is_empty else taken)  # a line that is longer than a part is a part

    def sync(self) -> None:
        """Return when every line that was appended is on the disk.

        Raises:
            UnavailableError: the disk refused; the descriptor must not be used again.
        """
        self._file.sync()

    def tail_digest(self) -> bytes:
        """Return the digest of the last bytes before ``length`` in the live file."""
        return self._file.digest(self.length - self.live.start)

    @property
    def is_old(self) -> bool:
        """Say whether the live file has to be closed because of its age."""
        age, opened = self._rules.age, self.live.opened_at
        return age is not None and opened is not None and self._clock.now() - opened >= age

    def close_part(self, failpoint: Callable[[str], None]) -> None:
        """Close the live file, all of which is synced, and begin another one; ``closed`` has the part then.

        Raises:
            UnavailableError: the folder takes no change now, or something stands where the part would be.
        """
        if not manifest_path(self.path).exists():  # without one, files with the names of parts are none of ours
            self._write_manifest([], failpoint)
        file = self._file
        sha256, lines = file.sum(self.length - self.live.start)
        file.rename(part_path(self.path, self.live.number))
        failpoint("part named")
        self._part_is_closed(sha256, lines)
        self._file = self._live_file()
        file.close()
        self._file.open()
        failpoint("part closed")

    def _part_is_closed(self, sha256: str, lines: int) -> None:
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
        """Remove parts that need not be kept, and bring the manifest up to date; return what was removed.

        Args:
            ledger: it has heard of all that was closed.
            rules: which parts may stay.
            failpoint: as in ``append``.
            forget: where keys are forgotten, makes others who keep tables in the ledger forget all before a place.
            keep_from: the place from which on all is kept, whatever the rules say.

        Raises:
            UnavailableError: the folder takes no change now.
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

    def _live_file(self) -> LogFile:
        return LogFile(self.path, self._files, "the dataset")

    def _part_file(self, part: Part) -> LogFile:
        return LogFile(part_path(self.path, part.number), self._files, "a part of the dataset")

    # -- compaction ----------------------------------------------------------------------------------------

    def rewrite(self, part: Part, removed: Iterable[tuple[int, int]], failpoint: Callable[[str], None]) -> Part:
        """Write beside a part, durably, what is left of it; return the part as it is once that is in its place.

        Args:
            part: its file is only read.
            removed: the lines to take out, each as (place, place of its end), in order.
            failpoint: as in ``append``.

        Raises:
            RefusedError: the file is not the one that was closed.
            UnavailableError: the disk does not take it; ``discard`` tidies up.
        """
        places = part.places
        ranges = joined(
            (offset, offset + stop - start) for start, stop in removed for offset in [places.file_offset(start)]
        )
        new = compacting_path(self.path, part.number)
        with self._file.unavailable("compact"):
            self._files.unlink(new)
            fd = self._files.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            try:
                left = _Rest(self._files, fd, ranges)
                for line in self._part_file(part).lines(0, part.bytes):
                    left.take(line.offset, line.data)
                left.end()
                self._files.fdatasync(fd)
            finally:
                self._files.close(fd)
            if left.was != part.sha256:
                self._files.unlink(new)
                raise RefusedError(
                    "compact the dataset",
                    str(part_path(self.path, part.number)),
                    "its bytes are not those that it was closed with (SHA-256)",
                    "bring the file back, or move it away: its records are then taken as removed",
                )
            sync_folder(self._files, self.path.parent)
        failpoint("part rewritten")
        cuts = (*part.cuts, Cut(ranges, left.tokens))
        return msgspec.structs.replace(part, lines=left.lines, sha256=left.sha256, cuts=cuts)

    def discard(self, parts: Iterable[Part]) -> None:
        """Remove what was written beside parts, as far as that goes now; the next start removes the rest."""
        for part in parts:
            with suppress(OSError):
                self._files.unlink(compacting_path(self.path, part.number))

    def put_in_place(self, parts: Sequence[Part], following: int, failpoint: Callable[[str], None]) -> None:
        """Give parts that were rewritten their names; the ledger has heard of them.

        The manifest comes first: it is by its cuts that a reader of the old file finds its place in the new one.

        Args:
            parts: all that are there, in order.
            following: the number of the next one.
            failpoint: as in ``append``.
        """
        rewritten = [part for part in parts if compacting_path(self.path, part.number).exists()]
        if not rewritten:
            return
        with self._file.unavailable("compact"):
            write_manifest(self.path, manifest(self.path, parts, following), self._files, failpoint)
            for part in rewritten:
                self._files.rename(compacting_path(self.path, part.number), part_path(self.path, part.number))
                failpoint("part replaced")
            sync_folder(self._files, self.path.parent)

    def _finish_compaction(self, parts: Sequence[Part], following: int, failpoint: Callable[[str], None]) -> None:
        """Put in its place what the ledger has heard of, and remove what it has not."""
        with self._file.unavailable("compact"):
            known = {compacting_path(self.path, part.number).name: part for part in parts}
            for name in os.listdir(self.path.parent):
                if not name.endswith(COMPACTING) or not part_names(self.path).fullmatch(name.removesuffix(COMPACTING)):
                    continue
                path, part = self.path.with_name(name), known.get(name)
                if part is None or not part.cuts or self._sum_of(path) != part.sha256:
                    self._files.unlink(path)
        self.put_in_place(parts, following, failpoint)

    def _sum_of(self, path: Path) -> str:
        file = LogFile(path, self._files, "a part of the dataset")
        file.open()
        try:
            return file.sum(file.size())[0]
        finally:
            file.close()

    # -- recovery ----------------------------------------------------------------------------------------

    async def recover(self, ledger: Ledger, by: DedupBy, failpoint: Callable[[str], None]) -> _Recovery:
        """Make dataset and ledger agree, whatever happened before; then ``length`` is right.

        Args:
            ledger: its head is believed up to its length, and brought up to the dataset's.
            by: what keys mean now; keys of another meaning are computed again from the lines.
            failpoint: called with the name of each point at which a crash must be harmless.

        Raises:
            RefusedError: the dataset is shorter than the ledger says, or not the one it describes.
        """
        self.closed.clear()
        missing = await self._look_for_parts(ledger, failpoint)
        head = await ledger.head()
        if not head.counted and head.live == Live():
            head = msgspec.structs.replace(head, live=Live(first_number(self.path)))
        found = _Recovery(missing=missing)
        while (number := self._next_unheard(head)) is not None:
            self._file.close()
            self._file = LogFile(part_path(self.path, number), self._files, "a part of the dataset")
            self._file.open()
            self.live = Live(number, head.live.start)
            found = found.plus(await self._recover_file(ledger, head, by, failpoint))
            self._part_is_closed(*self._file.sum(self.length - head.live.start))
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

    async def _look_for_parts(self, ledger: Ledger, failpoint: Callable[[str], None]) -> int:
        """Take note of closed parts that a person removed, and finish what a crash broke off."""
        parts = await ledger.parts()
        self._finish_compaction(parts, (await ledger.head()).live.number, failpoint)
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

    def _next_unheard(self, head: DatasetHead) -> int | None:
        """Return the number of the next part that was closed without the ledger's knowledge."""
        unheard = [number for number in closed_numbers(self.path) if number >= head.live.number]
        if not unheard or (unheard[0] != head.live.number and head.counted > head.live.start):
            return None
        return unheard[0]

    async def _recover_file(
        self, ledger: Ledger, head: DatasetHead, by: DedupBy, failpoint: Callable[[str], None]
    ) -> _Recovery:
        """Mend the file that is open, and make the ledger know all of its lines."""
        base, known = self.live.start, head.dataset_length
        self._check_head(head, ledger.path)
        if head.keys != keys_meaning(by):
            await ledger.forget_keys(keys_meaning(by))
            known = 0
        cut = self._file.mend(max(0, head.counted - base), cut_holes=bool(head.keys))
        failpoint("recovery: tail mended")
        for part in await ledger.parts() if known < base else ():  # keys are being computed anew
            if part.stop > known:
                file = self._part_file(part)
                file.open()
                try:
                    await self._adopt(ledger, file, part.places, max(part.start, known), head.counted, by, failpoint)
                finally:
                    file.close()
        places = OffsetMap(base)
        adopted, foreign = await self._adopt(ledger, self._file, places, max(base, known), head.counted, by, failpoint)
        return _Recovery(adopted=adopted, foreign=foreign, cut=cut)

    def lines(self, parts: Sequence[Part], start: int) -> Iterator[tuple[int, bytes]]:
        """Yield (place, line) of each line up to ``length``, newline included; parts that are gone have none.

        Args:
            parts: the closed ones, as the ledger knows them.
            start: the place of the first line.

        Raises:
            UnavailableError: it cannot be read now.
        """
        for part in parts:
            yield from self.lines_of(part, start)
        yield from self.live_lines(start)

    def lines_of(self, part: Part, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """Yield (place, line) as ``lines`` does, of one closed part."""
        file, places = self._part_file(part), part.places
        if part.stop > start and file.path.exists():
            yield from _placed(file.lines(places.file_offset(max(start, part.start)), part.bytes), places)

    def live_lines(self, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """Yield (place, line) as ``lines`` does, of the live file."""
        base = self.live.start
        yield from _placed(self._file.lines(max(0, start - base), self.length - base), OffsetMap(base))

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
        file: LogFile,
        places: OffsetMap,
        start: int,
        counted: int,
        by: DedupBy,
        failpoint: Callable[[str], None],
    ) -> tuple[int, int]:
        """Bring the lines of a file into the ledger; return (lines past ``counted``, foreign lines).

        Args:
            ledger: it gets their keys.
            file: it is open.
            places: which places it holds.
            start: the place of the first line that the ledger does not know.
            counted: lines before this place were counted when they were appended.
            by: what keys mean.
            failpoint: called at each point at which a crash must be harmless.
        """
        self.length = start
        adopted = foreign = lines = 0
        keys: list[tuple[bytes, int]] = []
        for line in file.rewritten_lines(places.file_offset(start)):
            place = places.log_offset(line.offset)
            lines += 1
            adopted += place >= counted
            try:
                keys.append((line_key(line.data, by), place))
            except ValueError:
                foreign += 1
            if lines == _ADOPT:
                await self._adopt_chunk(ledger, file, keys, counted, lines, line.stop, place + line.length)
                failpoint("recovery: some lines adopted")
                keys, lines = [], 0
        if lines:
            end = file.size()
            await self._adopt_chunk(ledger, file, keys, counted, lines, end, places.log_offset(end))
        return adopted, foreign

    async def _adopt_chunk(
        self,
        ledger: Ledger,
        file: LogFile,
        keys: list[tuple[bytes, int]],
        counted: int,
        lines: int,
        end: int,
        place: int,
    ) -> None:
        """Adopt lines up to the offset ``end`` of a file, which is ``place``."""
        file.sync()
        self.length = place
        await ledger.adopt(keys, counted=counted, lines=lines, length=place, tail=file.digest(end))


class _Rest:
    """What is left of a file without some ranges: written, summed up, and with the tokens that it cannot prove."""

    def __init__(self, files: Files, fd: int, removed: Sequence[tuple[int, int]]) -> None:
        self._files = files
        self._fd = fd
        self._removed = removed
        self._next = 0
        self._block = bytearray()
        self._tail = b""
        self._before, self._after = hashlib.sha256(), hashlib.sha256()
        self._tokens = bytearray()
        self.lines = 0

    def take(self, offset: int, line: bytes) -> None:
        """Take the next line of the file."""
        self._before.update(line)
        self._tail = (self._tail + line[-TAIL:])[-TAIL:]
        end = offset + len(line)
        if touches(self._removed, end):
            self._tokens += kept_digest(self._tail)
        if self._is_removed(offset):
            return
        self.lines += 1
        self._block += line
        if len(self._block) >= _BLOCK:
            self.end()

    def _is_removed(self, offset: int) -> bool:
        while self._next < len(self._removed) and self._removed[self._next][1] <= offset:
            self._next += 1
        return self._next < len(self._removed) and self._removed[self._next][0] <= offset

    def end(self) -> None:
        """Write what was not written yet."""
        self._after.update(self._block)
        write_all(self._files, self._fd, bytes(self._block))
        self._block.clear()

    @property
    def was(self) -> str:
        """The SHA-256 of the file as it was."""
        return self._before.hexdigest()

    @property
    def sha256(self) -> str:
        """The SHA-256 of what is left."""
        return self._after.hexdigest()

    @property
    def tokens(self) -> bytes:
        """See ``Cut``."""
        return bytes(self._tokens)


def _placed(lines: Iterator[FileLine], places: OffsetMap) -> Iterator[tuple[int, bytes]]:
    """Turn the offsets of a file into places."""
    return ((places.log_offset(line.offset), line.data) for line in lines)


def _start_over(ledger: Path) -> str:
    return f"{way_out(ledger)}; what was removed is written again if its shards are still there"


class _Recovery(msgspec.Struct, frozen=True):
    """What ``recover`` found: lines adopted, lines that are not ours (left as they are), bytes cut, parts missing."""

    adopted: int = 0
    foreign: int = 0
    cut: int = 0
    missing: int = 0

    def plus(self, more: _Recovery) -> _Recovery:
        """Return the sum of both."""
        return _Recovery(*(mine + theirs for mine, theirs in zip(_values(self), _values(more), strict=True)))


def _values(found: _Recovery) -> tuple[int, ...]:
    return msgspec.structs.astuple(found)
