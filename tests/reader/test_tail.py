"""A follower hands over every whole line once, whatever happens to the file meanwhile."""

from __future__ import annotations

import os
import tempfile
import tracemalloc
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.base.lines import FileLine
from streamer.reader.tail import POLL, Follower, follow

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Action = Callable[[], object]


class _EndOfScriptError(Exception):
    """All actions are done."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the dataset will be."""
    return tmp_path / "dataset.jsonl"


def append(path: Path, data: bytes) -> None:
    """Write at the end, as the daemon does."""
    with path.open("ab") as file:
        file.write(data)


def roll(path: Path, name: str = "dataset-1.jsonl") -> None:
    """Give the live file's name to a new file; the old one gets another name."""
    path.rename(path.with_name(name))
    path.touch()


def followed(path: Path, actions: Sequence[Action], **options: Any) -> list[FileLine]:
    """Follow a file; each sleep of the follower is the next action on it. Return all that was yielded."""
    found: list[FileLine] = []
    script = iter(actions)

    async def sleep(seconds: float) -> None:
        assert seconds == POLL
        action = next(script, None)
        if action is None:
            raise _EndOfScriptError
        action()

    async def main() -> None:
        async for line in follow(path, sleep=sleep, **options):
            found.append(line)  # noqa: PERF401 - what was found until the end of the script counts

    with pytest.raises(_EndOfScriptError):
        anyio.run(main)
    return found


def line_at(offset: int, content: bytes) -> FileLine:
    """Return a line as a follower yields it."""
    return FileLine(offset, len(content), content)


def data(lines: list[FileLine]) -> bytes:
    """Return the bytes of all lines."""
    return b"".join(line.data for line in lines)


def drained(follower: Follower) -> list[FileLine]:
    """Return all lines that are there now."""
    found = []
    while lines := follower.read():
        found += lines
    return found


def test_lines_that_are_there_and_lines_to_come_are_yielded(path: Path) -> None:
    """Each with its place, and with its newline."""
    append(path, b"one\ntwo\n")
    lines = followed(path, [partial(append, path, b"three\n"), lambda: None, partial(append, path, b"\n")])
    assert lines == [
        line_at(0, b"one\n"),
        line_at(4, b"two\n"),
        line_at(8, b"three\n"),
        line_at(14, b"\n"),
    ]


def test_a_line_is_yielded_when_it_is_whole_and_not_before(path: Path) -> None:
    """Its parts may come one byte at a time."""
    lines = followed(path, [partial(append, path, bytes([byte])) for byte in b"one\ntw"])
    assert lines == [line_at(0, b"one\n")]


def test_a_carriage_return_ends_no_line(path: Path) -> None:
    """Nor does anything else that some line splitters know."""
    append(path, b"a\rb\x0b\x0c\xc2\x85\xe2\x80\xa8c\n")
    assert len(followed(path, [])) == 1


def test_a_file_that_is_not_there_yet_is_waited_for(path: Path) -> None:
    """And is read from its start, wherever one wanted to begin."""
    actions: list[Action] = [lambda: None, partial(append, path, b"one\ntwo\n")]
    assert data(followed(path, actions, start=4)) == b"one\ntwo\n"
    path.unlink()
    assert data(followed(path, actions, last=1)) == b"one\ntwo\n"


def test_one_can_begin_at_an_offset(path: Path) -> None:
    """Which is where a line begins."""
    append(path, b"one\ntwo\n")
    assert followed(path, [], start=4) == [line_at(4, b"two\n")]


def test_one_can_begin_with_the_last_lines(path: Path) -> None:
    """The unterminated tail is none of them, but comes when it is ended."""
    append(path, b"one\ntwo\nthree\nfo")
    assert data(followed(path, [partial(append, path, b"ur\n")], last=2)) == b"two\nthree\nfour\n"
    append(path, b"fi")
    assert data(followed(path, [partial(append, path, b"ve\n")], last=0)) == b"five\n"


@given(
    lines=st.lists(st.binary(max_size=5).map(lambda line: line.replace(b"\n", b"") + b"\n"), max_size=12),
    tail=st.sampled_from([b"", b"torn"]),
    last=st.integers(0, 14),
    block=st.integers(1, 9),
)
def test_the_last_lines_are_found_whatever_the_block(lines: list[bytes], tail: bytes, last: int, block: int) -> None:
    """Reading backwards in blocks finds the same lines as splitting the file does."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "dataset.jsonl")
        path.write_bytes(b"".join(lines) + tail)
        with Follower(path, last=last, block=block) as follower:
            assert [line.data for line in drained(follower)] == (lines[-last:] if last else [])


def test_a_rolled_dataset_is_read_to_its_end_before_the_new_one(path: Path) -> None:
    """Even what was written between the last look and the roll."""
    append(path, b"one\n")

    def write_and_roll() -> None:
        append(path, b"two\n")
        roll(path)
        append(path, b"three\n")

    assert followed(path, [write_and_roll]) == [
        line_at(0, b"one\n"),
        line_at(4, b"two\n"),
        line_at(0, b"three\n"),
    ]


def test_a_dataset_may_be_away_for_a_while_when_it_is_rolled(path: Path) -> None:
    """The renamed file is still read, and the new one when it comes."""
    append(path, b"one\n")
    old = path.with_name("dataset-1.jsonl")
    actions: list[Action] = [
        lambda: path.rename(old),
        partial(append, old, b"two\n"),
        lambda: None,
        partial(append, path, b"three\n"),
    ]
    assert data(followed(path, actions)) == b"one\ntwo\nthree\n"


def test_a_torn_tail_that_is_cut_back_was_never_a_line(path: Path) -> None:
    """What is written in its place is yielded as it stands, though it is shorter."""
    append(path, b"one\n")

    def mend() -> None:
        os.truncate(path, 4)
        append(path, b"two\nthr")

    actions: list[Action] = [
        partial(append, path, b"a tail that is torn"),
        mend,
        partial(append, path, b"ee\n"),
    ]
    assert data(followed(path, actions)) == b"one\ntwo\nthree\n"


def test_a_torn_tail_that_is_ended_by_the_next_daemon_is_a_line(path: Path) -> None:
    """All that it lacked was its newline."""
    append(path, b"one\ntwo")
    assert data(followed(path, [lambda: None, partial(append, path, b"\n")])) == b"one\ntwo\n"


def test_a_dataset_that_lost_whole_lines_is_another_one(path: Path) -> None:
    """It is read from its start, and one is told."""
    append(path, b"one\ntwo\n")
    told: list[int] = []

    def replace() -> None:
        path.write_bytes(b"new\n")

    lines = followed(path, [replace], on_restart=lambda: told.append(1))
    assert (data(lines), told) == (b"one\ntwo\nnew\n", [1])


def test_nothing_is_told_of_a_roll_or_of_a_torn_tail(path: Path) -> None:
    """Both belong to the life of a dataset."""
    append(path, b"one\ntw")
    told: list[int] = []
    followed(path, [lambda: os.truncate(path, 4), partial(roll, path)], on_restart=lambda: told.append(1))
    assert told == []


def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """Waiting would not help."""
    with Follower(tmp_path) as follower, pytest.raises(IsADirectoryError):
        follower.read()


def test_the_descriptor_is_given_up_at_the_end(path: Path) -> None:
    """Also that of a file which was rolled away."""
    append(path, b"one\n")
    before = len(list(Path("/proc/self/fd").iterdir()))
    followed(path, [partial(roll, path)])
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_line_that_spans_many_blocks_is_whole(path: Path) -> None:
    """As are the lines around it."""
    append(path, b"one\n" + b"x" * 100 + b"\ntwo\n")
    with Follower(path, block=7) as follower:
        lines = drained(follower)
    assert [(line.offset, len(line.data)) for line in lines] == [(0, 4), (4, 101), (105, 4)]


def test_a_huge_unterminated_tail_costs_no_memory(path: Path) -> None:
    """Nor does looking for the last lines before it."""
    append(path, b"one\ntwo\n")
    os.truncate(path, 64 << 20)  # a hole: bytes that are no newline
    tracemalloc.start()
    try:
        with Follower(path, last=1, block=1 << 16) as follower:
            assert data(drained(follower)) == b"two\n"
            append(path, b"more")
            assert drained(follower) == []
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


pieces = st.binary(min_size=1, max_size=12).map(lambda piece: piece.replace(b"\n", b"x"))
steps = st.one_of(
    st.tuples(st.just("part"), pieces),
    st.tuples(st.just("line"), pieces),
    st.tuples(st.just("end")),
    st.tuples(st.just("cut"), st.integers(0, 12)),
    st.tuples(st.just("away")),
    st.tuples(st.just("roll")),
    st.tuples(st.just("look")),
)


class _Model:
    """A dataset on the disk, and the lines that its follower has to have seen."""

    def __init__(self, path: Path, block: int) -> None:
        path.touch()
        self.follower = Follower(path, block=block)
        self.seen: list[bytes] = []
        self.lines: list[bytes] = []
        self._live = path
        self._path = path
        self._tail = b""
        self._rolls = 0
        self._looked = 0

    def step(self, name: str, *arguments: Any) -> None:
        getattr(self, name)(*arguments)

    def part(self, piece: bytes) -> None:
        append(self._live, piece)
        self._tail += piece

    def end(self) -> None:
        append(self._live, b"\n")
        self.lines.append(self._tail + b"\n")
        self._tail = b""

    def line(self, piece: bytes) -> None:
        self.part(piece)
        self.end()

    def cut(self, left: int) -> None:
        gone = len(self._tail[left:])
        os.truncate(self._live, self._live.stat().st_size - gone)
        self._tail = self._tail[:left]

    def away(self) -> None:
        """Rename the live file, which is still written to."""
        if self._looked != self._rolls:
            self.look()  # a file that came and went between two looks cannot be seen
        if self._live == self._path:
            self._live = self._live.rename(self._path.with_name(f"part-{self._rolls}"))

    def roll(self) -> None:
        self.away()
        self._live, self._tail = self._path, b""
        self._live.touch()
        self._rolls += 1

    def look(self) -> None:
        self.seen += [line.data for line in drained(self.follower)]
        self._looked = self._rolls


@given(st.lists(steps, max_size=40), st.integers(1, 20))
def test_every_whole_line_is_seen_once_and_in_order(script: list[tuple[Any, ...]], block: int) -> None:
    """Whatever the daemon, a crash and a roll do between two looks."""
    with tempfile.TemporaryDirectory() as folder:
        model = _Model(Path(folder, "dataset.jsonl"), block)
        with model.follower:
            for step in script:
                model.step(*step)
                assert model.seen == model.lines[: len(model.seen)]
            model.line(b"the last one")
            model.look()
            assert model.seen == model.lines
