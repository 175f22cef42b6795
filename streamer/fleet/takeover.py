"""Takeover: a person releases the partitions of a writer that is gone for good.

Their keys are computed from a copy of its dataset, and joined with the handoffs by which it had got the partitions.
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
from streamer.config.fleet_names import partition_of, shown_partitions
from streamer.core.records.dataset_line import keys_meaning, line_key
from streamer.fleet import handoff
from streamer.fleet.owners import Owner, Ownership, OwnerStore
from streamer.store.parts.files import open_dataset

if TYPE_CHECKING:
    from streamer.config.fleet_names import Names
    from streamer.core.records.key import DedupBy
    from streamer.fleet.connection import Link

_OP = "take buckets from a writer"


class Takeover(NamedTuple):
    """A released partition, its last owner, and the number of its keys."""

    partition: int
    writer: str
    keys: int


async def take_over(
    link: Link, names: Names, wanted: Collection[int], partitions: int, by: DedupBy, dataset: Path | None
) -> list[Takeover]:
    """Release partitions in place of their owner.

    Args:
        link: Link of a user with the permission to do so.
        names: Names of the fleet.
        wanted: The partitions to release.
        partitions: Number of all partitions.
        by: What makes two records duplicates.
        dataset: A copy of the owner's dataset, or None to proceed without its keys.

    Raises:
        RefusedError: A partition does not exist, the dataset is being written or holds a foreign line, or somebody
            changed the owner meanwhile.
        UnavailableError: The dataset cannot be read, or the servers do not answer.
    """
    if beyond := [partition for partition in wanted if partition >= partitions]:
        cause = f"there is no bucket {beyond[0]}: they are numbered from 0 to {partitions - 1}"
        raise RefusedError(_OP, names.stream, cause)
    if dataset is not None and (who := holder(lock_file(dataset))) is not None:
        hint = "its writer runs: give it other source.buckets and restart it, and it hands them over itself"
        raise RefusedError(_OP, printable(str(dataset)), f"{who} holds it", hint)
    store = await OwnerStore.open(link, names)
    entries = await store.read(wanted)
    with TemporaryDirectory(prefix="streamer-") as name:
        folder = Path(name)
        with closing(sqlite3.connect(folder / "keys.db", isolation_level=None, check_same_thread=False)) as db:
            db.execute("CREATE TABLE found (key BLOB PRIMARY KEY) WITHOUT ROWID")
            db.execute("BEGIN")
            if dataset is not None:
                await to_thread.run_sync(_put, db, _keys_of_lines(dataset, frozenset(wanted), partitions, by))
            for partition, entry in entries.items():
                if entry.owner.keys:
                    await store.get_keys(entry.owner.keys, folder / "earlier")
                    await to_thread.run_sync(_put_earlier, db, folder / "earlier", partition, partitions, by)
            rows = (key for (key,) in db.execute("SELECT key FROM found ORDER BY key"))
            files = await to_thread.run_sync(handoff.write_keys, rows, wanted, partitions, keys_meaning(by), folder)
        taken = []
        for partition in sorted(wanted):
            before = entries.get(partition)
            had = before.owner.writer if before is not None else ""
            released = Owner(Ownership.RELEASED, had, await store.put_keys(partition, files[partition]))
            if not await store.set(partition, released, before):
                cause = "somebody changed its owner meanwhile"
                raise RefusedError(_OP, f"bucket {partition}", cause, "see `streamer fleet status`")
            taken.append(Takeover(partition, had, handoff.count(files[partition])))
    return taken


def _put_earlier(db: sqlite3.Connection, file: Path, partition: int, partitions: int, by: DedupBy) -> None:
    """Add the keys of the handoff by which the last owner had got a partition."""
    with file.open("rb") as earlier:
        head = handoff.read_head(earlier, partition, partitions, keys_meaning(by))
        _put(db, handoff.keys_in(earlier, head))


def _put(db: sqlite3.Connection, keys: Iterator[bytes]) -> None:
    db.executemany("INSERT OR IGNORE INTO found VALUES (?)", ((key,) for key in keys))


def _keys_of_lines(dataset: Path, wanted: frozenset[int], partitions: int, by: DedupBy) -> Iterator[bytes]:
    """Yield the keys of a dataset's complete lines that belong to some partitions."""
    try:
        with open_dataset(dataset) as files:
            for file in files.files:
                for number, line in enumerate(file.lines(), 1):
                    key = _key(line.data, by, f"{file.path.name}, line {number}")
                    if partition_of(key, partitions) in wanted:
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


def shown(taken: Collection[Takeover]) -> Iterator[str]:
    """Describe takeovers in words, one line for each last owner."""
    by_writer: dict[str, list[Takeover]] = {}
    for one in taken:
        by_writer.setdefault(one.writer, []).append(one)
    for writer, its in by_writer.items():
        keys = sum(one.keys for one in its)
        which = shown_partitions(one.partition for one in its)
        yield f"{which}: {writer or 'nobody'} had them; {keys:,} keys go with them"
