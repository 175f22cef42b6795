"""A dataset line at a glance: what a person sees of a record in one line. Text of models is made ``printable``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from streamer.base.lines import FileLine
from streamer.base.text import printable
from streamer.core.records.schema import check_line, shown, tool_calls

START = 400
"""Characters of a value or a reply that are read; no terminal shows more in one line."""


class Glimpse(msgspec.Struct, frozen=True, gc=False):
    """What there is to see of a line. ``problem`` says why it is no record; then all texts are empty.

    ``offset`` and ``size`` are bytes of the dataset.
    """

    offset: int
    size: int
    run_id: str = ""
    turn: str = ""
    reward: str = ""
    model: str = ""
    reply: str = ""
    problem: str = ""


def glimpse(line: FileLine) -> Glimpse:
    """Return what there is to see of a line, whatever it holds."""
    checked = check_line(line.data)
    if not checked.messages:
        why = checked.findings[0]
        return Glimpse(line.offset, len(line.data), problem=f"not a record: {why.kind}: {printable(why.detail)}")
    metadata = checked.metadata
    return Glimpse(
        line.offset,
        len(line.data),
        run_id=_value(metadata.get("run_id")),
        turn=_value(metadata.get("turn")),
        reward=_value(metadata.get("total_reward")),
        model=_value(metadata.get("model")),
        reply=" ".join(filter(None, _reply(checked.messages))),
    )


def cut(text: str, width: int) -> str:
    """Return at most ``width`` characters of a text, the last of them an ellipsis if there were more."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _value(value: object) -> str:
    if value is None:
        return "-"
    return printable(value[:START] if isinstance(value, str) else shown(value))


def _reply(messages: list[dict[str, Any]]) -> Iterator[str]:
    """Yield what the last message of the assistant says, then what it calls."""
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
