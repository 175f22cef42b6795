"""Paths in the ledger's table ``shard`` that are no files: sessions of the trace database, and stream partitions.

They begin with ``//``, which no shard path does, as shard paths are relative. So sessions and partitions are read,
judged again and counted like shards.

Offsets of a session are row ids of ``messages``: ``start`` and ``stop`` of a decision enclose its own rows and those of
other sessions, and the offsets of one session have no gap. Offsets of a partition are sequences of the stream:
``start`` and ``stop`` of a message enclose its own and those of other partitions. A stream that is created again counts
from the start, so its paths differ.
"""

from __future__ import annotations

import os

_SESSION = "//messages/"
IS_SESSION = f"substr(shard.path, 1, {len(_SESSION)}) = x'{_SESSION.encode().hex()}'"
"""The SQL condition that a row of the ledger's table ``shard`` is a session."""

_STREAM = "//stream/"
IS_STREAM = f"substr(shard.path, 1, {len(_STREAM)}) = x'{_STREAM.encode().hex()}'"
"""The SQL condition that a row of the ledger's table ``shard`` is a partition of a stream."""

IS_APART = "substr(shard.path, 1, 2) = x'2f2f'"
"""The SQL condition that a row of the ledger's table ``shard`` is no file: a session or a partition."""


def is_apart(path: str) -> bool:
    """Say whether a path is that of a session or a partition, not of a file."""
    return path.startswith("//")


def session_path(session: str) -> str:
    """Return the path of a session; the ledger stores it as UTF-8 in any locale."""
    return _SESSION + os.fsdecode(session.encode())


def is_session(path: str) -> bool:
    """Say whether a path is that of a session."""
    return path.startswith(_SESSION)


def session_at(path: str) -> str:
    """Return the session of a path."""
    return os.fsencode(path.removeprefix(_SESSION)).decode()


def stream_path(incarnation: str, bucket: int) -> str:
    """Return the path of a partition of a stream."""
    return f"{_STREAM}{incarnation.replace('/', '-')}/{bucket}"


def is_stream(path: str) -> bool:
    """Say whether a path is that of a partition."""
    return path.startswith(_STREAM)
