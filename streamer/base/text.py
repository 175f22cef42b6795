"""Text from outside, made safe to show; numbers, sizes and ages as text."""

from __future__ import annotations

import re
import unicodedata

# C0, DEL, C1; marks and embeddings that turn the direction of text; line and paragraph separators; the
# lone surrogates that stand for bytes of an undecodable file name; the byte order mark.
_HOSTILE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")


_INVISIBLE = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Me"})
_MARKS = frozenset({"Mn", "Mc"})
_MOST_MARKS = 2

# Letters of Hangul that join the one before; variation selectors; halves of flags; skin tones.
_COMBINES = re.compile(
    r"[\u115f-\u11ff\u3164\ud7b0-\ud7ff\u180b-\u180f\ufe00-\ufe0f"
    r"\U000e0100-\U000e01ef\U0001f1e6-\U0001f1ff\U0001f3fb-\U0001f3ff]"
)

_SIZES = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3))
_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


def invalid_utf8(data: bytes) -> int | None:
    """Return the offset of the first byte that is not UTF-8, or None.

    Decoders check different parts of a text, and differ from version to version. So call this first.
    """
    if data.isascii():
        return None
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start
    return None


def printable(text: str) -> str:
    r"""Return text that stays on one line and cannot steer a terminal: ``ESC`` becomes ``\x1b``.

    All other characters stay, backslashes too, so a second call changes nothing. The result can always be encoded as
    UTF-8.
    """
    return _HOSTILE.sub(_escape, text)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 line", "2,314 lines"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def steady(text: str) -> str:
    r"""Return printable text of the same width on every terminal, for lines that must keep their layout.

    Characters that terminals draw in different widths or not at all become escapes, as in :func:`printable`: joiners,
    variation selectors, unassigned and private characters, and marks beyond the second on one letter.
    """
    text = printable(text)
    if text.isascii():
        return text
    shown, marks = [], 0
    for character in unicodedata.normalize("NFC", text):
        category = unicodedata.category(character)
        marks = marks + 1 if category in _MARKS else 0
        unsteady = category in _INVISIBLE or marks > _MOST_MARKS or _COMBINES.match(character)
        shown.append(_escaped(character) if unsteady else character)
    return "".join(shown)


def age(seconds: float) -> str:
    """Return a duration in its largest whole unit: "12 s", "3 min", "2 d"."""
    unit, size = next((found for found in _UNITS if seconds >= found[1]), _UNITS[-1])
    return f"{seconds / size:.0f} {unit}"


def sized(count: int) -> str:
    """Return a number of bytes in its largest unit: "812 B", "3.4 kB"."""
    unit, scale = next((found for found in _SIZES if count >= found[1]), ("B", 1))
    return f"{count / scale:.1f} {unit}" if scale > 1 else f"{count} B"


def _escape(match: re.Match[str]) -> str:
    return _escaped(match[0])


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
