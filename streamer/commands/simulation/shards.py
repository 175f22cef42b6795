"""Shards as the real task app writes them: their names, the records in them, and how the bytes arrive."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

TOOL = "interact_many"


def shard_name(session: str, ended: datetime) -> str:
    """Return the file name of a session's shard; the time is written as it is, without its zone."""
    return f"{session}_{ended:%Y-%m-%d_%H-%M-%S}.jsonl"


def write_shard(path: Path, pieces: Iterable[bytes]) -> Iterator[int]:
    """Write a file piece by piece; yield the bytes written so far after each of them."""
    written = 0
    with path.open("wb") as shard:
        for piece in pieces:
            written += shard.write(piece)
            shard.flush()
            yield written


def dialogue_record(
    session: str,
    turn: int,
    at: datetime,
    prompt: Sequence[dict[str, Any]],
    reply: dict[str, Any],
    *,
    text: str,
    model: str,
    provider: str,
) -> dict[str, Any]:
    """Return one turn in the dialogue layout.

    Args:
        session: The run id.
        turn: The number of the turn.
        at: Time of the reply, in UTC.
        prompt: The system message and the user's.
        reply: ``content`` and ``tool_calls`` (may be absent) of the reply.
        text: The user's message in words.
        model: Name of the model.
        provider: Name of its provider.
    """
    system, user = prompt
    has_image = isinstance(user["content"], list)
    return {
        "run_id": session,
        "turn": turn,
        "model": model,
        "provider": provider,
        "dialogue": [system, user],
        "dialogue_text": [system, {"role": "user", "content": text}],
        "assistant": {
            "content": reply["content"],
            "content_text": reply["content"],
            "tool_calls": reply.get("tool_calls", []),
            "has_image": False,
        },
        "metadata": {"user_has_image": has_image, "assistant_has_image": False, "has_image": has_image},
        # Like the real producer's: UTC without a zone.
        "timestamp": at.replace(tzinfo=None).isoformat(),
    }


def tool_call(call_id: str, arguments: str) -> dict[str, Any]:
    """Return a call of the tool; ``arguments`` is JSON."""
    return {"id": f"call_{call_id}", "type": "function", "function": {"name": TOOL, "arguments": arguments}}


def image_part(png: bytes) -> dict[str, Any]:
    """Return an image as a part of a message's content."""
    url = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}
