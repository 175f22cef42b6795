"""Do outputs hold the same conversations? Each is reduced to digests, read as streamer reads either layout.

Equal is what is equal once parsed, to the last character: stricter than streamer, which does not look at ids
of tool calls, and than no peer but for white space. Corpora are made so that all of these agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

import msgspec

from streamer.core.records import layouts

_encode = msgspec.json.Encoder(order="sorted").encode


class Contents(msgspec.Struct, frozen=True):
    """What one output holds: lines, different conversations among them, and a digest of the set of those."""

    lines: int
    distinct: int
    digest: str


def contents(output: Path) -> Contents:
    """Read an output, a dataset or raw lines of shards."""
    digests = list(_digests(output))
    distinct = sorted(set(digests))
    return Contents(len(digests), len(distinct), blake2b(b"".join(distinct), digest_size=16).hexdigest())


def _digests(output: Path) -> Iterator[bytes]:
    with open(output, "rb") as lines:
        for line in lines:
            messages = layouts.read(line.rstrip(b"\n"), "").messages
            yield blake2b(_encode(messages), digest_size=16).digest()
