"""From one row of a reply to its content and its tool calls.

The task app writes a list of ``{"tool_name", "arguments"}``, cut after 4,000 characters. Calls in the shape of the
model's API, a whole message of the assistant, a list of parts, and plain text are read as well.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from streamer.core.records.layouts import MalformedError

_CUT_AFTER = 4000
"""Characters of a reply that the producer keeps, before it writes an ellipsis."""

_ELLIPSIS = "…"
_spaced = json.JSONEncoder(ensure_ascii=False).encode


class Reply(NamedTuple):
    """Content of one row as a text or a list of parts, and its tool calls, unchanged."""

    content: Any
    calls: list[Any]


def read_reply(text: str | None, value: Any, where: str, *, is_call: bool) -> Reply:
    """Return the reply in one row.

    Args:
        text: The row's content.
        value: The JSON value of the content, None if it is no JSON.
        where: The row, for the detail of an error.
        is_call: Whether the row must hold tool calls.

    Raises:
        MalformedError: the producer cut it, or tool calls are missing.
    """
    if not text:
        return Reply("", [])
    if isinstance(value, list) and (is_call or not value or _are_calls(value)) and not is_parts(value):
        return Reply("", value)
    if isinstance(value, dict):
        if _are_calls([value]):
            return Reply("", [value])
        if "tool_calls" in value or "content" in value or "text" in value:
            return _message(value)
    if value is None and _is_cut(text, is_call=is_call):
        raise MalformedError("reply_truncated", f"{where} was cut after {len(text) - 1} characters by the producer")
    if is_call and not is_parts(value):
        raise MalformedError("bad_message", f"{where} should hold tool calls, and does not")
    return Reply(value if is_parts(value) else text, [])


def _message(value: dict[str, Any]) -> Reply:
    content = value.get("content") if value.get("content") is not None else value.get("text")
    calls = value.get("tool_calls")
    return Reply("" if content is None else content, calls if isinstance(calls, list) else [])


def _is_cut(text: str, *, is_call: bool) -> bool:
    """Say whether the producer cut this; a model may end a sentence with an ellipsis, too."""
    return text.endswith(_ELLIPSIS) and (is_call or len(text) == _CUT_AFTER + 1 or text[0] in "[{")


def _are_calls(value: list[Any]) -> bool:
    return bool(value) and all(isinstance(call, dict) and _function(call) is not None for call in value)


def is_parts(value: Any) -> bool:
    """Say whether a JSON value is a list of content parts."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(part, dict) and isinstance(part.get("type"), str) and not _function(part) for part in value)
    )


def as_tool_calls(calls: list[Any], where: str) -> list[dict[str, Any]]:
    """Return calls with ``function`` as trainers accept it, and the ``id`` of the row if it has one.

    Raises:
        MalformedError: one of them is no call.
    """
    return [_as_tool_call(call, where) for call in calls]


def _as_tool_call(call: Any, where: str) -> dict[str, Any]:
    function = _function(call) if isinstance(call, dict) else None
    if function is None:
        raise MalformedError("bad_message", f"{where} has a tool call without a name")
    name, arguments = function
    if not isinstance(arguments, str):
        # With the spaces that models write, so that the text is the one of the shard.
        arguments = _spaced({} if arguments is None else arguments)
    identifier = call.get("id", call.get("tool_call_id"))
    return {"id": identifier, "function": {"name": name, "arguments": arguments}}


def _function(call: dict[str, Any]) -> tuple[str, Any] | None:
    """Return (name, arguments) of a tool call, or None if it is none."""
    function = call.get("function")
    if isinstance(function, dict) and isinstance(function.get("name"), str):
        return function["name"], function.get("arguments")
    if isinstance(call.get("tool_name"), str):
        return call["tool_name"], call.get("arguments")
    if isinstance(call.get("name"), str) and ("arguments" in call or "input" in call):
        return call["name"], call.get("arguments", call.get("input"))
    return None
