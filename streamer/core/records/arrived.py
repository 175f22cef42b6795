"""A record that arrived from a collector of a fleet."""

from __future__ import annotations

import msgspec


class ArrivedRecord(msgspec.Struct, frozen=True, gc=False):
    """A finished dataset line with its key, and the session and time of its record.

    ``again`` is True if the same collector sent it before.
    """

    key: bytes
    line: bytes
    session: str
    time_us: int | None = None
    again: bool = False
