"""The producer of the live benchmark: ends rollouts at a steady rate, and prints the time of each.

Each rollout is one shard, written whole under its final name, and one outcome row, committed in delete-journal
mode. The shard is first in every second rollout, the outcome in the others. For each rollout the producer prints
the session, the time at which both were there (monotonic ns), and the seconds of the commit, as JSON.
"""

from __future__ import annotations

import argparse
import time
from contextlib import closing
from pathlib import Path

import msgspec

from benchmarks.conversations import Kind
from benchmarks.corpus import Corpus, Layout
from streamer.commands.simulation.trace import INSERT_OUTCOME, connect

RECORDS = 8
"""Number of records of a rollout."""


class Ended(msgspec.Struct, frozen=True, array_like=True):
    """A rollout that ended: its session, the time in monotonic nanoseconds, the seconds of its commit."""

    session: str
    at: int
    commit: float


def corpus(rollouts: int, seed: int) -> Corpus:
    """Return the corpus of a number of rollouts, in which all conversations differ."""
    records = rollouts * RECORDS
    return Corpus(Kind.TEXT, Layout.TASKAPP, records=records, shards=rollouts, seed=seed, plain=True)


def produce(shards: Path, database: Path, source: Corpus, rate: float, synchronous: str, first: int) -> list[Ended]:
    """End the rollouts of ``source`` from ``first`` on, at ``rate`` a second."""
    ended: list[Ended] = []
    with closing(connect(database)) as db:
        db.execute(f"PRAGMA synchronous={synchronous}")
        start = time.monotonic()
        for rollout in range(first, source.shards):
            path, data, outcome = shards / source.name(rollout), source.shard(rollout), source.outcome(rollout)
            time.sleep(max(0.0, start + (rollout - first) / rate - time.monotonic()))
            if rollout % 2:
                path.write_bytes(data)
            before = time.monotonic()
            with db:
                db.execute(INSERT_OUTCOME, outcome)
            commit = time.monotonic() - before
            if not rollout % 2:
                path.write_bytes(data)
            ended.append(Ended(outcome[0], time.monotonic_ns(), commit))
    return ended


def main() -> None:
    """Produce what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.producer", description="End rollouts at a steady rate.")
    parser.add_argument("--rate", type=float, default=20.0)
    parser.add_argument("--rollouts", type=int, default=600)
    parser.add_argument("--first", type=int, default=0, help="leave out the rollouts before this one")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--synchronous", choices=["off", "normal", "full"], default="full")
    parser.add_argument("shards", type=Path)
    parser.add_argument("database", type=Path)
    args = parser.parse_args()
    source = corpus(args.rollouts, args.seed)
    ended = produce(args.shards, args.database, source, args.rate, args.synchronous, args.first)
    print(msgspec.json.encode(ended).decode())


if __name__ == "__main__":
    main()
