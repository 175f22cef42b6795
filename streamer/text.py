"""Text from outside, made safe to show."""

from __future__ import annotations

import re

# C0, DEL, C1; marks and embeddings that turn the direction of text; line and paragraph separators; the
# lone surrogates that stand for bytes of an undecodable file name; the byte order mark.
_HOSTILE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")


def printable(text: str) -> str:
    r"""Return text that stays on one line and cannot steer a terminal: ``ESC`` becomes ``\x1b``.

    Everything else, backslashes too, stays as it is, so that doing it twice does no harm. The result can
    always be encoded as UTF-8.
    """
    return _HOSTILE.sub(_escape, text)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 line", "2,314 lines"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")
