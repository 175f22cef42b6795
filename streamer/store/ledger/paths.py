"""Paths of the ledger's table ``shard`` that are no files: sessions of the trace database, and buckets of a stream.

They stand beside the shards, under paths that no shard can have, as theirs are relative to the shard folder. So each is
read on, judged again and counted like a shard.

Offsets of a session are ids of rows of ``messages``: ``start`` and ``stop`` of a decision enclose its own rows and
those of other sessions, and the ids of one session are covered without a gap. Offsets of a bucket are sequences of the
stream: ``start`` and ``stop`` of a message enclose its own and those of other buckets. A stream that was made anew
begins to count anew, and so has other paths.
"""

from __future__ import annotations

import os

_SESSION = "//messages/"
IS_SESSION = f"substr(shard.path, 1, {len(_SESSION)}) = x'{_SESSION.encode().hex()}'"
"""The SQL condition that a row of the ledger's table ``shard`` is a session."""

_STREAM = "//stream/"
IS_STREAM = f"substr(shard.path, 1, {len(_STREAM)}) = x'{_STREAM.encode().hex()}'"
"""The SQL condition that a row of the ledger's table ``shard`` is a bucket."""

IS_APART = "substr(shard.path, 1, 2) = x'2f2f'"
"""The SQL condition that it is no file of the shard folder: a session, or a bucket of a fleet's stream."""


def is_apart(path: str) -> bool:
    """Say whether a path is no file's of the shard folder."""
    return path.startswith("//")


def session_path(session: str) -> str:
    """Return the path of a session; the ledger's bytes of it are UTF-8, whatever the locale is."""
    return _SESSION + os.fsdecode(session.encode())


def is_session(path: str) -> bool:
    """Say whether a path is that of a session."""
    return path.startswith(_SESSION)


def session_at(path: str) -> str:
    """Return the session whose path this is."""
    return os.fsencode(path.removeprefix(_SESSION)).decode()


def stream_path(incarnation: str, bucket: int) -> str:
    """Return the path of a bucket of a stream."""
    return f"{_STREAM}{incarnation.replace('/', '-')}/{bucket}"


def is_stream(path: str) -> bool:
    """Say whether a path is that of a bucket."""
    return path.startswith(_STREAM)
