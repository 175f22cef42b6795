"""Conversations, and their lines in each layout that producers write.

Every conversation has a *mark*, a text that no other one contains: two records are equal if their marks are.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import msgspec

from streamer.commands.simulation.shards import dialogue_record, image_part, tool_call
from streamer.commands.soak.journal import Bad, Said, digest
from streamer.commands.soak.plan import Layout

MARK = re.compile(rb"soak-\d[\d-]*\.")
BAD_MARK = re.compile(rb"soak-bad-\d[\d-]*\.")

LONGEST_LINE = 1 << 20
"""The daemon's ``max_line_bytes``; longer lines are bad."""

_PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
_SYSTEM = "You are the player of a Crafter world. Answer with one call of interact_many."
_WORDS = [
    *("grass", "tree", "stone", "cow", "water", "zombie", "sapling", "table", "iron", "wood_pickaxe", "health:9"),
    *("facing:(0,1)", "naïve", "木", "🌲", '"quoted"', "back\\slash", "a\tb", "line\nend", "sep\u2028arator"),
    *('{"messages":', "next\x85line", "é", "🧪"),
]
_MODELS = ("gpt-4o-mini", "gpt-5-nano", "scripted")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class SoakConversation(msgspec.Struct, frozen=True):
    """A conversation, before it has a layout and its tool calls have ids."""

    mark: str
    prompt: list[dict[str, Any]]
    content: str
    calls: list[list[str]]
    has_image: bool


class SoakTurn(msgspec.Struct, frozen=True):
    """The rollout, number and time of a turn."""

    session: str
    number: int
    at: datetime


class Written(msgspec.Struct, frozen=True):
    """A line with its newline, and its entry in the journal (None for a blank line)."""

    data: bytes
    entry: Said | Bad | None


def converse(rng: Random, mark: str, size: int = 0) -> SoakConversation:
    """Draw a conversation; its prompt is at least ``size`` characters long."""
    words = rng.choices(_WORDS, k=rng.randint(10, 150))
    text = f"{mark} {' '.join(words)}{'.' * size}"
    has_image = rng.random() < 0.3  # noqa: PLR2004
    parts = [{"type": "text", "text": text}, image_part(_PNG)]
    calls = [rng.choices(("move_left", "do", "noop", "sleep"), k=rng.randint(1, 5)) for _ in range(rng.randint(0, 2))]
    return SoakConversation(
        mark=mark,
        prompt=[{"role": "system", "content": _SYSTEM}, {"role": "user", "content": parts if has_image else text}],
        content="I go on." if not calls or rng.random() < 0.3 else "",  # noqa: PLR2004
        calls=calls,
        has_image=has_image,
    )


def written(rng: Random, conversation: SoakConversation, layout: Layout, turn: SoakTurn) -> Written:
    """Return the line of a conversation. Ids of tool calls are drawn, so no two lines are the same."""
    reply = _reply(rng, conversation)
    value = _value(layout, conversation, reply, turn, rng.choice(_MODELS))
    # Unique even without a tool call; no layout has this key, so readers ignore it.
    line = json.dumps(value | {"_": rng.getrandbits(64)}, ensure_ascii=rng.random() < 0.5).encode()  # noqa: PLR2004
    timed = layout is Layout.DIALOGUE
    entry = Said(
        line=digest(line),
        mark=conversation.mark,
        session=turn.session,
        messages=messages_digest([*conversation.prompt, reply]),
        turn=None if layout is Layout.BARE else turn.number,
        time_us=microseconds(turn.at) if timed else None,
    )
    return Written(line + b"\n", entry)


def messages_digest(messages: object) -> str:
    """Return the digest of messages, whatever the order of their keys."""
    return digest(json.dumps(messages, sort_keys=True).encode())


def microseconds(at: datetime) -> int:
    """Return microseconds since 1970 of a time with a zone."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def blank(rng: Random) -> Written:
    """Return a line of white space, which is not counted."""
    return Written(rng.choice((b"\n", b"  \n", b"\r\n")), None)


def bad(rng: Random, mark: str) -> Written:
    """Return a line that no daemon can use."""
    line = rng.choice(_BAD)(f'"run_id": "{mark}"'.encode())
    return Written(line + b"\n", Bad(digest(line), mark))


def too_long(mark: str) -> Written:
    """Return a line that is longer than the daemon accepts."""
    line = b'{"run_id": "%s", "messages": "%s"}' % (mark.encode(), b"x" * LONGEST_LINE)
    return Written(line + b"\n", Bad(digest(line), mark))


_BAD: tuple[Callable[[bytes], bytes], ...] = (
    lambda key: b'{%s, "dialogue": [{"role": "user", "cont' % key,
    lambda key: b"[{%s}]" % key,
    lambda key: b'{%s, "messages": []}' % key,
    lambda key: b'{%s, "messages": [{"role": "user", "content": "no reply"}]}' % key,
    lambda key: b'{%s, "messages": [{"role": "wizard", "content": "abracadabra"}]}' % key,
    lambda key: b'{%s, "messages": "\xff\xfe"}' % key,
    lambda key: b"{%s}\0\0\0" % key,
    lambda key: b'{%s, "deep": %s}' % (key, b"[" * 5_000 + b"]" * 5_000),
)


def _reply(rng: Random, conversation: SoakConversation) -> dict[str, Any]:
    reply: dict[str, Any] = {"role": "assistant", "content": conversation.content}
    if conversation.calls:
        reply["tool_calls"] = [_call(rng, actions) for actions in conversation.calls]
    return reply


def _call(rng: Random, actions: list[str]) -> dict[str, Any]:
    arguments = json.dumps({"actions": actions}, indent=rng.choice((None, None, 1)))
    return tool_call(f"{rng.getrandbits(64):016x}", arguments)


def _value(
    layout: Layout, conversation: SoakConversation, reply: dict[str, Any], turn: SoakTurn, model: str
) -> dict[str, Any]:
    session, number, prompt = turn.session, turn.number, conversation.prompt
    if layout is Layout.DIALOGUE:
        return dialogue_record(session, number, turn.at, prompt, reply, text="", model=model, provider="soak")
    value: dict[str, Any] = {"messages": [*prompt, reply]}
    about = {"turn": number, "model": model}
    if layout is Layout.DOCUMENTED:
        value["metadata"] = {"run_id": session, **about, "reward": 1.0}
    elif layout is Layout.SESSION_ID:
        more = {"has_image": conversation.has_image, "achievements": {"collect_wood": 1}}
        value["metadata"] = {"session_id": session, **about, **more}
    return value
