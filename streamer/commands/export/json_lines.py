"""Formats of JSON lines, with one file for each split."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, BinaryIO, Self

import msgspec

from streamer.commands.export.chat import (
    ExportRecord,
    calls_of,
    known,
    object_of,
    parts_of,
    text_of,
    without_images,
)
from streamer.commands.export.images import Image, ImageFiles, image_of, is_image
from streamer.commands.export.openai_rules import FileRules, check_example
from streamer.commands.export.options import ImageMode, Options
from streamer.commands.export.output import ExportFolder
from streamer.commands.export.unfit import Exclusion, UnfitError
from streamer.core.records.images import image_url

_IMAGE_TOKEN = "<image>"  # noqa: S105 - not a secret
"""The placeholder of an image in a text of the ShareGPT format."""

_OPENAI_KEYS = ("role", "content", "tool_calls", "tool_call_id", "name", "refusal", "function_call", "weight")
_SHAREGPT_KEYS = ("role", "content", "tool_calls", "tool_call_id", "name")
_SPEAKERS = {
    "system": "system",
    "developer": "system",
    "user": "human",
    "tool": "observation",
    "function": "observation",
}
_ASKS = ("human", "observation")

_Encode = Callable[[str, ExportRecord], Any]
"""Called with (split, record); returns the value of one line, or its bytes."""

_encode = msgspec.json.Encoder().encode


class JsonLines:
    """Writes records as lines of ``<split>.jsonl``. Use it as a context manager.

    Args:
        output: The folder of the export.
        encode: Encodes a record; raises ``UnfitError`` if the format cannot hold it.
    """

    def __init__(self, output: ExportFolder, encode: _Encode) -> None:
        self._output = output
        self._encode = encode
        self._open = ExitStack()
        self._files: dict[str, BinaryIO] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def add(self, split: str, record: ExportRecord) -> None:
        """Write one record.

        Raises:
            UnfitError: the format cannot hold it.
            UnavailableError: the disk did not take it.
        """
        value = self._encode(split, record)
        line = value if isinstance(value, bytes) else _encode(value) + b"\n"
        if split not in self._files:
            self._files[split] = self._open.enter_context(self._output.open(f"{split}.jsonl"))
        self._files[split].write(line)

    def finish(self) -> dict[str, str]:
        """Close the files, and return the path of each split that has records."""
        self._open.close()
        return {split: f"{split}.jsonl" for split in self._files}


def plain_lines(output: ExportFolder, mode: ImageMode) -> _Encode:
    """Return the encoder of the dataset's own format: byte for byte, unless images are dropped or become files."""
    if mode is ImageMode.EMBEDDED:
        return lambda _split, record: record.data
    files = ImageFiles(output)

    def encode(_split: str, record: ExportRecord) -> Any:
        if mode is ImageMode.DROP:
            messages = [without_images(message) for message in record.messages]
        else:
            messages = _linked(record.messages, files)
        return {"messages": messages, "metadata": record.metadata}

    return encode


def openai_lines(options: Options, rules: FileRules) -> _Encode:
    """Return the encoder for fine-tuning by the OpenAI API. It refuses records that break a rule of the API."""

    def encode(split: str, record: ExportRecord) -> Any:
        messages = record.messages
        if options.image_mode is ImageMode.DROP:
            messages = [without_images(message) for message in messages]
        example: dict[str, Any] = {"messages": [_openai(message) for message in messages]}
        if options.tools is not None:
            example["tools"] = options.tools
        violations = check_example(example)
        if violations:
            raise UnfitError(Exclusion.OPENAI, *(f"{found.rule}: {found.detail}" for found in violations))
        rules.count(split, example)
        return example

    return encode


def sharegpt_lines(options: Options, output: ExportFolder) -> _Encode:
    """Return the encoder of the ShareGPT format of LLaMA-Factory."""
    files = ImageFiles(output)
    tools = _encode([tool["function"] for tool in options.tools]).decode() if options.tools is not None else None

    def encode(_split: str, record: ExportRecord) -> Any:
        images: list[Image] = []
        messages = [known(message, _SHAREGPT_KEYS) for message in record.messages]
        if options.image_mode is ImageMode.DROP:
            messages = [without_images(message) for message in messages]
        turns = _observed_together([_turn(message, images) for message in messages])
        _check_order(turns)
        line: dict[str, Any] = {"conversations": turns}
        if options.image_mode is ImageMode.FILES:
            line["images"] = [files.put(image) for image in images]
        if tools is not None:
            line["tools"] = tools
        return line

    return encode


def _linked(messages: list[dict[str, Any]], files: ImageFiles) -> list[dict[str, Any]]:
    """Return messages with the paths of image files in place of the images."""
    images = {id(part): image_of(part) for message in messages for part in _image_parts(message)}
    return [
        {**message, "content": [_link(part, files, images) for part in message["content"]]}
        if any(_image_parts(message))
        else message
        for message in messages
    ]


def _image_parts(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content")
    return [part for part in content if is_image(part)] if isinstance(content, list) else []


def _link(part: dict[str, Any], files: ImageFiles, images: dict[int, Image]) -> dict[str, Any]:
    return _image_url(part, files.put(images[id(part)])) if id(part) in images else part


def _image_url(part: dict[str, Any], url: str | None) -> dict[str, Any]:
    """Return an image part in the shape of the chat completions API."""
    inner = part.get("image_url")
    detail = inner.get("detail") if isinstance(inner, dict) else part.get("detail")
    return {"type": "image_url", "image_url": {"url": url} | ({"detail": detail} if detail is not None else {})}


def _openai(message: dict[str, Any]) -> dict[str, Any]:
    found = known(message, _OPENAI_KEYS)
    if found.get("content") is None:
        found.pop("content", None)
    if isinstance(found.get("content"), list):
        found["content"] = [_image_url(part, image_url(part)) if is_image(part) else part for part in found["content"]]
    if "tool_calls" in found:
        found["tool_calls"] = [_without_index(call) for call in found["tool_calls"]]
    return found


def _without_index(call: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function"} | {key: value for key, value in call.items() if key != "index" and value is not None}


def _turn(message: dict[str, Any], images: list[Image]) -> dict[str, str]:
    """Return one message as a turn of a ShareGPT conversation, and append its images to ``images``."""
    text = _with_tokens(message.get("content"), images)
    if message["role"] != "assistant":
        return {"from": _SPEAKERS[message["role"]], "value": text}
    calls = [{"name": call.name, "arguments": object_of(call.arguments)} for call in calls_of(message)]
    if not calls:
        return {"from": "gpt", "value": text}
    if text:
        raise UnfitError(Exclusion.TEXT_BESIDE_CALL, "a reply has text and tool calls: here a turn is one of the two")
    return {"from": "function_call", "value": _encode(calls if len(calls) > 1 else calls[0]).decode()}


def _with_tokens(content: Any, images: list[Image]) -> str:
    texts = []
    for part in parts_of(content):
        if is_image(part):
            images.append(image_of(part))
            texts.append(_IMAGE_TOKEN)
        else:
            texts.append(text_of(part))
            if _IMAGE_TOKEN in texts[-1]:
                raise UnfitError(
                    Exclusion.IMAGE_TOKEN, f"a text holds {_IMAGE_TOKEN!r}, which stands for an image here"
                )
    return "".join(texts)


def _observed_together(turns: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return turns with consecutive observations merged into one, as a JSON list of results."""
    together: list[dict[str, str]] = []
    results: list[str] = []
    for turn in [*turns, {"from": "", "value": ""}]:
        if turn["from"] == "observation":
            results.append(turn["value"])
            continue
        if results:
            value = results[0] if len(results) == 1 else _encode(results).decode()
            together.append({"from": "observation", "value": value})
            results = []
        together.append(turn)
    return together[:-1]


def _check_order(turns: list[dict[str, str]]) -> None:
    """Refuse turns that do not alternate after the system prompt: readers of this format drop them silently."""
    dialogue = turns[1:] if turns[0]["from"] == "system" else turns
    for i, turn in enumerate(dialogue):
        if (turn["from"] in _ASKS) != (i % 2 == 0) or turn["from"] == "system":
            raise UnfitError(Exclusion.TURN_ORDER, f"turn {i + 1} is of {turn['from']}, out of turn")
    if len(dialogue) % 2:
        raise UnfitError(Exclusion.TURN_ORDER, "the last turn is no reply")
