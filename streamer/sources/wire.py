"""The protocol between streamer and the process that queries a remote trace database: frames of msgpack.

A frame is the length of its message in four bytes, big-endian, and the message.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

HEAD = 4
"""Bytes of the length field of a frame."""

_REJECTED = re.compile(r"(?:code: \"|error code: )(?:SQLITE_|SQL_)|unsupported statement")
_TEMPORARY = re.compile(r"SQLITE_(?:BUSY|LOCKED|IOERR|INTERRUPT|NOMEM|FULL)|is locked|interrupted")


class Greeting(msgspec.Struct, array_like=True):
    """The first frame: the server, its token, and the timeout of one statement in seconds."""

    url: str
    token: str
    seconds: float


class Query(msgspec.Struct, array_like=True):
    """One SELECT. With ``characters``, the rows are cut off soon after that size."""

    sql: str
    values: list[Any]
    characters: int | None = None


class Answer(msgspec.Struct, array_like=True):
    """All rows of a statement, or its first ones (``full``); or the error message of libsql."""

    rows: list[list[Any]] = []
    full: bool = False
    error: str = ""


def frame(message: msgspec.Struct) -> bytes:
    """Return a message as a frame."""
    data = msgspec.msgpack.encode(message)
    return len(data).to_bytes(HEAD, "big") + data


def is_rejection(error: str) -> bool:
    """Return whether the database rejected a statement, rather than the network failed."""
    return bool(_REJECTED.search(error)) and not _TEMPORARY.search(error)
