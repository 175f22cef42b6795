"""The demo's shards, in the dialogue layout: one file for each rollout.

A record has the prompt of one turn as ``dialogue`` and the reply as ``assistant``; only the trace database has
its reward. The file appears under its final name at the end of the rollout, so a reader may find it empty or
cut in the middle of a line.
"""

from __future__ import annotations

import json
import time
import uuid
from typing import TYPE_CHECKING, Any

from streamer.commands.demo.policy import MAX_ACTIONS, MIN_ACTIONS, STEPS, Place, PlayerView
from streamer.commands.simulation.shards import TOOL, dialogue_record, image_part, shard_name, tool_call, write_shard

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from pathlib import Path

    from streamer.commands.demo.episodes import PlayedTurn

_MODEL = "scripted-forager"
PROVIDER = "demo"
_CUT_SECONDS = 0.7
"""A cut shard stays cut for this time, so that a reader can look at it."""

_SIGHT = (7, 5)
"""Width and height of the map that a text prompt shows, in tiles."""

_SYSTEM_PROMPT = f"""\
You are the player of a Crafter world. Unlock as many achievements as you can before the turns run out.

Worth knowing:
- Chop trees for wood, build a table, make a pickaxe and a sword beside it.
- Water, cows and saplings count as well, and they are often closer.
- To use what is in front of you, face it and choose 'do'.

Answer with one call of {TOOL} with {MIN_ACTIONS} to {MAX_ACTIONS} actions out of: noop, do,
{", ".join(STEPS)}, place_table, place_plant, place_stone, make_wood_pickaxe, make_wood_sword
"""


def record(run_id: str, turn: PlayedTurn, at: datetime, *, images: bool) -> dict[str, Any]:
    """Return one turn as the line of a shard holds it.

    Args:
        run_id: The rollout, which is also the session in the trace database.
        turn: The turn that was played.
        at: Time of the reply, in UTC.
        images: Show the rendered frame instead of the state in words.
    """
    text = "" if images else _describe(turn)
    content = [image_part(turn.before.frame)] if images else text
    # A random id for each call, as from a model: no two records are equal byte for byte.
    call = tool_call(uuid.uuid4().hex[:8], _arguments(turn.decision.actions))
    return dialogue_record(
        run_id,
        turn.number,
        at,
        [{"role": "system", "content": _SYSTEM_PROMPT}, {"role": "user", "content": content}],
        {"content": turn.decision.reply, "tool_calls": [call]},
        text=text,
        model=_MODEL,
        provider=PROVIDER,
    )


def _describe(turn: PlayedTurn) -> str:
    """Return the state before a turn in words, for a prompt without images."""
    state = turn.before
    calls = [f"- {TOOL}: {_arguments(actions)}" for actions in turn.earlier] or ["- none"]
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


def write(
    folder: Path,
    run_id: str,
    ended: datetime,
    records: Sequence[dict[str, Any]],
    *,
    cut: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """Write a rollout's shard straight under its final name; return its path.

    Args:
        folder: The folder of the shards; it exists.
        run_id: First part of the name.
        ended: Second part of the name, shown in local time.
        records: One for each line.
        cut: Leave the file cut in the middle of a line for 0.7 s, then write the rest.
        sleep: Called with these seconds.
    """
    path = folder / shard_name(run_id, ended.astimezone())
    data = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in records).encode()
    end = _inside_a_line(data) if cut else len(data)
    for written in write_shard(path, (data[:end], data[end:])):
        if written < len(data):
            sleep(_CUT_SECONDS)
    return path


def _inside_a_line(data: bytes) -> int:
    half = len(data) // 2
    return half - 1 if data[:half].endswith(b"\n") else half


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
