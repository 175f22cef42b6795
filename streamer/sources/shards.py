"""The shard folder: find its shards and the state of each.

Shards are regular files; symbolic links are followed only if that is configured. This is blocking code: the
pipeline calls it in a worker thread.
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
    """One shard and its file state at the time of a scan."""

    path: str
    stat: Stat


class ShardFolder:
    """All shards below ``root`` whose name matches ``pattern``, except where ``is_own`` (name, path) is true."""

    def __init__(
        self, root: Path, pattern: str, is_own: Callable[[str, str], bool], *, follow_symlinks: bool = False
    ) -> None:
        self.root = root
        self._base = os.path.join(root, "")
        self.follow_symlinks = follow_symlinks
        self._matches = re.compile(fnmatch.translate(pattern)).match
        self._is_own = is_own

    def scan(self) -> Iterator[FoundShard]:
        """Yield every shard, in order of path.

        Raises:
            OSError: The folder itself cannot be listed. Sub-folders that cannot be listed are skipped.
        """
        root = os.stat(self.root)
        yield from self._scan_folder("", os.scandir(self.root), frozenset({(root.st_dev, root.st_ino)}))

    def find(self, path: str) -> FoundShard | None:
        """Return the shard at ``path`` below the folder; None if there is none."""
        name = os.path.basename(path)
        if not self._matches(name) or (not self.follow_symlinks and self._is_below_link(path)):
            return None
        try:
            state = os.stat(self.root / path, follow_symlinks=self.follow_symlinks)
        except (OSError, ValueError):
            return None
        return self._found(path, name, state)

    def _is_below_link(self, path: str) -> bool:
        folder = os.path.dirname(path)
        while folder:
            if os.path.islink(self.root / folder):
                return True
            folder = os.path.dirname(folder)
        return False

    def _scan_folder(
        self, prefix: str, entries: os._ScandirIterator[str], above: frozenset[tuple[int, int]]
    ) -> Iterator[FoundShard]:
        """Yield the shards of one folder; ``above`` are its parent folders, as links can form loops."""
        with entries:
            listed = sorted(entries, key=lambda entry: entry.name, reverse=True)
        while listed:
            entry = listed.pop()  # frees each entry, and the file state in it, once it is handled
            path = prefix + entry.name
            try:
                if entry.is_dir(follow_symlinks=self.follow_symlinks):
                    state = entry.stat(follow_symlinks=self.follow_symlinks)
                    folder = state.st_dev, state.st_ino
                    if folder not in above:
                        yield from self._scan_folder(f"{path}/", os.scandir(self.root / path), above | {folder})
                elif self._matches(entry.name):
                    found = self._found(path, entry.name, entry.stat(follow_symlinks=self.follow_symlinks))
                    if found is not None:
                        yield found
            except OSError:  # deleted since, or not readable: the next scan tries again
                continue

    def _found(self, path: str, name: str, state: os.stat_result) -> FoundShard | None:
        if not stat.S_ISREG(state.st_mode) or self._is_own(name, self._base + path):
            return None
        return FoundShard(path, stat_of(state))


def stat_of(state: os.stat_result) -> Stat:
    """Return the parts of a file's state that reveal a change.

    Files may have any time, and inodes of some file systems any number: each is cut to what SQLite can store.
    """
    return (
        state.st_dev & _63_BITS,
        state.st_ino & _63_BITS,
        state.st_size & _63_BITS,
        state.st_mtime_ns & _63_BITS,
        state.st_ctime_ns & _63_BITS,
    )
