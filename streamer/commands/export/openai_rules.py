"""Checks the documented rules of OpenAI for files for supervised fine-tuning with messages, tools and images.

docs/export.md has the rules and their sources. Pure, but for the header of images, which Pillow reads.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import msgspec

from streamer.commands.export.images import decoded
from streamer.commands.export.unfit import UnfitError, extra
from streamer.core.records.schema import shown

_MOST_IMAGES = 10
MOST_IMAGE_BYTES = 10_000_000
_MOST_TOOLS = 128
FEWEST_EXAMPLES = 10
MOST_IMAGE_EXAMPLES = 50_000
MOST_FILE_BYTES = 512_000_000

_LINE_KEYS = frozenset({"messages", "tools", "parallel_tool_calls"})
_KEYS = {
    "system": frozenset({"role", "content", "name"}),
    "developer": frozenset({"role", "content", "name"}),
    "user": frozenset({"role", "content", "name"}),
    "assistant": frozenset({"role", "content", "name", "refusal", "tool_calls", "function_call", "weight"}),
    "tool": frozenset({"role", "content", "tool_call_id"}),
    "function": frozenset({"role", "content", "name"}),
}
_PARTS = {
    "system": frozenset({"text"}),
    "developer": frozenset({"text"}),
    "user": frozenset({"text", "image_url"}),
    "assistant": frozenset({"text", "refusal"}),
    "tool": frozenset({"text"}),
    "function": frozenset[str](),
}
_DETAILS = ("auto", "low", "high")
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_FORMATS = ("PNG", "JPEG", "WEBP")
_MODES = ("RGB", "RGBA")


class _Violation(msgspec.Struct, frozen=True, gc=False):
    """One broken rule of an example; ``detail`` names the place in the line."""

    rule: str
    detail: str


def check_example(example: Any) -> list[_Violation]:
    """Return every rule that one line breaks.

    Args:
        example: The value of the line.

    Raises:
        MissingExtraError: the line has an image, and Pillow is not installed.
    """
    if not isinstance(example, dict):
        return [_Violation("line", "it is no object")]
    return [*_line(example), *_messages(example), *_tools(example)]


class FileRules:
    """Checks the rules for a whole file, as warnings. Each split is a file."""

    def __init__(self) -> None:
        self._examples: dict[str, int] = {}
        self._with_images: dict[str, int] = {}
        self._calls_without_tools = 0

    def count(self, split: str, example: dict[str, Any]) -> None:
        """Count a written example."""
        self._examples[split] = self._examples.get(split, 0) + 1
        messages = example["messages"]
        if any(True for _ in _images(messages)):
            self._with_images[split] = self._with_images.get(split, 0) + 1
        if "tools" not in example and any("tool_calls" in message for message in messages):
            self._calls_without_tools += 1

    def warnings(self, sizes: dict[str, int]) -> Iterator[str]:
        """Yield a warning for each broken rule.

        Args:
            sizes: The bytes of the file of each split.
        """
        for split, examples in self._examples.items():
            if examples < FEWEST_EXAMPLES:
                yield f"{split}: {examples} examples; OpenAI takes files of {FEWEST_EXAMPLES} and more"
            if self._with_images.get(split, 0) > MOST_IMAGE_EXAMPLES:
                yield f"{split}: {self._with_images[split]:,} examples with images; at most {MOST_IMAGE_EXAMPLES:,}"
            if sizes[split] > MOST_FILE_BYTES:
                yield f"{split}: {sizes[split]:,} bytes; files of up to {MOST_FILE_BYTES:,} can be uploaded"
        if self._calls_without_tools:
            yield f"{self._calls_without_tools:,} examples call tools that none of them defines: give --tools FILE"


def _line(example: dict[str, Any]) -> Iterator[_Violation]:
    extra = sorted(example.keys() - _LINE_KEYS)
    if extra:
        yield _Violation("line", f"it has {', '.join(map(repr, extra))}")
    parallel = example.get("parallel_tool_calls", True)
    if not isinstance(parallel, bool):
        yield _Violation("parallel_tool_calls", f"it is {shown(parallel)}, not true or false")
    if "parallel_tool_calls" in example and "tools" not in example:
        yield _Violation("parallel_tool_calls", "it stands there without tools")


def _messages(example: dict[str, Any]) -> Iterator[_Violation]:
    messages = example.get("messages")
    if not isinstance(messages, list) or not messages:
        yield _Violation("messages", "it is not a list with messages")
        return
    for i, message in enumerate(messages):
        yield from _message(message, f"messages[{i}]")
    whole = [message for message in messages if isinstance(message, dict)]
    yield from _replies(whole)
    yield from _answers(whole)
    count = sum(1 for _ in _images(whole))
    if count > _MOST_IMAGES:
        yield _Violation("image_count", f"{count} images; at most {_MOST_IMAGES}")


def _replies(messages: list[dict[str, Any]]) -> Iterator[_Violation]:
    if not any(message.get("role") == "assistant" for message in messages):
        yield _Violation("reply", "no message of the assistant")
    elif messages[-1].get("role") != "assistant":
        yield _Violation("reply", "the last message is not of the assistant")


def _message(message: Any, where: str) -> Iterator[_Violation]:
    if not isinstance(message, dict):
        yield _Violation("message", f"{where} is no object")
        return
    role = message.get("role")
    if not isinstance(role, str) or role not in _KEYS:
        yield _Violation("role", f"{where}.role is {shown(role)}")
        return
    extra = sorted(message.keys() - _KEYS[role])
    if extra:
        yield _Violation("message", f"{where} of {role} has {', '.join(map(repr, extra))}")
    yield from _content(message, role, where)
    yield from _calls(message.get("tool_calls"), f"{where}.tool_calls")
    if "name" in message and not isinstance(message["name"], str):
        yield _Violation("message", f"{where}.name is {shown(message['name'])}")
    if role == "function" and "name" not in message:
        yield _Violation("message", f"{where} of function has no name")
    weight = message.get("weight", 1)
    if isinstance(weight, bool) or weight not in (0, 1):
        yield _Violation("weight", f"{where}.weight is {shown(weight)}, not 0 or 1")


def _content(message: dict[str, Any], role: str, where: str) -> Iterator[_Violation]:
    content = message.get("content")
    if content is None or content == []:
        if not (role == "assistant" and any(message.get(key) for key in ("tool_calls", "function_call", "refusal"))):
            yield _Violation("content", f"{where} has no content")
    elif isinstance(content, list):
        for i, part in enumerate(content):
            yield from _part(part, role, f"{where}.content[{i}]")
    elif not isinstance(content, str):
        yield _Violation("content", f"{where}.content is neither a string nor a list of parts")


def _part(part: Any, role: str, where: str) -> Iterator[_Violation]:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str) or kind not in _PARTS[role]:
        rule = "image_role" if kind == "image_url" else "part"
        yield _Violation(rule, f"{where}: a part of type {shown(kind)} in a message of {role}")
    elif kind == "image_url":
        yield from _image(part.get("image_url"), where)
    elif not isinstance(part.get(kind), str):
        yield _Violation("part", f"{where} has no {kind}")


def _image(image: Any, where: str) -> Iterator[_Violation]:
    url = image.get("url") if isinstance(image, dict) else None
    if not isinstance(url, str):
        yield _Violation("image_url", f"{where} has no URL")
        return
    if image.get("detail", "auto") not in _DETAILS:
        yield _Violation("image_detail", f"{where}: detail is {shown(image['detail'])}")
    if url.startswith(("http://", "https://")):
        return
    try:
        data = decoded(url)
    except UnfitError as error:
        yield _Violation("image_url", f"{where}: {error.details[0]}")
        return
    if len(data) > MOST_IMAGE_BYTES:
        yield _Violation("image_size", f"{where}: {len(data):,} bytes; at most {MOST_IMAGE_BYTES:,}")
    yield from _header(data, where)


def _header(data: bytes, where: str) -> Iterator[_Violation]:
    op, where_needed = "check the images", "OpenAI takes some formats and modes"
    pillow = extra("PIL.Image", "Pillow", op, where_needed, ", or give --images drop")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pillow.open(BytesIO(data), formats=(*_FORMATS, "GIF", "BMP")) as image:
                found, mode = image.format, image.mode
    except Exception as error:  # noqa: BLE001 - decoders of hostile bytes raise any error
        yield _Violation("image_format", f"{where}: no image: {shown(str(error) or type(error).__name__)}")
        return
    if found not in _FORMATS:
        yield _Violation("image_format", f"{where}: {found}; JPEG, PNG and WebP are taken")
    if mode not in _MODES:
        yield _Violation("image_mode", f"{where}: mode {mode}; RGB and RGBA are taken")


def _calls(calls: Any, where: str) -> Iterator[_Violation]:
    if calls is None:
        return
    if not isinstance(calls, list) or not calls:
        yield _Violation("tool_call", f"{where} is not a list with calls")
        return
    ids: set[str] = set()
    for i, call in enumerate(calls):
        yield from _call(call, f"{where}[{i}]", ids)


def _call(call: Any, where: str, ids: set[str]) -> Iterator[_Violation]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or call.get("type") != "function" or call.keys() != {"id", "type", "function"}:
        yield _Violation("tool_call", f"{where} is no call of a function with id, type and function")
        return
    if not isinstance(call["id"], str) or not call["id"] or call["id"] in ids:
        yield _Violation("tool_call", f"{where}.id is {shown(call['id'])}: empty, no text, or used twice")
    else:
        ids.add(call["id"])
    if not isinstance(function.get("name"), str) or not _NAME.fullmatch(function["name"]):
        yield _Violation("tool_call", f"{where}.function.name is {shown(function.get('name'))}")
    if not isinstance(function.get("arguments"), str):
        yield _Violation("tool_call", f"{where}.function.arguments is not a string")


def _answers(messages: list[dict[str, Any]]) -> Iterator[_Violation]:
    """Yield violations of the rule that the messages after a call answer it, unless it ends the conversation."""
    open_ids: set[Any] = set()
    for i, message in enumerate(messages):
        if message.get("role") == "tool":
            answered = message.get("tool_call_id")
            if not isinstance(answered, str) or answered not in open_ids:
                yield _Violation("tool_call_id", f"messages[{i}] answers {shown(answered)}, which is not open")
            else:
                open_ids.discard(answered)
            continue
        if open_ids:
            yield _Violation("tool_call_id", f"messages[{i}] comes before {len(open_ids)} calls were answered")
        open_ids = set(_ids(message))


def _ids(message: dict[str, Any]) -> Iterator[str]:
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        if isinstance(call, dict) and isinstance(call.get("id"), str):
            yield call["id"]


def _images(messages: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict) and part.get("type") == "image_url":
                yield part


def _tools(example: dict[str, Any]) -> Iterator[_Violation]:
    if "tools" not in example:
        return
    tools = example["tools"]
    if not isinstance(tools, list) or not 0 < len(tools) <= _MOST_TOOLS:
        yield _Violation("tools", f"it is no list of 1 to {_MOST_TOOLS} tools")
        return
    names: set[str] = set()
    for i, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(function, dict) or not isinstance(name, str) or not _NAME.fullmatch(name):
            yield _Violation("tools", f"tools[{i}] is no function with a name")
        elif not isinstance(function.get("parameters", {}), dict):
            yield _Violation("tools", f"tools[{i}].function.parameters is no object")
        else:
            names.add(name)
    yield from _undefined(example.get("messages"), names)


def _undefined(messages: Any, names: set[str]) -> Iterator[_Violation]:
    for i, message in enumerate(messages if isinstance(messages, list) else ()):
        calls = message.get("tool_calls") if isinstance(message, dict) else None
        for call in calls if isinstance(calls, list) else ():
            function = call.get("function") if isinstance(call, dict) else None
            name = function.get("name") if isinstance(function, dict) else None
            if isinstance(name, str) and name not in names:
                yield _Violation("undefined_tool", f"messages[{i}] calls {shown(name)}, which tools do not define")
