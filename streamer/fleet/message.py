"""A record as a message of the stream, and back. Pure.

A message is one of three, each with the number that its line has in its bucket of the collector's present life
- a record: the line itself, or compressed, or the name of an object that holds it;
- *held*: the stream has a record of this key already, of another collector, so the line need not travel again;
- *skipped*: a line that cannot travel at all. It stays in the outbox, and is counted there.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from typing import Any

import msgspec

from streamer.core.records.arrived import ArrivedRecord
from streamer.core.records.dataset_line import LINE_ENDS, line_key
from streamer.core.records.key import KEY_BYTES, DedupBy
from streamer.core.records.layouts import MalformedError

MSG_ID, _EXPECTED = "Nats-Msg-Id", "Nats-Expected-Stream"
ORIGIN, LIFE, NUMBER = "Streamer-Origin", "Streamer-Life", "Streamer-Number"
ENCODING, OBJECT, HOLDS, SKIPPED = "Streamer-Encoding", "Streamer-Object", "Streamer-Holds", "Streamer-Skipped"

HEADER_BYTES = 1024
"""More than all headers of a message come to: what has to fit beside a line."""

LONGEST_LINE = 256 << 20
"""Bytes. What would be longer when it is unpacked is set aside: a few bytes can unpack to any number of them."""

LAST_NUMBER = (1 << 62) - 1
_ORIGIN = re.compile(r"[A-Za-z0-9_-]{1,64}\.[a-z0-9]{1,32}", re.ASCII)
_LIFE = re.compile(r"[a-z0-9]{1,32}", re.ASCII)
_OBJECT = re.compile(r"[A-Za-z0-9._-]{1,200}", re.ASCII)
_DIGITS = re.compile(r"[0-9]{1,19}", re.ASCII)


class MessagePlace(msgspec.Struct, frozen=True):
    """Which line of which collector a message is of."""

    origin: str
    life: str
    number: int


class Message(msgspec.Struct, frozen=True):
    """What one message says. ``body`` is the line, packed or not; it is in the object of that name, if there is one.

    ``holds`` is the key that the sender says the record has. Nothing is believed of it but that the record need not
    be told again where the key is in the ledger.
    """

    place: MessagePlace
    body: bytes = b""
    packed: bool = False
    object: str = ""
    holds: bytes | None = None
    skipped: bool = False

    @property
    def is_record(self) -> bool:
        """Say whether there is a line in it, or in its object."""
        return bool(self.body or self.object)


class _Metadata(msgspec.Struct):
    run_id: str


class _Line(msgspec.Struct):
    metadata: _Metadata


_decode = msgspec.json.Decoder(_Line).decode


def is_origin(text: object) -> bool:
    """Say whether a text can be the name of a collector: ``<host>.<random>``."""
    return isinstance(text, str) and _ORIGIN.fullmatch(text) is not None


def is_life(text: object) -> bool:
    """Say whether a text can be the name of one life of a collector."""
    return isinstance(text, str) and _LIFE.fullmatch(text) is not None


def headers(message: Message, stream: str, message_id: str) -> dict[str, str]:
    """Return the headers under which a message travels."""
    found = {
        MSG_ID: message_id,
        _EXPECTED: stream,
        ORIGIN: message.place.origin,
        LIFE: message.place.life,
        NUMBER: str(message.place.number),
    }
    if message.packed:
        found[ENCODING] = "zlib"
    if message.object:
        found[OBJECT] = message.object
    if message.holds is not None:
        found[HOLDS] = message.holds.hex()
    if message.skipped:
        found[SKIPPED] = "1"
    return found


def read(found: Mapping[str, Any] | None, body: bytes) -> Message:
    """Return what a message says.

    Raises:
        MalformedError: it is none of ours.
    """
    said = found or {}
    origin, life = said.get(ORIGIN), said.get(LIFE)
    number = _number(said.get(NUMBER))
    if not is_origin(origin) or not is_life(life) or number is None:
        raise MalformedError("bad_header", "it does not say which line of which collector it is")
    encoding, name, holds = said.get(ENCODING), said.get(OBJECT, ""), said.get(HOLDS)
    if encoding not in (None, "zlib"):
        raise MalformedError("bad_header", "its encoding is not known")
    if name and not _OBJECT.fullmatch(str(name)):
        raise MalformedError("bad_header", "it does not name an object")
    message = Message(
        MessagePlace(str(origin), str(life), number),
        body,
        packed=encoding is not None,
        object=str(name),
        holds=None if holds is None else _key(holds),
        skipped=said.get(SKIPPED) is not None,
    )
    if message.is_record is (message.skipped or (message.holds is not None and not name)):
        raise MalformedError("bad_header", "it is no record, and does not say why")
    return message


def record(line: bytes, by: DedupBy) -> ArrivedRecord:
    """Return what a line is, if it is one that a collector writes.

    Raises:
        MalformedError: it is none.
    """
    if line.find(b"\n") != len(line) - 1 or b"\0" in line or any(end in line for end, _ in LINE_ENDS):
        raise MalformedError("not_a_record", "it is not one line")
    try:
        return ArrivedRecord(line_key(line, by), line, _decode(line).metadata.run_id)
    except (ValueError, RecursionError) as error:  # of msgspec and of the conversation, too
        raise MalformedError("not_a_record", str(error)) from None


def pack(line: bytes) -> bytes:
    """Return a line in fewer bytes."""
    return zlib.compress(line, 6)


def unpack(body: bytes, longest: int = LONGEST_LINE) -> bytes:
    """Return the line that was packed.

    Raises:
        MalformedError: it was not packed like that, or is longer than ``longest`` bytes.
    """
    inflate = zlib.decompressobj()
    try:
        line = inflate.decompress(body, longest + 1)
    except zlib.error as error:
        raise MalformedError("bad_encoding", str(error)) from None
    if len(line) > longest:
        raise MalformedError("too_long", f"longer than {longest} bytes")
    if not inflate.eof or inflate.unused_data:
        raise MalformedError("bad_encoding", "it does not end where it should")
    return line


def _number(text: object) -> int | None:
    if not isinstance(text, str) or not _DIGITS.fullmatch(text):
        return None
    number = int(text)
    return number if 1 <= number <= LAST_NUMBER else None


def _key(text: object) -> bytes:
    try:
        key = bytes.fromhex(str(text))
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise MalformedError("bad_header", "it names no key")
    return key
