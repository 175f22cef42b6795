"""Schema check of one dataset line: the shape that trainers accept. Pure; ``images`` checks the images.

A *problem* breaks a promise of the dataset or stops a trainer; a *warning* is content that the model or the
producer wrote, and may be right.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgspec

from streamer.base.text import invalid_utf8
from streamer.core.records.conversation import IMAGE_PARTS
from streamer.core.records.layouts import ROLES

if TYPE_CHECKING:
    from collections.abc import Iterator

_LINE_KEYS = frozenset({"messages", "metadata"})
METADATA_KEYS = (
    "run_id",
    "turn",
    "model",
    "provider",
    "total_reward",
    "achievements_count",
    "total_steps",
    "has_image",
    "timestamp",
    "shard",
)
"""Keys in the metadata of every line."""

_SHOWN = 80
"""Characters of a value that a finding quotes."""

_SPLITTERS = ("\u2028", "\u2029", "\x85")


class Kind(StrEnum):
    """Kinds of findings, by the name under which they are counted."""

    NOT_UTF8 = "not_utf8"
    NOT_JSON = "not_json"
    TOO_DEEP = "too_deep"
    TOO_LONG = "too_long"
    NOT_OBJECT = "not_object"
    BAD_KEYS = "bad_keys"
    BAD_METADATA = "bad_metadata"
    BAD_MESSAGE = "bad_message"
    UNKNOWN_ROLE = "unknown_role"
    BAD_CONTENT = "bad_content"
    BAD_TOOL_CALL = "bad_tool_call"
    NO_REPLY = "no_reply"
    BAD_IMAGE = "bad_image"
    DUPLICATE = "duplicate"
    UNTERMINATED = "unterminated"

    ARGUMENTS_NOT_JSON = "arguments_not_json"
    UNKNOWN_CALL_ID = "unknown_call_id"
    IMAGE_FLAG = "image_flag"
    IMAGE_TYPE = "image_type"
    LINE_SEPARATOR = "line_separator"

    @property
    def is_warning(self) -> bool:
        """Whether the dataset is still valid with it."""
        return self in _WARNINGS


_WARNINGS = frozenset(
    {Kind.ARGUMENTS_NOT_JSON, Kind.UNKNOWN_CALL_ID, Kind.IMAGE_FLAG, Kind.IMAGE_TYPE, Kind.LINE_SEPARATOR}
)


class Finding(msgspec.Struct, frozen=True, gc=False):
    """One problem or warning; ``detail`` says where in the line, and may quote it."""

    kind: Kind
    detail: str


class CheckedLine(msgspec.Struct, frozen=True):
    """The content and the findings of one line. ``messages`` has only those that are objects."""

    findings: list[Finding]
    messages: list[dict[str, Any]] = []
    metadata: dict[str, Any] = {}


_decode = msgspec.json.Decoder().decode


def check_line(data: bytes) -> CheckedLine:
    """Return the content of a line and all findings about its shape.

    Args:
        data: The line's bytes, with or without its newline.
    """
    if (offset := invalid_utf8(data)) is not None:
        return CheckedLine([Finding(Kind.NOT_UTF8, f"byte {offset} of the line is not UTF-8")])
    try:
        line = _decode(data)
    except RecursionError:
        return CheckedLine([Finding(Kind.TOO_DEEP, "nested too deeply")])
    except msgspec.MsgspecError as error:
        return CheckedLine([Finding(Kind.NOT_JSON, str(error) if data.strip() else "an empty line")])
    if not isinstance(line, dict):
        return CheckedLine([Finding(Kind.NOT_OBJECT, f"a JSON {type(line).__name__}, not an object")])
    messages = _objects(line.get("messages"))
    metadata = line["metadata"] if isinstance(line.get("metadata"), dict) else {}
    findings = [
        *_separators(data),
        *_keys(line),
        *_metadata(line),
        *_messages(line),
        *_flag(messages, metadata),
    ]
    return CheckedLine(findings, messages, metadata)


def image_parts(messages: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every part that carries an image, with its place ("messages[1].content[0]")."""
    for i, message in enumerate(messages):
        content = message.get("content")
        for j, part in enumerate(content if isinstance(content, list) else ()):
            kind = part.get("type") if isinstance(part, dict) else None
            if isinstance(kind, str) and kind in IMAGE_PARTS:
                yield f"messages[{i}].content[{j}]", part


def tool_calls(message: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (name, arguments) of every function that a message calls; empty where they are not text."""
    for call in _objects(message.get("tool_calls")):
        function = call.get("function")
        if isinstance(function, dict):
            name, arguments = function.get("name"), function.get("arguments")
            yield name if isinstance(name, str) else "", arguments if isinstance(arguments, str) else ""


def is_number(value: object) -> bool:
    """Say whether a JSON value is a number that a float can hold."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def shown(value: object) -> str:
    """Return the start of a JSON value as text, for a detail; for a list or an object only its type."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    text = repr(value[:_SHOWN] if isinstance(value, str) else value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _objects(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _separators(data: bytes) -> Iterator[Finding]:
    if data.isascii():
        return
    for separator in _SPLITTERS:
        if separator.encode() in data:
            yield Finding(Kind.LINE_SEPARATOR, f"U+{ord(separator):04X} stands bare: some readers split there")


def _keys(line: dict[str, Any]) -> Iterator[Finding]:
    missing = [key for key in sorted(_LINE_KEYS) if key not in line]
    if missing:
        yield Finding(Kind.BAD_KEYS, f"missing: {', '.join(missing)}")
    extra = [key for key in line if key not in _LINE_KEYS]
    if extra:
        yield Finding(Kind.BAD_KEYS, f"besides messages and metadata: {shown(', '.join(extra))}")


def _metadata(line: dict[str, Any]) -> Iterator[Finding]:
    if "metadata" not in line:
        return
    metadata = line["metadata"]
    if not isinstance(metadata, dict):
        yield Finding(Kind.BAD_METADATA, "metadata is not an object")
        return
    missing = [key for key in METADATA_KEYS if key not in metadata]
    if missing:
        yield Finding(Kind.BAD_METADATA, f"missing: {', '.join(missing)}")
    reward = metadata.get("total_reward")
    if reward is not None and not is_number(reward):
        yield Finding(Kind.BAD_METADATA, f"total_reward is no number: {shown(reward)}")


def _messages(line: dict[str, Any]) -> Iterator[Finding]:
    if "messages" not in line:
        return
    messages = line["messages"]
    if not isinstance(messages, list) or not messages:
        yield Finding(Kind.BAD_MESSAGE, "messages is not a list with messages")
        return
    called: set[str] = set()
    for i, message in enumerate(messages):
        yield from _message(message, f"messages[{i}]", called)
    if not any(message.get("role") == "assistant" for message in _objects(messages)):
        yield Finding(Kind.NO_REPLY, "no message of role assistant")


def _message(message: object, where: str, called: set[str]) -> Iterator[Finding]:
    """Check one message; the ids of its tool calls are added to ``called``, for the messages after it."""
    if not isinstance(message, dict):
        yield Finding(Kind.BAD_MESSAGE, f"{where} is not an object")
        return
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        yield Finding(Kind.UNKNOWN_ROLE, f"{where}.role is {shown(role)}")
    yield from _content(message, where)
    yield from _tool_calls(message.get("tool_calls"), f"{where}.tool_calls")
    if role == "tool":
        yield from _answer(message, where, called)
    called.update(_ids(message))


def _ids(message: dict[str, Any]) -> Iterator[str]:
    for call in _objects(message.get("tool_calls")):
        if isinstance(call.get("id"), str):
            yield call["id"]


def _content(message: dict[str, Any], where: str) -> Iterator[Finding]:
    content = message.get("content")
    if isinstance(content, list):
        for i, part in enumerate(content):
            yield from _part(part, f"{where}.content[{i}]")
    elif content is None:
        if message.get("role") != "assistant" or not (message.get("tool_calls") or message.get("function_call")):
            yield Finding(Kind.BAD_CONTENT, f"{where} has neither content nor tool calls")
    elif not isinstance(content, str):
        yield Finding(Kind.BAD_CONTENT, f"{where}.content is neither a string nor a list of parts")


def _part(part: object, where: str) -> Iterator[Finding]:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        yield Finding(Kind.BAD_CONTENT, f"{where} is not a part with a type")
    elif part["type"] == "text" and not isinstance(part.get("text"), str):
        yield Finding(Kind.BAD_CONTENT, f"{where} is a text part without text")


def _tool_calls(calls: object, where: str) -> Iterator[Finding]:
    if calls is None:
        return
    if not isinstance(calls, list):
        yield Finding(Kind.BAD_TOOL_CALL, f"{where} is not a list")
        return
    for i, call in enumerate(calls):
        yield from _tool_call(call, f"{where}[{i}]")


def _tool_call(call: object, where: str) -> Iterator[Finding]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        yield Finding(Kind.BAD_TOOL_CALL, f"{where} has no function with a name")
        return
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        yield Finding(Kind.BAD_TOOL_CALL, f"{where}.function.arguments is not a string")
    elif not _is_json(arguments):
        yield Finding(Kind.ARGUMENTS_NOT_JSON, f"{where}.function.arguments: {shown(arguments)}")


def _is_json(text: str) -> bool:
    try:
        _decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return True


def _answer(message: dict[str, Any], where: str, called: set[str]) -> Iterator[Finding]:
    answered = message.get("tool_call_id")
    if not isinstance(answered, str) or answered not in called:
        yield Finding(Kind.UNKNOWN_CALL_ID, f"{where} answers {shown(answered)}, which no message before it called")


def _flag(messages: list[dict[str, Any]], metadata: dict[str, Any]) -> Iterator[Finding]:
    if metadata.get("has_image") is not True and next(image_parts(messages), None):
        yield Finding(Kind.IMAGE_FLAG, "there is an image, but metadata.has_image is not true")
