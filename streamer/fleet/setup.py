"""What a fleet needs on its servers: made if it is not there, compared if it is, put right if that is asked for.

::

    stream <prefix>-<dataset>     records on their way; one that a writer has acknowledged is gone
    consumer bucket-<n>           what the writer of a bucket has not acknowledged yet
    KV_<prefix>-<dataset>-owners  who writes which bucket (``owners``)
    OBJ_<prefix>-<dataset>-objects  records larger than a message
    OBJ_<prefix>-<dataset>-keys     keys that move with a bucket
    <prefix>-<dataset>-alive        when each collector was last heard of

What a person may choose (sizes, replicas) is compared only where it is asked for; whatever streamer stands on, always.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from streamer.base.text import printable
from streamer.config.fleet_names import FORMAT, META_BUCKETS, META_DEDUP, META_FORMAT, Names, shown_buckets
from streamer.fleet.connection import Link, answered
from streamer.fleet.owners import declare_free, owners_of, read_all

if TYPE_CHECKING:
    from nats.js.api import ConsumerConfig, StreamConfig

_OP = "set up the fleet"
_REPLICAS = 3
_STREAM_BYTES = 8 << 30
_OBJECT_BYTES = 2 << 30
_DUPLICATE_SECONDS = 120.0
"""For so long the stream itself takes a record once: a saving, as the writer's keys decide."""

_BEAT_SECONDS, _BEAT_BYTES = 30 * 86_400.0, 4 << 20
"""For so long it is known when a collector was heard of, and in so much room."""

_ACK_SECONDS = 30.0
"""After so long a record that no writer has acknowledged is given out again."""

_ACK_PENDING = 8192
"""Records of a bucket that are given out and not acknowledged."""


_TRIES = 6
"""How often something is asked for that the servers do not answer."""

_OWNERS = 1
"""Which of the streams holds the owners."""


class Wanted(msgspec.Struct, frozen=True):
    """What is asked for; None is what is there, or the usual."""

    buckets: int
    dedup: str
    replicas: int | None = None
    stream_bytes: int | None = None
    object_bytes: int | None = None


class SetupState(StrEnum):
    """What has become of one thing."""

    MADE = "made"
    FINE = "fine"
    FIXED = "fixed"
    DIFFERS = "differs"
    WAITS = "waits"


class SetupFinding(NamedTuple):
    """One thing on the servers, what has become of it, and how it differs."""

    what: str
    state: SetupState
    differences: tuple[str, ...] = ()


async def set_up(
    link: Link, names: Names, wanted: Wanted, *, fix: bool = False, after_loss: bool = False
) -> list[SetupFinding]:
    """Make what is missing, and compare what is there.

    Args:
        link: of a user who may do everything.
        names: what the fleet is called.
        wanted: how it should be.
        fix: whether to change what differs and can be changed while it is in use.
        after_loss: the servers had all of it before and lost it: no bucket is free, each waits for who had it.

    Raises:
        UnavailableError: the servers do not answer, or refuse; their words are the cause.
    """
    streams = _streams(names, wanted)
    found = [await _stream(link, one, wanted, fix=fix) for one in streams]
    buckets = await _bucket_count(link, names, wanted)
    consumers = [await _consumer(link, names, bucket, fix=fix) for bucket in range(buckets)]
    is_new = found[_OWNERS].state is SetupState.MADE
    if is_new and not after_loss:
        await declare_free(link, names, range(buckets))
    return [*found, *_together(consumers), await _owners(link, names, buckets)]


async def _owners(link: Link, names: Names, buckets: int) -> SetupFinding:
    """Say of which buckets nobody can become the owner but who was it before."""
    entries = await read_all(link, await owners_of(link, names), names, range(buckets))
    nobody = [bucket for bucket in range(buckets) if bucket not in entries]
    if not nobody:
        return SetupFinding("owners of the buckets", SetupState.FINE)
    wait = f"{shown_buckets(nobody)} wait for the writer that had them, or for `streamer fleet take`"
    return SetupFinding("owners of the buckets", SetupState.WAITS, (wait,))


async def _bucket_count(link: Link, names: Names, wanted: Wanted) -> int:
    """Return how many buckets there are: those of the stream, whatever is wanted."""
    with answered(link, _OP, names.stream):
        info = await link.js.stream_info(names.stream)
    said = (info.config.metadata or {}).get(META_BUCKETS, "")
    return int(said) if said.isascii() and said.isdigit() else wanted.buckets


def _together(consumers: Sequence[SetupFinding]) -> list[SetupFinding]:
    """Return one finding for all consumers that became the same."""
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
    metadata = {META_FORMAT: FORMAT, META_BUCKETS: str(wanted.buckets), META_DEDUP: wanted.dedup}
    records = api.StreamConfig(
        name=names.stream, subjects=[names.records], retention=api.RetentionPolicy.WORK_QUEUE, storage=store[0],
        discard=store[1], max_bytes=wanted.stream_bytes or _STREAM_BYTES, num_replicas=replicas,
        duplicate_window=_DUPLICATE_SECONDS, metadata=metadata,
    )  # fmt: skip
    owners = api.StreamConfig(
        name=f"KV_{names.owners}", subjects=[f"$KV.{names.owners}.>"], storage=store[0], discard=store[1],
        max_msgs_per_subject=5, num_replicas=replicas, allow_rollup_hdrs=True, deny_delete=True, allow_direct=False,
    )  # fmt: skip
    beats = api.StreamConfig(
        name=names.beats, subjects=[names.alive("*.*")], storage=store[0], discard=api.DiscardPolicy.OLD,
        max_msgs_per_subject=1, max_age=_BEAT_SECONDS, max_bytes=_BEAT_BYTES, num_replicas=replicas,
    )  # fmt: skip
    return [records, owners, *(_store(name, wanted) for name in (names.objects, names.keys)), beats]


def _store(name: str, wanted: Wanted) -> StreamConfig:
    """Return an object store, as every client of NATS knows them."""
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
    """Return how something is configured; None if it was not there, and has been made.

    While servers elect leaders, answers come late or are lost: to ask again is safe. What they refuse has no answer,
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
    """Return how a stream differs for good: another one has to be made."""
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
    """Return how a stream differs in what can be changed: by the setting, in words."""
    names = ["subjects", "discard", "max_msgs_per_subject", "allow_rollup_hdrs", "deny_delete"]
    names += ["num_replicas"] if wanted.replicas is not None else []
    is_objects = str(config.name).startswith("OBJ_")
    asked = wanted.object_bytes if is_objects else wanted.stream_bytes
    names += ["max_bytes"] if asked is not None and not str(config.name).endswith("-alive") and config.max_bytes else []
    names += ["duplicate_window"] if config.metadata is not None else []
    return _different(config, there, names)


# ---- consumers ------------------------------------------------------------------------------------------------


def _consumer_config(names: Names, bucket: int) -> ConsumerConfig:
    from nats.js import api  # noqa: PLC0415 - an extra

    return api.ConsumerConfig(
        name=names.consumer(bucket),
        durable_name=names.consumer(bucket),
        filter_subject=names.subject(bucket),
        ack_policy=api.AckPolicy.EXPLICIT,
        ack_wait=_ACK_SECONDS,
        max_ack_pending=_ACK_PENDING,
    )


async def _consumer(link: Link, names: Names, bucket: int, *, fix: bool) -> SetupFinding:
    config = _consumer_config(names, bucket)
    what, js = names.consumer(bucket), link.js
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
