"""When are two records the same one? A pure function from a conversation to a 128-bit key.

The canonical conversation is the JSON of its messages with sorted keys, in which

- ids of tool calls are replaced by their position, as they are drawn at random for every request;
- ``arguments`` that hold JSON stand as that JSON, so that white space and key order do not count;
- keys whose value is null, and empty ``tool_calls``, are left out; null content is the empty string.

Every other key of a message counts: what a trainer could read makes a difference.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec
from blake3 import blake3

from streamer.nesting import too_deep

KEY_VERSION = 1
"""Part of every ledger: with another number, all keys are computed again from the dataset."""

KEY_BYTES = 16


class DedupBy(StrEnum):
    """What has to be equal for a record to count as a duplicate."""

    CONVERSATION = "conversation"
    PROMPT = "prompt"
    NONE = "none"


_encode = msgspec.json.Encoder(order="sorted").encode
_arguments = msgspec.json.Decoder().decode


def record_key(messages: list[dict[str, Any]], by: DedupBy, identity: tuple[Any, Any, Any]) -> bytes:
    """Return the key under which the ledger remembers a record.

    Args:
        messages: the conversation, as a dataset line or a source record holds it.
        by: what has to be equal. ``prompt`` takes what stands before the last assistant message.
        identity: (run_id, turn, timestamp). With ``none`` they are part of the key: every record is
            kept, and one that repeats all of them is the same record, read again.
    """
    if by is DedupBy.PROMPT:
        messages = messages[: _last_reply(messages)]
    canonical = _canonical(messages)
    return blake3(_encode((identity, canonical) if by is DedupBy.NONE else canonical)).digest(KEY_BYTES)


def _last_reply(messages: list[dict[str, Any]]) -> int:
    for i in range(len(messages) - 1, -1, -1):
        if messages[i].get("role") == "assistant":
            return i
    return len(messages)


def _canonical(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    places: dict[str, int] = {}
    return [_canonical_message(message, places) for message in messages]


def _canonical_message(message: dict[str, Any], places: dict[str, int]) -> dict[str, Any]:
    canonical = {key: value for key, value in message.items() if value is not None}
    canonical.setdefault("content", "")
    calls = canonical.pop("tool_calls", None)
    if calls:
        canonical["tool_calls"] = [_canonical_call(call, places) for call in calls]
    answered = canonical.get("tool_call_id")
    if isinstance(answered, str) and answered in places:
        canonical["tool_call_id"] = places[answered]
    return canonical


def _canonical_call(call: dict[str, Any], places: dict[str, int]) -> dict[str, Any]:
    canonical = {key: value for key, value in call.items() if key not in ("id", "index") and value is not None}
    canonical.setdefault("type", "function")
    identifier = call.get("id")
    if isinstance(identifier, str):
        places.setdefault(identifier, len(places))
    function = call.get("function")
    if isinstance(function, dict) and isinstance(function.get("arguments"), str):
        canonical["function"] = {**function, "arguments": _canonical_arguments(function["arguments"])}
    return canonical


def _canonical_arguments(text: str) -> Any:
    """Return arguments as the JSON that they hold; text that holds no object or list stays text."""
    try:
        value = _arguments(text)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return text
    return value if isinstance(value, dict | list) and not too_deep(text.encode()) else text
