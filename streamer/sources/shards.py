"""The shard folder: which files are shards, and in which state each of them is.

Only regular files are shards, and none through a symbolic link unless that is configured. Plain blocking
code: the pipeline calls it in a worker thread.
"""

from __future__ import annotations

import fnmatch
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

_63_BITS = (1 << 63) - 1

Stat = tuple[int, int, int, int, int]
"""(dev, ino, size, mtime_ns, ctime_ns)"""


class FoundShard(msgspec.Struct, frozen=True):
    """One shard as a scan saw it."""

    path: str
    stat: Stat


class ShardFolder:
    """All shards below ``root`` whose name fits ``pattern``, but for those of which ``ours`` (name, path) is true."""

    def __init__(
        self, root: Path, pattern: str, ours: Callable[[str, str], bool], *, follow_symlinks: bool = False
    ) -> None:
        self.root = root
        self._base = os.path.join(root, "")
        self.follow_symlinks = follow_symlinks
        self._fits = re.compile(fnmatch.translate(pattern)).match
        self._ours = ours

    def scan(self) -> Iterator[FoundShard]:
        """Yield every shard, in order of path.

        Raises:
            OSError: the folder itself cannot be listed. Sub-folders that cannot are passed over.
        """
        root = os.stat(self.root)
        yield from self._scan_folder("", os.scandir(self.root), frozenset({(root.st_dev, root.st_ino)}))

    def find(self, path: str) -> FoundShard | None:
        """Return the shard at ``path`` below the folder, if there is one."""
        name = os.path.basename(path)
        if not self._fits(name) or (not self.follow_symlinks and self._leads_through_link(path)):
            return None
        try:
            state = os.stat(self.root / path, follow_symlinks=self.follow_symlinks)
        except (OSError, ValueError):
            return None
        return self._found(path, name, state)

    def _leads_through_link(self, path: str) -> bool:
        folder = os.path.dirname(path)
        while folder:
            if os.path.islink(self.root / folder):
                return True
            folder = os.path.dirname(folder)
        return False

    def _scan_folder(
        self, prefix: str, entries: os._ScandirIterator[str], above: frozenset[tuple[int, int]]
    ) -> Iterator[FoundShard]:
        """Yield the shards in one folder; ``above`` are the folders that lead here, as links can form loops."""
        with entries:
            listed = sorted(entries, key=lambda entry: entry.name, reverse=True)
        while listed:
            entry = listed.pop()  # each holds what is known of its file: let go of one after the other
            path = prefix + entry.name
            try:
                if entry.is_dir(follow_symlinks=self.follow_symlinks):
                    state = entry.stat(follow_symlinks=self.follow_symlinks)
                    folder = state.st_dev, state.st_ino
                    if folder not in above:
                        yield from self._scan_folder(f"{path}/", os.scandir(self.root / path), above | {folder})
                elif self._fits(entry.name):
                    found = self._found(path, entry.name, entry.stat(follow_symlinks=self.follow_symlinks))
                    if found is not None:
                        yield found
            except OSError:  # gone since it was listed, or not ours to read: the next scan sees
                continue

    def _found(self, path: str, name: str, state: os.stat_result) -> FoundShard | None:
        if not stat.S_ISREG(state.st_mode) or self._ours(name, self._base + path):
            return None
        return FoundShard(path, stat_of(state))


def stat_of(state: os.stat_result) -> Stat:
    """Return what of a file's state tells that it changed.

    A file may claim any time and some file systems any inode: folded into what SQLite can store.
    """
    return (
        state.st_dev & _63_BITS,
        state.st_ino & _63_BITS,
        state.st_size & _63_BITS,
        state.st_mtime_ns & _63_BITS,
        state.st_ctime_ns & _63_BITS,
    )
