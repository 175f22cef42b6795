"""A first line that says who wrote a file, and shows whether anyone has changed it since."""

from __future__ import annotations

import re
from enum import Enum

from blake3 import blake3

from streamer import __version__

_STAMP = re.compile(r"# Written by streamer install-service \S+, checksum ([0-9a-f]{32})\n")


class Origin(Enum):
    """Where the content of a file is from."""

    OURS = "as it was written"
    EDITED = "edited since it was written"
    FOREIGN = "not written by streamer install-service"


def stamped(text: str) -> str:
    """Return the text with a stamp as its first line."""
    return f"# Written by streamer install-service {__version__}, checksum {_checksum(text)}\n{text}"


def origin(content: str) -> Origin:
    """Say where the content of a file is from."""
    match = _STAMP.match(content)
    if match is None:
        return Origin.FOREIGN
    return Origin.OURS if _checksum(content[match.end() :]) == match[1] else Origin.EDITED


def without_stamp(content: str) -> str:
    """Return what stands below the stamp, if there is one."""
    return _STAMP.sub("", content, count=1)


def _checksum(text: str) -> str:
    return blake3(text.encode()).hexdigest(16)
