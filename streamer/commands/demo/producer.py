"""The demo's producer: plays rollouts and writes shards and a trace database, as an evaluation does.

Most rollouts forage; some wander and end with reward 0; some play an earlier seed again under a new run id,
so their records are duplicates. One shard is cut in the middle of a line for a moment.

Example::

    python -m streamer.commands.demo.producer --shards shards --database traces.db --rollouts 12 --seed 7 --pace 0.4
"""

from __future__ import annotations

import argparse
import sys
import time
import uuid
from collections import deque
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from streamer.base.errors import MissingExtraError
from streamer.commands.demo import shards
from streamer.commands.demo.episodes import play, require_crafter
from streamer.commands.demo.policy import Forager, Player, Wanderer
from streamer.commands.simulation.trace import TraceWriter

if TYPE_CHECKING:
    from collections.abc import Iterator

_TURNS = 8
_CUT_ROLLOUT = 2


class _Role(StrEnum):
    """The purpose of a rollout."""

    FORAGE = "forage"
    WANDER = "wander"
    REPEAT = "repeat"


_ROLES = (_Role.FORAGE, _Role.WANDER, _Role.FORAGE, _Role.FORAGE, _Role.REPEAT, _Role.FORAGE)
"""The roles of every six rollouts: the first five show every outcome of a line."""


class _Casting(msgspec.Struct, frozen=True):
    """The role, seed and prompt of a rollout: equal castings play equal episodes."""

    role: _Role
    seed: int
    images: bool

    def player(self) -> Player:
        """Return a fresh player for this casting."""
        return Wanderer(self.seed) if self.role is _Role.WANDER else Forager(self.seed)


class _Rollout(msgspec.Struct, frozen=True):
    """One rollout that was played and written."""

    casting: _Casting
    reward: int
    turns: int
    shard: Path


class DemoProducer:
    """Plays rollouts one after the other.

    Args:
        folder: Folder for the shards; it is created if it is missing.
        trace: Writer of sessions and outcomes.
        seed: Seed of the first rollout; each new episode uses the next one.
    """

    def __init__(self, folder: Path, trace: TraceWriter, seed: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._trace = trace
        self._seed = seed
        self._earned: deque[_Casting] = deque()

    def rollouts(self, count: int, pace: float = 0.0) -> Iterator[_Rollout]:
        """Play ``count`` rollouts with ``pace`` seconds between them."""
        for number in range(count):
            if number:
                time.sleep(pace)
            yield self._rollout(self._cast(number), cut=number == min(_CUT_ROLLOUT, count - 1))

    def _cast(self, number: int) -> _Casting:
        role = _ROLES[number % len(_ROLES)]
        # Only a rollout that earned something can become a duplicate: others are rejected.
        if role is _Role.REPEAT and self._earned:
            return msgspec.structs.replace(self._earned.popleft(), role=role)
        # An odd stride, so that each role plays both with images and without.
        images = (number + number // len(_ROLES)) % 2 == 1
        return _Casting(_Role.WANDER if role is _Role.WANDER else _Role.FORAGE, self._seed + number, images)

    def _rollout(self, casting: _Casting, *, cut: bool) -> _Rollout:
        run_id = str(uuid.uuid4())
        achievements: list[str] = []
        records = []
        self._trace.begin(run_id, seed=casting.seed)
        for turn in play(casting.seed, casting.player(), _TURNS):
            record = shards.record(run_id, turn, datetime.now(UTC), images=casting.images)
            self._trace.turn(run_id, record, turn.gained)
            records.append(record)
            achievements += turn.gained
        # The real producer's order, a few milliseconds apart: outcome, end of the session, shard.
        self._trace.score(
            run_id, datetime.now(UTC).isoformat(), len(achievements), len(records), casting.seed, achievements
        )
        self._trace.end(run_id)
        shard = shards.write(self._folder, run_id, datetime.now(UTC), records, cut=cut)
        if achievements and casting.role is _Role.FORAGE:
            self._earned.append(casting)
        return _Rollout(casting, len(achievements), len(records), shard)


def main(arguments: list[str] | None = None) -> int:
    """Run the producer; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        require_crafter()
        with TraceWriter(options.database, shards.PROVIDER) as trace:
            rollouts = DemoProducer(options.shards, trace, options.seed).rollouts(options.rollouts, options.pace)
            for number, rollout in enumerate(rollouts, start=1):
                sys.stdout.write(f"{_line(number, options.rollouts, rollout)}\n")
                sys.stdout.flush()
    except MissingExtraError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m streamer.commands.demo.producer", description="Play Crafter rollouts and write them down."
    )
    parser.add_argument("--shards", type=Path, required=True, help="folder for the shards")
    parser.add_argument("--database", type=Path, required=True, help="trace database")
    parser.add_argument("--rollouts", type=int, default=24, help="how many to play (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="seed of the first one (default: %(default)s)")
    parser.add_argument("--pace", type=float, default=0.4, help="seconds between two (default: %(default)s)")
    return parser


def _line(number: int, count: int, rollout: _Rollout) -> str:
    casting = rollout.casting
    prompt = "images" if casting.images else "text"
    return (
        f"rollout {number}/{count}: {casting.role}, seed {casting.seed}, {prompt},"
        f" {rollout.turns} turns, reward {rollout.reward}, {rollout.shard.name}"
    )


if __name__ == "__main__":
    sys.exit(main())
