"""The key of a record, 128 bits: equal records have equal keys.

It is a digest of the canonical form that ``conversation`` defines.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec
from blake3 import blake3

from streamer.core.records.conversation import Conversation

KEY_VERSION = 2
"""Version of the keys. A ledger of another version computes all keys again from the dataset."""

KEY_BYTES = 16


class DedupBy(StrEnum):
    """The parts of a record that must be equal for a duplicate."""

    CONVERSATION = "conversation"
    PROMPT = "prompt"
    NONE = "none"


_encode = msgspec.json.Encoder(order="sorted").encode


def record_key(conversation: Conversation, by: DedupBy, identity: tuple[Any, Any, Any]) -> bytes:
    """Return the key of a record.

    Args:
        conversation: Conversation of a dataset line or a source record.
        by: The parts that must be equal. ``prompt`` is everything before the last assistant message.
        identity: (run_id, turn, timestamp). With ``none`` they are part of the key: every record is
            kept, and one that repeats all three is the same record, read again.
    """
    if by is DedupBy.CONVERSATION:
        compared = conversation.canonical
    elif by is DedupBy.PROMPT:
        compared = conversation.canonical[: conversation.prompt]
    else:
        compared = _encode(identity) + conversation.canonical
    return blake3(compared).digest(KEY_BYTES)
