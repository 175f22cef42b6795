"""How far the daemon is behind its shard folder: bytes that lie there and were not read."""

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
    """Bytes after the last finished line that was taken, and the shards that they are in."""

    unread_bytes: int = 0
    unread_shards: int = 0


def measure(ledger: Path, seen: Snapshot, others: Iterable[Dataset] = ()) -> Lag:
    """Compare the shard folder as it is now with the cursors of the ledger.

    Args:
        ledger: of the dataset.
        seen: what it says.
        others: datasets whose files may lie in the folder, too.
    """
    if not seen.shard_folder:
        return Lag()
    ours = own_files([Dataset(Path(seen.dataset), ledger), *others])
    root, follow = Path(seen.shard_folder), seen.follow_symlinks
    folder = ShardFolder(root, seen.pattern, ours, follow_symlinks=follow)
    with open_ledger(ledger) as db:
        rows = db.execute("SELECT path, offset FROM shard WHERE NOT replaced") if db else ()
        offsets = {os.fsdecode(path): offset for path, offset in rows}
    try:
        unread = [max(0, found.stat[2] - offsets.get(found.path, 0)) for found in folder.scan()]
    except OSError:
        return Lag()  # the folder is not there now; the daemon says so
    return Lag(sum(unread), sum(size > 0 for size in unread))
