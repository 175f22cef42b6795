"""Setup of a fleet on its servers: creates what is missing, compares what exists, and fixes it on request.

::

    stream <prefix>-<dataset>     records on their way; one that a writer has acknowledged is gone
    consumer bucket-<n>           records of a partition that its writer has not acknowledged yet
    KV_<prefix>-<dataset>-owners  owner of each partition (``owners``)
    OBJ_<prefix>-<dataset>-objects  records larger than a message
    OBJ_<prefix>-<dataset>-keys     handoffs of partitions
    <prefix>-<dataset>-alive        last heartbeat of each collector

Sizes and replicas, which are free to choose, are compared only if they are given; other properties always.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from streamer.base.text import printable
from streamer.config.fleet_names import FORMAT, META_DEDUP, META_FORMAT, META_PARTITIONS, Names, shown_partitions
from streamer.fleet.connection import Link, answered
from streamer.fleet.owners import Owner, Ownership, OwnerStore

if TYPE_CHECKING:
    from nats.js.api import ConsumerConfig, StreamConfig

_OP = "set up the fleet"
_REPLICAS = 3
_STREAM_BYTES = 8 << 30
_OBJECT_BYTES = 2 << 30
_DUPLICATE_SECONDS = 120.0
"""The stream itself rejects a duplicate for so long: a saving only, as the writer's keys decide."""

_HEARTBEAT_SECONDS, _HEARTBEAT_BYTES = 30 * 86_400.0, 4 << 20
"""How long, and in how many bytes, last heartbeats are kept."""

_ACK_SECONDS = 30.0
"""A record not acknowledged for so long is delivered again."""

_ACK_PENDING = 8192
"""Maximum records of a partition that are delivered and not acknowledged."""

_TRIES = 6
"""How often a request is made that the servers do not answer."""

_OWNERS = 1
"""Index of the stream that holds the owners."""


class Wanted(msgspec.Struct, frozen=True):
    """Requested properties; None keeps the present or default value."""

    partitions: int
    dedup: str
    replicas: int | None = None
    stream_bytes: int | None = None
    object_bytes: int | None = None


class SetupState(StrEnum):
    """Result for one thing."""

    MADE = "made"
    FINE = "fine"
    FIXED = "fixed"
    DIFFERS = "differs"
    WAITS = "waits"


class SetupFinding(NamedTuple):
    """One thing on the servers, the result for it, and how it differs."""

    what: str
    state: SetupState
    differences: tuple[str, ...] = ()


async def set_up(
    link: Link, names: Names, wanted: Wanted, *, fix: bool = False, after_loss: bool = False
) -> list[SetupFinding]:
    """Create what is missing, and compare what exists.

    Args:
        link: Link of the admin.
        names: Names of the fleet.
        wanted: Requested properties.
        fix: Whether to change properties that differ and can be changed while in use.
        after_loss: The servers have lost their data: no partition is free, each waits for its last owner.

    Raises:
        UnavailableError: The servers do not answer, or refuse; their words are the cause.
    """
    streams = _streams(names, wanted)
    found = [await _stream(link, one, wanted, fix=fix) for one in streams]
    partitions = await _partition_count(link, names, wanted)
    consumers = [await _consumer(link, names, partition, fix=fix) for partition in range(partitions)]
    store = await OwnerStore.open(link, names)
    if found[_OWNERS].state is SetupState.MADE and not after_loss:
        for partition in range(partitions):
            await store.set(partition, Owner(Ownership.FREE))
    return [*found, *_together(consumers), await _owners(store, partitions)]


async def _owners(store: OwnerStore, partitions: int) -> SetupFinding:
    """Find the partitions that only their last owner may claim."""
    entries = await store.read(range(partitions))
    nobody = [partition for partition in range(partitions) if partition not in entries]
    if not nobody:
        return SetupFinding("owners of the buckets", SetupState.FINE)
    wait = f"{shown_partitions(nobody)} wait for the writer that had them, or for `streamer fleet take`"
    return SetupFinding("owners of the buckets", SetupState.WAITS, (wait,))


async def _partition_count(link: Link, names: Names, wanted: Wanted) -> int:
    """Return the number of partitions: that of the stream, whatever is requested."""
    with answered(link, _OP, names.stream):
        info = await link.js.stream_info(names.stream)
    said = (info.config.metadata or {}).get(META_PARTITIONS, "")
    return int(said) if said.isascii() and said.isdigit() else wanted.partitions


def _together(consumers: Sequence[SetupFinding]) -> list[SetupFinding]:
    """Merge the findings of consumers with the same result."""
    together: dict[tuple[SetupState, tuple[str, ...]], list[str]] = {}
    for what, state, differences in consumers:
        together.setdefault((state, differences), []).append(what)
    return [
        SetupFinding(
            f"consumer {whats[0]}" if len(whats) == 1 else f"{len(whats)} consumers from {whats[0]} on", *became
        )
        for became, whats in together.items()
    ]


# ---- streams --------------------------------------------------------------------------------------------------


def _streams(names: Names, wanted: Wanted) -> list[StreamConfig]:
    from nats.js import api  # noqa: PLC0415 - an extra

    store = api.StorageType.FILE, api.DiscardPolicy.NEW
    replicas = wanted.replicas or _REPLICAS
    metadata = {META_FORMAT: FORMAT, META_PARTITIONS: str(wanted.partitions), META_DEDUP: wanted.dedup}
    records = api.StreamConfig(
        name=names.stream, subjects=[names.records], retention=api.RetentionPolicy.WORK_QUEUE, storage=store[0],
        discard=store[1], max_bytes=wanted.stream_bytes or _STREAM_BYTES, num_replicas=replicas,
        duplicate_window=_DUPLICATE_SECONDS, metadata=metadata,
    )  # fmt: skip
    owners = api.StreamConfig(
        name=f"KV_{names.owners}", subjects=[f"$KV.{names.owners}.>"], storage=store[0], discard=store[1],
        max_msgs_per_subject=5, num_replicas=replicas, allow_rollup_hdrs=True, deny_delete=True, allow_direct=False,
    )  # fmt: skip
    heartbeats = api.StreamConfig(
        name=names.heartbeats, subjects=[names.alive("*.*")], storage=store[0], discard=api.DiscardPolicy.OLD,
        max_msgs_per_subject=1, max_age=_HEARTBEAT_SECONDS, max_bytes=_HEARTBEAT_BYTES, num_replicas=replicas,
    )  # fmt: skip
    return [records, owners, *(_store(name, wanted) for name in (names.objects, names.keys)), heartbeats]


def _store(name: str, wanted: Wanted) -> StreamConfig:
    """Return the stream of an object store, in the layout of NATS clients."""
    from nats.js import api  # noqa: PLC0415 - an extra

    return api.StreamConfig(
        name=f"OBJ_{name}", subjects=[f"$O.{name}.C.>", f"$O.{name}.M.>"], storage=api.StorageType.FILE,
        discard=api.DiscardPolicy.NEW, max_bytes=wanted.object_bytes or _OBJECT_BYTES, allow_rollup_hdrs=True,
        num_replicas=wanted.replicas or _REPLICAS, allow_direct=False,
    )  # fmt: skip


async def _stream(link: Link, config: StreamConfig, wanted: Wanted, *, fix: bool) -> SetupFinding:
    what = f"stream {config.name}"
    with answered(link, _OP, what, "see --replicas and --stream-bytes, and the disks of the servers"):
        there = await _looked_up(link, partial(link.js.stream_info, config.name), partial(link.js.add_stream, config))
        if there is None:
            return SetupFinding(what, SetupState.MADE)
        unfit = _unfit(config, there)
        unlike = _unlike(config, there, wanted)
        if fix and unlike and not unfit:
            changes = {name: getattr(config, name) for name in unlike}
            await link.js.update_stream(there.evolve(**changes))
            return SetupFinding(what, SetupState.FIXED, tuple(unlike.values()))
    return _compared(what, [*unfit, *unlike.values()])


async def _looked_up(link: Link, look: Callable[[], Awaitable[Any]], make: Callable[[], Awaitable[object]]) -> Any:
    """Return the configuration of a thing; None if it did not exist, and has been created.

    While servers elect leaders, answers come late or are lost: it is safe to ask again. A refusal has no answer
    either, but a complaint.
    """
    from nats.errors import TimeoutError as NoAnswerError  # noqa: PLC0415 - an extra
    from nats.js.errors import NotFoundError  # noqa: PLC0415

    is_ours = False
    for left in reversed(range(_TRIES)):
        try:
            try:
                there = (await look()).config
            except NotFoundError:
                is_ours = True
                await make()
                return None
        except NoAnswerError:
            if not left or link.complaint:
                raise
        else:
            return None if is_ours else there
    return None


def _unfit(config: StreamConfig, there: StreamConfig) -> list[str]:
    """Return differences that cannot be fixed: another stream is needed."""
    found = [
        f"{name} is {_shown(getattr(there, name))}, and has to be {_shown(getattr(config, name))}"
        for name in ("retention", "storage")
        if getattr(config, name) is not None and getattr(there, name) != getattr(config, name)
    ]
    said: Mapping[str, str] = there.metadata or {}
    for key, value in (config.metadata or {}).items():
        if said.get(key) != value:
            shown = printable(str(said.get(key)))
            found.append(f"{key} is {shown}, and here {value}: what has been sent stays where it is")
    return found


def _unlike(config: StreamConfig, there: StreamConfig, wanted: Wanted) -> dict[str, str]:
    """Return differences that can be fixed: setting -> description."""
    names = ["subjects", "discard", "max_msgs_per_subject", "allow_rollup_hdrs", "deny_delete"]
    names += ["num_replicas"] if wanted.replicas is not None else []
    is_objects = str(config.name).startswith("OBJ_")
    asked = wanted.object_bytes if is_objects else wanted.stream_bytes
    names += ["max_bytes"] if asked is not None and not str(config.name).endswith("-alive") and config.max_bytes else []
    names += ["duplicate_window"] if config.metadata is not None else []
    return _different(config, there, names)


# ---- consumers ------------------------------------------------------------------------------------------------


def _consumer_config(names: Names, partition: int) -> ConsumerConfig:
    from nats.js import api  # noqa: PLC0415 - an extra

    return api.ConsumerConfig(
        name=names.consumer(partition),
        durable_name=names.consumer(partition),
        filter_subject=names.subject(partition),
        ack_policy=api.AckPolicy.EXPLICIT,
        ack_wait=_ACK_SECONDS,
        max_ack_pending=_ACK_PENDING,
    )


async def _consumer(link: Link, names: Names, partition: int, *, fix: bool) -> SetupFinding:
    config = _consumer_config(names, partition)
    what, js = names.consumer(partition), link.js
    with answered(link, _OP, what):
        look, make = partial(js.consumer_info, names.stream, what), partial(js.add_consumer, names.stream, config)
        there = await _looked_up(link, look, make)
        if there is None:
            return SetupFinding(what, SetupState.MADE)
        unfit = _different(config, there, ["ack_policy", "filter_subject"])
        unlike = _different(config, there, ["max_ack_pending"])
        if fix and unlike and not unfit:
            await link.js.add_consumer(names.stream, there.evolve(max_ack_pending=_ACK_PENDING))
            return SetupFinding(what, SetupState.FIXED, tuple(unlike.values()))
    return _compared(what, [*unfit.values(), *unlike.values()])


def _compared(what: str, differences: Sequence[str]) -> SetupFinding:
    return SetupFinding(what, SetupState.DIFFERS if differences else SetupState.FINE, tuple(differences))


def _different(config: Any, there: Any, names: Sequence[str]) -> dict[str, str]:
    return {
        name: f"{name} is {_shown(getattr(there, name))}, and here {_shown(getattr(config, name))}"
        for name in names
        if getattr(there, name) != getattr(config, name)
    }


def _shown(value: Any) -> str:
    return printable(str(getattr(value, "value", value)))[:200]
