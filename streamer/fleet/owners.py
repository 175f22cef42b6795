"""Which writer a bucket belongs to: said in a key-value bucket of the servers, and remembered in the writer's ledger.

Invariants
- A bucket has one owner at a time, whatever writers are configured to take: entries change by compare-and-set alone.
- Nobody takes a bucket from a writer that has it. It is given up by its owner, with its keys, or by a person who knows
  that the owner is gone (`streamer fleet take`). There are no leases: a writer that is away for a week is still it.
- A writer has the keys of a bucket in its ledger before the bucket is its own.

::

    (nothing)  only a writer whose ledger says that the bucket is its own says so again: the servers lost all
    free       nobody has ever had it
    owned      `writer` pulls from it
    released   its keys are in the object `keys`; whoever wants it imports them, and owns it

Table, made when it is first needed
- ``owned_bucket``  what the servers knew last: ``owned``, or ``released`` while nobody else has it
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio
import msgspec
from anyio import to_thread

from streamer.base.text import printable
from streamer.fleet import moving, origins
from streamer.fleet.connection import Link, answered

if TYPE_CHECKING:
    from nats.js.kv import KeyValue
    from nats.js.object_store import ObjectStore

    from streamer.config.fleet_names import Names
    from streamer.store.ledger.ledger import Ledger

OP = "see who writes which bucket"
_MOVE_SECONDS = 600.0
"""For so long the keys of one bucket may be on their way."""

_SCHEMA = "CREATE TABLE IF NOT EXISTS owned_bucket (bucket INTEGER PRIMARY KEY, state TEXT NOT NULL)"


class BucketState(StrEnum):
    """How it stands with a bucket."""

    FREE = "free"
    OWNED = "owned"
    RELEASED = "released"


class Owner(msgspec.Struct, frozen=True):
    """What the servers say of one bucket. ``writer`` has it, or had it last; ``keys`` is the object with its keys."""

    state: BucketState
    writer: str = ""
    keys: str = ""


class OwnerEntry(NamedTuple):
    """An owner, and the revision that a change has to name."""

    owner: Owner
    revision: int


class Holding(NamedTuple):
    """What is ours now, and of what else is wanted: who has it, empty where nobody does."""

    owned: frozenset[int] = frozenset()
    elsewhere: Mapping[int, str] = {}


class BucketChange(NamedTuple):
    """A bucket that has come or gone, with so many keys."""

    bucket: int
    came: bool
    keys: int


class Owners:
    """The buckets of one writer, for as long as a connection holds.

    Args:
        link: to the servers.
        names: of the fleet.
        ledger: of this writer; its transactions are used.
        writer: what it is called.
        buckets: how many there are.
        dedup: what the keys of the ledger mean (``dataset.keys_meaning``).
        told: called for each bucket that has come or gone.
    """

    def __init__(
        self,
        link: Link,
        names: Names,
        ledger: Ledger,
        writer: str,
        buckets: int,
        dedup: str,
        told: Callable[[BucketChange], None] = lambda _: None,
    ) -> None:
        self._link = link
        self._names = names
        self._ledger = ledger
        self._writer = writer
        self._buckets = buckets
        self._dedup = dedup
        self._callbacks = told
        self._seen: tuple[int, frozenset[int] | None] = (-1, None)
        self._holding = Holding()

    async def tend(self, wanted: frozenset[int] | None) -> Holding:
        """Give up what is not wanted, take what is and can be had, and return what is ours now.

        Call it between two batches, and before it pull nothing any more from a bucket that is not wanted: what was
        pulled from one and not committed comes again, to its next owner. While nothing changes, a call is one question.

        Args:
            wanted: the buckets to have; None for all.

        Raises:
            UnavailableError: the servers do not answer, or have no room for the keys; nothing is given up then.
            RefusedError: the keys of a bucket that was released are not what they have to be.
        """
        store = await self._store()
        with answered(self._link, OP, self._names.owners):
            last = int((await store.status()).stream_info.state.last_seq)
        if (last, wanted) == self._seen:
            return self._holding
        remembered = await self._remembered()
        wished = frozenset(range(self._buckets)) if wanted is None else wanted & frozenset(range(self._buckets))
        entries = await read_all(self._link, store, self._names, wished | set(remembered))
        await self._release(store, self._to_release(entries, remembered, wished))
        for bucket in sorted(wished):
            await self._claim(store, bucket, entries.get(bucket), remembered.get(bucket))
        after = await read_all(self._link, store, self._names, wished | set(remembered))
        await self._remember(after, remembered)
        self._holding = self._held(after, wished)
        self._seen = (last, wanted) if after == entries else (-1, None)
        return self._holding

    def _held(self, entries: Mapping[int, OwnerEntry], wished: Iterable[int]) -> Holding:
        """Return what is ours by what the servers say."""
        owned = frozenset(bucket for bucket in wished if bucket in entries and self._is_ours(entries[bucket].owner))
        elsewhere = {
            bucket: entries[bucket].owner.writer if bucket in entries else ""
            for bucket in sorted(wished)
            if bucket not in owned
        }
        return Holding(owned, elsewhere)

    def _is_ours(self, owner: Owner) -> bool:
        return owner.state is BucketState.OWNED and owner.writer == self._writer

    # -- giving up -----------------------------------------------------------------------------------------

    def _to_release(
        self, entries: Mapping[int, OwnerEntry], remembered: Mapping[int, BucketState], wished: frozenset[int]
    ) -> dict[int, OwnerEntry | None]:
        """Return what is ours and not wanted, and what we released and the servers have lost since."""
        ours = {bucket: entry for bucket, entry in entries.items() if self._is_ours(entry.owner)}
        lost = {bucket: None for bucket in remembered if bucket not in entries}
        found: dict[int, OwnerEntry | None] = {**ours, **lost}
        return {bucket: entry for bucket, entry in found.items() if bucket not in wished}

    async def _release(self, store: KeyValue, found: Mapping[int, OwnerEntry | None]) -> None:
        if not found:
            return
        objects = await self._keys()
        with TemporaryDirectory(prefix="streamer-", dir=self._ledger.path.parent) as folder:
            files = await to_thread.run_sync(moving.export, self._ledger.path, found, self._buckets, Path(folder))
            for bucket, file in files.items():
                name = await put_keys(self._link, objects, bucket, file)
                released = Owner(BucketState.RELEASED, self._writer, name)
                if await set_entry(self._link, store, self._names, bucket, released, found[bucket]):
                    self._callbacks(BucketChange(bucket, came=False, keys=moving.count(file)))

    # -- taking --------------------------------------------------------------------------------------------

    async def _claim(
        self, store: KeyValue, bucket: int, entry: OwnerEntry | None, remembered: BucketState | None
    ) -> None:
        """Take a bucket, if it can be had."""
        can_be_had = remembered is not None if entry is None else entry.owner.state is not BucketState.OWNED
        if not can_be_had:
            return
        keys = await self._import(bucket, entry.owner.keys) if entry is not None and entry.owner.keys else 0
        ours = Owner(BucketState.OWNED, self._writer, entry.owner.keys if entry is not None else "")
        if await set_entry(self._link, store, self._names, bucket, ours, entry):
            self._callbacks(BucketChange(bucket, came=True, keys=keys))

    async def _import(self, bucket: int, name: str) -> int:
        objects = await self._keys()
        with TemporaryDirectory(prefix="streamer-", dir=self._ledger.path.parent) as folder:
            file = Path(folder, "keys")
            await get_keys(self._link, objects, name, file)

            def work(db: sqlite3.Connection) -> int:
                origins.prepare(db)
                with file.open("rb") as opened:
                    head = moving.read_head(opened, bucket, self._buckets, self._dedup)
                    moving.take_in(db, head, moving.keys_in(opened, head))
                return head.keys

            return await self._ledger.transact(work)

    # -- what the ledger remembers ---------------------------------------------------------------------------

    async def _remembered(self) -> dict[int, BucketState]:
        def work(db: sqlite3.Connection) -> dict[int, BucketState]:
            db.execute(_SCHEMA)
            return {
                bucket: BucketState(state) for bucket, state in db.execute("SELECT bucket, state FROM owned_bucket")
            }

        return await self._ledger.transact(work)

    async def _remember(self, entries: Mapping[int, OwnerEntry], before: Mapping[int, BucketState]) -> None:
        """Remember what the servers say of our buckets; of what they have lost, nothing is forgotten."""
        now = {bucket: entry.owner.state for bucket, entry in entries.items() if entry.owner.writer == self._writer}
        now |= {bucket: state for bucket, state in before.items() if bucket not in entries}
        if now == before:
            return

        def work(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM owned_bucket")
            db.executemany("INSERT INTO owned_bucket VALUES (?, ?)", list(now.items()))

        await self._ledger.transact(work)

    # -- the servers -----------------------------------------------------------------------------------------

    async def _store(self) -> KeyValue:
        return await owners_of(self._link, self._names)

    async def _keys(self) -> ObjectStore:
        return await keys_of(self._link, self._names)


def owned(db: sqlite3.Connection) -> list[int]:
    """Return the buckets that are this writer's, as its ledger remembers what the servers said last."""
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'owned_bucket'").fetchone():
        return []
    rows = db.execute("SELECT bucket FROM owned_bucket WHERE state = ? ORDER BY bucket", (BucketState.OWNED,))
    return [bucket for (bucket,) in rows]


async def owners_of(link: Link, names: Names) -> KeyValue:
    """Return where the owners stand.

    Raises:
        UnavailableError: there is no such place yet, or the servers do not answer.
    """
    with answered(link, OP, names.owners, missing="there is no such bucket: `streamer fleet init` makes it"):
        return await link.js.key_value(names.owners)


async def keys_of(link: Link, names: Names) -> ObjectStore:
    """Return the object store with keys that move; raises as :func:`owners_of`."""
    with answered(link, OP, names.keys, missing="there is no such store: `streamer fleet init` makes it"):
        return await link.js.object_store(names.keys)


async def read_all(link: Link, store: KeyValue, names: Names, buckets: Iterable[int]) -> dict[int, OwnerEntry]:
    """Return the entries of those of some buckets that have one.

    Raises:
        UnavailableError: the servers do not answer.
    """
    from nats.js.errors import NotFoundError  # noqa: PLC0415 - an extra

    found = {}
    for bucket in sorted(buckets):
        with answered(link, OP, names.owners):
            try:
                entry = await store.get(str(bucket))
            except NotFoundError:
                continue
        found[bucket] = OwnerEntry(_owner(entry.value, bucket), int(entry.revision or 0))
    return found


def _owner(data: Any, bucket: int) -> Owner:
    """Return an entry; one that cannot be read belongs to somebody whom we do not know, and is left alone."""
    try:
        found = msgspec.json.decode(data or b"", type=Owner)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Owner(BucketState.OWNED, f"an entry that cannot be read: bucket {bucket}")
    return msgspec.structs.replace(found, writer=printable(found.writer), keys=printable(found.keys))


async def set_entry(
    link: Link, store: KeyValue, names: Names, bucket: int, owner: Owner, before: OwnerEntry | None
) -> bool:
    """Change an entry that is as it was read before; False if it is not any more.

    Raises:
        UnavailableError: the servers do not answer; it may have been changed, and who reads it again sees that.
    """
    from nats.js.errors import KeyWrongLastSequenceError  # noqa: PLC0415 - an extra

    data = msgspec.json.encode(owner)
    with answered(link, OP, names.owners):
        try:
            if before is None:
                await store.create(str(bucket), data)
            else:
                await store.update(str(bucket), data, last=before.revision)
        except KeyWrongLastSequenceError:
            return False
    return True


async def declare_free(link: Link, names: Names, buckets: Iterable[int]) -> None:
    """Say of buckets that have no entry that nobody has ever had them.

    Raises:
        UnavailableError: the servers do not answer.
    """
    store = await owners_of(link, names)
    for bucket in buckets:
        await set_entry(link, store, names, bucket, Owner(BucketState.FREE), None)


async def put_keys(link: Link, objects: ObjectStore, bucket: int, file: Path) -> str:
    """Store the keys of a bucket, in place of those that it had before; return the name of the object.

    Raises:
        UnavailableError: there is no room, or the servers do not answer.
    """
    name = f"keys-{bucket}"
    hint = "see `streamer fleet init --object-bytes SIZE --fix`; it is retried"
    op = "store the keys of a bucket"
    with answered(link, op, name, hint), file.open("rb") as opened, anyio.fail_after(_MOVE_SECONDS):
        await objects.put(name, opened)
    return name


async def get_keys(link: Link, objects: ObjectStore, name: str, file: Path) -> None:
    """Write the keys of an object into a file.

    Raises:
        UnavailableError: the servers do not have it, or do not answer.
    """
    op, missing = "take over the keys of a bucket", "the servers do not have it any more"
    hint = "`streamer fleet take BUCKETS --from-dataset PATH` makes others, of a copy of the dataset that holds them"
    with answered(link, op, name, hint, missing), file.open("wb") as opened, anyio.fail_after(_MOVE_SECONDS):
        await objects.get(name, writeinto=opened)
