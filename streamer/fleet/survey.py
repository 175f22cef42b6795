"""Survey of a fleet through its servers: records on their way, owners of partitions, heartbeats of collectors.

A stream keeps the last heartbeat of each collector, so that a silent collector is seen, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from streamer.base.text import age, counted, printable, sized
from streamer.config.fleet_names import Names, shown_partitions
from streamer.fleet.connection import Link, Stream, answered
from streamer.fleet.message import is_producer
from streamer.fleet.owners import Ownership, OwnerStore

if TYPE_CHECKING:
    from nats.js.api import ConsumerInfo

    from streamer.fleet.owners import OwnerEntry

_OP = "look at the fleet"
_SILENT_SECONDS = 35.0
"""A collector without a heartbeat for so long (three missed) is silent."""


class _PartitionLook(msgspec.Struct, frozen=True):
    """One partition: its owner, records that wait in the stream, and records delivered and not acknowledged yet.

    ``taken`` is the stream sequence up to which all of its records were acknowledged.
    """

    partition: int = msgspec.field(name="bucket")
    state: str
    writer: str
    waiting: int
    given_out: int
    taken: int


class _Host(msgspec.Struct, frozen=True):
    """A collector: seconds since its last heartbeat, records that no writer holds yet, bytes not sent yet."""

    producer: str = msgspec.field(name="origin")
    silent: float
    waits: int
    unsent_bytes: int


class _Survey(msgspec.Struct, frozen=True):
    """The whole fleet at one time: ``at`` seconds since 1970 by this machine's clock."""

    at: float
    stream: str
    messages: int
    bytes: int
    most_bytes: int
    last: int
    leader: str
    replicas: int
    replicas_current: int
    partitions: tuple[_PartitionLook, ...] = msgspec.field(name="buckets")
    hosts: tuple[_Host, ...]

    @property
    def taken(self) -> int:
        """Number of records ever taken out of the stream."""
        return self.last - self.messages


class _Rates(msgspec.Struct, frozen=True):
    """Records a second that collectors sent into the stream, and that writers took out of it."""

    sent: float
    taken: float


class _Heartbeat(msgspec.Struct):
    waits: int = 0
    unsent_bytes: int = 0


async def look(link: Link, names: Names, stream: Stream, now: float) -> _Survey:
    """Survey the fleet through its servers.

    Args:
        link: Link of a user with the permission to look.
        names: Names of the fleet.
        stream: The fleet's stream.
        now: Seconds since 1970.

    Raises:
        UnavailableError: They do not answer, or something that `streamer fleet init` creates does not exist.
    """
    missing = "there is no such thing: `streamer fleet init` makes it"
    partitions = range(stream.partitions)
    with answered(link, _OP, names.stream, missing=missing):
        info = await link.js.stream_info(names.stream)
        consumers = [await link.js.consumer_info(names.stream, names.consumer(partition)) for partition in partitions]
        hosts = await _hosts(link, names, now)
    entries = await (await OwnerStore.open(link, names)).read(partitions)
    found = tuple(_partition(one, consumers[one], entries.get(one)) for one in partitions)
    cluster, config = info.cluster, info.config
    others: Sequence[Any] = (cluster.replicas or ()) if cluster else ()
    return _Survey(
        at=now,
        stream=names.stream,
        messages=info.state.messages,
        bytes=info.state.bytes,
        most_bytes=max(0, config.max_bytes or 0),
        last=info.state.last_seq,
        leader=printable((cluster.leader if cluster else None) or ""),
        replicas=config.num_replicas or 1,
        replicas_current=1 + sum(bool(other.current) and not other.offline for other in others),
        partitions=found,
        hosts=hosts,
    )


def _partition(partition: int, consumer: ConsumerInfo, entry: OwnerEntry | None) -> _PartitionLook:
    state, writer = ("lost", "") if entry is None else (entry.owner.state, entry.owner.writer)
    floor = consumer.ack_floor.stream_seq if consumer.ack_floor else 0
    return _PartitionLook(partition, state, writer, consumer.num_pending or 0, consumer.num_ack_pending or 0, floor)


async def _hosts(link: Link, names: Names, now: float) -> tuple[_Host, ...]:
    """Return the collectors whose last heartbeat the servers remember."""
    info = await link.js.stream_info(names.heartbeats, subjects_filter=names.alive("*.*"))
    found = []
    for subject in sorted(info.state.subjects or {}):
        producer = subject.removeprefix(names.alive(""))
        message = await link.js.get_last_msg(names.heartbeats, subject)
        if is_producer(producer):
            found.append(_host(producer, message.data or b"", message.time, now))
    return tuple(found)


def _host(producer: str, data: bytes, at: datetime | None, now: float) -> _Host:
    try:
        heartbeat = msgspec.json.decode(data, type=_Heartbeat)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        heartbeat = _Heartbeat()  # its time counts all the same
    heard = at.astimezone(UTC).timestamp() if at is not None else 0.0
    return _Host(producer, max(0.0, now - heard), max(0, heartbeat.waits), max(0, heartbeat.unsent_bytes))


def rates(before: _Survey, after: _Survey) -> _Rates | None:
    """Return the rates between two surveys; None if no time passed, or the stream was created anew."""
    seconds = after.at - before.at
    if seconds <= 0 or after.last < before.last:
        return None
    return _Rates((after.last - before.last) / seconds, max(0, after.taken - before.taken) / seconds)


# ---- in words -------------------------------------------------------------------------------------------------


def lines(seen: _Survey, speed: _Rates | None) -> Iterator[str]:
    """Describe a survey in words."""
    room = f" of {sized(seen.most_bytes)}" if seen.most_bytes else ""
    led = f"led by {seen.leader}, " if seen.leader else ""
    yield f"stream    {seen.stream}: {counted(seen.messages, 'record')} on their way, {sized(seen.bytes)}{room}"
    yield f"          {led}{seen.replicas_current} of {counted(seen.replicas, 'replica')} up to date"
    if speed is not None:
        yield f"          {speed.sent:,.0f} records/s came, {speed.taken:,.0f} records/s were taken"
    yield from _partition_lines(seen.partitions)
    yield from _host_lines(seen.hosts)


def _partition_lines(partitions: Sequence[_PartitionLook]) -> Iterator[str]:
    by_owner: dict[tuple[str, str], list[_PartitionLook]] = {}
    for one in partitions:
        by_owner.setdefault((one.state, one.writer), []).append(one)
    for (state, writer), its in sorted(by_owner.items(), key=lambda one: one[1][0].partition):
        waiting, out = sum(one.waiting for one in its), sum(one.given_out for one in its)
        lag = f"{counted(waiting, 'record')} wait, {out:,} given out"
        worst = max(its, key=lambda one: one.waiting)
        most = f", most in {worst.partition}: {worst.waiting:,}" if len(its) > 1 and worst.waiting else ""
        yield f"buckets   {shown_partitions(one.partition for one in its)}: {_WHOSE[state].format(writer)}; {lag}{most}"


_WHOSE: Mapping[str, str] = {
    Ownership.OWNED: "{0} writes them",
    Ownership.RELEASED: "released by {0}; the next writer that is to have them takes them",
    Ownership.FREE: "nobody has had them yet",
    "lost": "they wait for the writer that had them, or for `streamer fleet take`",
}


def _host_lines(hosts: Sequence[_Host]) -> Iterator[str]:
    if not hosts:
        yield "hosts     no collector has been heard of"
    for one in hosts:
        heard = f"silent for {age(one.silent)}" if one.silent > _SILENT_SECONDS else f"heard {age(one.silent)} ago"
        waits = f"{counted(one.waits, 'record')} wait, {sized(one.unsent_bytes)} not sent"
        yield f"host      {one.producer}: {heard}; {waits}"
