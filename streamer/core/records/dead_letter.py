"""A dead letter: one line of JSON for a line that cannot be taken."""

from __future__ import annotations

import msgspec

from streamer.core.records.model import Line

HEAD_BYTES = 200
"""How much of a line a dead letter quotes."""


def encode_dead_letter(line: Line, reason: str, detail: str) -> bytes:
    """Return the dead letter of one line, newline included."""
    head = line.head if line.data is None else line.data[:HEAD_BYTES]
    return (
        msgspec.json.encode(
            {
                "shard": line.shard,
                "line": line.number,
                "offset": line.start,
                "bytes": line.stop - line.start - 1,
                "reason": reason,
                "detail": detail,
                "head": head.decode("utf-8", "backslashreplace"),
            }
        )
        + b"\n"
    )
