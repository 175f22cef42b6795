"""Encode values as JSON that a browser can read, whatever texts they contain."""

from __future__ import annotations

import json
from typing import Any

import msgspec

_encode = msgspec.json.Encoder().encode


def encode(value: Any) -> bytes:
    """Return a value as JSON in UTF-8.

    Undecodable bytes of a file name are lone surrogates here, which UTF-8 cannot encode, but JSON can escape.
    """
    try:
        return _encode(value)
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(value)).encode("ascii")
