"""One line of a dataset: its encoding from a record and its outcome, and its key. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from streamer.base.text import invalid_utf8
from streamer.core.records.conversation import from_messages, of_messages
from streamer.core.records.key import KEY_VERSION, DedupBy, record_key
from streamer.core.records.model import Outcome, SourceRecord
from streamer.core.records.worth import Worth


class _Line(msgspec.Struct, gc=False):
    messages: msgspec.Raw
    metadata: dict[str, Any]


_json = msgspec.json.Encoder().encode
_line = msgspec.json.Decoder(_Line).decode
LINE_ENDS = (("\u2028".encode(), b"\\u2028"), ("\u2029".encode(), b"\\u2029"), ("\x85".encode(), b"\\u0085"))
"""Characters that some readers treat as line ends. They occur only inside strings, so escaping them is exact."""


class _Metadata(msgspec.Struct, gc=False):
    """The first metadata keys of every line."""

    run_id: str
    turn: Any
    model: Any
    provider: Any
    total_reward: float | int | None
    achievements_count: float | int | None
    total_steps: float | int | None
    has_image: bool
    timestamp: Any
    shard: str


class _TurnMetadata(msgspec.Struct, gc=False):
    """The metadata keys after them, where event rewards are read."""

    turn_reward: float | None
    turn_achievements: Sequence[str]


_OURS = frozenset(_Metadata.__struct_fields__)
_OURS_WITH_TURN = _OURS | frozenset(_TurnMetadata.__struct_fields__)


def own_keys(*, with_turn: bool) -> frozenset[str]:
    """Return the metadata keys that streamer sets; with ``with_turn`` also those of event rewards."""
    return _OURS_WITH_TURN if with_turn else _OURS


def encode_line(record: SourceRecord, outcome: Outcome, shard: str, worth: Worth | None = None) -> bytes:
    """Return the dataset line of a record, newline included.

    Args:
        record: The record.
        outcome: The outcome of its rollout.
        shard: Name of the shard that it was read from.
        worth: Event rewards of its turn, where they are read.
    """
    metadata = _json(
        _Metadata(
            record.session,
            record.turn,
            record.model,
            record.provider,
            outcome.total_reward,
            outcome.achievements_count,
            outcome.total_steps,
            record.has_image,
            record.timestamp,
            shard,
        )
    )
    if worth is not None:
        metadata = b"%b,%b" % (metadata[:-1], _json(_TurnMetadata(worth.reward, worth.achievements))[1:])
    ours = own_keys(with_turn=worth is not None)
    more = record.metadata
    if outcome.metadata:
        more = msgspec.json.decode(outcome.metadata) | more
    theirs = {key: value for key, value in more.items() if key not in ours}
    if theirs:
        metadata = b"%b,%b" % (metadata[:-1], _json(theirs)[1:])
    line = b'{"messages":%b,"metadata":%b}\n' % (record.conversation.encoded, metadata)
    if not line.isascii():
        for raw, escaped in LINE_ENDS:
            line = line.replace(raw, escaped)
    return line


def line_key(line: bytes, by: DedupBy) -> bytes:
    """Return the key of a dataset line.

    Raises:
        ValueError: the line was not written by streamer.
    """
    if (offset := invalid_utf8(line)) is not None:
        raise ValueError(f"byte {offset} is not UTF-8")
    try:
        found = _line(line)
        identity = (found.metadata["run_id"], found.metadata["turn"], found.metadata["timestamp"])
        conversation = from_messages(found.messages) or of_messages(msgspec.json.decode(found.messages))
        return record_key(conversation, by, identity)
    except (msgspec.MsgspecError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(str(error)) from error


def keys_meaning(by: DedupBy) -> str:
    """Return the version of the keys, as a ledger stores it."""
    return f"{by}/{KEY_VERSION}"
