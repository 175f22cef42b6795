"""One number, one life: a producer, a daemon that crashes, and a computer that fails, all drawn from a seed.

``python -m tests.suites.faults.simulation SEED`` lives one of them again and prints what happens, call by call.

After every pause in the trouble the promises of docs and design have to hold: the dataset holds the records
of the model and none twice, every line that was read is in exactly one of the accounts, and what was once a
whole line of the dataset is there still, byte for byte, unless the power went before it was synced.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from contextlib import AsyncExitStack
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from streamer.base.env import Env
from streamer.base.errors import UnavailableError
from streamer.commands.compact.run import compact
from streamer.core.records.key import DedupBy
from streamer.core.verdicts.caps import Cap
from streamer.core.verdicts.join import JoinRule
from streamer.core.verdicts.near.rules import Near, Scope
from streamer.core.verdicts.near.signature import Signature, Signer
from streamer.core.verdicts.qualify import RecordRules
from streamer.core.verdicts.turns import Turns
from streamer.daemon.build import open_pipeline
from streamer.daemon.pipeline import Pipeline
from streamer.reader.tail import Follower
from streamer.store.parts.parts import RetainRules, RollRules, closed_numbers, part_path
from streamer.store.views.snapshot import open_ledger
from tests.helpers.producer import FakeClock, accounts, bare, conversation, jsonl, messages, settings
from tests.helpers.traces import make_conversations
from tests.suites.faults.machine import DiedError, Machine
from tests.suites.faults.vfs import sqlite_asks
from tests.suites.faults.world import World

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from streamer.config import Config

LONG = 60.0
"""Seconds after which sweeps go on and nothing counts as recent."""

_POINTS = ("read", "dead letters written", "appended", "appended", "synced", "synced", "committed",
           "recovery: tail mended", "part named", "part closed", "recovery: part closed",
           "manifest written")  # fmt: skip
_COMPACTION_POINTS = ("part rewritten", "compaction committed", "manifest written", "part replaced", "compacted")
_FAILING = ("fdatasync", "fdatasync", "write", "pwrite", "ftruncate", "fsync", "open", "pread", "db_write", "db_sync")
_MAX_LINE = 1 << 14


class Simulation:
    """One life. ``say`` is told of everything that happens."""

    def __init__(self, seed: int, folder: Path, template: Path, say: Callable[[str], None]) -> None:
        self._rng = Random(seed)
        rng, join, by = self._rng, self._rng.choice(list(JoinRule)), self._rng.choice(list(DedupBy))
        turns = Random(f"turns of {seed}").choice((Turns.ALL, *Turns))  # its own draw: other lives stay what they were
        self._world = World(folder, template, rng, join, by, turns, wild=rng.random() < 0.6)
        batch = rng.choice((1, 2, 5, 2000))
        rolls = Random(seed).choice((None, None, None, 1, 2, 5))
        config = settings(
            folder,
            join=join,
            by=by,
            batch=batch,
            max_line=_MAX_LINE,
            never_scored_after=5 * LONG,
            records=RecordRules(turns=turns),
        )
        config = msgspec.structs.replace(config, roll=RollRules(records=rolls))
        self._config, curation = _curated(config, Random(f"curation {seed}"))
        self._compactions = Random(f"compactions of {seed}")
        self._compacts = self._compactions.random() < 0.4
        self._config, kept = _retaining(self._config, Random(f"retention of {seed}"))
        self._signer = Signer(self._config.near) if self._config.near.is_on else None
        self._path = self._config.dataset.path
        self._path.parent.mkdir()
        self._machine = Machine(self._path.parent, rng)
        self._clock = FakeClock()
        self._say = say
        self._seen = self._kept = b""
        self._callbacks: list[bytes] = []
        self._reader = Follower(self._path)
        self._crash: tuple[str, int] | None = None
        self._going: set[bytes] | None = None
        self._gone: set[Any] = set()
        self._open = AsyncExitStack()
        self._pipeline: Pipeline | None = None
        kind = "wild" if self._world.wild else "tame"
        say(f"join {join}, dedup {by}, turns {turns}, batches of {batch}, parts of {rolls}, {kind}{curation}{kept}")

    async def run(self) -> None:
        """Live, and see that every promise is kept."""
        with sqlite_asks(self._machine):
            try:
                for _ in range(self._rng.randint(1, 3)):
                    for _ in range(self._rng.randint(2, 12)):
                        await self._do_something()
                    await self._come_to_rest()
                    while self._compacts and self._compactions.random() < 0.6:
                        for _ in range(3):  # so that there is something to take out
                            self._say(self._world.play())
                        await self._come_to_rest()
                        await self._compact()
                        await self._come_to_rest()
            finally:
                await self._stop()
                self._reader.close()

    # -- what happens ----------------------------------------------------------------------------------

    async def _do_something(self) -> None:
        if self._compacts and self._compactions.random() < 0.15:
            await self._compact()
            return
        dice = self._rng.random()
        if dice < 0.45:
            for _ in range(self._rng.randint(1, 4)):
                self._say(self._world.act())
        elif dice < 0.5:
            self._say("stop")
            await self._stop()
        elif dice < 0.55:
            seconds = self._rng.choice((1.0, LONG, 6 * LONG))
            self._say(f"{seconds:.0f} seconds pass")
            self._clock.advance(seconds)
        else:
            if self._rng.random() < 0.6:
                self._meet_with_trouble()
            await self._live()

    def _meet_with_trouble(self) -> None:
        """From here on calls may fail, or the next life will not end well."""
        dice = self._rng.random()
        if dice < 0.2:
            self._machine.error_rate = self._rng.choice((0.0, 0.01, 0.05, 0.3))
            self._say(f"calls fail at a rate of {self._machine.error_rate}")
        elif dice < 0.45:
            call, times = self._rng.choice(_FAILING), self._rng.choice((1, 1, 2, 5))
            self._machine.failing[call] = times
            self._say(f"{call} will fail: {times}")
        elif dice < 0.85:
            self._crash = self._rng.choice(_POINTS), self._rng.choice((1, 1, 2))
            self._say(f"will die at {self._crash}")
        else:
            self._machine.fuse = int(2 ** self._rng.uniform(0, 8))
            self._say(f"will die after {self._machine.fuse} calls")

    async def _live(self) -> None:
        """Let the daemon do what it would do next, a few times."""
        try:
            pipeline = await self._opened()
            works = [pipeline.scan, pipeline.poll, *[pipeline.step] * self._rng.randint(1, 4)]
            for work in self._rng.choice((works, works, [pipeline.drain], works[::-1])):
                self._say(f"  {work.__name__}")
                await self._survive(work)
                self._watch()
        except UnavailableError as error:
            self._say(f"  {error.op}: {error.cause}")
            await self._stop()
        except DiedError:
            await self._die()

    async def _compact(self) -> None:
        """Stop the daemon and compact, with trouble at times."""
        self._say("stop, and compact")
        await self._stop()
        for _ in range(self._compactions.randint(0, 2)):
            self._say(f"  {self._world.withdraw()}")
        draw = self._compactions
        if draw.random() < 0.4:
            self._crash = draw.choice(_COMPACTION_POINTS), draw.choice((1, 1, 2))
            self._say(f"  will die at {self._crash}")
        close_live = draw.random() < 0.7
        self._going = {line for line in self._there().splitlines(keepends=True) if self._may_go(line)}
        try:
            await self._survive(partial(self._compact_once, close_live=close_live))
            self._watch()
            self._going = None
        except UnavailableError as error:
            self._say(f"  {error.op}: {error.cause}")
            if not self._machine.alive:
                await self._die()
        except DiedError:
            await self._die()
        self._crash = None

    async def _compact_once(self, *, close_live: bool) -> None:
        done = await compact(
            self._config, Env(files=self._machine, clock=self._clock, failpoint=self._at), close_live=close_live
        )
        self._say(f"  {done.removed} of {done.parts} parts, {done.unjudged} stay")

    def _may_go(self, line: bytes) -> bool:
        return line.endswith(b"\n") and self._world.may_go(json.loads(line))

    async def _survive(self, work: Callable[[], Awaitable[object]]) -> None:
        await work()
        if not self._machine.alive:
            raise DiedError

    async def _opened(self) -> Pipeline:
        if self._pipeline is None:
            self._say("  start")
            opened = open_pipeline(self._config, Env(files=self._machine, clock=self._clock, failpoint=self._at))
            try:
                self._pipeline = await self._open.enter_async_context(opened)
            except UnavailableError:
                if self._machine.alive:
                    raise
                raise DiedError from None
            self._watch()
            self._going = None  # what a compaction left unfinished is finished, or was undone
            self._is_durable(self._pipeline)
        return self._pipeline

    async def _stop(self) -> None:
        self._pipeline = None
        await self._open.aclose()
        self._open = AsyncExitStack()
        if not self._machine.alive:
            await self._die()

    async def _die(self) -> None:
        power_loss = self._rng.random() < 0.5
        self._say("  POWER LOSS" if power_loss else "  DEATH")
        self._machine.die()
        self._crash = None
        self._pipeline = None
        await self._open.aclose()
        self._open = AsyncExitStack()
        self._watch()
        self._machine.restart(power_loss=power_loss)
        if power_loss and self._going is not None:
            # A part is as it was or as it is to be, whatever was visible.
            now = self._there()
            closed = sum(path.stat().st_size for path in self._files()[:-1])
            stays = [line for line in self._kept.splitlines(keepends=True) if line not in self._going]
            there = set(now.splitlines(keepends=True))
            assert self._retains or all(line in there for line in stays), "a line that was synced is gone"
            self._seen = self._kept = now[:closed]
            self._callbacks = self._seen.splitlines(keepends=True)
            self._reader.close()
            self._reader = Follower(self._path)
        elif power_loss:
            now = self._there()
            assert now.startswith(self._kept)
            self._say(f"  {len(self._kept)} bytes were synced of {len(self._seen)}, {len(now)} are there")
            closed = sum(path.stat().st_size for path in self._files()[:-1])
            self._seen = now[: max(len(self._kept), closed)]  # what has the name of a part was synced before
            self._callbacks = self._seen.splitlines(keepends=True)
            self._reader.close()
            self._reader = Follower(self._path, start=len(self._seen) - closed)

    def _at(self, point: str) -> None:
        if not self._machine.alive:
            raise DiedError
        self._watch()
        if point in {"synced", "committed", "part named"} and self._pipeline is not None:
            self._is_durable(self._pipeline)
        if self._crash is not None and self._crash[0] == point:
            self._crash = point, self._crash[1] - 1
            if not self._crash[1]:
                self._machine.die()
                raise DiedError

    # -- what has to hold ------------------------------------------------------------------------------

    def _watch(self) -> None:
        """See that no whole line that was visible has changed (rule 2), as a reader at this moment would."""
        now = self._there()
        if not now.startswith(self._seen):
            self._take_out(now.splitlines(keepends=True))
        assert now.startswith(self._seen), "a line that was visible has changed"
        self._seen = now[: now.rfind(b"\n") + 1]
        while lines := self._reader.read():
            self._callbacks += [line.data for line in lines]

    def _take_out(self, now: list[bytes]) -> None:
        """Take out of what was seen what is gone: by a compaction, or with the oldest parts; nothing else may go."""
        left: list[bytes] = []
        kept = position = 0
        for line in self._seen.splitlines(keepends=True):
            position += len(line)
            if len(left) < len(now) and now[len(left)] == line:
                left.append(line)
                kept += len(line) * (position <= len(self._kept))
                continue
            is_old = self._retains and not left
            assert is_old or (self._going is not None and line in self._going), "a line that was visible is gone"
            if is_old:
                self._gone.add(self._world.identity_of(json.loads(line)))
        self._seen = b"".join(left)
        self._kept = self._seen[:kept]
        self._callbacks = left

    @property
    def _retains(self) -> bool:
        return self._config.retain != RetainRules()

    def _is_durable(self, pipeline: Pipeline) -> None:
        """See that the disk holds what the ledger counts on (rule 3)."""
        dead, dead_length = pipeline._dead_letters.path, pipeline._dead_letters.length
        visible = dead.read_bytes()[:dead_length] if dead_length else b""
        assert self._machine.synced(dead)[:dead_length] == visible, "the ledger is ahead of the disk"
        live = pipeline.dataset.live
        closed = [part_path(self._path, number) for number in closed_numbers(self._path) if number < live.number]
        length = sum(path.stat().st_size for path in closed) + pipeline.dataset.length - live.start
        synced = b"".join(self._machine.synced(path) for path in self._files())
        assert synced[:length] == self._there()[:length], "the ledger is ahead of the disk"
        self._kept = synced[:length]

    def _files(self) -> list[Path]:
        """Return the files of the dataset, in order, the live one last."""
        return [*(part_path(self._path, number) for number in closed_numbers(self._path)), self._path]

    def _there(self) -> bytes:
        """Return what the dataset holds now."""
        return b"".join(path.read_bytes() for path in self._files() if path.exists())

    async def _come_to_rest(self) -> None:
        """Let all trouble pass, work everything off, and compare with the model."""
        self._say("come to rest")
        self._machine.error_rate = 0.0
        self._machine.failing.clear()
        self._machine.fuse = None
        self._crash = None
        for attempt in range(3):
            self._clock.advance(LONG)
            try:
                await (await self._opened()).drain()
            except UnavailableError:
                assert not attempt, "it does not recover although nothing fails any more"
                await self._stop()
        self._watch()
        with self._machine.looking():
            self._all_is_there()
        assert not self._machine.broken

    def _all_is_there(self) -> None:
        seen = accounts(self._config)
        written = [json.loads(line) for line in self._there().split(b"\n")[:-1]]
        found = [self._world.identity_of(value) for value in written]
        self._say(f"  {len(found)} records, {len(self._world.must)} expected, {len(self._world.may)} possible")
        assert len(found) == len(set(found)), "a record is there twice"
        self._left_out_with_reason(self._world.must - set(found), written)
        assert not set(found) - self._world.may, "a record is there that never was good"
        assert self._callbacks == [line + b"\n" for line in self._there().split(b"\n")[:-1]]
        assert self._world.wild or (self._world.must == self._world.may and not seen.adopted)
        self._curation_is_right(written)
        self._shards_are_known()
        for value in written:
            text = value["messages"][1]["content"]
            assert bare(conversation(value)) == _expected(text)

    def _left_out_with_reason(self, missing: set[Any], written: list[dict[str, Any]]) -> None:
        """See that each record that is not there resembles one that is, or is of runs whose cap is full."""
        counts = Counter(value["metadata"]["run_id"] for value in written)
        lines = self._there().splitlines(keepends=True)
        for identity in missing:
            text = identity if isinstance(identity, str) else identity.text
            runs = self._world.sessions_of(identity)
            full = any(all(counts[run] == cap.most for run in runs) for cap in self._config.cap)
            assert identity in self._gone or full or self._resembles(text, lines), "a record was lost"

    def _resembles(self, text: str, lines: list[bytes]) -> bool:
        signer = self._signer
        one = None if signer is None else signer.sign(jsonl(messages("any", 0, text)))
        if signer is None or one is None:
            return False
        return any((other := signer.sign(line)) and signer.similarity(one, other) for line in lines)

    def _is_found(self, one: Signature, other: Signature) -> bool:
        """Say whether two records are near each other, and are compared: of those at the threshold, a few never are."""
        signer = self._signer
        assert signer is not None
        compared = set(signer.bands_of(one)) & set(signer.bands_of(other))
        return bool(compared) and signer.similarity(one, other) is not None

    def _curation_is_right(self, written: list[dict[str, Any]]) -> None:
        """See that caps hold, that no two records resemble each other, and that what is remembered says the same."""
        for cap in self._config.cap:
            counts = Counter(value["metadata"]["run_id"] for value in written)
            assert all(count <= cap.most for count in counts.values()), "a cap was passed"
            with open_ledger(self._config.dataset.ledger) as db:
                assert db is not None
                known = db.execute("SELECT records FROM cap_count WHERE records").fetchall()
            assert sorted(counts.values()) == sorted(count for (count,) in known)
        if self._signer is not None:
            lines = self._there().splitlines(keepends=True)
            made = [signature for line in lines if (signature := self._signer.sign(line)) is not None]
            with open_ledger(self._config.dataset.ledger) as db:
                assert db is not None
                rows = db.execute("SELECT slots, images FROM near_record ORDER BY number").fetchall()
            assert [Signature(*row) for row in rows] == made
            for number, one in enumerate(made):
                assert not any(self._is_found(one, other) for other in made[:number]), "two are nearly equal"

    def _shards_are_known(self) -> None:
        """Each shard is read up to its last newline, and each of its lines is counted once (rule 1)."""
        with open_ledger(self._config.dataset.ledger) as db:
            assert db is not None
            rows = db.execute(
                "SELECT path, offset, (SELECT coalesce(sum(lines), 0) FROM span WHERE shard = shard.id)"
                " FROM shard WHERE NOT replaced"
            ).fetchall()
        known = {path.decode(): (offset, lines) for path, offset, lines in rows}
        for name, shard in self._world.shards.items():
            expected = shard.data.rfind(b"\n") + 1, self._world.counted(name)
            assert known.get(name, (0, 0)) == expected, name


def _curated(config: Config, rng: Random) -> tuple[Config, str]:
    """Turn near-duplicates and a cap on in some lives; return the configuration, and what to say of it."""
    near = rng.choice((Near(), Near(), Near(threshold=0.6, ngram=1, scope=Scope.USER, keep=1000)))
    caps = rng.choice(((), (), (Cap("run_id", rng.randint(1, 5)),)))
    said = ", near-duplicates" * near.is_on + "".join(f", {cap.most} records a run" for cap in caps)
    return msgspec.structs.replace(config, near=near, cap=caps), said


def _retaining(config: Config, rng: Random) -> tuple[Config, str]:
    """Have old parts removed in some of the lives that roll; return the configuration, and what to say of it."""
    most, forget = rng.choice((None, None, 3, 8)), rng.random() < 0.5
    if most is None or not config.roll.is_on:
        return config, ""
    retain = RetainRules(records=most, forget_keys=forget)
    # Near-duplicates and caps remember what was in a part that is gone: the model does not know of it any more.
    config = msgspec.structs.replace(config, retain=retain, near=Near(), cap=())
    return config, f", {most} records kept{' and no keys of others' * forget}"


@cache
def _expected(text: str) -> object:
    return bare(conversation(messages("any", 0, text)))


def fast_folder() -> Path | None:
    """Return a folder in memory, if there is one."""
    shm = Path("/dev/shm")
    return shm if shm.is_dir() else None


def live(seed: int, say: Callable[[str], None] = lambda _text: None) -> None:
    """Live the life of one seed; ``AssertionError`` if a promise is broken, ``RefusedError`` if it gives up."""
    with tempfile.TemporaryDirectory(dir=fast_folder()) as name:
        template = make_conversations(Path(name) / "template.db")
        anyio.run(Simulation(seed, Path(name) / "life", template, say).run)


def main() -> None:
    """Live the lives of the seeds on the command line, and print what happens."""
    for seed in map(int, sys.argv[1:]):
        sys.stdout.write(f"seed {seed}\n")
        live(seed, lambda text: (sys.stdout.write(f"{text}\n"), None)[1])


if __name__ == "__main__":
    main()
