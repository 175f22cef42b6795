"""The soak's producer: writes as the real one does, with all its bad habits, and keeps a journal of its acts.

Order of an act: journal, act, journal. So after a kill, the journal has every act that was begun, and the
disk shows how much of the last one was done.

Example::

    python -m streamer.commands.soak.producer --folder soak --seed 7 --generation 0
"""

from __future__ import annotations

import argparse
import os
import signal
import sqlite3
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from random import Random

import msgspec

from streamer.commands.simulation.draws import draws
from streamer.commands.simulation.shards import shard_name, write_shard
from streamer.commands.simulation.trace import TraceWriter
from streamer.commands.soak import conversations
from streamer.commands.soak.agenda import Agenda, Script
from streamer.commands.soak.conversations import SoakConversation, SoakTurn, Written
from streamer.commands.soak.journal import Closed, Scoring, Shard, SoakJournal, TraceCommitted
from streamer.commands.soak.plan import Again, Layout, RolloutPlan, When, Writing, delays, draw
from streamer.commands.soak.workspace import SoakWorkspace

_ROLLOUTS_PER_SECOND = 12.0
_SHORTEST_GAP = 0.05
"""Seconds between two rollouts, at least: no more than 20 in a second."""

_TICK = 0.05
_REMEMBERED = 300
"""Number of conversations that can be played again."""

_BIG = (100_000, 800_000)
_LATE_ROWS = 20
_LATE_REWARD = 2
_LATE_PAUSE = 0.1
"""The last judge: number of rows to correct, their new reward, and seconds between two corrections."""


class SoakProducer:
    """Plays rollouts side by side, each a script of its own.

    Args:
        folder: Folder for the shards.
        seed: Decides everything; each rollout has draws of its own.
        generation: Number of producers before this one.
        journal: Gets an entry before each act.
        trace: The trace database.
        agenda: Runs the rollouts.
    """

    def __init__(
        self, folder: Path, seed: int, generation: int, journal: SoakJournal, trace: TraceWriter, agenda: Agenda
    ) -> None:
        self._folder = folder
        self._seed = seed
        self._generation = generation
        self._journal = journal
        self._trace = trace
        self._agenda = agenda
        self._played: deque[SoakConversation] = deque(maxlen=_REMEMBERED)
        self._scored: deque[tuple[str, str, int]] = deque(maxlen=_LATE_ROWS)
        self._open: set[str] = set()

    def rollouts(self) -> Script:
        """Begin rollouts, one after the other, without end."""
        number = 0
        while True:
            rng = draws(self._seed, self._generation, number)
            self._begin(_Rollout(draw(rng, f"run-{self._generation}-{number}"), f"{self._generation}-{number}", rng))
            number += 1
            yield max(_SHORTEST_GAP, rng.expovariate(_ROLLOUTS_PER_SECOND))

    def _begin(self, rollout: _Rollout) -> None:
        path = _path(rollout.plan, _now())
        if path in self._open or (self._folder / path).exists():
            return  # a repeated run id twice in one second: chaos may be renaming the first one
        self._open.add(path)
        lines = self._play(rollout)
        shard_after, outcome_after = delays(rollout.rng, rollout.plan.when)
        self._agenda.add(self._shard(path, rollout, lines), shard_after)
        self._agenda.add(self._outcome(rollout), outcome_after)

    def _play(self, rollout: _Rollout) -> list[Written]:
        """Play a rollout to its end: add its session, return its lines."""
        plan, rng = rollout.plan, rollout.rng
        self._commit(plan.session, lambda: self._trace.begin(plan.session))
        lines = [line for number in range(plan.turns) for line in self._turn(rollout, number)]
        extra = [conversations.bad(rng, f"soak-bad-{rollout.name}-{i}.") for i in range(plan.bad)]
        extra += [conversations.blank(rng) for _ in range(plan.blank)]
        if plan.too_long:
            extra.append(conversations.too_long(f"soak-bad-{rollout.name}-{plan.bad}."))
        for line in extra:
            lines.insert(rng.randint(0, len(lines)), line)
        self._count(rollout, lines)
        return lines

    def _turn(self, rollout: _Rollout, number: int) -> Iterator[Written]:
        """Yield the line of one turn, now and then twice."""
        rng, plan = rollout.rng, rollout.plan
        if plan.replay and self._played:
            conversation = rng.choice(self._played)
        else:
            size = rng.randint(*_BIG) if plan.big and number == 0 else 0
            conversation = conversations.converse(rng, f"soak-{rollout.name}-{number}.", size)
            if not size:
                self._played.append(conversation)
        line = conversations.written(rng, conversation, plan.layout, SoakTurn(plan.session, number, _now()))
        yield from (line,) * (2 if plan.replay and number == 0 else 1)

    def _count(self, rollout: _Rollout, lines: Sequence[Written]) -> None:
        plan = rollout.plan
        injected = {
            "rollouts": 1,
            "lines": len(lines),
            "run ids that repeat": plan.is_repeated,
            f"outcomes {plan.when} the shard" if plan.when in (When.BEFORE, When.AFTER) else f"outcomes {plan.when}": 1,
            f"shards {plan.writing}": 1,
            f"shards {plan.again}": plan.again is not None,
            "shards in sub-folders": "/" in plan.session,
            "rollouts played again": plan.replay,
            "bad lines": plan.bad + plan.too_long,
            "big lines": plan.big,
        }
        for what, times in injected.items():
            self._journal.did(what, int(times))

    def _outcome(self, rollout: _Rollout) -> Script:
        """Score a rollout, and correct the score later."""
        plan = rollout.plan
        if plan.when is When.NEVER:
            return
        at = _now().isoformat()
        self._journal.note(Scoring(plan.session, at, plan.reward))
        self._commit(plan.session, lambda: self._trace.score(plan.session, at, plan.reward, plan.turns))
        self._commit(plan.session, lambda: self._trace.end(plan.session))
        if plan.corrected is None:
            self._scored.append((plan.session, at, plan.reward))
        elif plan.corrected != plan.reward:
            yield rollout.rng.uniform(0.1, 6.0)
            self._correct(plan.session, at, plan.reward, plan.corrected)

    def judge_again(self) -> Script:
        """Correct the newest outcomes last of all: no other change to the database makes the daemon look again."""
        for session, at, reward in self._scored:
            self._correct(session, at, reward, 0 if reward else _LATE_REWARD)
            yield _LATE_PAUSE

    def _correct(self, session: str, at: str, reward: int, corrected: int) -> None:
        self._journal.did(f"outcomes corrected {'up' if corrected > reward else 'down'}")
        self._journal.note(Scoring(session, at, corrected))
        self._commit(session, lambda: self._trace.correct(session, at, corrected))

    def _commit(self, session: str, act: Callable[[], None]) -> None:
        """Write to the trace database; like the real producer, go on after a failure."""
        fault, began = "", time.monotonic()
        try:
            act()
        except sqlite3.OperationalError as error:
            fault = str(error)
        self._journal.note(TraceCommitted(session, time.monotonic() - began, fault))

    def _shard(self, path: str, rollout: _Rollout, lines: Sequence[Written]) -> Script:
        """Write a shard; perhaps the next rollout of the session overwrites it."""
        yield from self._write(path, rollout, lines, None)
        plan = rollout.plan
        if plan.again is not None:
            yield rollout.rng.uniform(0.0, 1.5)
            second = rollout.next()
            lines = self._play(second)
            self._agenda.add(self._outcome(second), delays(second.rng, second.plan.when)[1])
            yield from self._write(path, second, lines, plan.again)
        self._journal.note(Closed(path))
        self._open.discard(path)

    def _write(self, path: str, rollout: _Rollout, lines: Sequence[Written], again: Again | None) -> Script:
        self._journal.note(Shard(path, again is not None, [line.entry for line in lines if line.entry is not None]))
        full = self._folder / path
        full.parent.mkdir(parents=True, exist_ok=True)
        target = full.with_suffix(".tmp") if again is Again.REPLACE else full
        for _ in write_shard(target, _pieces(rollout, [line.data for line in lines])):
            yield _pause(rollout)
        if target != full:
            os.replace(target, full)


class _Rollout(msgspec.Struct, frozen=True):
    """A plan, the name with which its marks begin, and its draws."""

    plan: RolloutPlan
    name: str
    rng: Random

    def next(self) -> _Rollout:
        """Return the session's next rollout, whose shard has the same name."""
        plan = draw(self.rng, "")
        plan = msgspec.structs.replace(plan, session=self.plan.session, layout=self.plan.layout, again=None)
        return _Rollout(plan, f"{self.name}-2", self.rng)


def _path(plan: RolloutPlan, at: datetime) -> str:
    stamped = plan.layout in (Layout.DIALOGUE, Layout.SESSION_ID) or plan.is_repeated
    if stamped:
        return shard_name(plan.session, at.astimezone())
    folder, _, name = plan.session.rpartition("/")
    return os.path.join(folder, f"sft_{name}.jsonl")


def _pieces(rollout: _Rollout, lines: list[bytes]) -> Iterator[bytes]:
    """Yield the bytes of a shard, one piece for each ``write``."""
    data = b"".join(lines)
    if rollout.plan.writing is Writing.LINES:
        yield from lines
        return
    cuts = [0, len(data)]
    if rollout.plan.writing is Writing.PIECES:
        cuts += [rollout.rng.randint(1, len(data)) for _ in range(rollout.rng.randint(1, 4))]
    cuts.sort()
    for start, stop in pairwise(cuts):
        yield data[start:stop]


def _pause(rollout: _Rollout) -> float:
    """Return the seconds between two pieces of a shard: now and then enough for the daemon to read between them."""
    if rollout.plan.writing is Writing.ONCE:
        return 0.0
    return rollout.rng.choices((rollout.rng.expovariate(20), rollout.rng.uniform(0.5, 2.0)), (95, 5))[0]


def _now() -> datetime:
    return datetime.now(UTC)


def main() -> int:
    """Run a producer until SIGTERM; return the exit status."""
    options = _parser().parse_args()
    workspace = SoakWorkspace(options.folder)
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stopping.append(number))
    agenda = Agenda(time.monotonic)
    with (
        SoakJournal(workspace.journals, f"producer-{options.generation:05}") as journal,
        TraceWriter(workspace.database, "soak") as trace,
    ):
        producer = SoakProducer(workspace.shards, options.seed, options.generation, journal, trace, agenda)
        agenda.add(producer.rollouts())
        while not stopping:
            time.sleep(min(_TICK, agenda.act()))
        for pause in producer.judge_again():
            time.sleep(pause)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m streamer.commands.soak.producer", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the soak")
    parser.add_argument("--seed", type=int, required=True, help="seed of all draws")
    parser.add_argument("--generation", type=int, required=True, help="number of producers before this one")
    return parser


if __name__ == "__main__":
    sys.exit(main())
