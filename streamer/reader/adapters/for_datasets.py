"""Rows for ``datasets.IterableDataset.from_generator``: a module-level function, as ``datasets`` hashes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from streamer.reader.follow import follow


def rows(path: str, start: str, count: int, shards: list[int], *, wait: bool) -> Iterator[dict[str, Any]]:
    """Yield the rows of some shards, one shard after the other."""
    for shard in shards:
        with follow(path, start=start, wait=wait, shard=(shard, count)) as records:
            for record in records:
                yield {"messages": record.messages, "metadata": record.metadata}
