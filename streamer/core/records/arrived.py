"""A record that has arrived from a collector of a fleet."""

from __future__ import annotations

import msgspec


class ArrivedRecord(msgspec.Struct, frozen=True, gc=False):
    """A line that is to go into the dataset as it is, with its key, and the rollout that it is of.

    ``again`` says that it was taken before, from the same collector.
    """

    key: bytes
    line: bytes
    session: str
    time_us: int | None = None
    again: bool = False
