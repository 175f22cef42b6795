"""The text of a record as runs of words (shingles), and its images. Pure.

Both are taken from the dataset line, so that a line that is about to be written and one that is found after a crash
give the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from streamer.base.text import invalid_utf8
from streamer.core.records.conversation import IMAGE_PARTS
from streamer.core.records.images import image_url
from streamer.core.verdicts.near.rules import Scope

_ALONE = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Scripts without spaces between words: each of their characters counts as a word."""

_words = re.compile(rf"[{_ALONE}]|[^\W{_ALONE}]+").findall
_INSTRUCTIONS = ("system", "developer")


class _Line(msgspec.Struct, gc=False):
    messages: list[dict[str, Any]]


_line = msgspec.json.Decoder(_Line).decode


class _Compared(msgspec.Struct, frozen=True):
    """The text and the image URLs of a record that are compared."""

    text: str
    images: list[str]


def compared(line: bytes, scope: Scope) -> _Compared:
    """Return the text and images of a dataset line within ``scope``.

    Instructions are left out: they are equal in all records of a task, and as long as the rest.

    Raises:
        ValueError: the line was not written by streamer.
    """
    if (offset := invalid_utf8(line)) is not None:
        raise ValueError(f"byte {offset} is not UTF-8")
    try:
        messages = _line(line).messages
        if scope is Scope.REPLY:
            messages = [message for message in messages if message["role"] == "assistant"][-1:]
        elif scope is Scope.USER:
            messages = [message for message in messages if message["role"] == "user"]
        else:
            messages = [message for message in messages if message["role"] not in _INSTRUCTIONS]
        texts: list[str] = []
        images: list[str] = []
        for message in messages:
            _read_content(message.get("content"), texts, images)
            texts += _calls(message.get("tool_calls"))
    except (msgspec.MsgspecError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(str(error)) from error
    return _Compared("\n".join(texts), images)


def _read_content(content: object, texts: list[str], images: list[str]) -> None:
    if isinstance(content, str):
        texts.append(content)
    for part in content if isinstance(content, list) else ():
        if part.get("type") in IMAGE_PARTS:
            images.append(image_url(part) or "")
        elif isinstance(part.get("text"), str):
            texts.append(part["text"])


def _calls(calls: Any) -> Iterator[str]:
    for call in calls or ():
        function = call.get("function") or {}
        yield f"{function.get('name', '')} {function.get('arguments', '')}"


def shingles(text: str, length: int) -> list[str]:
    """Return all runs of ``length`` words, with repeats; a shorter text is one run, or none if it has no words."""
    words: list[str] = _words(text.lower())
    if len(words) <= length:
        return [" ".join(words)] if words else []
    return [" ".join(run) for run in zip(*(words[start:] for start in range(length)), strict=False)]
