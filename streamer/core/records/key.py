"""When are two records the same one? A pure function from a conversation to a 128-bit key.

What makes two conversations equal is said in ``conversation``: the key is a digest of the canonical form.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec
from blake3 import blake3

from streamer.core.records.conversation import Conversation

KEY_VERSION = 2
"""Part of every ledger: with another number, all keys are computed again from the dataset."""

KEY_BYTES = 16


class DedupBy(StrEnum):
    """What has to be equal for a record to count as a duplicate."""

    CONVERSATION = "conversation"
    PROMPT = "prompt"
    NONE = "none"


_encode = msgspec.json.Encoder(order="sorted").encode


def record_key(conversation: Conversation, by: DedupBy, identity: tuple[Any, Any, Any]) -> bytes:
    """Return the key under which the ledger remembers a record.

    Args:
        conversation: as a dataset line or a source record holds it.
        by: what has to be equal. ``prompt`` takes what stands before the last assistant message.
        identity: (run_id, turn, timestamp). With ``none`` they are part of the key: every record is
            kept, and one that repeats all of them is the same record, read again.
    """
    if by is DedupBy.CONVERSATION:
        said = conversation.canonical
    elif by is DedupBy.PROMPT:
        said = conversation.canonical[: conversation.prompt]
    else:
        said = _encode(identity) + conversation.canonical
    return blake3(said).digest(KEY_BYTES)
