"""Numbers of a trace database: by a documented rule, whatever type SQLite holds them in. Pure.

SQLite orders TEXT and BLOB above every number, so a reward of another type would meet ``total_reward > 0``. A value
becomes a number before any condition sees it, or it is named as no number:

- INTEGER and finite REAL are taken as they are; NULL stays NULL, as conditions know it.
- A BLOB of 8 bytes is a little-endian int64: the form in which numpy integers are stored (cpython#106878).
- TEXT is a number if it is an optional sign, digits, an optional fraction and an optional exponent, in ASCII, with
  blanks around it allowed. ``inf``, ``nan``, ``1_000`` and ``0x10`` are no numbers.
"""

from __future__ import annotations

import math
import re
from typing import Any

import msgspec

_NUMERIC = re.compile(r"[ \t\n\v\f\r]*([+-]?[0-9]+)(\.[0-9]*)?([eE][+-]?[0-9]+)?[ \t\n\v\f\r]*", re.ASCII)
_INT64 = range(-(1 << 63), 1 << 63)
_NUMPY_BYTES = 8
_SHOWN = 40


class Number(msgspec.Struct, frozen=True, gc=False):
    """What a value is as a number.

    ``converted_from`` names the form that it was converted from ("text"), and is empty for a number. ``problem`` says
    why the value is no number; then ``value`` is None.
    """

    value: int | float | None
    converted_from: str = ""
    problem: str = ""


def number_of(value: Any) -> Number:
    """Return a value of SQLite as a number.

    Args:
        value: int, float, str, bytes or None, as sqlite3 returns it.
    """
    if value is None or isinstance(value, int):
        return Number(value)
    if isinstance(value, float):
        return Number(value) if math.isfinite(value) else Number(None, problem=f"{value} is not finite")
    if isinstance(value, bytes):
        if len(value) == _NUMPY_BYTES:
            return Number(int.from_bytes(value, "little", signed=True), "a BLOB of 8 bytes")
        return Number(None, problem=f"a BLOB of {len(value)} bytes")
    return _of_text(str(value))


def _of_text(text: str) -> Number:
    found = _NUMERIC.fullmatch(text) if len(text) <= _LONGEST else None
    if found is None:
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
        return Number(None, problem=f"the text {shown!r}")
    whole, fraction, exponent = found.groups()
    if fraction is None and exponent is None and len(whole) <= _INT64_DIGITS and int(whole) in _INT64:
        return Number(int(whole), "text")
    value = float(text)
    return Number(value, "text") if math.isfinite(value) else Number(None, problem=f"{value} is not finite")


_INT64_DIGITS = 20
_LONGEST = 1024
"""Characters of the longest text that can be a number."""
