"""Nesting depth of JSON: a fixed limit, so that every thread can read a line that one thread has accepted.

Without it, a decoder's limit is the rest of the call stack, which depends on the caller.
"""

import re

LIMIT = 128
"""Levels of objects and lists in one line, or in the arguments of one tool call."""

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_AS_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_OTHER_BYTES = bytes(set(range(256)) - set(b"[]{}"))


def too_deep(data: bytes) -> bool:
    """Return whether valid JSON is nested more deeply than ``LIMIT``."""
    if len(data) <= LIMIT or data.count(b"[") + data.count(b"{") <= LIMIT:
        return False
    brackets = _STRING.sub(b"", data).translate(_AS_ONE_KIND, _OTHER_BYTES)
    for _ in range(LIMIT):
        brackets = brackets.replace(b"[]", b"")  # the innermost level
    return bool(brackets)
