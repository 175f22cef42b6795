"""Take lines out of closed parts: the rest of a part is written beside it, and takes its name when the ledger knows.

::

    good-00001.jsonl   good-00001.jsonl.compacting      then one rename
    as it was          the rest, synced
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from streamer.base.append_file import AppendFile, write_all
from streamer.base.errors import RefusedError
from streamer.base.files import Files, sync_folder
from streamer.base.lines import BLOCK, FileLine
from streamer.store.parts.cuts import TAIL, Cut, joined, kept_digest, touches
from streamer.store.parts.parts import (
    COMPACTING,
    Part,
    compacting_path,
    manifest,
    part_names,
    part_path,
    write_manifest,
)


class PartRewriter:
    """Rewrites the closed parts of one dataset.

    Args:
        path: The live file.
        files: The system calls.
    """

    def __init__(self, path: Path, files: Files) -> None:
        self._path = path
        self._files = files
        self._dataset = AppendFile(path, files, "the dataset")

    def rewrite(self, part: Part, removed: Iterable[tuple[int, int]], failpoint: Callable[[str], None]) -> Part:
        """Write the rest of a part beside it, durably; return the part as it will be.

        Args:
            part: The part; its file is only read.
            removed: The lines to take out, each as (log offset, log offset of its end), in order.
            failpoint: Called with the name of each point at which a crash must be harmless.

        Raises:
            RefusedError: The file is not the one that was closed.
            UnavailableError: The disk does not take it; ``discard`` tidies up.
        """
        offset = part.offsets.file_offset
        ranges = joined((offset(start), offset(start) + stop - start) for start, stop in removed)
        new, old = compacting_path(self._path, part.number), self._part_file(part_path(self._path, part.number))
        with self._dataset.unavailable("compact"):
            self._files.unlink(new)
            fd = self._files.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            try:
                rest = _Rest(self._files, fd, ranges)
                for line in old.lines(0, part.bytes):
                    rest.take(line)
                rest.write()
                self._files.fdatasync(fd)
            finally:
                self._files.close(fd)
            if rest.before.hexdigest() != part.sha256:
                self._files.unlink(new)
                raise RefusedError(
                    "compact the dataset",
                    str(old.path),
                    "its bytes are not those that it was closed with (SHA-256)",
                    "bring the file back, or move it away: its records are then taken as removed",
                )
            sync_folder(self._files, self._path.parent)
        failpoint("part rewritten")
        cuts = (*part.cuts, Cut(ranges, bytes(rest.tokens)))
        return msgspec.structs.replace(part, lines=rest.lines, sha256=rest.after.hexdigest(), cuts=cuts)

    def discard(self, parts: Iterable[Part]) -> None:
        """Remove the files beside parts as far as possible now; the next start removes the others."""
        for part in parts:
            with suppress(OSError):
                self._files.unlink(compacting_path(self._path, part.number))

    def put_in_place(self, parts: Sequence[Part], following: int, failpoint: Callable[[str], None]) -> None:
        """Give rewritten parts, which the ledger knows, their names.

        The manifest comes first: by its cuts a reader of the old file finds its place in the new one.

        Args:
            parts: All closed parts, in order.
            following: The number of the next part.
            failpoint: As in ``rewrite``.
        """
        rewritten = [part for part in parts if compacting_path(self._path, part.number).exists()]
        if not rewritten:
            return
        with self._dataset.unavailable("compact"):
            write_manifest(self._path, manifest(self._path, parts, following), self._files, failpoint)
            for part in rewritten:
                self._files.rename(compacting_path(self._path, part.number), part_path(self._path, part.number))
                failpoint("part replaced")
            sync_folder(self._files, self._path.parent)

    def finish(self, parts: Sequence[Part], following: int, failpoint: Callable[[str], None]) -> None:
        """Put rewritten parts that the ledger knows in place, and remove the others; see ``put_in_place``."""
        with self._dataset.unavailable("compact"):
            known = {compacting_path(self._path, part.number).name: part for part in parts}
            for name in os.listdir(self._path.parent):
                if not name.endswith(COMPACTING) or not part_names(self._path).fullmatch(name.removesuffix(COMPACTING)):
                    continue
                path, part = self._path.with_name(name), known.get(name)
                if part is None or not part.cuts or self._sha256(path) != part.sha256:
                    self._files.unlink(path)
        self.put_in_place(parts, following, failpoint)

    def _sha256(self, path: Path) -> str:
        file = self._part_file(path)
        file.open()
        try:
            return file.sum(file.size())[0]
        finally:
            file.close()

    def _part_file(self, path: Path) -> AppendFile:
        return AppendFile(path, self._files, "a part of the dataset")


class _Rest:
    """Writes a file without some ranges, and collects the digests of the tokens that it can no longer prove.

    ``before`` and ``after`` are the SHA-256 of all lines and of the lines that are left.
    """

    def __init__(self, files: Files, fd: int, removed: Sequence[tuple[int, int]]) -> None:
        self.before, self.after = hashlib.sha256(), hashlib.sha256()
        self.tokens = bytearray()
        self.lines = 0
        self._files = files
        self._fd = fd
        self._removed = removed
        self._next = 0
        self._block = bytearray()
        self._tail = b""

    def take(self, line: FileLine) -> None:
        """Take the next line of the file."""
        self.before.update(line.data)
        self._tail = (self._tail + line.data[-TAIL:])[-TAIL:]
        if touches(self._removed, line.stop):
            self.tokens += kept_digest(self._tail)
        if self._is_removed(line.offset):
            return
        self.lines += 1
        self._block += line.data
        if len(self._block) >= BLOCK:
            self.write()

    def _is_removed(self, offset: int) -> bool:
        while self._next < len(self._removed) and self._removed[self._next][1] <= offset:
            self._next += 1
        return self._next < len(self._removed) and self._removed[self._next][0] <= offset

    def write(self) -> None:
        """Write the lines that were not written yet."""
        self.after.update(self._block)
        write_all(self._files, self._fd, bytes(self._block))
        self._block.clear()
