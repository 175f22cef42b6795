"""Write a corpus: shards, and the trace database whose outcomes decide over them. Seeded, at any size.

``python -m benchmarks.corpus --kind text --layout taskapp --records 200000 --shards 2000 --seed 1 FOLDER``

In FOLDER: ``shards/``, one a rollout; ``traces.db``; ``qualifying``, the paths of the shards whose rollout
qualifies, each with a NUL after it; ``corpus.json``, what was made.

Every second rollout qualifies. Of the records of those, 5 % repeat the conversation of an earlier one byte for
byte, ids of tool calls included, so that every definition of equal finds the same ones. What a record
holds depends on its number and the seed alone: only one shard is held in memory.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.conversations import Kind, conversation
from streamer.commands.simulation.draws import draws
from streamer.commands.simulation.shards import dialogue_record, shard_name
from streamer.commands.simulation.trace import INSERT_OUTCOME, Outcome, connect, outcome

_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
_DUPLICATES = 0.05
_MODEL = "gpt-4o-mini"


class Layout(StrEnum):
    """The two layouts of shards: what the task app writes, and what its pipeline documents."""

    TASKAPP = "taskapp"
    MESSAGES = "messages"


_PROMPT_BYTES = {Layout.TASKAPP: 792, Layout.MESSAGES: 2_290}
"""So that a text record is a line of some 3.2 kB in either layout: the task app's has every prompt twice."""


class Made(msgspec.Struct, frozen=True):
    """What a corpus holds: ``distinct`` conversations among ``qualifying`` records."""

    kind: Kind
    layout: Layout
    seed: int
    records: int
    shards: int
    bytes: int
    qualifying: int
    distinct: int


class Corpus:
    """The plan of a corpus: which rollouts qualify, and what stands in each record.

    Args:
        kind: what the conversations hold.
        layout: how a line is laid out.
        records: lines in all shards together.
        shards: files, and rollouts.
        seed: another one gives other conversations, other ids, other rollouts that qualify.
        prompt_bytes: length of the system message; 0 takes the layout's own.
        plain: all rollouts qualify, and no conversation repeats another one.
    """

    def __init__(
        self,
        kind: Kind,
        layout: Layout,
        *,
        records: int,
        shards: int,
        seed: int,
        prompt_bytes: int = 0,
        plain: bool = False,
    ) -> None:
        self.kind = kind
        self.layout = layout
        self.records = records
        self.shards = shards
        self.seed = seed
        self.plain = plain
        self._prompt_bytes = prompt_bytes or _PROMPT_BYTES[layout]

    def write(self, folder: Path) -> Made:
        """Write shards, database and the list of qualifying shards into a new folder; return what was made."""
        shards = folder.absolute() / "shards"
        shards.mkdir(parents=True)
        size = qualifying = duplicates = 0
        with open(folder / "qualifying", "wb") as chosen:
            for rollout in range(self.shards):
                path = shards / self.name(rollout)
                size += path.write_bytes(self.shard(rollout))
                if self.qualifies(rollout):
                    chosen.write(bytes(path) + b"\0")
                    numbers = self.numbers(rollout)
                    qualifying += len(numbers)
                    duplicates += sum(self._original(number, rollout) != number for number in numbers)
        with closing(connect(folder / "traces.db")) as db, db:
            db.executemany(INSERT_OUTCOME, map(self.outcome, range(self.shards)))
        made = Made(
            kind=self.kind,
            layout=self.layout,
            seed=self.seed,
            records=self.records,
            shards=self.shards,
            bytes=size,
            qualifying=qualifying,
            distinct=qualifying - duplicates,
        )
        (folder / "corpus.json").write_bytes(msgspec.json.encode(made))
        return made

    def qualifies(self, rollout: int) -> bool:
        """Say whether a rollout's reward is above 0: of each two neighbours one is."""
        return self.plain or rollout % 2 == self._rng("pair", rollout // 2).randrange(2)

    def numbers(self, rollout: int) -> range:
        """Return the numbers of a rollout's records."""
        return range(rollout * self.records // self.shards, (rollout + 1) * self.records // self.shards)

    def run_id(self, rollout: int) -> str:
        """Return the session id that shard and outcome are joined by."""
        text = f"{self._rng('run', rollout).getrandbits(128):032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    def name(self, rollout: int) -> str:
        """Return the name of a rollout's shard."""
        if self.layout is Layout.MESSAGES:
            return f"sft_{self.run_id(rollout)}.jsonl"
        return shard_name(self.run_id(rollout), self._ended(rollout))

    def shard(self, rollout: int) -> bytes:
        """Return the bytes of a rollout's shard."""
        encode = msgspec.json.encode
        return b"".join(encode(record) + b"\n" for record in self._records(rollout))

    def outcome(self, rollout: int) -> Outcome:
        """Return a rollout's outcome row."""
        reward = self._rng("reward", rollout).randint(1, 5) if self.qualifies(rollout) else 0
        at, steps = self._ended(rollout).isoformat(), len(self.numbers(rollout))
        return outcome(self.run_id(rollout), at, reward, steps, "bench", rollout)

    def _records(self, rollout: int) -> Iterator[dict[str, Any]]:
        run, reward = self.run_id(rollout), float(self.outcome(rollout)[1])
        for turn, number in enumerate(self.numbers(rollout)):
            talk = self._rng("talk", self._original(number, rollout))
            messages = conversation(self.kind, talk, self._prompt_bytes)
            if self.layout is Layout.MESSAGES:
                metadata = {"run_id": run, "turn": turn, "model": _MODEL, "provider": "bench", "reward": reward}
                yield {"messages": messages, "metadata": metadata}
            else:
                at, (*prompt, reply) = self._ended(rollout) - timedelta(seconds=1), messages
                text = prompt[1]["content"] if self.kind is Kind.TEXT else ""
                yield dialogue_record(run, turn, at, prompt, reply, text=text, model=_MODEL, provider="bench")

    def _original(self, number: int, rollout: int) -> int:
        """Return the record whose conversation this one repeats, or its own number."""
        earlier = 0 if self.plain else rollout // 2
        rng = self._rng("record", number)
        if not earlier or not self.qualifies(rollout) or rng.random() >= _DUPLICATES:
            return number
        pair = 2 * rng.randrange(earlier)
        source = pair if self.qualifies(pair) else pair + 1
        return self._original(rng.choice(self.numbers(source)), source)

    def _ended(self, rollout: int) -> datetime:
        return _EPOCH + timedelta(seconds=10 * (rollout + 1))

    def _rng(self, what: str, number: int) -> random.Random:
        return draws(self.seed, what, number)


def main() -> None:
    """Write the corpus that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.corpus", description="Write a corpus.")
    parser.add_argument("--kind", type=Kind, choices=list(Kind), default=Kind.TEXT)
    parser.add_argument("--layout", type=Layout, choices=list(Layout), default=Layout.TASKAPP)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--shards", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--prompt-bytes", type=int, default=0, help="length of the system message; 0: the layout's own")
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    corpus = Corpus(
        args.kind,
        args.layout,
        records=args.records,
        shards=args.shards,
        seed=args.seed,
        prompt_bytes=args.prompt_bytes,
    )
    print(msgspec.json.encode(corpus.write(args.folder)).decode())


if __name__ == "__main__":
    main()
