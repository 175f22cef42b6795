"""Messages and tool calls as several formats need them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from streamer.commands.export.images import is_image
from streamer.commands.export.unfit import Exclusion, UnfitError

_CALL_KEYS = frozenset({"id", "type", "function", "index"})
"""``index`` is left over from streaming, and only repeats the order."""

_FUNCTION_KEYS = frozenset({"name", "arguments"})


class ExportRecord(msgspec.Struct, frozen=True, gc=False):
    """One record of a dataset, the input of formats. ``data`` is its line, newline included."""

    line: int
    id: str
    data: bytes
    messages: list[dict[str, Any]]
    metadata: dict[str, Any]


class _Call(msgspec.Struct, frozen=True, gc=False):
    """One tool call; ``arguments`` is the text that the model wrote."""

    id: str | None
    name: str
    arguments: str


def _without_empty(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message without keys whose value is null or an empty list, but with its content."""
    return {key: value for key, value in message.items() if key == "content" or (value is not None and value != [])}


def known(message: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Return the values of a message under the keys of a format.

    Raises:
        UnfitError: the message has a value under another key.
    """
    found = _without_empty(message)
    unknown = sorted(found.keys() - set(keys))
    if unknown:
        raise UnfitError(Exclusion.UNKNOWN_KEY, f"a message has {', '.join(map(repr, unknown))}")
    return found


def parts_of(content: Any) -> list[dict[str, Any]]:
    """Return content as a list of parts; a text is one part, missing content none."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return list(content or ())


def text_of(part: dict[str, Any]) -> str:
    """Return the text of a part.

    Raises:
        UnfitError: the part is no text.
    """
    if part.get("type") != "text" or not isinstance(part.get("text"), str):
        raise UnfitError(Exclusion.UNKNOWN_PART, f"a part of type {part.get('type')!r} is neither text nor image")
    text: str = part["text"]
    return text


def plain_text(content: Any) -> str | None:
    """Return content as one text, as chat templates render it: the texts of all parts without separators.

    Raises:
        UnfitError: a part is no text.
    """
    return content if isinstance(content, str | None) else "".join(map(text_of, content))


def without_images(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message without its images; the content of one that had images becomes one text.

    Raises:
        UnfitError: the message holds only images.
    """
    content = message.get("content")
    if not isinstance(content, list) or not any(map(is_image, content)):
        return message
    left = [part for part in content if not is_image(part)]
    if not left:
        raise UnfitError(Exclusion.ONLY_IMAGES, "a message is nothing but images")
    return {**message, "content": plain_text(left)}


def calls_of(message: dict[str, Any]) -> list[_Call]:
    """Return the tool calls of a message.

    Raises:
        UnfitError: a call has other keys than a function call.
    """
    return [_call(call) for call in message.get("tool_calls") or ()]


def object_of(arguments: str) -> dict[str, Any]:
    """Return the arguments of a call as a JSON object.

    Raises:
        UnfitError: they are no JSON object.
    """
    try:
        value = msgspec.json.decode(arguments or "{}")
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise UnfitError(Exclusion.ARGUMENTS, f"arguments are no JSON: {error}") from error
    if not isinstance(value, dict):
        raise UnfitError(Exclusion.ARGUMENTS, "arguments are JSON, but no object")
    return value


def _call(call: dict[str, Any]) -> _Call:
    function = _without_empty(call["function"])
    unknown = sorted((_without_empty(call).keys() - _CALL_KEYS) | (function.keys() - _FUNCTION_KEYS))
    if unknown or call.get("type") not in (None, "function"):
        what = f"has {', '.join(map(repr, unknown))}" if unknown else f"is of type {call['type']!r}"
        raise UnfitError(Exclusion.UNKNOWN_KEY, f"a tool call {what}")
    identifier = call.get("id")
    return _Call(identifier if isinstance(identifier, str) else None, function["name"], function["arguments"])
