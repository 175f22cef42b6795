"""A dead letter: one line of JSON about a line that holds no usable record."""

from __future__ import annotations

import msgspec

from streamer.core.records.model import Line

HEAD_BYTES = 200
"""Bytes of a line that its dead letter quotes."""


def encode_dead_letter(line: Line, reason: str, detail: str) -> bytes:
    """Return the dead letter of a line, newline included."""
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
