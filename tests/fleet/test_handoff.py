"""Partition handoff: all keys of a partition and no others, or nothing. Durability: any answer of a server is read."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.base.errors import RefusedError
from streamer.base.files import Files
from streamer.config.fleet_names import parse_partitions, partition_of, shown_partitions
from streamer.fleet import durability, handoff, producers
from streamer.store.ledger.ledger import Ledger
from streamer.store.ledger.transactions import BatchCommit
from streamer.store.parts.parts import Part

if TYPE_CHECKING:
    from pathlib import Path

BUCKETS = 4
DEDUP = "conversation/2"
ROW = ("eval-1.ab", "l1", "[[1,3],[7,9]]", 6, 5.0)


def keys(count: int) -> list[bytes]:
    """Return so many keys, over all buckets."""
    return [number.to_bytes(4, "big") + bytes(12) for number in range(count)]


def ledger(path: Path, held: list[bytes], rows: list[tuple[Any, ...]] = []) -> Path:  # noqa: B006 - it is not changed
    """Make a ledger that holds keys, and rows of collectors in bucket 1."""

    async def main() -> None:
        async with Ledger.open(path, Files()) as opened:
            await opened.forget_keys(DEDUP)
            await opened.commit(BatchCommit(appended=[(key, place) for place, key in enumerate(held)]))
            await opened.transact(producers.prepare)
            await opened.transact(lambda db: producers.merge_rows(db, 1, rows))

    anyio.run(main)
    return path


def take_in(path: Path, file: Path, partition: int = 1) -> int:
    """Take a file over into a ledger, in a transaction; return how many keys were new."""

    def work(db: sqlite3.Connection) -> int:
        with file.open("rb") as opened:
            head = handoff.read_head(opened, partition, BUCKETS, DEDUP)
            return handoff.import_keys(db, head, handoff.keys_in(opened, head))

    async def main() -> int:
        async with Ledger.open(path, Files()) as opened:
            return await opened.transact(work)

    return anyio.run(main)


def held(path: Path) -> list[tuple[bytes, int]]:
    """Return keys and places of a ledger."""
    with closing(sqlite3.connect(path)) as db:
        return db.execute("SELECT key, offset FROM record ORDER BY key").fetchall()


def test_a_bucket_takes_its_keys_along_and_no_others(tmp_path: Path) -> None:
    """The next owner knows them, without a place; twice is as good as once."""
    old = ledger(tmp_path / "old", keys(100), [ROW])
    files = handoff.export(old, [1, 2], BUCKETS, tmp_path)
    new = ledger(tmp_path / "new", keys(6))
    mine = [key for key in keys(100) if partition_of(key, BUCKETS) == 1]
    assert take_in(new, files[1]) == len(mine) - 2
    assert take_in(new, files[1]) == 0
    assert held(new)[:6] == [(key, place) for place, key in enumerate(keys(6))]
    assert [key for key, place in held(new) if place == handoff.ELSEWHERE] == mine[2:]
    assert handoff.count(files[1]) == len(mine)
    assert not list(tmp_path.glob("*.body"))


def test_what_is_held_of_collectors_is_united_with_what_was_held_before(tmp_path: Path) -> None:
    """A partition that returns knows the lines that its owner of the meantime has confirmed."""
    files = handoff.export(ledger(tmp_path / "old", [], [ROW]), [1], BUCKETS, tmp_path)
    before = ("eval-1.ab", "l1", "[[1,5]]", 5, 9.0)
    new = ledger(tmp_path / "new", [], [before, ("eval-2.cd", "l1", "[[1,1]]", 1, 1.0)])
    take_in(new, files[1])
    with closing(sqlite3.connect(new)) as db:
        rows = db.execute("SELECT origin, bucket, numbers, seen FROM origin ORDER BY origin").fetchall()
    assert rows == [("eval-1.ab", 1, "[[1,5],[7,9]]", 9.0), ("eval-2.cd", 1, "[[1,1]]", 1.0)]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("cut", "there are"),
        ("half a key", "is not one of it"),
        ("another bucket", "should be"),
        ("another meaning", "should be"),
        ("a foreign key", "is not one of it"),
        ("nothing", "do not begin as they should"),
    ],
)
def test_keys_that_are_not_what_they_should_be_change_nothing(tmp_path: Path, what: str, words: str) -> None:
    """An invalid handoff leaves the ledger as it was."""
    files = handoff.export(ledger(tmp_path / "old", keys(50), [ROW]), [1, 2], BUCKETS, tmp_path)
    file = files[2] if what == "another bucket" else files[1]
    data = file.read_bytes()
    file.write_bytes(
        {
            "cut": data[:-16],
            "half a key": data[:-8],
            "another bucket": data,
            "another meaning": data.replace(DEDUP.encode(), b"prompt/2"),
            "a foreign key": data[:-16] + keys(3)[2],
            "nothing": b"",
        }[what]
    )
    new = ledger(tmp_path / "new", keys(3))
    before = held(new)
    with pytest.raises(RefusedError, match=words) as refused:
        take_in(new, file)
    assert "streamer fleet take 1 --from-dataset" in str(refused.value)
    assert held(new) == before


def test_retention_leaves_keys_alone_that_came_with_a_bucket(tmp_path: Path) -> None:
    """They belong to no part of this dataset."""
    files = handoff.export(ledger(tmp_path / "old", keys(100)), [1], BUCKETS, tmp_path)
    new = ledger(tmp_path / "new", keys(4))
    take_in(new, files[1])
    came = [key for key, place in held(new) if place == handoff.ELSEWHERE]

    async def main() -> None:
        async with Ledger.open(new, Files()) as opened:
            await opened.remove_parts([Part(1, 0, 4, 4, "", 0.0)], forget_keys=True)

    anyio.run(main)
    assert [key for key, _ in held(new)] == came


@given(st.frozensets(st.integers(0, 4095), min_size=1))
def test_buckets_are_shown_as_they_are_written(partitions: frozenset[int]) -> None:
    """The output of `fleet status` is valid input for `fleet take`."""
    assert parse_partitions(shown_partitions(partitions)) == partitions


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "server_name": json_values,
            "jetstream": json_values
            | st.fixed_dictionaries(
                {
                    "config": st.fixed_dictionaries(
                        {}, optional=dict.fromkeys(("sync_always", "sync_interval"), json_values)
                    )
                }
            ),
        },
    )
    | json_values
)
def test_whatever_a_monitoring_answers_is_a_finding(said: Any) -> None:
    """It is good only if the server says that it always syncs."""
    found = durability.read("http://n1:8222", said)
    assert str(found).isprintable()
    if found.is_good:
        assert said["jetstream"]["config"]["sync_always"] is True


def test_a_head_can_be_read_as_it_was_written() -> None:
    """The stored format has a version, and its bytes do not change."""
    head = handoff.HandoffHead(1, 7, 32, DEDUP, 0, (ROW,))
    line = (
        b'{"format":1,"bucket":7,"buckets":32,"dedup":"conversation/2","keys":0,'
        b'"origins":[["eval-1.ab","l1","[[1,3],[7,9]]",6,5.0]]}'
    )
    assert msgspec.json.encode(head) == line
    assert msgspec.json.decode(line, type=handoff.HandoffHead) == head
