"""Which file is which: renamed, copied, rewritten, replaced, under the same inode or another (cases 5 and 6).

Rule 4: whatever a producer or an operator does to files, the worst that follows is a second read.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from streamer.base.events import ShardMoved
from streamer.base.files import Files
from tests.helpers.producer import (
    accounts,
    add_outcome,
    conversations,
    correct_outcome,
    dialogue,
    jsonl,
    make_traces,
    messages,
    records,
    settings,
    work_off,
)
from tests.suites.faults.process import drive

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import Any

    from streamer.base.events import Event
    from streamer.config import Config
    from streamer.daemon.pipeline import Pipeline
    from tests.helpers.producer import FakeClock

MIB = 1 << 20


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Return the settings of a folder with an outcome for every record of ``run``, and none for ``late``."""
    (tmp_path / "shards").mkdir()
    add_outcome(make_traces(tmp_path / "traces.db"), "run", 1, 9)
    return settings(tmp_path, max_line=4 * MIB)


def values(text: str, count: int = 3, run: str = "run") -> list[dict[str, Any]]:
    """Return so many records."""
    return [messages(run, turn, f"{text}{turn}") for turn in range(count)]


def write(config: Config, name: str, *some: dict[str, Any]) -> Path:
    """Write a shard in place."""
    path = config.source.shards / name
    path.write_bytes(jsonl(*some))
    return path


def changed(config: Config, *changes: Callable[[], object], up: bool) -> list[Event]:
    """Work off what is there before and after each change, by one daemon or by one after the other."""

    async def test(pipeline: Pipeline, clock: FakeClock) -> None:
        for change in (lambda: None, *changes):
            change()
            for _ in range(2):
                clock.advance(60.0)
                await pipeline.drain()

    if up:
        return drive(config, test)
    told = work_off(config)
    for change in changes:
        change()
        told += work_off(config)
    return told


def is_exactly(config: Config, expected: Sequence[dict[str, Any]]) -> None:
    """See that these records are there, no others, and that the accounts add up."""
    assert conversations(records(config)) == conversations(expected)
    accounts(config)


UP = pytest.mark.parametrize("up", [True, False], ids=["daemon up", "daemon down"])


def reuse_inode(old: Path, new: Path, data: bytes) -> None:
    """Delete a file, and make another one with its inode; skip where the file system does not do that."""
    inode = old.stat().st_ino
    old.unlink()
    made = []
    for number in range(200):
        path = new.with_name(f"try-{number}")
        path.touch()
        made.append(path)
        if path.stat().st_ino == inode:
            path.write_bytes(data)
            path.rename(new)
            break
    for path in made:
        path.unlink(missing_ok=True)
    if not new.exists():
        pytest.skip("this file system does not give an inode away again at once")


@UP
@pytest.mark.parametrize("name", ["a.jsonl", "b.jsonl"], ids=["same name", "other name"])
@pytest.mark.parametrize("start", ["other", "same"])
def test_an_inode_that_is_used_again_is_no_proof_of_anything(
    config: Config, name: str, start: str, *, up: bool
) -> None:
    """Neither with other bytes, nor with the same first lines and more after them."""
    old = values("old")
    new = values("new", 6) if start == "other" else [*old, *values("more")]
    path = write(config, "a.jsonl", *old)
    changed(config, lambda: reuse_inode(path, path.with_name(name), jsonl(*new)), up=up)
    is_exactly(config, [*old, *new] if start == "other" else new)


@UP
def test_a_renamed_shard_goes_on_where_it_was(config: Config, *, up: bool) -> None:
    """It is not even read again; what is appended under the new name is."""
    old, new = values("old"), values("new")
    path = write(config, "a.jsonl", *old)
    told = changed(
        config,
        lambda: path.rename(path.with_name("b.jsonl")),
        lambda: path.with_name("b.jsonl").write_bytes(jsonl(*old, *new)),
        up=up,
    )
    assert [event for event in told if isinstance(event, ShardMoved)] == [ShardMoved("b.jsonl", "a.jsonl")]
    is_exactly(config, [*old, *new])
    assert accounts(config).counts["duplicate"] == 0


@UP
@pytest.mark.parametrize("late", ["scored", "corrected"])
def test_a_shard_that_is_renamed_before_its_outcome_comes_is_judged(config: Config, late: str, *, up: bool) -> None:
    """Lines that wait, or were below the bar, are looked for under the new name."""
    traces = config.source.shards.parent / "traces.db"
    row = add_outcome(traces, "late", 0, 9) if late == "corrected" else 0
    path = write(config, "a.jsonl", *values("x", run="late"))

    def rename_and_score() -> None:
        path.rename(path.with_name("b.jsonl"))
        if row:
            correct_outcome(traces, row, 3)
        else:
            add_outcome(traces, "late", 3, 9)

    changed(config, rename_and_score, up=up)
    is_exactly(config, values("x"))


@UP
def test_copy_and_truncate_loses_nothing_and_doubles_nothing(config: Config, *, up: bool) -> None:
    """As logrotate does: the copy holds the old lines, the shard itself begins anew."""
    old, new = values("old"), values("new", 2)
    path = write(config, "a.jsonl", *old)

    def rotate() -> None:
        shutil.copyfile(path, path.with_name("a.1.jsonl"))
        os.truncate(path, 0)

    changed(config, rotate, lambda: path.write_bytes(jsonl(*new)), up=up)
    is_exactly(config, [*old, *new])
    assert accounts(config).counts["duplicate"] == len(old)


@UP
def test_rotation_by_rename_loses_nothing_and_doubles_nothing(config: Config, *, up: bool) -> None:
    """A becomes b, b becomes c, and a is a new file: all between two looks."""
    path = write(config, "a.jsonl", *values("old"))

    def rotate(new: str) -> None:
        for to, name in (("c", "b"), ("b", "a")):
            if path.with_name(f"{name}.jsonl").exists():
                path.with_name(f"{name}.jsonl").rename(path.with_name(f"{to}.jsonl"))
        path.write_bytes(jsonl(*values(new)))

    changed(config, lambda: rotate("new"), lambda: rotate("newer"), up=up)
    is_exactly(config, [*values("old"), *values("new"), *values("newer")])


@UP
@pytest.mark.parametrize("more", [0, 4])
@pytest.mark.parametrize("how", ["rsync", "rsync --inplace", "an editor", "an editor that keeps a backup"])
def test_a_shard_that_is_written_anew_under_its_name_goes_on(config: Config, how: str, more: int, *, up: bool) -> None:
    """The same lines, and more: in a new file that takes the place of the old one, or over the old bytes."""
    old = values("old")
    new = jsonl(*old, *values("more", more))
    path = write(config, "a.jsonl", *old)

    def rewrite() -> None:
        if how == "rsync --inplace":
            with path.open("r+b") as file:
                file.write(new)
        elif how == "an editor":
            path.write_bytes(new)
        else:
            if how != "rsync":
                path.rename(path.with_name("a.jsonl~"))
            path.with_name(".a.jsonl.Xy12").write_bytes(new)
            path.with_name(".a.jsonl.Xy12").rename(path)

    changed(config, rewrite, up=up)
    is_exactly(config, [*old, *values("more", more)])


@UP
def test_two_shards_with_identical_first_lines_are_two_shards(config: Config, *, up: bool) -> None:
    """The same prompt of the same seed: neither is taken for the other, whichever grows."""
    same, mine, yours = values("same"), values("mine"), values("yours")
    first = write(config, "a.jsonl", *same)
    second = write(config, "b.jsonl", *same)
    changed(
        config,
        lambda: first.write_bytes(jsonl(*same, *mine)),
        lambda: second.write_bytes(jsonl(*same, *yours)),
        up=up,
    )
    is_exactly(config, [*same, *mine, *yours])
    assert accounts(config).counts["duplicate"] == len(same)


@UP
def test_two_shards_that_change_their_names_with_each_other_lose_nothing(config: Config, *, up: bool) -> None:
    """Each path has another file now, of the same size."""
    first = write(config, "a.jsonl", *values("one"))
    second = write(config, "b.jsonl", *values("two"))

    def swap() -> None:
        first.rename(first.with_name("c"))
        second.rename(first)
        first.with_name("c").rename(second)

    def grow() -> None:
        first.write_bytes(jsonl(*values("two"), *values("four")))
        second.write_bytes(jsonl(*values("one"), *values("three")))

    changed(config, swap, grow, up=up)
    is_exactly(config, [*values("one"), *values("two"), *values("three"), *values("four")])


@UP
@pytest.mark.parametrize("anew", [True, False], ids=["as a new file", "in place"])
@pytest.mark.parametrize("spot", [0, 17, 133, 299])
def test_one_line_that_was_rewritten_in_a_large_shard_is_read(
    config: Config, spot: int, *, anew: bool, up: bool
) -> None:
    """A corrected record between megabytes of unchanged ones, with a new line after them."""
    old = [messages("run", turn, f"{turn} old {'x' * 9000}") for turn in range(300)]
    corrected = messages("run", spot, f"{spot} new {'x' * 9000}")
    new = [*old[:spot], corrected, *old[spot + 1 :], *values("more")]
    path = write(config, "a.jsonl", *old)

    def rewrite() -> None:
        if anew:
            path.with_name("tmp").write_bytes(jsonl(*new))
            path.with_name("tmp").rename(path)
        else:
            path.write_bytes(jsonl(*new))

    changed(config, rewrite, up=up)
    is_exactly(config, [*old, corrected, *values("more")])


@UP
@pytest.mark.parametrize("anew", [True, False], ids=["as a new file", "in place"])
def test_a_tail_that_was_too_long_and_becomes_lines_is_read(tmp_path: Path, *, anew: bool, up: bool) -> None:
    """Megabytes of zeros without an end, then the real lines in their place, and more of them."""
    (tmp_path / "shards").mkdir()
    add_outcome(make_traces(tmp_path / "traces.db"), "run", 1, 9)
    config = settings(tmp_path, max_line=10_000)
    path = config.source.shards / "a.jsonl"
    path.write_bytes(bytes(20_000))
    new = [messages("run", turn, f"{turn} {'x' * 900}") for turn in range(30)]

    def rewrite() -> None:
        if anew:
            path.unlink()
        path.write_bytes(jsonl(*new))

    changed(config, rewrite, up=up)
    is_exactly(config, new)


class Interrupted(Files):
    """Real files; just before the n-th call, the producer does something."""

    def __init__(self, times: int, change: Callable[[], object]) -> None:
        self.left = times
        self._change = change

    def _count(self) -> None:
        self.left -= 1
        if not self.left:
            self._change()

    def open(self, path: str | os.PathLike[str], flags: int) -> int:
        """Open, maybe after a change."""
        self._count()
        return super().open(path, flags)

    def fstat(self, fd: int) -> os.stat_result:
        """Look, maybe after a change."""
        self._count()
        return super().fstat(fd)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """Read, maybe after a change."""
        self._count()
        return super().pread(fd, size, offset)


CHANGES: dict[str, Callable[[Path, bytes], object]] = {
    "overwritten in place": lambda path, data: path.write_bytes(data),
    "replaced": lambda path, data: (path.with_name("tmp").write_bytes(data), path.with_name("tmp").rename(path)),
    "truncated first": lambda path, data: (os.truncate(path, 0), path.write_bytes(data)),  # type: ignore[func-returns-value]
}


@pytest.mark.parametrize("size", [2, 3, 5], ids=["smaller", "equal", "larger"])
@pytest.mark.parametrize("how", CHANGES)
def test_a_change_between_any_two_system_calls_loses_no_line(config: Config, how: str, size: int) -> None:
    """Whatever was read of the old bytes: every line of the new ones arrives, and nothing twice."""
    path = config.source.shards / "a.jsonl"
    new = [dialogue("run", turn, f"new{turn}") for turn in range(size)]
    old = [dialogue("run", turn, f"old{turn}") for turn in range(3)]
    times, lost = 1, []
    while True:
        path.write_bytes(jsonl(*old))
        files = Interrupted(times, lambda: CHANGES[how](path, jsonl(*new)))
        work_off(config, files=files)
        if files.left > 0:
            break
        texts = sorted(value["messages"][1]["content"] for value in records(config))
        assert len(texts) == len(set(texts))
        if not set(texts) >= {f"new{turn}" for turn in range(size)}:
            lost.append(times)
        accounts(config)
        for left in config.dataset.path.parent.iterdir():
            left.unlink()
        times += 1
    assert times > 20
    assert not lost
