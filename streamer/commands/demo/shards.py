"""Shards in the dialogue layout, one file a rollout, as the real task app leaves them.

A record holds the prompt of one turn as ``dialogue`` and the answer as ``assistant``; its reward stands in
the trace database alone. The file appears under its final name at the end of the rollout, so a reader can
meet it empty or cut in the middle of a line.
"""

from __future__ import annotations

import base64
import json
import os
import time
import uuid
from typing import TYPE_CHECKING, Any

from streamer.commands.demo.policy import MAX_ACTIONS, MIN_ACTIONS, STEPS, Place, PlayerView

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

    from streamer.commands.demo.episodes import PlayedTurn

_MODEL = "scripted-forager"
_PROVIDER = "demo"
_TOOL = "interact_many"
_CUT_SECONDS = 0.7
"""How long a cut shard stays cut: long enough for a reader to look at it."""

_SIGHT = (7, 5)
"""Width and height of the map that a text prompt shows, in tiles."""

_SYSTEM_PROMPT = f"""\
You are the player of a Crafter world. Unlock as many achievements as you can before the turns run out.

Worth knowing:
- Chop trees for wood, build a table, make a pickaxe and a sword beside it.
- Water, cows and saplings count as well, and they are often closer.
- To use what is in front of you, face it and choose 'do'.

Answer with one call of {_TOOL} with {MIN_ACTIONS} to {MAX_ACTIONS} actions out of: noop, do,
{", ".join(STEPS)}, place_table, place_plant, place_stone, make_wood_pickaxe, make_wood_sword
"""


def record(run_id: str, turn: PlayedTurn, at: datetime, *, images: bool) -> dict[str, Any]:
    """Return one turn as the line of a shard holds it.

    Args:
        run_id: the rollout, which is also the session in the trace database.
        turn: what was seen, said and done.
        at: when the reply came, in UTC.
        images: show the rendered frame instead of the state in words.

    """
    text = "" if images else _describe(turn)
    content = [_image_part(turn.before.frame)] if images else text
    return {
        "run_id": run_id,
        "turn": turn.number,
        "model": _MODEL,
        "provider": _PROVIDER,
        "dialogue": _prompt(content),
        "dialogue_text": _prompt(text),
        "assistant": {
            "content": turn.decision.reply,
            "content_text": turn.decision.reply,
            "tool_calls": [_tool_call(turn.decision.actions)],
            "has_image": False,
        },
        "metadata": {"user_has_image": images, "assistant_has_image": False, "has_image": images},
        # The real one is naive too: UTC without saying so.
        "timestamp": at.replace(tzinfo=None).isoformat(),
    }


def _describe(turn: PlayedTurn) -> str:
    """Return the state before a turn in words: what a prompt without images shows."""
    state = turn.before
    calls = [f"- {_TOOL}: {_arguments(actions)}" for actions in turn.earlier] or ["- none"]
    return "\n".join(
        [
            "=== CRAFTER GAME STATE ===",
            f"Step: {state.step}/10000",
            f"Health: {state.inventory['health']}",
            f"Position: {list(state.position)}",
            f"Facing: {list(state.facing)}",
            f"Inventory: {_inventory(state)}",
            f"Achievements: {', '.join(state.unlocked) or 'none'}",
            "",
            f"Map around you ({_SIGHT[0]}x{_SIGHT[1]}):",
            *_map(state),
            "",
            "Your last calls, the newest first:",
            *calls,
        ]
    )


def write(folder: Path, run_id: str, ended: datetime, records: Sequence[dict[str, Any]], *, cut: bool = False) -> Path:
    """Write a rollout's shard straight under its final name, and return its path.

    Args:
        folder: where shards go; it exists.
        run_id: first part of the name.
        ended: second part of the name, in local time.
        records: one for each line.
        cut: leave the file cut in the middle of a line for `CUT_SECONDS`, then write the rest.

    """
    path = folder / f"{run_id}_{ended.astimezone():%Y-%m-%d_%H-%M-%S}.jsonl"
    data = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in records).encode()
    half = _inside_a_line(data) if cut else 0
    with path.open("wb") as shard:
        if cut:
            shard.write(data[:half])
            shard.flush()
            os.fsync(shard.fileno())
            time.sleep(_CUT_SECONDS)
        shard.write(data[half:])
    return path


def _inside_a_line(data: bytes) -> int:
    half = len(data) // 2
    return half - 1 if data[:half].endswith(b"\n") else half


def _prompt(content: object) -> list[dict[str, Any]]:
    return [{"role": "system", "content": _SYSTEM_PROMPT}, {"role": "user", "content": content}]


def _image_part(png: bytes) -> dict[str, Any]:
    url = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _tool_call(actions: Sequence[str]) -> dict[str, Any]:
    function = {"name": _TOOL, "arguments": _arguments(actions)}
    # Drawn at random for every call, as models do: no two records are equal byte for byte.
    return {"id": f"call_{uuid.uuid4().hex[:8]}", "type": "function", "function": function}


def _arguments(actions: Sequence[str]) -> str:
    return json.dumps({"actions": list(actions)})


def _inventory(state: PlayerView) -> str:
    held = {name: count for name, count in state.inventory.items() if count and name != "health"}
    return ", ".join(f"{name}:{count}" for name, count in held.items()) or "empty"


def _map(state: PlayerView) -> list[str]:
    (x, y), (width, height) = state.position, _SIGHT
    rows = range(y - height // 2, y + height // 2 + 1)
    columns = range(x - width // 2, x + width // 2 + 1)
    return [" ".join(_tile(state, (column, row)) for column in columns) for row in rows]


def _tile(state: PlayerView, place: Place) -> str:
    return "player" if place == state.position else state.tile(place)
