"""How deeply JSON is nested: a fixed limit, so that what one thread takes another can read again.

Decoders stop where the call stack ends, which depends on where they are called from.
"""

import re

LIMIT = 128
"""Levels of objects and lists in one line, or in the arguments of one tool call."""

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_AS_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_OTHER_BYTES = bytes(set(range(256)) - set(b"[]{}"))


def too_deep(data: bytes) -> bool:
    """Say whether valid JSON is nested more deeply than ``LIMIT``."""
    if len(data) <= LIMIT or data.count(b"[") + data.count(b"{") <= LIMIT:
        return False
    brackets = _STRING.sub(b"", data).translate(_AS_ONE_KIND, _OTHER_BYTES)
    for _ in range(LIMIT):
        brackets = brackets.replace(b"[]", b"")  # the innermost level
    return bool(brackets)
