"""Summary of a record in one line for a person. Text of models is made ``printable``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from streamer.base.lines import FileLine
from streamer.base.text import printable
from streamer.core.records.schema import check_line, shown, tool_calls

START = 400
"""Characters of a value or reply that are used; no terminal shows more in one line."""


class LineSummary(msgspec.Struct, frozen=True, gc=False):
    """Texts that sum up a line. ``problem`` is the reason why it is not a record; then all other texts are empty.

    ``offset`` is in bytes of its file, ``size`` is the length of the line.
    """

    offset: int
    size: int
    run_id: str = ""
    turn: str = ""
    reward: str = ""
    model: str = ""
    reply: str = ""
    problem: str = ""


def summarize(line: FileLine) -> LineSummary:
    """Return the summary of any line, record or not."""
    checked = check_line(line.data)
    if not checked.messages:
        why = checked.findings[0]
        return LineSummary(line.offset, len(line.data), problem=f"not a record: {why.kind}: {printable(why.detail)}")
    metadata = checked.metadata
    return LineSummary(
        line.offset,
        len(line.data),
        run_id=_value(metadata.get("run_id")),
        turn=_value(metadata.get("turn")),
        reward=_value(metadata.get("total_reward")),
        model=_value(metadata.get("model")),
        reply=" ".join(filter(None, _reply(checked.messages))),
    )


def cut(text: str, width: int) -> str:
    """Return at most ``width`` characters of a text; a longer text ends with an ellipsis."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _value(value: object) -> str:
    if value is None:
        return "-"
    return printable(value[:START] if isinstance(value, str) else shown(value))


def _reply(messages: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the text of the assistant's last message, then its tool calls."""
    replies = [message for message in messages if message.get("role") == "assistant"]
    for message in replies[-1:]:
        yield from _said(message.get("content"))
        for name, arguments in tool_calls(message):
            yield f"{_folded(name)}({_folded(arguments)})"


def _said(content: object) -> Iterator[str]:
    if isinstance(content, str):
        yield _folded(content)
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict):
            text = part.get("text")
            yield _folded(text if isinstance(text, str) else f"[{part.get('type')}]")


def _folded(text: str) -> str:
    """Return the start of a text on one line."""
    return printable(" ".join(text[:START].split()))
