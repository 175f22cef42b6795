"""One made-up conversation for each number: the same number gives the same one, and nothing is remembered."""

from __future__ import annotations

import random
import struct
import zlib
from enum import StrEnum
from typing import Any

import msgspec

from streamer.commands.simulation.shards import image_part, tool_call

_TILES = ("grass", "tree", "stone", "sand", "water", "path", "coal", "iron", "cow", "zombie")
_ACTIONS = ("noop", "move_left", "move_right", "move_up", "move_down", "do", "sleep", "place_table")
_ITEMS = ("wood", "stone", "coal", "iron", "sapling", "drink", "food", "energy")
_RULES = (
    "You are playing a survival game. Collect resources, craft tools, survive, unlock achievements.\n"
    "- Movement: you cannot walk onto trees, stone, water, lava, coal or iron. Go around them.\n"
    "- Interact ('do') only when you face a resource.\n"
    "- Place a table near wood, make a pickaxe beside it, and go on to stone, coal and iron.\n"
    '- Always answer with one call: interact_many({"actions": [...]}), two to five actions.\n'
)
_SIDE = 72
"""Pixels of an image's side: as base64 some 22 kB, what the renderings of a common size come to."""


class Kind(StrEnum):
    """What the user's message of a conversation holds."""

    TEXT = "text"
    IMAGES = "images"


def conversation(kind: Kind, rng: random.Random, prompt_bytes: int) -> list[dict[str, Any]]:
    """Return the system message, the user's, and a reply with one tool call.

    Args:
        kind: a state in words, or a picture of it.
        rng: decides everything.
        prompt_bytes: length of the system message; it is the same in all conversations.
    """
    content: Any = _state(rng) if kind is Kind.TEXT else [image_part(_png(rng))]
    return [
        {"role": "system", "content": (_RULES * (prompt_bytes // len(_RULES) + 1))[:prompt_bytes]},
        {"role": "user", "content": content},
        {"role": "assistant", "content": "", "tool_calls": [_call(rng)]},
    ]


def _state(rng: random.Random) -> str:
    tiles = rng.choices(_TILES, k=63)
    inventory = ", ".join(f"{item}:{rng.randrange(10)}" for item in _ITEMS)
    rows = "\n".join(" ".join(tiles[row : row + 9]) for row in range(0, len(tiles), 9))
    return (
        f"=== GAME STATE ===\nStep: {rng.randrange(10_000)}/10000\nHealth: {rng.randrange(1, 10)}\n"
        f"Position: [{rng.randrange(64)}, {rng.randrange(64)}]\nInventory: {inventory}\nMap around you (9x7):\n{rows}\n"
    )


def _png(rng: random.Random) -> bytes:
    """Return a valid image of noise: nothing in it repeats, as in no two frames of a game."""
    row = 1 + 3 * _SIDE
    pixels = bytearray(rng.randbytes(row * _SIDE))
    pixels[::row] = bytes(_SIDE)  # each row begins with its filter: none
    header = struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(pixels, level=0)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def _call(rng: random.Random) -> dict[str, Any]:
    actions = rng.choices(_ACTIONS, k=rng.randint(2, 5))
    arguments = msgspec.json.encode({"actions": actions}).decode()
    return tool_call(f"{rng.getrandbits(32):08x}", arguments)
