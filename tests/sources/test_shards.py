"""The shard folder: which files are shards, which lines are finished, and whether a shard is unchanged."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.base.env import Env
from streamer.base.files import Files
from streamer.core.records.model import Cursor, Line, Span, State
from streamer.sources.folder import OwnFiles
from streamer.sources.reader import Budget, Overwritten, ShardRead, ShardReader, Unreadable
from streamer.sources.shards import FoundShard, ShardFolder
from tests.helpers.producer import FakeClock

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
PLENTY = 1 << 40


class Counted(Files):
    """Real files that remember how much was read at once, and in all."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """Read, and remember how much."""
        self.sizes.append(size)
        return super().pread(fd, size, offset)


class Interfering(Files):
    """Real files to which something happens while they are read."""

    def __init__(self, path: Path, data: bytes) -> None:
        self._path = path
        self._data: bytes | None = data

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """Read, and then let the producer write once."""
        found = super().pread(fd, size, offset)
        if self._data is not None:
            self._path.write_bytes(self._data)
            self._data = None
        return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return an empty shard folder."""
    path = tmp_path / "shards"
    path.mkdir()
    return path


def folder(root: Path, dataset: Path | None = None, pattern: str = "*.jsonl") -> ShardFolder:
    """Return a shard folder, beside or around a dataset."""
    dataset = dataset or root.parent / "elsewhere.jsonl"
    return ShardFolder(root, pattern, OwnFiles(dataset, dataset.with_name("ledger")))


def reader(
    root: Path, *, files: Files | None = None, clock: FakeClock | None = None, max_line: int = MIB
) -> ShardReader:
    """Return a reader to which all files are old, unless a clock says otherwise."""
    if clock is None:
        clock = FakeClock()
        clock.advance(3600)
    return ShardReader(root, max_line, Env(files=files or Files(), clock=clock))


def names(shards: ShardFolder) -> list[str]:
    """Return the shards that a scan finds."""
    return [found.path for found in shards.scan()]


def read(shards: ShardReader, cursor: Cursor, lines: int = 100, size: int = PLENTY) -> ShardRead:
    """Read a shard that can be read and is the same as before."""
    result = shards.read(cursor, Budget(lines, size))
    assert isinstance(result, ShardRead)
    return result


def texts(lines: object) -> list[bytes | None]:
    """Return the data of all lines."""
    assert isinstance(lines, list)
    return [line.data for line in lines]


class TestScan:
    """Finding shards."""

    def test_shards_are_found_in_order_of_path_in_all_sub_folders(self, root: Path) -> None:
        """A run id with a slash makes folders."""
        for name in ("b.jsonl", "a/z.jsonl", "a/b/c.jsonl", "B.jsonl", "a.jsonl", ".hidden/x.jsonl"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
        assert names(folder(root)) == [
            ".hidden/x.jsonl", "B.jsonl", "a/b/c.jsonl", "a/z.jsonl", "a.jsonl", "b.jsonl",
        ]  # fmt: skip

    def test_only_names_that_fit_the_pattern_are_shards(self, root: Path) -> None:
        """The pattern is for the name of the file, in any folder, and upper case is not lower case."""
        (root / "sft").mkdir()
        for name in ("sft_1.jsonl", "1.jsonl", "sft_1.jsonl.tmp", "SFT_2.jsonl", "sft/sft_[3].jsonl"):
            (root / name).touch()
        assert names(folder(root, pattern="sft_*.jsonl")) == ["sft/sft_[3].jsonl", "sft_1.jsonl"]

    def test_links_fifos_and_folders_are_no_shards(self, root: Path, tmp_path: Path) -> None:
        """A link could lead anywhere, a FIFO could hang the daemon."""
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "x.jsonl").touch()
        (root / "file.jsonl").symlink_to(elsewhere / "x.jsonl")
        (root / "folder").symlink_to(elsewhere)
        (root / "loop").symlink_to(root)
        (root / "broken.jsonl").symlink_to("nowhere")
        os.mkfifo(root / "fifo.jsonl")
        (root / "folder.jsonl").mkdir()
        shards = folder(root)
        assert names(shards) == []
        for name in ("file.jsonl", "folder/x.jsonl", "broken.jsonl", "fifo.jsonl", "folder.jsonl", "gone.jsonl"):
            assert shards.find(name) is None

    @pytest.mark.parametrize("name", ["file.jsonl", "fifo.jsonl", "gone.jsonl", "folder.jsonl"])
    def test_what_became_no_shard_after_the_scan_is_not_read(self, root: Path, name: str) -> None:
        """Nor waited for; only what is gone is nothing to speak of."""
        (root / "target").write_bytes(b"secret\n")
        (root / "file.jsonl").symlink_to(root / "target")
        os.mkfifo(root / "fifo.jsonl")
        (root / "folder.jsonl").mkdir()
        result = reader(root).read(Cursor(name), Budget(10, PLENTY))
        assert isinstance(result, Unreadable)
        assert result.gone is (name == "gone.jsonl")
        assert result.cause

    def test_names_that_cannot_be_decoded_are_shards_like_others(self, root: Path) -> None:
        """A name is bytes."""
        with open(os.fsencode(root) + b"/\xff\xfe.jsonl", "wb") as file:
            file.write(b"one\n")
        shards = folder(root)
        (name,) = names(shards)
        assert os.fsencode(name) == b"\xff\xfe.jsonl"
        assert shards.find(name) == next(iter(shards.scan()))
        assert texts(read(reader(root), Cursor(name)).lines) == [b"one"]

    def test_our_own_files_are_no_shards(self, root: Path) -> None:
        """The dataset may lie in the folder if the pattern takes it for no shard, and even if it does."""
        for name in ("good.jsonl", "a.jsonl"):
            (root / name).touch()
        (root / "alias").symlink_to(root)
        assert names(folder(root, root / "alias" / "good.jsonl")) == ["a.jsonl"]

    def test_files_that_come_and_go_beside_our_own_are_no_shards(self, root: Path) -> None:
        """SQLite's files beside the ledger, a new manifest: a daemon that read its own files would never be idle."""
        for name in ("ledger-wal", "ledger-shm", "ledger-journal", "ledger.new", "ledger.new-journal"):
            (root / name).touch()
        (root / "good.jsonl.manifest.json.new").touch()
        (root / "another-wal").touch()
        assert names(folder(root, root / "good.jsonl", "*")) == ["another-wal"]

    def test_closed_parts_of_our_dataset_are_no_shards(self, root: Path) -> None:
        """As long as there is a manifest, which says that it rolls; those of another one are shards."""
        for name in ("good-00001.jsonl", "good-00002x.jsonl", "better-00001.jsonl", "good-0001.jsonl"):
            (root / name).touch()
        assert "good-00001.jsonl" in names(folder(root, root / "good.jsonl"))
        (root / "good.jsonl.manifest.json").touch()
        expected = ["better-00001.jsonl", "good-00002x.jsonl", "good-0001.jsonl"]
        assert names(folder(root, root / "good.jsonl")) == expected
        (root / "sub").mkdir()
        (root / "sub" / "good-00001.jsonl").touch()
        assert names(folder(root, root / "good.jsonl")) == [*expected, "sub/good-00001.jsonl"]

    def test_a_folder_that_is_not_there_is_an_error(self, tmp_path: Path) -> None:
        """Nothing found would look like an empty folder."""
        with pytest.raises(FileNotFoundError):
            names(folder(tmp_path / "gone"))

    def test_a_found_shard_says_in_which_state_it_was(self, root: Path) -> None:
        """Device, inode, size and both times."""
        (root / "a.jsonl").write_bytes(b"one\n")
        state = (root / "a.jsonl").stat()
        expected = (state.st_dev, state.st_ino, 4, state.st_mtime_ns, state.st_ctime_ns)
        assert list(folder(root).scan()) == [FoundShard("a.jsonl", expected)]


class TestLines:
    """Reading finished lines."""

    def test_only_finished_lines_are_read(self, root: Path) -> None:
        """A line ends at a newline alone; the tail waits, and is read when it is finished."""
        path = root / "a.jsonl"
        path.write_bytes(b"one\r\n\xe2\x80\xa8\x85\x0btwo\n\nthr")
        shards = reader(root)
        first = read(shards, Cursor("a.jsonl", id=3))
        assert first.lines == [
            Line("a.jsonl", 1, 0, 5, b"one\r"),
            Line("a.jsonl", 2, 5, 14, b"\xe2\x80\xa8\x85\x0btwo"),
            Line("a.jsonl", 3, 14, 15, b""),
        ]
        assert (first.cursor.id, first.cursor.offset, first.cursor.lines, first.cursor.scanned) == (3, 15, 3, 18)
        assert not first.more
        assert read(shards, first.cursor).lines == []
        with path.open("ab") as file:
            file.write(b"ee\n")
        second = read(shards, first.cursor)
        assert [(line.number, line.start, line.stop, line.data) for line in second.lines] == [(4, 15, 21, b"three")]

    def test_the_budget_ends_a_read_and_the_cursor_goes_on_from_there(self, root: Path) -> None:
        """By lines, by bytes, or by time; one line is always read."""
        (root / "a.jsonl").write_bytes(b"one\ntwo\nthree\n")
        shards = reader(root)
        first = read(shards, Cursor("a.jsonl"), lines=2)
        assert (texts(first.lines), first.more, first.cursor.offset) == ([b"one", b"two"], True, 8)
        assert texts(read(shards, first.cursor).lines) == [b"three"]
        assert texts(read(shards, Cursor("a.jsonl"), size=1).lines) == [b"one"]
        late = shards.read(Cursor("a.jsonl"), Budget(10, PLENTY, lambda: True))
        assert isinstance(late, ShardRead)
        assert texts(late.lines) == [b"one"]

    @given(st.lists(st.sampled_from([0, 1, 5, MIB - 2, MIB - 1, MIB, MIB + 1]), max_size=5), st.integers(1, 3))
    def test_lines_across_blocks_are_read_whole(
        self, tmp_path_factory: pytest.TempPathFactory, sizes: list[int], budget: int
    ) -> None:
        """Wherever the borders fall, and however many batches it takes."""
        root = tmp_path_factory.mktemp("shards")
        lines = [bytes([97 + i]) * size for i, size in enumerate(sizes)]
        (root / "a.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
        shards = reader(root, max_line=2 * MIB)
        found: list[Line] = []
        cursor = Cursor("a.jsonl")
        while (part := read(shards, cursor, lines=budget)).lines:
            found += part.lines
            cursor = part.cursor
        assert texts(found) == lines
        assert [line.number for line in found] == list(range(1, len(lines) + 1))
        (root / "a.jsonl").unlink()

    def test_a_line_longer_than_the_limit_is_never_read_whole(self, root: Path) -> None:
        """Its first bytes are enough for the dead letter."""
        (root / "a.jsonl").write_bytes(b"short\n" + b"x" * (20 * MIB) + b"\nend\n")
        files = Counted()
        found = read(reader(root, files=files, max_line=3 * MIB), Cursor("a.jsonl"))
        assert texts(found.lines) == [b"short", None, b"end"]
        line = found.lines[1]
        assert (line.start, line.stop, line.head) == (6, 7 + 20 * MIB, b"x" * 200)
        assert max(files.sizes) <= MIB

    def test_the_limit_itself_is_not_too_long(self, root: Path) -> None:
        """Within one block and across blocks."""
        for limit in (10, 3 * MIB):
            (root / "a.jsonl").write_bytes(b"x" * limit + b"\n" + b"y" * (limit + 1) + b"\n")
            assert texts(read(reader(root, max_line=limit), Cursor("a.jsonl")).lines) == [b"x" * limit, None]

    def test_an_unfinished_line_beyond_the_limit_is_not_searched_twice(self, root: Path) -> None:
        """It may grow for hours, and is not taken anyway."""
        path = root / "a.jsonl"
        path.write_bytes(b"one\n" + b"x" * (20 * MIB))
        files = Counted()
        shards = reader(root, files=files, max_line=2 * MIB)
        first = read(shards, Cursor("a.jsonl"))
        files.sizes.clear()
        with path.open("ab") as file:
            file.write(b"yz")
        second = read(shards, first.cursor)
        assert second.lines == []
        assert sum(files.sizes) < 6 * MIB  # windows to know it again, before and after
        with path.open("ab") as file:
            file.write(b"\n")
        assert texts(read(shards, second.cursor).lines) == [None]

    def test_a_span_is_read_again_from_where_it_stands(self, root: Path) -> None:
        """Its lines keep their numbers; the budget may cut it short."""
        (root / "a.jsonl").write_bytes(b"one\ntwo\nthree\nfour\n")
        shards = reader(root)
        cursor = read(shards, Cursor("a.jsonl", id=1)).cursor
        span = Span(1, 4, 14, 2, 2, "s", State.WAITING)
        lines = shards.read_span(cursor, span, Budget(10, PLENTY))
        assert isinstance(lines, list)
        assert [(line.number, line.start, line.data) for line in lines] == [(2, 4, b"two"), (3, 8, b"three")]
        short = shards.read_span(cursor, span, Budget(1, PLENTY))
        assert texts(short) == [b"two"]


class TestIdentity:
    """Telling a shard that grew from one that was overwritten."""

    BEFORE = b"one\ntwo\n"

    @pytest.mark.parametrize(
        "after",
        [b"", b"one\n", b"new\n", b"one\nTWO\n", b"ONE\ntwo\n", b"ONE\ntwo\nthree\n", b"x" * 100, b"one\ntw"],
    )
    @pytest.mark.parametrize("in_place", [True, False])
    def test_other_bytes_before_the_cursor_are_noticed(self, root: Path, after: bytes, in_place: bool) -> None:  # noqa: FBT001
        """Smaller, equal or larger; in the same file or in another one under its name."""
        path = root / "a.jsonl"
        path.write_bytes(self.BEFORE)
        shards = reader(root)
        cursor = read(shards, Cursor("a.jsonl", id=1)).cursor
        target = path if in_place else root / "new"
        target.write_bytes(after)
        target.rename(path)
        assert shards.read(cursor, Budget(10, PLENTY)) == Overwritten(cursor)
        span = Span(1, 0, 8, 1, 2, "s", State.WAITING)
        assert shards.read_span(cursor, span, Budget(10, PLENTY)) == Overwritten(cursor)

    @pytest.mark.parametrize("more", [b"", b"three\n"])
    @pytest.mark.parametrize("in_place", [True, False])
    def test_equal_bytes_before_the_cursor_are_enough(self, root: Path, more: bytes, in_place: bool) -> None:  # noqa: FBT001
        """A copy, a restored or rewritten file goes on where the first one ended."""
        path = root / "a.jsonl"
        path.write_bytes(self.BEFORE)
        shards = reader(root)
        cursor = read(shards, Cursor("a.jsonl", id=1)).cursor
        target = path if in_place else root / "new"
        target.write_bytes(b"")
        target.write_bytes(self.BEFORE + more)
        target.rename(path)
        assert texts(read(shards, cursor).lines) == ([b"three"] if more else [])

    def test_a_tail_may_change_while_it_is_unfinished(self, root: Path) -> None:
        """It was never read; and it may even become shorter."""
        path = root / "a.jsonl"
        path.write_bytes(b"one\n" + b"x" * 50)
        shards = reader(root)
        cursor = read(shards, Cursor("a.jsonl")).cursor
        path.write_bytes(b"one\ny\n")
        assert texts(read(shards, cursor).lines) == [b"y"]

    @pytest.mark.parametrize("spot", [0, 1, 4 * MIB, 8 * MIB - 2])
    def test_one_byte_in_eight_megabytes_is_noticed(self, root: Path, spot: int) -> None:
        """Shards up to this size are compared whole, even those that grew meanwhile."""
        path = root / "a.jsonl"
        data = bytearray(b"x" * (8 * MIB - 1) + b"\n")
        path.write_bytes(data)
        shards = reader(root, max_line=16 * MIB)
        cursor = read(shards, Cursor("a.jsonl")).cursor
        data[spot] = ord("y")
        path.write_bytes(data + b"more\n")
        assert isinstance(shards.read(cursor, Budget(10, PLENTY)), Overwritten)

    @pytest.mark.parametrize("spot", [0, 1, 9 * MIB, 20 * MIB - 2])
    def test_a_large_shard_that_grew_is_compared_in_windows(self, root: Path, spot: int) -> None:
        """From its first byte to its last; a shard that was replaced as a whole is always noticed."""
        path = root / "a.jsonl"
        data = bytearray(b"x" * (20 * MIB - 1) + b"\n")
        path.write_bytes(data)
        files = Counted()
        shards = reader(root, files=files, max_line=32 * MIB)
        cursor = read(shards, Cursor("a.jsonl")).cursor
        files.sizes.clear()
        with path.open("ab") as file:
            file.write(b"more\n")
        assert texts(read(shards, cursor).lines) == [b"more"]
        assert sum(files.sizes) <= 6 * MIB
        data[spot : spot + 2 * MIB] = b"y" * len(data[spot : spot + 2 * MIB])
        path.write_bytes(data + b"more\n")
        assert isinstance(shards.read(cursor, Budget(10, PLENTY)), Overwritten)

    @pytest.mark.parametrize("in_place", [True, False])
    def test_a_large_shard_that_changed_without_growing_is_read_again(self, root: Path, in_place: bool) -> None:  # noqa: FBT001
        """A single byte between all windows, in the same file or in another one, even one that is longer."""
        path = root / "a.jsonl"
        data = bytearray(b"x" * (20 * MIB - 1) + b"\n")
        path.write_bytes(data)
        os.utime(path, (1, 1))
        shards = reader(root, max_line=32 * MIB)
        cursor = read(shards, Cursor("a.jsonl")).cursor
        data[MIB] = ord("y")
        target = path if in_place else root / "new"
        target.write_bytes(data if in_place else data + b"more\n")
        target.rename(path)
        assert isinstance(shards.read(cursor, Budget(10, PLENTY)), Overwritten)

    def test_a_renamed_shard_is_recognised_by_its_bytes(self, root: Path) -> None:
        """An inode alone proves nothing: it may have been given to another file."""
        (root / "a.jsonl").write_bytes(self.BEFORE)
        shards = reader(root)
        cursor = read(shards, Cursor("a.jsonl")).cursor
        (root / "a.jsonl").rename(root / "b.jsonl")
        found = folder(root).find("b.jsonl")
        assert found is not None
        assert found.stat[:2] == cursor.stat[:2]
        assert shards.recognises(cursor, found.path)
        (root / "b.jsonl").write_bytes(b"ONE\ntwo\n")
        assert not shards.recognises(cursor, found.path)
        assert not shards.recognises(Cursor("a.jsonl"), found.path)

    def test_a_shard_that_changed_just_now_is_looked_at_again(self, root: Path) -> None:
        """It may change again within the same tick of the file system's clock."""
        (root / "a.jsonl").write_bytes(self.BEFORE)
        clock = FakeClock()
        shards = reader(root, clock=clock)
        state = next(iter(folder(root).scan())).stat
        recent = read(shards, Cursor("a.jsonl")).cursor
        assert recent.stat[:2] == state[:2]
        assert recent.stat != state
        clock.advance(3600)
        assert read(shards, recent).cursor.stat == state

    @pytest.mark.parametrize("after", [b"ONE\nTWO\n", b"ONE\n", b"", b"ONE\nTWO\nTHREE\n"])
    def test_a_shard_that_is_overwritten_while_it_is_read_is_read_again(self, root: Path, after: bytes) -> None:
        """Lines that are no longer there are not passed on; the cursor does not move past them."""
        path = root / "a.jsonl"
        path.write_bytes(self.BEFORE)
        torn = read(reader(root, files=Interfering(path, after)), Cursor("a.jsonl", id=1))
        assert (torn.lines, torn.cursor.offset) == ([], 0)
        again = read(reader(root), torn.cursor)
        assert texts(again.lines) == after.split(b"\n")[:-1]

    def test_a_shard_that_grows_while_it_is_read_loses_nothing(self, root: Path) -> None:
        """Bytes that arrive too late for this read are read by the next."""
        path = root / "a.jsonl"
        path.write_bytes(self.BEFORE)
        first = read(reader(root, files=Interfering(path, self.BEFORE + b"three\n")), Cursor("a.jsonl"))
        assert texts(first.lines) == [b"one", b"two"]
        state = folder(root).find("a.jsonl")
        assert state is not None
        assert first.cursor.stat != state.stat
        assert texts(read(reader(root), first.cursor).lines) == [b"three"]
