"""What is said between streamer and the process that asks a remote trace database: frames of msgpack.

A frame is four bytes with the length of what follows, big-endian, and as many bytes.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

HEAD = 4
"""Bytes of a frame's length."""

_REFUSED = re.compile(r"(?:code: \"|error code: )(?:SQLITE_|SQL_)|unsupported statement")
_PASSING = re.compile(r"SQLITE_(?:BUSY|LOCKED|IOERR|INTERRUPT|NOMEM|FULL)|is locked|interrupted")


class Greeting(msgspec.Struct, array_like=True):
    """The first frame: whom to ask, and the seconds that one statement may take."""

    url: str
    token: str
    seconds: float


class Query(msgspec.Struct, array_like=True):
    """One SELECT. With ``characters``, its rows are broken off soon after so many characters of them."""

    sql: str
    values: list[Any]
    characters: int | None = None


class Answer(msgspec.Struct, array_like=True):
    """All rows of a statement, or its first ones (``full``); or the error, as libsql says it."""

    rows: list[list[Any]] = []
    full: bool = False
    error: str = ""


def frame(message: msgspec.Struct) -> bytes:
    """Return a message as a frame."""
    data = msgspec.msgpack.encode(message)
    return len(data).to_bytes(HEAD, "big") + data


def is_refusal(error: str) -> bool:
    """Say whether an error of libsql is the database's answer to a statement, and not the network's."""
    return bool(_REFUSED.search(error)) and not _PASSING.search(error)
