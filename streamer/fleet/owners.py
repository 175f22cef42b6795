"""Ownership of partitions: one writer for each, in a key-value store of the servers and in the writer's ledger.

Invariants
- A partition has one owner at a time, whatever writers are configured to own: entries change by compare-and-set only.
- No writer takes a partition from its owner. The owner releases it, with its keys, or a person does who knows that the
  owner is gone (`streamer fleet take`). There are no leases: a writer that is away for a week still owns it.
- A writer has the keys of a partition in its ledger before it owns the partition.

::

    (no entry)  the servers lost it: only a writer whose ledger remembers the partition claims it again
    free        it never had an owner
    owned       `writer` pulls from it
    released    its keys are in the object `keys`; any writer may import them and become the owner

Table, created when it is first needed
- ``owned_bucket``  the last known entry of each own partition: ``owned``, or ``released`` until another writer owns it
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import anyio
import msgspec
from anyio import to_thread

from streamer.base.events import Emit, PartitionMoved
from streamer.base.text import printable
from streamer.fleet import handoff, producers
from streamer.fleet.connection import Link, answered

if TYPE_CHECKING:
    from nats.js.kv import KeyValue
    from nats.js.object_store import ObjectStore

    from streamer.config.fleet_names import Names
    from streamer.fleet.end import SessionContext
    from streamer.store.ledger.ledger import Ledger

OP = "see who writes which bucket"
_HANDOFF_SECONDS = 600.0
"""Time limit to transfer the keys of one partition."""

_SCHEMA = "CREATE TABLE IF NOT EXISTS owned_bucket (bucket INTEGER PRIMARY KEY, state TEXT NOT NULL)"


class Ownership(StrEnum):
    """State of a partition."""

    FREE = "free"
    OWNED = "owned"
    RELEASED = "released"


class Owner(msgspec.Struct, frozen=True):
    """Entry of one partition. ``writer`` is its present or last owner; ``keys`` names the object with its keys."""

    state: Ownership
    writer: str = ""
    keys: str = ""


class OwnerEntry(NamedTuple):
    """An entry, and its revision for compare-and-set."""

    owner: Owner
    revision: int


class Holding(NamedTuple):
    """The partitions this writer owns, and the owners of the others it wants (empty: no owner)."""

    owned: frozenset[int] = frozenset()
    elsewhere: Mapping[int, str] = {}


class OwnerStore:
    """The servers' entries of all partitions, and their object store of handoffs.

    Raises:
        UnavailableError: From each method: a store does not exist, or the servers do not answer.
    """

    def __init__(self, link: Link, names: Names, entries: KeyValue) -> None:
        self._link = link
        self._names = names
        self._entries = entries
        self._objects: ObjectStore | None = None

    @classmethod
    async def open(cls, link: Link, names: Names) -> Self:
        """Open the store of a fleet."""
        with answered(link, OP, names.owners, missing="there is no such bucket: `streamer fleet init` makes it"):
            return cls(link, names, await link.js.key_value(names.owners))

    async def last_change(self) -> int:
        """Return a number that grows with each change of an entry."""
        with answered(self._link, OP, self._names.owners):
            return int((await self._entries.status()).stream_info.state.last_seq)

    async def read(self, partitions: Iterable[int]) -> dict[int, OwnerEntry]:
        """Return the existing entries of some partitions."""
        from nats.js.errors import NotFoundError  # noqa: PLC0415 - an extra

        found = {}
        for partition in sorted(partitions):
            with answered(self._link, OP, self._names.owners), suppress(NotFoundError):
                entry = await self._entries.get(str(partition))
                found[partition] = OwnerEntry(_owner(entry.value, partition), int(entry.revision or 0))
        return found

    async def set(self, partition: int, owner: Owner, before: OwnerEntry | None = None) -> bool:
        """Compare and set an entry; False if it has changed since it was read. After an error it may be set."""
        from nats.js.errors import KeyWrongLastSequenceError  # noqa: PLC0415 - an extra

        data = msgspec.json.encode(owner)
        with answered(self._link, OP, self._names.owners), suppress(KeyWrongLastSequenceError):
            if before is None:
                await self._entries.create(str(partition), data)
            else:
                await self._entries.update(str(partition), data, last=before.revision)
            return True
        return False

    async def put_keys(self, partition: int, file: Path) -> str:
        """Store the handoff of a partition in place of its last one; return the name of the object."""
        objects, name, op = await self._handoffs(), f"keys-{partition}", "store the keys of a bucket"
        hint = "see `streamer fleet init --object-bytes SIZE --fix`; it is retried"
        with answered(self._link, op, name, hint), file.open("rb") as opened, anyio.fail_after(_HANDOFF_SECONDS):
            await objects.put(name, opened)
        return name

    async def get_keys(self, name: str, file: Path) -> None:
        """Write a stored handoff into a file."""
        objects, op = await self._handoffs(), "take over the keys of a bucket"
        missing, take = "the servers do not have it any more", "`streamer fleet take BUCKETS --from-dataset PATH`"
        hint = f"{take} makes others, of a copy of the dataset that holds them"
        with answered(self._link, op, name, hint, missing), file.open("wb") as opened:
            with anyio.fail_after(_HANDOFF_SECONDS):
                await objects.get(name, writeinto=opened)

    async def _handoffs(self) -> ObjectStore:
        if self._objects is None:
            missing = "there is no such store: `streamer fleet init` makes it"
            with answered(self._link, OP, self._names.keys, missing=missing):
                self._objects = await self._link.js.object_store(self._names.keys)
        return self._objects


def _owner(data: Any, partition: int) -> Owner:
    """Decode an entry; one that cannot be decoded counts as owned by an unknown writer."""
    try:
        found = msgspec.json.decode(data or b"", type=Owner)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Owner(Ownership.OWNED, f"an entry that cannot be read: bucket {partition}")
    return msgspec.structs.replace(found, writer=printable(found.writer), keys=printable(found.keys))


class Owners:
    """The partitions of one writer, over one link.

    Args:
        context: The link, and the name of the writer.
        ledger: Ledger of the writer.
        dedup: How keys of the ledger are computed (``dataset_line.keys_meaning``).
        emit: Called with every event.
    """

    def __init__(self, context: SessionContext, ledger: Ledger, dedup: str, emit: Emit) -> None:
        self._link, stream, self._names, self._writer, *_ = context
        self._partitions = stream.partitions
        self._ledger = ledger
        self._dedup = dedup
        self._emit = emit
        self._seen: tuple[int, frozenset[int] | None] = (-1, None)
        self._holding = Holding()

    async def reconcile(self, wanted: frozenset[int] | None) -> Holding:
        """Release unwanted partitions, claim available ones, and return the partitions owned now.

        While no entry changes, a call costs one request to the servers. Pull no message from an unwanted partition any
        more: those pulled and not committed come again, to its next owner.

        Args:
            wanted: The partitions to own; None for all.

        Raises:
            UnavailableError: The servers do not answer, or have no room for the keys; nothing is released then.
            RefusedError: The handoff of a released partition is invalid.
        """
        store = await OwnerStore.open(self._link, self._names)
        last = await store.last_change()
        if (last, wanted) == self._seen:
            return self._holding
        remembered = await self._ledger.transact(_remembered)
        every = frozenset(range(self._partitions))
        wished = every if wanted is None else wanted & every
        entries = await store.read(wished | set(remembered))
        await self._release(store, self._to_release(entries, remembered, wished))
        for partition in sorted(wished):
            await self._claim(store, partition, entries.get(partition), remembered.get(partition))
        after = await store.read(wished | set(remembered))
        await self._remember(after, remembered)
        owned = frozenset(one for one in wished if one in after and self._is_ours(after[one].owner))
        others = sorted(wished - owned)
        self._holding = Holding(owned, {one: after[one].owner.writer if one in after else "" for one in others})
        self._seen = (last, wanted) if after == entries else (-1, None)
        return self._holding

    def _is_ours(self, owner: Owner) -> bool:
        return owner.state is Ownership.OWNED and owner.writer == self._writer

    def _to_release(
        self, entries: Mapping[int, OwnerEntry], remembered: Mapping[int, Ownership], wished: frozenset[int]
    ) -> dict[int, OwnerEntry | None]:
        """Return partitions that are ours and unwanted, and released ones whose entries the servers have lost."""
        ours = {partition: entry for partition, entry in entries.items() if self._is_ours(entry.owner)}
        lost = {partition: None for partition in remembered if partition not in entries}
        found: dict[int, OwnerEntry | None] = {**ours, **lost}
        return {partition: entry for partition, entry in found.items() if partition not in wished}

    async def _release(self, store: OwnerStore, found: Mapping[int, OwnerEntry | None]) -> None:
        if not found:
            return
        with TemporaryDirectory(prefix="streamer-", dir=self._ledger.path.parent) as folder:
            files = await to_thread.run_sync(handoff.export, self._ledger.path, found, self._partitions, Path(folder))
            for partition, file in files.items():
                name = await store.put_keys(partition, file)
                released = Owner(Ownership.RELEASED, self._writer, name)
                if await store.set(partition, released, found[partition]):
                    self._emit(PartitionMoved(partition, came=False, keys=handoff.count(file)))

    async def _claim(
        self, store: OwnerStore, partition: int, entry: OwnerEntry | None, remembered: Ownership | None
    ) -> None:
        """Become the owner of a partition, if it is available."""
        is_available = remembered is not None if entry is None else entry.owner.state is not Ownership.OWNED
        if not is_available:
            return
        keys = await self._import(store, partition, entry.owner.keys) if entry is not None and entry.owner.keys else 0
        ours = Owner(Ownership.OWNED, self._writer, entry.owner.keys if entry is not None else "")
        if await store.set(partition, ours, entry):
            self._emit(PartitionMoved(partition, came=True, keys=keys))

    async def _import(self, store: OwnerStore, partition: int, name: str) -> int:
        with TemporaryDirectory(prefix="streamer-", dir=self._ledger.path.parent) as folder:
            file = Path(folder, "keys")
            await store.get_keys(name, file)

            def work(db: sqlite3.Connection) -> int:
                producers.prepare(db)
                with file.open("rb") as opened:
                    head = handoff.read_head(opened, partition, self._partitions, self._dedup)
                    handoff.import_keys(db, head, handoff.keys_in(opened, head))
                return head.keys

            return await self._ledger.transact(work)

    async def _remember(self, entries: Mapping[int, OwnerEntry], before: Mapping[int, Ownership]) -> None:
        """Store the servers' entries of our partitions; those that the servers have lost stay stored."""
        now = {one: entry.owner.state for one, entry in entries.items() if entry.owner.writer == self._writer}
        now |= {one: state for one, state in before.items() if one not in entries}
        if now == before:
            return

        def work(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM owned_bucket")
            db.executemany("INSERT INTO owned_bucket VALUES (?, ?)", list(now.items()))

        await self._ledger.transact(work)


def _remembered(db: sqlite3.Connection) -> dict[int, Ownership]:
    db.execute(_SCHEMA)
    return {partition: Ownership(state) for partition, state in db.execute("SELECT bucket, state FROM owned_bucket")}


def owned(db: sqlite3.Connection) -> list[int]:
    """Return the partitions this writer owns, according to its ledger."""
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'owned_bucket'").fetchone():
        return []
    rows = db.execute("SELECT bucket FROM owned_bucket WHERE state = ? ORDER BY bucket", (Ownership.OWNED,))
    return [partition for (partition,) in rows]
