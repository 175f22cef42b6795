"""A conversation as its JSON, and in the canonical form that keys are computed from.

The canonical form is the JSON of each message, in which

- keys have one order (``_FIRST``, then by name), without white space;
- ids of tool calls are replaced by their position, as they are random in every request;
- ``arguments`` that hold JSON are replaced by that JSON, so that white space and key order do not count;
- keys whose value is null, and empty ``tool_calls``, are left out; null content is the empty string.

Every other key of a message counts, as a trainer could read it.

Two paths lead to the same bytes. Messages of the usual shape are decoded into structs whose fields have that order, so
that most messages are encoded once for both forms. ``of_messages`` handles all others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Raw, UnsetType

from streamer.base.json_depth import too_deep

IMAGE_PARTS = frozenset({"image_url", "image", "input_image"})

_FIRST = (
    "role", "content", "tool_calls", "tool_call_id", "name",
    "type", "text", "image_url", "url", "detail", "function", "arguments",
)  # fmt: skip
"""The first keys of objects of any kind, in order: that of the fields below."""

_RANK = {key: rank for rank, key in enumerate(_FIRST)}


class Conversation(msgspec.Struct, frozen=True, gc=False):
    """Messages as bytes.

    ``encoded`` is the JSON list of a dataset line; ``canonical`` are the canonical messages with commas between them.
    The first ``prompt`` bytes of ``canonical`` are the messages before the last reply.
    """

    encoded: bytes
    canonical: bytes
    prompt: int
    has_image: bool

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Return the messages as objects."""
        messages: list[dict[str, Any]] = msgspec.json.decode(self.encoded)
        return messages


class _ImageUrl(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    url: str
    detail: str | UnsetType = UNSET


class _Part(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    type: str
    text: str | UnsetType = UNSET
    image_url: _ImageUrl | str | UnsetType = UNSET


class _Function(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    name: str
    arguments: str


class _Call(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, gc=False):
    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    function: _Function


class _Message(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_Part] | UnsetType | None = UNSET
    tool_calls: list[_Call] | UnsetType | None = UNSET


class _Reply(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The ``assistant`` object of the task app; it repeats some of its content."""

    content: str | list[_Part] | None
    tool_calls: list[_Call] | UnsetType | None = UNSET
    content_text: Any = None
    has_image: Any = None


class _CanonicalFunction(msgspec.Struct, gc=False):
    name: str
    arguments: Any


class _CanonicalCall(msgspec.Struct, gc=False):
    type: str
    function: _CanonicalFunction


class _CanonicalMessage(msgspec.Struct, gc=False):
    role: str
    content: str | list[_Part]
    tool_calls: list[_CanonicalCall] | UnsetType


_encode = msgspec.json.Encoder().encode
_encode_sorted = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder().decode
_decode_messages = msgspec.json.Decoder(list[_Message]).decode
_decode_reply = msgspec.json.Decoder(_Reply).decode


def from_messages(messages: bytes | Raw) -> Conversation | None:
    """Return the conversation of a JSON list of messages, or None if their shape is unusual."""
    try:
        return _usual(_decode_messages(messages))
    except (msgspec.DecodeError, RecursionError):
        return None


def from_dialogue(dialogue: bytes | Raw, reply: bytes | Raw) -> Conversation | None:
    """Return the conversation of a JSON list of messages and the reply to it, or None if their shape is unusual."""
    try:
        messages, answer = _decode_messages(dialogue), _decode_reply(reply)
    except (msgspec.DecodeError, RecursionError):
        return None
    if not messages:
        return None
    return _usual([*messages, _Message("assistant", answer.content, answer.tool_calls or UNSET)])


def of_messages(messages: Sequence[dict[str, Any]]) -> Conversation:
    """Return the conversation of messages in any shape that ``layouts`` accepts."""
    positions: dict[str, int] = {}
    canonical = [_encode(_ordered(_canonical_message(message, positions))) for message in messages]
    last = max((i for i, message in enumerate(messages) if message.get("role") == "assistant"), default=len(messages))
    prompt = len(b",".join(canonical[:last]))
    return Conversation(_encode(messages), b",".join(canonical), prompt, has_image(messages))


def has_image(messages: Iterable[dict[str, Any]]) -> bool:
    """Say whether any message carries an image part."""
    return any(
        part.get("type") in IMAGE_PARTS
        for message in messages
        if isinstance(content := message.get("content"), list)
        for part in content
        if isinstance(part, dict) and isinstance(part.get("type"), str)
    )


def _usual(messages: list[_Message]) -> Conversation | None:
    encoded: list[bytes] = []
    canonical: list[bytes] = []
    image = False
    prompt = -1
    length = 0
    for message in messages:
        content, calls = message.content, message.tool_calls
        if message.role == "assistant":
            prompt = max(0, length - 1)  # without the comma before it
        elif calls is not UNSET:
            return None
        if content.__class__ is list:
            image = image or any(part.type in IMAGE_PARTS for part in content)
        elif content.__class__ is not str and not calls:
            return None  # neither content nor tool calls
        line = _encode(message)
        encoded.append(line)
        if calls is not UNSET:
            line = _canonical(message)
        canonical.append(line)
        length += len(line) + 1
    if prompt < 0:
        return None
    return Conversation(b"[%b]" % b",".join(encoded), b",".join(canonical), prompt, image)


def _canonical(message: _Message) -> bytes:
    content = message.content if isinstance(message.content, str | list) else ""
    calls = [
        _CanonicalCall(
            call.type if isinstance(call.type, str) else "function",
            _CanonicalFunction(call.function.name, canonical_arguments(call.function.arguments)),
        )
        for call in message.tool_calls or ()
    ]
    return _encode(_CanonicalMessage(message.role, content, calls or UNSET))


def _canonical_message(message: dict[str, Any], positions: dict[str, int]) -> dict[str, Any]:
    canonical = {key: value for key, value in message.items() if value is not None}
    canonical.setdefault("content", "")
    calls = canonical.pop("tool_calls", None)
    if calls:
        canonical["tool_calls"] = [_canonical_call(call, positions) for call in calls]
    answered = canonical.get("tool_call_id")
    if isinstance(answered, str) and answered in positions:
        canonical["tool_call_id"] = positions[answered]
    return canonical


def _canonical_call(call: dict[str, Any], positions: dict[str, int]) -> dict[str, Any]:
    canonical = {key: value for key, value in call.items() if key not in ("id", "index") and value is not None}
    canonical.setdefault("type", "function")
    identifier = call.get("id")
    if isinstance(identifier, str):
        positions.setdefault(identifier, len(positions))
    function = call.get("function")
    if isinstance(function, dict) and isinstance(function.get("arguments"), str):
        canonical["function"] = {**function, "arguments": canonical_arguments(function["arguments"])}
    return canonical


def canonical_arguments(text: str) -> Any:
    """Return arguments as canonical JSON; text that holds no object or list stays text."""
    try:
        value = _decode(text)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return text
    if not isinstance(value, dict | list) or too_deep(text.encode()):
        return text
    return Raw(_encode_sorted(value))


def _ordered(value: Any) -> Any:
    """Put the keys of all objects into the canonical order."""
    if isinstance(value, dict):
        return {key: _ordered(value[key]) for key in sorted(value, key=_rank)}
    if isinstance(value, list):
        return [_ordered(item) for item in value]
    return value


def _rank(key: str) -> tuple[int, str]:
    return _RANK.get(key, len(_RANK)), key
