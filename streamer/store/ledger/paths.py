"""Where the ledger keeps a session whose decisions come from the trace database: beside the shards.

Its path is one that no shard can have, as theirs are relative to the shard folder. So a session is read on, judged
again and accounted for like a shard. Its offsets are ids of rows of ``messages``: ``start`` and ``stop`` of a
decision enclose its own rows and those of other sessions, and the ids of one session are covered without a gap.
"""

from __future__ import annotations

import os

PREFIX = "//messages/"
_BYTES = PREFIX.encode()

IS_SESSION = f"substr(shard.path, 1, {len(_BYTES)}) = x'{_BYTES.hex()}'"
"""The SQL condition that a row of the ledger's table ``shard`` is a session."""


IS_APART = "substr(shard.path, 1, 2) = x'2f2f'"
"""The SQL condition that it is no file of the shard folder: a session, or a bucket of a fleet's stream."""


def is_apart(path: str) -> bool:
    """Say whether a path is no file's of the shard folder."""
    return path.startswith("//")


def session_path(session: str) -> str:
    """Return the path of a session; the ledger's bytes of it are UTF-8, whatever the locale is."""
    return PREFIX + os.fsdecode(session.encode())


def is_session(path: str) -> bool:
    """Say whether a path is that of a session."""
    return path.startswith(PREFIX)


def session_at(path: str) -> str:
    """Return the session whose path this is."""
    return os.fsencode(path.removeprefix(PREFIX)).decode()
