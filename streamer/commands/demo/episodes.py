"""Plays Crafter episodes turn by turn; the game itself comes with the extra ``demo``."""

from __future__ import annotations

import importlib
import io
from typing import TYPE_CHECKING, Any

import msgspec

from streamer.base.errors import MissingExtraError
from streamer.commands.demo.policy import STEPS, Place, Player, PlayerDecision, PlayerView

if TYPE_CHECKING:
    from collections.abc import Iterator

_FRAME_PIXELS = (64, 64)
_REMEMBERED_TURNS = 3
_CREATURES = ("player", "cow", "zombie", "skeleton", "arrow", "plant")
"""In the order of their numbers on Crafter's semantic map, which follow those of the materials."""


class PlayedTurn(msgspec.Struct, frozen=True):
    """One turn: a decision and its result.

    ``earlier`` holds the actions of the turns before, the newest first. ``gained`` names the achievements
    that this turn unlocked.
    """

    number: int
    before: PlayerView
    earlier: tuple[tuple[str, ...], ...]
    decision: PlayerDecision
    gained: tuple[str, ...]


def play(seed: int, player: Player, turns: int) -> Iterator[PlayedTurn]:
    """Play one episode of at most ``turns`` turns; it ends early when the player dies.

    Raises:
        MissingExtraError: Crafter is not installed.
    """
    game = _Game(seed)
    earlier: tuple[tuple[str, ...], ...] = ()
    for number in range(turns):
        before = game.state
        decision = player(before)
        game.act(decision.actions)
        gained = tuple(name for name in game.state.unlocked if name not in before.unlocked)
        yield PlayedTurn(number, before, earlier, decision, gained)
        earlier = (decision.actions, *earlier)[:_REMEMBERED_TURNS]
        if game.state.over:
            return


def require_crafter() -> None:
    """Check that the extra ``demo`` is installed.

    Raises:
        MissingExtraError: Crafter is not installed.
    """
    _module("crafter")
    _module("PIL.Image")


class _Game:
    """One running Crafter world; ``state`` is its newest view."""

    def __init__(self, seed: int) -> None:
        crafter = _module("crafter")
        self._env = _repeatable(crafter.Env(size=_FRAME_PIXELS, seed=seed))
        self._numbers = {name: number for number, name in enumerate(self._env.action_names)}
        self._names = ("void", *crafter.constants.materials, *_CREATURES)
        self._facing: Place = (0, 1)
        self._steps = 0
        self._env.reset()
        # A fresh world shows its frame alone; one step of waiting brings the map and the inventory.
        self.state = self._step("noop")

    def act(self, actions: tuple[str, ...]) -> None:
        """Take the actions one by one, up to the player's death."""
        for action in actions:
            if self.state.over:
                return
            self.state = self._step(action)

    def _step(self, action: str) -> PlayerView:
        # Crafter does not show the direction. The players never sleep, so every move turns them.
        self._facing = STEPS.get(action, self._facing)
        frame, _, over, info = self._env.step(self._numbers[action])
        self._steps += 1
        x, y = info["player_pos"].tolist()
        return PlayerView(
            step=self._steps,
            position=(x, y),
            facing=self._facing,
            inventory=info["inventory"],
            unlocked=tuple(sorted(name for name, count in info["achievements"].items() if count)),
            world=tuple(tuple(self._names[code] for code in column) for column in info["semantic"].tolist()),
            frame=_png(frame),
            over=bool(over),
        )


def _repeatable(env: Any) -> Any:
    """Make a seed play the same way in every process.

    Crafter draws the creature to remove from a set, whose order depends on memory addresses. Positions are
    unique, so this sorts by them.
    """
    balance = env._balance_chunk  # noqa: SLF001
    env._balance_chunk = lambda chunk, creatures: balance(chunk, sorted(creatures, key=_place))  # noqa: SLF001
    return env


def _place(creature: Any) -> list[int]:
    place: list[int] = creature.pos.tolist()
    return place


def _png(frame: Any) -> bytes:
    buffer = io.BytesIO()
    _module("PIL.Image").fromarray(frame).save(buffer, format="PNG")
    return buffer.getvalue()


def _module(name: str) -> Any:
    """Import a module of the extra late, as the rest of streamer does not need it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(
            "play Crafter",
            name,
            str(error),
            "install the extra `demo` (in a checkout of streamer: pip install '.[demo]')",
        ) from error
