"""Random lives of a producer, interpreted against real files, a real database and a few obvious lines.

The model knows what stands on the disk and what the outcome rows say. After every look at it the dataset
has to hold all records that are there and qualify (``must``), none that never qualified (``may``), none
twice, and what it held before, byte for byte.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import AsyncExitStack, closing
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import anyio
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from streamer.base.env import Env
from streamer.core.verdicts.join import JoinRule
from streamer.daemon.build import open_pipeline
from streamer.daemon.pipeline import Pipeline
from tests.helpers.producer import (
    FakeClock,
    accounts,
    add_outcome,
    correct_outcome,
    dialogue,
    jsonl,
    make_traces,
    messages,
    records,
    settings,
    settle,
    work_off,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

LONG = 60.0
"""Seconds after which sweeps go on and nothing counts as recent."""

NEVER_SCORED_AFTER = 5 * LONG
SHARDS = ("a_2026-01-01_00-00-00.jsonl", "sft_b.jsonl", "sub/c.jsonl")
POINTS = ("read", "dead letters written", "appended", "synced", "committed", "recovery: tail mended")


class Record(NamedTuple):
    """What a line holds. Equal texts are equal conversations, whoever had them."""

    session: str
    seconds: int | None
    text: str


class Row(NamedTuple):
    """An outcome row as the database holds it."""

    session: str
    seconds: int
    reward: int


def _line(record: Record) -> bytes:
    if record.seconds is None:
        return jsonl(messages(record.session, 0, record.text))
    return jsonl(dialogue(record.session, 0, record.text, seconds=record.seconds))


GOOD = {
    _line(record): record
    for record in (Record(s, at, text) for s in "ab" for at in (None, 1, 2) for text in "abcdefgh")
}
BAD = (b"nonsense\n", b"[]\n", b'{"messages": 1}\n', b"\xff\n")
BLANK = (b"\n", b" \r\n")


class World:
    """The files and the database as they are, and what follows from them."""

    def __init__(self, folder: Path, join: JoinRule = JoinRule.AS_OF) -> None:
        self.folder = folder
        self.join = join
        self.traces = make_traces(folder / "traces.db")
        self.shards: dict[str, bytes] = {}
        self.rests: dict[str, bytes] = {}
        self.trash: dict[str, bytes] = {}
        self.rows: list[Row] = []
        self._ever: set[tuple[str, int | None]] = set()
        self._written: set[Record] = set()
        self._times = count(1)
        (folder / "shards" / "sub").mkdir(parents=True)

    def put(self, name: str, data: bytes, *, anew: bool = False) -> None:
        """Make a shard hold some bytes, in place or as a new file; its time is one that none had before."""
        path = self.folder / "shards" / name
        target = path.with_suffix(".tmp") if anew else path
        with target.open("r+b" if target.exists() else "wb") as file:
            file.write(data)
            file.truncate()
        target.rename(path)
        tick = next(self._times)
        os.utime(path, ns=(tick, tick))
        self.shards[name] = data
        self._written |= {GOOD[line] for line in finished(data) if line in GOOD}

    def score(self, row: Row) -> None:
        """Write an outcome row."""
        add_outcome(self.traces, row.session, row.reward, row.seconds)
        self.rows.append(row)
        self._remember()

    def correct(self, number: int, reward: int) -> None:
        """Correct an outcome row."""
        correct_outcome(self.traces, number + 1, reward)
        self.rows[number] = self.rows[number]._replace(reward=reward)
        self._remember()

    def _remember(self) -> None:
        for record in GOOD.values():
            if self.qualifies(record):
                self._ever.add(record[:2])

    def qualifies(self, record: Record) -> bool:
        """Say whether a record belongs to a good outcome now."""
        rows = sorted((row for row in self.rows if row.session == record.session), key=lambda row: row.seconds)
        if self.join is not JoinRule.AS_OF:
            chosen = rows[:1] if self.join is JoinRule.FIRST else rows
            return any(row.reward > 0 for row in chosen)
        if record.seconds is None:
            return bool(rows) and rows[-1].reward > 0
        first = next((row for row in rows if row.seconds >= record.seconds), None)
        return first is not None and first.reward > 0

    def must(self) -> set[str]:
        """Return the texts that stand in a finished line and qualify."""
        found = (GOOD[line] for data in self.shards.values() for line in finished(data) if line in GOOD)
        return {record.text for record in found if self.qualifies(record)}

    def may(self) -> set[str]:
        """Return the texts that were ever written and could ever have qualified."""
        return {record.text for record in self._written if record[:2] in self._ever}


def finished(data: bytes) -> list[bytes]:
    """Return the finished lines of a shard, newlines included."""
    return [line + b"\n" for line in data.split(b"\n")[:-1]]


# -- actions -----------------------------------------------------------------------------------------------


class Write(NamedTuple):
    """Write a whole shard, over what is there: in place, or as a new file under the same name."""

    shard: str
    lines: list[bytes]
    anew: bool

    def act(self, world: World) -> None:
        """Write."""
        world.rests.pop(self.shard, None)
        world.put(self.shard, b"".join(self.lines), anew=self.anew)


class Append(NamedTuple):
    """Append finished lines, after the rest of an unfinished one."""

    shard: str
    lines: list[bytes]

    def act(self, world: World) -> None:
        """Append."""
        data = world.shards.get(self.shard, b"") + world.rests.pop(self.shard, b"")
        world.put(self.shard, data + b"".join(self.lines))


class Begin(NamedTuple):
    """Append a part of a line; the next append finishes it."""

    shard: str
    line: bytes
    part: int

    def act(self, world: World) -> None:
        """Append all but the last bytes."""
        if self.shard not in world.rests:
            cut = max(1, len(self.line) - self.part)
            world.put(self.shard, world.shards.get(self.shard, b"") + self.line[:cut])
            world.rests[self.shard] = self.line[cut:]


class Truncate(NamedTuple):
    """Cut a shard off somewhere."""

    shard: str
    keep: float

    def act(self, world: World) -> None:
        """Cut."""
        if self.shard in world.shards:
            world.rests.pop(self.shard, None)
            data = world.shards[self.shard]
            world.put(self.shard, data[: int(self.keep * len(data))])


class Rename(NamedTuple):
    """Give a shard another name, over whatever has that name."""

    shard: str
    to: str

    def act(self, world: World) -> None:
        """Rename."""
        if self.shard in world.shards and self.shard != self.to:
            folder = world.folder / "shards"
            (folder / self.shard).rename(folder / self.to)
            world.shards[self.to] = world.shards.pop(self.shard)
            world.rests.pop(self.to, None)
            if self.shard in world.rests:
                world.rests[self.to] = world.rests.pop(self.shard)


class Copy(NamedTuple):
    """Copy a shard."""

    shard: str
    to: str

    def act(self, world: World) -> None:
        """Copy."""
        if self.shard in world.shards and self.shard != self.to:
            world.rests.pop(self.to, None)
            world.put(self.to, world.shards[self.shard])


class Delete(NamedTuple):
    """Delete a shard, or bring it back."""

    shard: str

    def act(self, world: World) -> None:
        """Delete or restore."""
        world.rests.pop(self.shard, None)
        if self.shard in world.shards:
            world.trash[self.shard] = world.shards.pop(self.shard)
            (world.folder / "shards" / self.shard).unlink()
        elif self.shard in world.trash:
            world.put(self.shard, world.trash.pop(self.shard))


class Score(NamedTuple):
    """Score a rollout."""

    row: Row

    def act(self, world: World) -> None:
        """Add an outcome row."""
        world.score(self.row)


class Correct(NamedTuple):
    """Correct an outcome, up or down."""

    number: int
    reward: int

    def act(self, world: World) -> None:
        """Change an outcome row."""
        if world.rows:
            world.correct(self.number % len(world.rows), self.reward)


class Look(NamedTuple):
    """Work off what is there, after a while; at a point of the path the power may fail."""

    pause: float
    crash: str | None


class Restart(NamedTuple):
    """Stop, and start again."""


names = st.sampled_from(SHARDS)
good_lines = st.sampled_from(list(GOOD))
lines = st.lists(st.sampled_from([*GOOD, *2 * BAD, *BLANK]), min_size=1, max_size=3)
rewards = st.sampled_from([0, 1])
files = (
    st.builds(Write, names, lines, st.booleans())
    | st.builds(Append, names, lines)
    | st.builds(Begin, names, good_lines, st.integers(1, 200))
    | st.builds(Truncate, names, st.floats(0, 1))
    | st.builds(Rename, names, names)
    | st.builds(Copy, names, names)
    | st.builds(Delete, names)
)
scores = st.builds(Score, st.builds(Row, st.sampled_from("ab"), st.integers(1, 3), rewards)) | st.builds(
    Correct, st.integers(0, 5), rewards
)
looks = st.builds(
    Look, st.sampled_from([0.0, LONG, LONG, 2 * NEVER_SCORED_AFTER]), st.sampled_from([*[None] * 12, *POINTS])
)
kinds = {"file": files, "score": scores, "look": looks, "restart": st.just(Restart())}
weights = ["file"] * 8 + ["score"] * 4 + ["look"] * 5 + ["restart"]
lives = st.lists(st.sampled_from(weights).flatmap(kinds.__getitem__), min_size=8, max_size=30)


# -- the interpreter ---------------------------------------------------------------------------------------


class PowerCutError(BaseException):
    """The path stops where it stands."""


class Supervisor:
    """One producer's world, and the pipelines that follow it one after the other."""

    def __init__(self, folder: Path, batch: int, join: JoinRule) -> None:
        self.world = World(folder, join)
        self.config = settings(folder, batch=batch, join=join, never_scored_after=NEVER_SCORED_AFTER)
        self.clock = FakeClock()
        self._crash: str | None = None
        self._before = b""
        self._open = AsyncExitStack()
        self._pipeline: Pipeline | None = None

    async def run(self, actions: list[object]) -> None:
        """Interpret all actions, then look once more and see that all is as it should be."""
        try:
            for action in actions:
                await self._interpret(action)
                self._dataset_only_grew()
            for _ in range(3):
                await self._look(LONG)
            self._all_is_there()
        finally:
            await self._open.aclose()

    async def _interpret(self, action: object) -> None:
        if isinstance(action, Restart):
            await self._stop()
        elif isinstance(action, Look):
            self._crash = action.crash
            try:
                await self._look(action.pause)
            except PowerCutError:
                await self._stop()
            else:
                self._accounts_add_up()
                if action.pause >= LONG:
                    self._all_is_there()
            self._crash = None
        else:
            action.act(self.world)  # type: ignore[attr-defined]

    async def _look(self, pause: float) -> None:
        self.clock.advance(pause)
        if self._pipeline is None:
            opened = open_pipeline(self.config, Env(clock=self.clock, failpoint=self._at))
            self._pipeline = await self._open.enter_async_context(opened)
        await self._pipeline.drain()

    async def _stop(self) -> None:
        self._pipeline = None
        await self._open.aclose()

    def _at(self, point: str) -> None:
        if point == self._crash:
            self._crash = None
            raise PowerCutError

    def _dataset_only_grew(self) -> None:
        path = self.config.dataset.path
        now = path.read_bytes() if path.exists() else b""
        whole = self._before[: self._before.rfind(b"\n") + 1]
        assert now.startswith(whole)
        self._before = now

    def _accounts_add_up(self) -> None:
        accounts(self.config)
        texts = [record["messages"][1]["content"] for record in records(self.config)]
        assert len(texts) == len(set(texts))
        assert set(texts) <= self.world.may()
        for name, cursor, read in self._shards():
            data = self.world.shards.get(name)
            if data is not None:
                assert cursor == data.rfind(b"\n") + 1, name
                assert read == sum(bool(line.strip()) for line in finished(data)), name

    def _all_is_there(self) -> None:
        self._accounts_add_up()
        texts = {record["messages"][1]["content"] for record in records(self.config)}
        assert texts >= self.world.must()
        known = {name for name, _, _ in self._shards()}
        assert known >= {name for name, data in self.world.shards.items() if b"\n" in data}

    def _shards(self) -> Iterator[tuple[str, int, int]]:
        """Yield name, cursor and lines of each shard as the ledger knows them."""
        with closing(sqlite3.connect(f"file:{self.config.dataset.ledger}?mode=ro", uri=True)) as db:
            for path, cursor, read in db.execute(
                "SELECT path, offset, (SELECT coalesce(sum(lines), 0) FROM span WHERE shard = shard.id)"
                " FROM shard WHERE NOT replaced"
            ).fetchall():
                yield path.decode(), cursor, read


def lived(actions: list[object], batch: int = 2000, join: JoinRule = JoinRule.AS_OF) -> None:
    """Live through some actions in a folder of their own."""
    with tempfile.TemporaryDirectory() as folder:
        anyio.run(Supervisor(Path(folder), batch, join).run, actions)


@pytest.mark.slow
@given(lives, st.sampled_from([1, 3, 2000]), st.sampled_from([JoinRule.AS_OF, *JoinRule]))
@budget(max_examples=150)
def test_whatever_a_producer_does_each_good_record_is_in_the_dataset_once(
    actions: list[object], batch: int, join: JoinRule
) -> None:
    """Rules 1, 2 and 4: rewritten, cut, renamed, copied, lost and restored, late, corrected, and interrupted."""
    lived(actions, batch, join)


def line(session: str, seconds: int | None, text: str) -> bytes:
    """Return the line of a record, as the model knows it."""
    return next(data for data, record in GOOD.items() if record == (session, seconds, text))


A, B, C = SHARDS
WAITING = [Write(A, [line("a", 1, "a"), line("a", None, "b")], anew=False), Look(LONG, None)]
SCORED = [Score(Row("a", 2, 1)), Look(LONG, None)]
JUST_NOW = Look(0.0, None)

SCRIPTS: dict[str, list[object]] = {
    "a shard is renamed before its outcome comes": [*WAITING, Rename(A, B), *SCORED],
    "a shard is renamed while it is recent": [WAITING[0], JUST_NOW, Rename(A, B), JUST_NOW, SCORED[0], JUST_NOW],
    "a shard is renamed twice": [*WAITING, Rename(A, B), Rename(B, C), *SCORED],
    "two shards change names": [
        *WAITING, Write(B, [line("b", 1, "c")], anew=False), Look(LONG, None),
        Rename(A, C), Rename(B, A), Rename(C, B), *SCORED, Score(Row("b", 2, 1)),
    ],
    "a shard is away when its outcome comes": [*WAITING, Delete(A), *SCORED, Delete(A), Look(LONG, None)],
    "a shard comes back under another name": [*WAITING, Copy(A, B), Delete(A), *SCORED],
    "a shard takes the place of another one": [
        *WAITING, Write(B, [line("b", 1, "c")], anew=False), Look(LONG, None), Rename(B, A), *SCORED,
        Score(Row("b", 2, 1)),
    ],
    "an unfinished line is rewritten": [
        Begin(A, line("a", 1, "a"), 1), Look(LONG, None),
        Write(A, [line("a", None, "b"), line("a", None, "c"), line("a", 1, "d")], anew=False), *SCORED,
    ],
    "the rest of a line is rewritten after finished ones": [
        Write(A, [line("a", 1, "a")], anew=False), Begin(A, line("a", 1, "b"), 1), Look(LONG, None),
        Write(A, [line("a", 1, "a"), line("a", None, "c"), line("a", 1, "d")], anew=False), *SCORED,
    ],
    "a shard is overwritten while it waits, and then again": [
        *WAITING, Write(A, [line("a", 1, "c")], anew=False), JUST_NOW,
        Write(A, [line("a", 1, "d")], anew=True), *SCORED,
    ],
    "a shard is cut within a line and goes on": [
        *WAITING, Truncate(A, 0.9), Look(LONG, None), Append(A, [line("a", 1, "c")]), *SCORED,
    ],
    "an older outcome comes after a newer one": [
        *WAITING, Score(Row("a", 3, 0)), Look(LONG, None), Score(Row("a", 2, 1)), Look(LONG, None),
    ],
    "an outcome is corrected up after it was judged": [
        *WAITING, Score(Row("a", 2, 0)), Look(LONG, None), Correct(0, 1), Look(LONG, None),
    ],
    "an outcome is corrected up while its shard is away": [
        *WAITING, Score(Row("a", 2, 0)), Look(LONG, None), Delete(A), Correct(0, 1), Look(LONG, None), Delete(A),
        Look(LONG, None),
    ],
    "an outcome is corrected down and up again": [
        *WAITING, *SCORED, Correct(0, 0), Look(LONG, None), Append(A, [line("a", 1, "c")]), Look(LONG, None),
        Correct(0, 1), Look(LONG, None),
    ],
    "an outcome comes when no one waits for it any more": [*WAITING, Look(2 * NEVER_SCORED_AFTER, None), *SCORED],
    "the power fails after each step of one batch": [
        *SCORED, *WAITING[:1], *(Look(LONG, point) for point in POINTS), Append(A, [BAD[0], line("a", 1, "c")]),
        *(Look(LONG, point) for point in POINTS), Look(LONG, None),
    ],
    "the power fails before the name of a moved shard is known": [
        *WAITING, SCORED[0], Look(LONG, "synced"), Rename(A, B), Look(LONG, None),
    ],
}  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS.keys())
@pytest.mark.parametrize("batch", [1, 2000])
def test_each_good_record_is_in_the_dataset_once_when(script: list[object], batch: int) -> None:
    """Each of these was, or could be, lost or doubled by a path that trusts its cursors."""
    lived(script, batch)


class Slow(FakeClock):
    """A clock by which every look at it takes long: each batch is late as soon as it begins."""

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        self.advance(1.0)
        return super().monotonic()


@pytest.mark.parametrize("shards", [1, 3])
def test_a_batch_that_is_always_late_comes_to_an_end_all_the_same(tmp_path: Path, shards: int) -> None:
    """A slow file system makes batches small, not endless; shards without news do not use them up."""
    world = World(tmp_path)
    world.score(Row("a", 3, 1))
    config = settings(tmp_path)

    async def main() -> None:
        async with open_pipeline(config, Env(clock=Slow())) as pipeline:
            for round_, texts in enumerate(("abc", "def")):
                for shard, text in zip(SHARDS[:shards], texts, strict=False):
                    world.put(shard, world.shards.get(shard, b"") + line("a", round_ or None, text))
                with anyio.fail_after(5):
                    await pipeline.drain()
                    await pipeline.drain()

    anyio.run(main)
    assert accounts(config).counts["appended"] == 2 * shards


def test_a_condition_that_is_taken_back_leaves_no_line_behind(tmp_path: Path) -> None:
    """Lines that came under the other condition, before the rows were read under it, are judged all the same."""
    world = World(tmp_path)
    world.score(Row("a", 2, 1))
    strict, usual = settings(tmp_path, where="total_reward > 5"), settings(tmp_path)
    clock = FakeClock()

    async def main() -> None:
        async with open_pipeline(usual, Env(clock=clock)) as pipeline:
            await pipeline.drain()
            pipeline.configure(strict)
            world.put(A, line("a", 1, "a"))
            await pipeline.scan()
            while await pipeline.step():
                pass
            assert accounts(usual).counts["waiting"] == 1
            pipeline.configure(usual)
            await settle(pipeline, clock)
        assert accounts(usual).counts["appended"] == 1

    anyio.run(main)


def test_what_was_judged_stays_judged_under_a_new_condition(tmp_path: Path) -> None:
    """What is in stays in, what was below the bar stays out; what comes from now on is judged anew."""
    world = World(tmp_path)
    world.score(Row("a", 2, 1))
    world.score(Row("b", 2, 0))
    world.put(A, line("a", 1, "a") + line("b", 1, "b"))
    work_off(settings(tmp_path))
    world.put(A, world.shards[A] + line("a", 1, "c") + line("b", 1, "d"))
    work_off(settings(tmp_path, where="total_reward = 0"))
    texts = [record["messages"][1]["content"] for record in records(settings(tmp_path))]
    assert texts == ["a", "d"]
    assert accounts(settings(tmp_path)).counts["below_bar"] == 2


@pytest.mark.parametrize("rule", [JoinRule.FIRST, JoinRule.MAX])
def test_the_other_rules_of_the_join_notice_corrections_too(tmp_path: Path, rule: JoinRule) -> None:
    """A better row that comes later, or a row that is corrected."""
    world = World(tmp_path)
    config = settings(tmp_path, join=rule)
    world.put(A, line("a", 1, "a") + line("b", None, "b"))
    for session in "ab":
        world.score(Row(session, 2, 0))
    work_off(config)
    assert records(config) == []
    world.score(Row("a", 3, 1))
    world.correct(1, 1)
    work_off(config)
    texts = {record["messages"][1]["content"] for record in records(config)}
    assert texts == ({"a", "b"} if rule is JoinRule.MAX else {"b"})
    accounts(config)
