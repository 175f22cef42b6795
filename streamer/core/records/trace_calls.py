"""Calls of the model in the table ``events``, and the call that a reply came from.

The row of a reply in ``messages`` has its tool calls only. The model's text beside them, the model and the provider are
in the event of the call, which has no id of the message.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from streamer.core.records.conversation import canonical_arguments


class Call(msgspec.Struct, frozen=True, gc=False):
    """One call of the model.

    ``time`` is when it was completed, in seconds since 1970-01-01 UTC. ``tools`` are its tool calls in a form that
    is the same for equal calls.
    """

    timestep: int
    model: str | None = None
    provider: str | None = None
    time: float | None = None
    text: str = ""
    tools: bytes = b"[]"


class _Tool(msgspec.Struct, gc=False):
    name: str = ""
    arguments_json: str | None = None


class _Recorded(msgspec.Struct, gc=False):
    """The keys of a call record that are read; all others, such as the prompt, are skipped."""

    output_text: str | None = None
    output_tool_calls: list[_Tool] | None = None


_CHOICES = re.compile(r'"choices"\s*:\s*\[')
_sorted = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder(list[_Recorded]).decode


def read_call(timestep: int, model: Any, provider: Any, time: Any, call_records: str | None) -> Call:
    """Return the call of one event; unreadable records add neither text nor tool calls."""
    recorded = _recorded(call_records)
    return Call(
        timestep=timestep,
        model=model if isinstance(model, str) else None,
        provider=provider if isinstance(provider, str) else None,
        time=time if isinstance(time, float) else None,
        text=_said(recorded.output_text or ""),
        tools=_called((tool.name, tool.arguments_json or "{}") for tool in recorded.output_tool_calls or ()),
    )


def _recorded(call_records: str | None) -> _Recorded:
    try:
        found = _decode(call_records) if call_records else []
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        found = []
    return found[0] if len(found) == 1 else _Recorded()


def _called(tools: Iterable[tuple[str, str]]) -> bytes:
    return _sorted([(name, canonical_arguments(arguments)) for name, arguments in tools])


def _said(text: str) -> str:
    """Return the model's text. The producer replaces an empty text by the whole response as JSON."""
    return "" if text.startswith("{") and _CHOICES.search(text) else text


def answering(calls: Sequence[Call], tool_calls: Sequence[dict[str, Any]], time: float | None) -> Call | None:
    """Return the call that a reply came from, or None if it is ambiguous.

    Args:
        calls: The calls of the reply's timestep; several if a session was run several times.
        tool_calls: The tool calls of the reply.
        time: Time when the reply was recorded, in seconds since 1970-01-01 UTC.
    """
    wanted = _called((call["function"]["name"], call["function"]["arguments"]) for call in tool_calls)
    equal = [call for call in calls if call.tools == wanted]
    if len({(call.text, call.model, call.provider) for call in equal}) <= 1:
        return equal[0] if equal else None
    before = [call for call in equal if call.time is not None and time is not None and call.time <= time]
    return max(before, key=lambda call: call.time or 0.0, default=None)
