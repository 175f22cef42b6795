"""Messages of the stream: how a record is encoded as one, and read back. Pure.

A message bears the sequence of its line in its partition and the collector's present epoch. It is one of three
- a record: the line itself, or compressed, or the name of an object that holds it;
- *held*: the stream has a record with this key already, from another collector, so the line is not sent again;
- *skipped*: the line cannot be sent at all. It stays in the outbox, and is counted there.
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
PRODUCER, EPOCH, SEQUENCE = "Streamer-Origin", "Streamer-Life", "Streamer-Number"
ENCODING, OBJECT, HOLDS, SKIPPED = "Streamer-Encoding", "Streamer-Object", "Streamer-Holds", "Streamer-Skipped"

HEADER_BYTES = 1024
"""Bytes reserved for the headers of a message; no message has more."""

LONGEST_LINE = 256 << 20
"""Bytes. A longer line is not unpacked but dead-lettered: a few packed bytes can unpack to gigabytes."""

LAST_SEQUENCE = (1 << 62) - 1
_PRODUCER = re.compile(r"[A-Za-z0-9_-]{1,64}\.[a-z0-9]{1,32}", re.ASCII)
_EPOCH = re.compile(r"[a-z0-9]{1,32}", re.ASCII)
_OBJECT = re.compile(r"[A-Za-z0-9._-]{1,200}", re.ASCII)
_DIGITS = re.compile(r"[0-9]{1,19}", re.ASCII)


class MessageId(msgspec.Struct, frozen=True):
    """The line that a message stands for: its collector, the collector's epoch, and the sequence in its partition."""

    producer: str
    epoch: str
    sequence: int


class Message(msgspec.Struct, frozen=True):
    """One decoded message. ``body`` is the line, packed or not; if ``object`` is set, that object holds the line.

    ``holds`` is the key that the sender claims for the record. It is trusted for one thing only: a record whose key is
    in the ledger need not be sent again.
    """

    id: MessageId
    body: bytes = b""
    packed: bool = False
    object: str = ""
    holds: bytes | None = None
    skipped: bool = False

    @property
    def is_record(self) -> bool:
        """Say whether the message or its object holds a line."""
        return bool(self.body or self.object)


class _Metadata(msgspec.Struct):
    run_id: str


class _Line(msgspec.Struct):
    metadata: _Metadata


_decode = msgspec.json.Decoder(_Line).decode


def is_producer(text: object) -> bool:
    """Say whether a text can be a producer id: ``<host>.<random>``."""
    return isinstance(text, str) and _PRODUCER.fullmatch(text) is not None


def is_epoch(text: object) -> bool:
    """Say whether a text can be an epoch of a collector."""
    return isinstance(text, str) and _EPOCH.fullmatch(text) is not None


def headers(message: Message, stream: str, message_id: str) -> dict[str, str]:
    """Return the headers of a message."""
    found = {
        MSG_ID: message_id,
        _EXPECTED: stream,
        PRODUCER: message.id.producer,
        EPOCH: message.id.epoch,
        SEQUENCE: str(message.id.sequence),
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
    """Decode the headers and the body of a message.

    Raises:
        MalformedError: No collector sends such a message.
    """
    said = found or {}
    producer, epoch = said.get(PRODUCER), said.get(EPOCH)
    sequence = _sequence(said.get(SEQUENCE))
    if not is_producer(producer) or not is_epoch(epoch) or sequence is None:
        raise MalformedError("bad_header", "it does not say which line of which collector it is")
    encoding, name, holds = said.get(ENCODING), said.get(OBJECT, ""), said.get(HOLDS)
    if encoding not in (None, "zlib"):
        raise MalformedError("bad_header", "its encoding is not known")
    if name and not _OBJECT.fullmatch(str(name)):
        raise MalformedError("bad_header", "it does not name an object")
    message = Message(
        MessageId(str(producer), str(epoch), sequence),
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
    """Return the record that a line holds, with the key computed from the line alone.

    Raises:
        MalformedError: No collector writes such a line.
    """
    if line.find(b"\n") != len(line) - 1 or b"\0" in line or any(end in line for end, _ in LINE_ENDS):
        raise MalformedError("not_a_record", "it is not one line")
    try:
        return ArrivedRecord(line_key(line, by), line, _decode(line).metadata.run_id)
    except (ValueError, RecursionError) as error:  # of msgspec and of the conversation, too
        raise MalformedError("not_a_record", str(error)) from None


def pack(line: bytes) -> bytes:
    """Compress a line."""
    return zlib.compress(line, 6)


def unpack(body: bytes, longest: int = LONGEST_LINE) -> bytes:
    """Decompress a line.

    Raises:
        MalformedError: The body is no packed line, or the line is longer than ``longest`` bytes.
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


def _sequence(text: object) -> int | None:
    if not isinstance(text, str) or not _DIGITS.fullmatch(text):
        return None
    sequence = int(text)
    return sequence if 1 <= sequence <= LAST_SEQUENCE else None


def _key(text: object) -> bytes:
    try:
        key = bytes.fromhex(str(text))
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise MalformedError("bad_header", "it names no key")
    return key
