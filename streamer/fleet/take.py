"""Buckets of a writer that is gone for good are given up in its place, by a person.

Their keys are computed from the lines of a copy of its dataset. What the servers still have of keys that came to it
from writers before is kept, too.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from anyio import to_thread

from streamer.base.errors import RefusedError, UnavailableError
from streamer.base.lock import holder, lock_file
from streamer.base.text import printable
from streamer.config.fleet_names import bucket_of, shown_buckets
from streamer.core.records.dataset_line import keys_meaning, line_key
from streamer.fleet import moving
from streamer.fleet.owners import (
    BucketState,
    Owner,
    get_keys,
    keys_of,
    owners_of,
    put_keys,
    read_all,
    set_entry,
)
from streamer.store.parts.files import open_dataset

if TYPE_CHECKING:
    from nats.js.object_store import ObjectStore

    from streamer.config.fleet_names import Names
    from streamer.core.records.key import DedupBy
    from streamer.fleet.connection import Link
    from streamer.fleet.owners import OwnerEntry

_OP = "take buckets from a writer"


class Taken(NamedTuple):
    """A bucket that anybody may have now, who had it, and how many keys go with it."""

    bucket: int
    writer: str
    keys: int


async def take(
    link: Link, names: Names, wanted: Collection[int], buckets: int, by: DedupBy, dataset: Path | None
) -> list[Taken]:
    """Give buckets up in the place of their owner.

    Args:
        link: of a user who may do that.
        names: of the fleet.
        wanted: the buckets.
        buckets: how many there are.
        by: what makes two records the same one.
        dataset: a copy of the owner's dataset, or None to go on without its keys.

    Raises:
        RefusedError: there are no such buckets, the dataset is being written, holds a line that is none of ours; or
            somebody else changed the owner meanwhile.
        UnavailableError: the dataset cannot be read, or the servers do not answer.
    """
    if beyond := [bucket for bucket in wanted if bucket >= buckets]:
        cause = f"there is no bucket {beyond[0]}: they are numbered from 0 to {buckets - 1}"
        raise RefusedError(_OP, names.stream, cause)
    if dataset is not None and (who := holder(lock_file(dataset))) is not None:
        hint = "its writer runs: give it other source.buckets and restart it, and it hands them over itself"
        raise RefusedError(_OP, printable(str(dataset)), f"{who} holds it", hint)
    store, objects = await owners_of(link, names), await keys_of(link, names)
    entries = await read_all(link, store, names, wanted)
    with TemporaryDirectory(prefix="streamer-") as name:
        folder = Path(name)
        with closing(sqlite3.connect(folder / "keys.db", isolation_level=None, check_same_thread=False)) as db:
            db.execute("CREATE TABLE found (key BLOB PRIMARY KEY) WITHOUT ROWID")
            db.execute("BEGIN")
            if dataset is not None:
                await to_thread.run_sync(_put, db, _keys_of_lines(dataset, frozenset(wanted), buckets, by))
            for bucket, entry in entries.items():
                if entry.owner.keys:
                    await _put_earlier(link, objects, db, bucket, entry, buckets, by, folder)
            rows = (key for (key,) in db.execute("SELECT key FROM found ORDER BY key"))
            files = await to_thread.run_sync(moving.write_keys, rows, wanted, buckets, keys_meaning(by), folder)
        taken = []
        for bucket in sorted(wanted):
            before = entries.get(bucket)
            had = before.owner.writer if before is not None else ""
            released = Owner(BucketState.RELEASED, had, await put_keys(link, objects, bucket, files[bucket]))
            if not await set_entry(link, store, names, bucket, released, before):
                cause = "somebody changed its owner meanwhile"
                raise RefusedError(_OP, f"bucket {bucket}", cause, "see `streamer fleet status`")
            taken.append(Taken(bucket, had, moving.count(files[bucket])))
    return taken


async def _put_earlier(
    link: Link,
    objects: ObjectStore,
    db: sqlite3.Connection,
    bucket: int,
    entry: OwnerEntry,
    buckets: int,
    by: DedupBy,
    folder: Path,
) -> None:
    """Add the keys with which a bucket came to the writer that had it."""
    file = folder / "earlier"
    await get_keys(link, objects, entry.owner.keys, file)

    def work() -> None:
        with file.open("rb") as earlier:
            head = moving.read_head(earlier, bucket, buckets, keys_meaning(by))
            _put(db, moving.keys_in(earlier, head))

    await to_thread.run_sync(work)


def _put(db: sqlite3.Connection, keys: Iterator[bytes]) -> None:
    db.executemany("INSERT OR IGNORE INTO found VALUES (?)", ((key,) for key in keys))


def _keys_of_lines(dataset: Path, wanted: frozenset[int], buckets: int, by: DedupBy) -> Iterator[bytes]:
    """Return the keys of a dataset's whole lines that are of some buckets."""
    try:
        with open_dataset(dataset) as files:
            for file in files.files:
                for number, line in enumerate(file.lines(), 1):
                    key = _key(line.data, by, f"{file.path.name}, line {number}")
                    if bucket_of(key, buckets) in wanted:
                        yield key
    except OSError as error:
        where, cause = printable(str(dataset)), error.strerror or str(error)
        raise UnavailableError(_OP, where, cause, "name the live file of a copy of the writer's dataset") from None


def _key(line: bytes, by: DedupBy, where: str) -> bytes:
    try:
        return line_key(line, by)
    except ValueError as error:
        hint = "see `streamer verify`"
        raise RefusedError(_OP, printable(where), f"it is no line of streamer's: {error}", hint) from None


def shown(taken: Collection[Taken]) -> Iterator[str]:
    """Return what was done, in words, one line for each writer that had something."""
    by_writer: dict[str, list[Taken]] = {}
    for one in taken:
        by_writer.setdefault(one.writer, []).append(one)
    for writer, its in by_writer.items():
        keys = sum(one.keys for one in its)
        yield f"{shown_buckets(one.bucket for one in its)}: {writer or 'nobody'} had them; {keys:,} keys go with them"
