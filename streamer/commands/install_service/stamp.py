"""The stamp: a first line with a checksum, which shows whether streamer wrote a file and whether it was edited."""

from __future__ import annotations

import re
from enum import Enum

from blake3 import blake3

from streamer import __version__

_STAMP = re.compile(r"# Written by streamer install-service \S+, checksum ([0-9a-f]{32})\n")


class Origin(Enum):
    """The origin of the content of a file."""

    OURS = "as it was written"
    EDITED = "edited since it was written"
    FOREIGN = "not written by streamer install-service"


def stamped(text: str) -> str:
    """Return the text with a stamp as its first line."""
    return f"# Written by streamer install-service {__version__}, checksum {_checksum(text)}\n{text}"


def origin(content: str) -> Origin:
    """Return the origin of the content of a file."""
    match = _STAMP.match(content)
    if match is None:
        return Origin.FOREIGN
    return Origin.OURS if _checksum(content[match.end() :]) == match[1] else Origin.EDITED


def without_stamp(content: str) -> str:
    """Return the content without its stamp, if it has one."""
    return _STAMP.sub("", content, count=1)


def _checksum(text: str) -> str:
    return blake3(text.encode()).hexdigest(16)
