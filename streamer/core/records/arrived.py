"""A record that has arrived from a collector of a fleet."""

from __future__ import annotations

import msgspec


class ArrivedRecord(msgspec.Struct, frozen=True, gc=False):
    """A line to append to the dataset as it is, with its key and the session of its rollout.

    ``again``: the same collector has delivered it before.
    """

    key: bytes
    line: bytes
    session: str
    time_us: int | None = None
    again: bool = False
