"""Where a writer's ledger keeps a bucket of the stream: beside the shards, as sessions of the trace database are.

Its path is one that no shard can have. Its offsets are sequences of the stream: ``start`` and ``stop`` of a message
enclose its own and those of other buckets. A stream that was made anew begins to count anew, and so has other paths.
"""

from __future__ import annotations

PREFIX = "//stream/"
IS_STREAM = f"substr(shard.path, 1, {len(PREFIX)}) = x'{PREFIX.encode().hex()}'"
"""The SQL condition that a row of the ledger's table ``shard`` is a bucket."""


def stream_path(incarnation: str, bucket: int) -> str:
    """Return the path of a bucket of a stream."""
    return f"{PREFIX}{incarnation.replace('/', '-')}/{bucket}"


def is_stream(path: str) -> bool:
    """Say whether a path is that of a bucket."""
    return path.startswith(PREFIX)
