"""Lag of the daemon: unread bytes in the shard folder."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from streamer.config import Dataset
from streamer.sources.folder import own_files
from streamer.sources.shards import ShardFolder
from streamer.store.views.snapshot import Snapshot, open_ledger


class Lag(msgspec.Struct, frozen=True):
    """Bytes after the last line that was read of each shard, and the number of shards with such bytes."""

    unread_bytes: int = 0
    unread_shards: int = 0


def measure(ledger: Path, state: Snapshot, others: Iterable[Dataset] = ()) -> Lag:
    """Compare the present shard folder with the cursors of the ledger.

    Args:
        ledger: The ledger file of the dataset.
        state: A snapshot of that ledger.
        others: Further datasets whose files may lie in the folder.
    """
    if not state.shard_folder:
        return Lag()
    is_own = own_files([Dataset(Path(state.dataset), ledger), *others])
    root, follow = Path(state.shard_folder), state.follow_symlinks
    folder = ShardFolder(root, state.pattern, is_own, follow_symlinks=follow)
    with open_ledger(ledger) as db:
        rows = db.execute("SELECT path, offset FROM shard WHERE NOT replaced") if db else ()
        offsets = {os.fsdecode(path): offset for path, offset in rows}
    try:
        unread = [max(0, found.stat[2] - offsets.get(found.path, 0)) for found in folder.scan()]
    except OSError:
        return Lag()  # no folder now: the daemon reports it
    return Lag(sum(unread), sum(size > 0 for size in unread))
