"""Scripted players of Crafter.

A player is any function from `PlayerView` to `PlayerDecision`. Both players here are seeded: the same seed
decides the same way again. The `Forager` looks at the map and mostly earns achievements; the `Wanderer` earns none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from random import Random
from typing import NamedTuple

import msgspec

Place = tuple[int, int]

STEPS: dict[str, Place] = {
    "move_left": (-1, 0),
    "move_right": (1, 0),
    "move_up": (0, -1),
    "move_down": (0, 1),
}
MIN_ACTIONS = 2
MAX_ACTIONS = 5

_WALKABLE = frozenset({"grass", "sand", "path"})
_WOOD_FOR_TOOLS = 4
"""Two for the table, one each for the pickaxe and the sword."""

_GRASS_CHANCE = 0.3
"""Probability that a player that stands before grass looks for a sapling first."""

_SILENCE_CHANCE = 0.25
"""Probability of an empty reply: models that call tools often write nothing beside the call."""

_TOOLS = ("place_table", "make_wood_pickaxe", "make_wood_sword")
_TOOLS_TOO_EARLY = (*_TOOLS, "place_stone", "place_plant", "noop")


class PlayerView(msgspec.Struct, frozen=True):
    """The view of a player before a turn.

    ``world[x][y]`` names the material or creature on a tile; y grows downwards. ``frame`` is the rendered view
    as PNG bytes.
    """

    step: int
    position: Place
    facing: Place
    inventory: dict[str, int]
    unlocked: tuple[str, ...]
    world: tuple[tuple[str, ...], ...]
    frame: bytes
    over: bool = False

    def tile(self, place: Place) -> str:
        """Return the name on a tile; ``void`` beyond the edge of the world."""
        x, y = place
        inside = 0 <= x < len(self.world) and 0 <= y < len(self.world[x])
        return self.world[x][y] if inside else "void"


class PlayerDecision(NamedTuple):
    """The decision of a player: a reply (may be empty) and 2 to 5 actions."""

    reply: str
    actions: tuple[str, ...]


Player = Callable[[PlayerView], PlayerDecision]


class Forager:
    """Fetches wood, tools, water, cows, saplings and stone: the nearest one that is still missing."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)  # noqa: S311

    def __call__(self, state: PlayerView) -> PlayerDecision:
        """Follow the first of the player's aims that is possible here."""
        aims = (self._build, self._plant, self._search_grass, self._fetch)
        decision = next((found for aim in aims if (found := aim(state))), None) or self._explore()
        return self._sometimes_silent(decision)

    def _build(self, state: PlayerView) -> PlayerDecision | None:
        if "place_table" in state.unlocked or state.inventory["wood"] < _WOOD_FOR_TOOLS:
            return None
        step = self._open_step(state, _WALKABLE)
        if step is None:
            return None
        return PlayerDecision("That is enough wood: a table first, then the tools.", (step, *_TOOLS))

    def _plant(self, state: PlayerView) -> PlayerDecision | None:
        if "place_plant" in state.unlocked or not state.inventory["sapling"]:
            return None
        step = self._open_step(state, frozenset({"grass"}))
        if step is None:
            return None
        return PlayerDecision("The sapling goes into the ground, on free grass.", (step, "place_plant"))

    def _search_grass(self, state: PlayerView) -> PlayerDecision | None:
        on_grass = state.tile(_add(state.position, state.facing)) == "grass"
        if not on_grass or "collect_sapling" in state.unlocked or self._random.random() >= _GRASS_CHANCE:
            return None
        times = self._random.randint(MIN_ACTIONS, MAX_ACTIONS)
        return PlayerDecision("Grass hides a sapling now and then — worth a try.", ("do",) * times)

    def _fetch(self, state: PlayerView) -> PlayerDecision | None:
        wanted = _wanted(state)
        moves = route(state, frozenset(wanted))
        if moves is None:
            return None
        kind = _reached(state, moves)
        actions = (*moves, *("do",) * wanted[kind])[:MAX_ACTIONS]
        return PlayerDecision(f"Nearest {kind}: {len(moves)} moves, first {_word(moves[0])} — on my way.", actions)

    def _explore(self) -> PlayerDecision:
        step = self._random.choice(list(STEPS))
        times = self._random.randint(MIN_ACTIONS + 1, MAX_ACTIONS)
        return PlayerDecision(f"Nothing useful in reach; I scout {_word(step)}wards.", (step,) * times)

    def _open_step(self, state: PlayerView, ground: frozenset[str]) -> str | None:
        """Return a move after which the player faces free ground of the given kinds."""
        for step in self._random.sample(list(STEPS), len(STEPS)):
            beside = _add(state.position, STEPS[step])
            ahead = _add(beside, STEPS[step])
            if state.tile(beside) in _WALKABLE and state.tile(ahead) in ground:
                return step
        return None

    def _sometimes_silent(self, decision: PlayerDecision) -> PlayerDecision:
        silent = self._random.random() < _SILENCE_CHANCE
        return decision._replace(reply="") if silent else decision


class Wanderer:
    """Walks at random and uses tools that it lacks, so that it unlocks no achievement."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)  # noqa: S311

    def __call__(self, state: PlayerView) -> PlayerDecision:
        """Pick random actions."""
        choices = (*STEPS, *_TOOLS_TOO_EARLY)
        actions = self._random.choices(choices, k=self._random.randint(MIN_ACTIONS, MAX_ACTIONS))
        reply = f"Step {state.step}, no plan yet: {_word(actions[0])} it is."
        return PlayerDecision(reply, tuple(actions))


def route(state: PlayerView, wanted: frozenset[str]) -> tuple[str, ...] | None:
    """Return the shortest moves to the nearest tile of a wanted kind, or None if there is no way.

    The last move bumps into that tile: it turns the player towards it without taking a step.
    """
    came_by: dict[Place, tuple[Place, str] | None] = {state.position: None}
    queue = deque([state.position])
    while queue:
        place = queue.popleft()
        for step, target in _neighbours(place):
            if target in came_by:
                continue
            came_by[target] = (place, step)
            if state.tile(target) in wanted:
                return _backtrack(came_by, target)
            if state.tile(target) in _WALKABLE:
                queue.append(target)
    return None


def _backtrack(came_by: dict[Place, tuple[Place, str] | None], target: Place) -> tuple[str, ...]:
    moves: list[str] = []
    link = came_by[target]
    while link:
        place, step = link
        moves.append(step)
        link = came_by[place]
    return tuple(reversed(moves))


def _neighbours(place: Place) -> Iterator[tuple[str, Place]]:
    for step, direction in STEPS.items():
        yield step, _add(place, direction)


def _reached(state: PlayerView, moves: tuple[str, ...]) -> str:
    place = state.position
    for move in moves:
        place = _add(place, STEPS[move])
    return state.tile(place)


def _wanted(state: PlayerView) -> dict[str, int]:
    """Return the kinds of tile worth a walk, each with the number of times to ``do`` there."""
    wanted: dict[str, int] = {}
    if "place_table" not in state.unlocked:
        wanted["tree"] = _WOOD_FOR_TOOLS - state.inventory["wood"]
    if "collect_drink" not in state.unlocked:
        wanted["water"] = 2
    if "eat_cow" not in state.unlocked:
        wanted["cow"] = 3
    if "collect_stone" not in state.unlocked and state.inventory["wood_pickaxe"]:
        wanted["stone"] = 1
    return {kind: times for kind, times in wanted.items() if times > 0}


def _add(place: Place, direction: Place) -> Place:
    return place[0] + direction[0], place[1] + direction[1]


def _word(action: str) -> str:
    return action.removeprefix("move_").replace("_", " ")
