"""What moves with a bucket from one writer to the next: its keys, and what of each collector is held.

The first line is JSON, and what follows it is no text::

    {"format":1,"bucket":7,"buckets":32,"dedup":"conversation/2","keys":120000,"origins":[...]}
    16 bytes for each key, in order, without anything between them

The keys are enough for the promise that no record is there twice; the lines stay where they were written. What is held
of the collectors saves them from sending again what the writer before has said that it holds.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from streamer.base.errors import RefusedError
from streamer.config.fleet_names import bucket_of
from streamer.core.records.key import KEY_BYTES
from streamer.fleet import origins

if TYPE_CHECKING:
    from pathlib import Path

_FORMAT = 1
ELSEWHERE = -1
"""The place of a record that is in the dataset of another writer."""

_CHUNK = 4096
"""Keys that are read or written at once."""

_LONGEST_HEAD = 16 << 20


class HandoffHead(msgspec.Struct, frozen=True):
    """The first line. ``dedup`` is what the keys mean; ``origins`` are rows of the table ``origin``."""

    format: int
    bucket: int
    buckets: int
    dedup: str
    keys: int
    origins: tuple[tuple[str, str, str, int, float], ...] = ()


def export(ledger: Path, wanted: Iterable[int], buckets: int, folder: Path) -> dict[int, Path]:
    """Write what moves with some buckets, in one pass over the keys; nothing may change their keys meanwhile.

    Args:
        ledger: of the writer that has them.
        wanted: the buckets.
        buckets: how many there are in all.
        folder: where the files are made; they are called by their buckets.

    Returns: bucket -> file.
    """
    with closing(sqlite3.connect(f"{ledger.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)) as db:
        db.execute("BEGIN")
        (dedup,) = db.execute("SELECT keys FROM meta").fetchone()
        found = {bucket: folder / f"{bucket}.keys" for bucket in wanted}
        counts = _sort_out((key for (key,) in db.execute("SELECT key FROM record ORDER BY key")), found, buckets)
        heads = {
            bucket: HandoffHead(_FORMAT, bucket, buckets, dedup, counts[bucket], tuple(origins.rows_of(db, bucket)))
            for bucket in found
        }
    return {bucket: _complete(found[bucket], heads[bucket]) for bucket in found}


def write_keys(keys: Iterable[bytes], wanted: Iterable[int], buckets: int, dedup: str, folder: Path) -> dict[int, Path]:
    """Write the same from keys that come in order; nothing is known of collectors then."""
    found = {bucket: folder / f"{bucket}.keys" for bucket in wanted}
    counts = _sort_out(keys, found, buckets)
    return {
        bucket: _complete(path, HandoffHead(_FORMAT, bucket, buckets, dedup, counts[bucket]))
        for bucket, path in found.items()
    }


def _sort_out(keys: Iterable[bytes], found: Mapping[int, Path], buckets: int) -> dict[int, int]:
    """Write each key into the file of its bucket, without a head; return how many there are in each."""
    counts = dict.fromkeys(found, 0)
    with ExitStack() as stack:
        files = {bucket: stack.enter_context(path.with_suffix(".body").open("wb")) for bucket, path in found.items()}
        for key in keys:
            bucket = bucket_of(key, buckets)
            if bucket in files:
                files[bucket].write(key)
                counts[bucket] += 1
    return counts


def _complete(path: Path, head: HandoffHead) -> Path:
    """Put the head before the keys."""
    body = path.with_suffix(".body")
    with path.open("wb") as whole, body.open("rb") as keys:
        whole.write(msgspec.json.encode(head) + b"\n")
        while piece := keys.read(_CHUNK * KEY_BYTES):
            whole.write(piece)
    body.unlink()
    return path


def read_head(file: BinaryIO, bucket: int, buckets: int, dedup: str) -> HandoffHead:
    """Return the first line of a file, which is one of this bucket.

    Args:
        file: at its start; afterwards at the first key.
        bucket: which one it has to be.
        buckets: how many there have to be.
        dedup: what keys have to mean.

    Raises:
        RefusedError: it is something else.
    """
    line = file.readline(_LONGEST_HEAD)
    try:
        head = msgspec.json.decode(line, type=HandoffHead)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _refused(bucket, f"they do not begin as they should: {error}") from None
    expected = (_FORMAT, bucket, buckets, dedup)
    found = (head.format, head.bucket, head.buckets, head.dedup)
    if found != expected:
        raise _refused(bucket, f"(format, bucket, buckets, dedup) are {found}, and should be {expected}")
    return head


def count(file: Path) -> int:
    """Return how many keys a file holds that was written here."""
    with file.open("rb") as opened:
        return msgspec.json.decode(opened.readline(), type=HandoffHead).keys


def keys_in(file: BinaryIO, head: HandoffHead) -> Iterator[bytes]:
    """Return the keys of a file whose head was read.

    Raises:
        RefusedError: there are fewer or more than its head says, or one of another bucket.
    """
    count = 0
    while piece := file.read(_CHUNK * KEY_BYTES):
        for start in range(0, len(piece), KEY_BYTES):
            key = piece[start : start + KEY_BYTES]
            if len(key) < KEY_BYTES or bucket_of(key, head.buckets) != head.bucket:
                raise _refused(head.bucket, f"the key {key.hex()} is not one of it")
            count += 1
            yield key
    if count != head.keys:
        raise _refused(head.bucket, f"there are {count:,} of them, and {head.keys:,} should be there")


def take_in(db: sqlite3.Connection, head: HandoffHead, keys: Iterable[bytes]) -> int:
    """Take over what moved, in a transaction of the writer's ledger; return how many keys were new."""
    before = db.total_changes
    db.executemany(
        f"INSERT OR IGNORE INTO record (key, offset, claimed) VALUES (?, {ELSEWHERE}, 1)", ((key,) for key in keys)
    )
    new = db.total_changes - before
    origins.take_over(db, head.bucket, head.origins)
    return new


def _refused(bucket: int, cause: str) -> RefusedError:
    hint = f"`streamer fleet take {bucket} --from-dataset PATH` makes others, of a copy of the dataset that holds them"
    return RefusedError("take over the keys of a bucket", f"bucket {bucket}", cause, hint)
