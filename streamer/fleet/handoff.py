"""Partition handoff: the file that carries a partition's keys and its collectors' progress to the next writer.

The first line is JSON, the rest binary::

    {"format":1,"bucket":7,"buckets":32,"dedup":"conversation/2","keys":120000,"origins":[...]}
    16 bytes for each key, in order, without separators

The keys suffice to keep every record unique; the lines stay in the dataset where they were written. The progress of
collectors saves them from sending again lines that the previous writer has confirmed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from streamer.base.errors import RefusedError
from streamer.config.fleet_names import partition_of
from streamer.core.records.key import KEY_BYTES
from streamer.fleet import producers

if TYPE_CHECKING:
    from pathlib import Path

_FORMAT = 1
ELSEWHERE = -1
"""Log offset of a record that is in the dataset of another writer."""

_CHUNK = 4096
"""Keys read or written at once."""

_LONGEST_HEAD = 16 << 20


class HandoffHead(msgspec.Struct, frozen=True):
    """The first line. ``dedup`` says how keys are computed; ``producers`` are rows of the table ``origin``."""

    format: int
    partition: int = msgspec.field(name="bucket")
    partitions: int = msgspec.field(name="buckets")
    dedup: str
    keys: int
    producers: tuple[tuple[str, str, str, int, float], ...] = msgspec.field(name="origins", default=())


def export(ledger: Path, wanted: Iterable[int], partitions: int, folder: Path) -> dict[int, Path]:
    """Write the handoff files of some partitions in one pass over the keys, which must not change meanwhile.

    Args:
        ledger: Ledger of the owner.
        wanted: The partitions to hand over.
        partitions: Number of all partitions.
        folder: Where to create the files.

    Returns: partition -> file.
    """
    with closing(sqlite3.connect(f"{ledger.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)) as db:
        db.execute("BEGIN")
        (dedup,) = db.execute("SELECT keys FROM meta").fetchone()
        found = {partition: folder / f"{partition}.keys" for partition in wanted}
        counts = _split((key for (key,) in db.execute("SELECT key FROM record ORDER BY key")), found, partitions)
        heads = {
            partition: HandoffHead(
                _FORMAT, partition, partitions, dedup, counts[partition], tuple(producers.rows_of(db, partition))
            )
            for partition in found
        }
    return {partition: _complete(found[partition], heads[partition]) for partition in found}


def write_keys(
    keys: Iterable[bytes], wanted: Iterable[int], partitions: int, dedup: str, folder: Path
) -> dict[int, Path]:
    """Write handoff files from sorted keys, without the progress of collectors."""
    found = {partition: folder / f"{partition}.keys" for partition in wanted}
    counts = _split(keys, found, partitions)
    return {
        partition: _complete(path, HandoffHead(_FORMAT, partition, partitions, dedup, counts[partition]))
        for partition, path in found.items()
    }


def _split(keys: Iterable[bytes], found: Mapping[int, Path], partitions: int) -> dict[int, int]:
    """Write each key into the file of its partition, without a head; return the number of keys in each."""
    counts = dict.fromkeys(found, 0)
    with ExitStack() as stack:
        files = {
            partition: stack.enter_context(path.with_suffix(".body").open("wb")) for partition, path in found.items()
        }
        for key in keys:
            partition = partition_of(key, partitions)
            if partition in files:
                files[partition].write(key)
                counts[partition] += 1
    return counts


def _complete(path: Path, head: HandoffHead) -> Path:
    """Add the head before the keys."""
    body = path.with_suffix(".body")
    with path.open("wb") as whole, body.open("rb") as keys:
        whole.write(msgspec.json.encode(head) + b"\n")
        while piece := keys.read(_CHUNK * KEY_BYTES):
            whole.write(piece)
    body.unlink()
    return path


def read_head(file: BinaryIO, partition: int, partitions: int, dedup: str) -> HandoffHead:
    """Return the head of a file, after checking that it is the handoff of this partition.

    Args:
        file: Positioned at its start; afterwards at the first key.
        partition: The expected partition.
        partitions: The expected number of partitions.
        dedup: The expected meaning of keys.

    Raises:
        RefusedError: The file is no such handoff.
    """
    line = file.readline(_LONGEST_HEAD)
    try:
        head = msgspec.json.decode(line, type=HandoffHead)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _refused(partition, f"they do not begin as they should: {error}") from None
    expected = (_FORMAT, partition, partitions, dedup)
    found = (head.format, head.partition, head.partitions, head.dedup)
    if found != expected:
        raise _refused(partition, f"(format, bucket, buckets, dedup) are {found}, and should be {expected}")
    return head


def count(file: Path) -> int:
    """Return the number of keys in a file written by this module."""
    with file.open("rb") as opened:
        return msgspec.json.decode(opened.readline(), type=HandoffHead).keys


def keys_in(file: BinaryIO, head: HandoffHead) -> Iterator[bytes]:
    """Yield the keys of a file whose head was read.

    Raises:
        RefusedError: The number of keys differs from the head, or a key belongs to another partition.
    """
    count = 0
    while piece := file.read(_CHUNK * KEY_BYTES):
        for start in range(0, len(piece), KEY_BYTES):
            key = piece[start : start + KEY_BYTES]
            if len(key) < KEY_BYTES or partition_of(key, head.partitions) != head.partition:
                raise _refused(head.partition, f"the key {key.hex()} is not one of it")
            count += 1
            yield key
    if count != head.keys:
        raise _refused(head.partition, f"there are {count:,} of them, and {head.keys:,} should be there")


def import_keys(db: sqlite3.Connection, head: HandoffHead, keys: Iterable[bytes]) -> int:
    """Store a handoff in a transaction of the new owner's ledger; return how many keys were new."""
    before = db.total_changes
    db.executemany(
        f"INSERT OR IGNORE INTO record (key, offset, claimed) VALUES (?, {ELSEWHERE}, 1)", ((key,) for key in keys)
    )
    new = db.total_changes - before
    producers.merge_rows(db, head.partition, head.producers)
    return new


def _refused(partition: int, cause: str) -> RefusedError:
    hint = (
        f"`streamer fleet take {partition} --from-dataset PATH` makes others, of a copy of the dataset that holds them"
    )
    return RefusedError("take over the keys of a bucket", f"bucket {partition}", cause, hint)
