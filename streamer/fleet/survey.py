"""How a fleet stands, as its servers say: what is on its way, who writes which bucket, which collectors are heard of.

Collectors beat; a stream of one message each keeps when that was last, so that silence is seen, too, by whoever looks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from streamer.base.text import age, counted, printable, sized
from streamer.config.fleet_names import Names, shown_buckets
from streamer.fleet.connection import Link, Stream, answered
from streamer.fleet.message import is_origin
from streamer.fleet.owners import BucketState, owners_of, read_all

if TYPE_CHECKING:
    from nats.js.api import ConsumerInfo, StreamInfo

_OP = "look at the fleet"
_SILENT_SECONDS = 35.0
"""Three beats and a bit: a collector that was not heard of for so long is silent."""


class _Bucket(msgspec.Struct, frozen=True):
    """One bucket: who writes it, records that wait in the stream, and those given out and not acknowledged yet.

    ``taken`` is the sequence up to which everything of it was taken.
    """

    bucket: int
    state: str
    writer: str
    waiting: int
    given_out: int
    taken: int


class _Host(msgspec.Struct, frozen=True):
    """A collector: seconds since it was heard of, records that no writer holds yet, bytes not sent yet."""

    origin: str
    silent: float
    waits: int
    unsent_bytes: int


class _Look(msgspec.Struct, frozen=True):
    """The whole fleet at one time, ``at`` seconds since 1970 of this machine's clock."""

    at: float
    stream: str
    messages: int
    bytes: int
    most_bytes: int
    last: int
    leader: str
    replicas: int
    replicas_current: int
    buckets: tuple[_Bucket, ...]
    hosts: tuple[_Host, ...]

    @property
    def taken(self) -> int:
        """How many records were ever taken out of the stream."""
        return self.last - self.messages


class _Rates(msgspec.Struct, frozen=True):
    """Records a second that came into the stream, and that writers took out of it."""

    sent: float
    taken: float


class _Beat(msgspec.Struct):
    waits: int = 0
    unsent_bytes: int = 0


async def look(link: Link, names: Names, stream: Stream, now: float) -> _Look:
    """Ask the servers.

    Args:
        link: of a user who may ask.
        names: of the fleet.
        stream: what its stream says of itself.
        now: seconds since 1970.

    Raises:
        UnavailableError: they do not answer, or something that `streamer fleet init` makes is not there.
    """
    missing = "there is no such thing: `streamer fleet init` makes it"
    buckets = range(stream.buckets)
    with answered(link, _OP, names.stream, missing=missing):
        info = await link.js.stream_info(names.stream)
        consumers = [await link.js.consumer_info(names.stream, names.consumer(bucket)) for bucket in buckets]
        hosts = await _hosts(link, names, now)
    entries = await read_all(link, await owners_of(link, names), names, buckets)
    said = {bucket: entry.owner for bucket, entry in entries.items()}
    found = tuple(
        _bucket(bucket, consumers[bucket], said[bucket].state if bucket in said else "lost",
                said[bucket].writer if bucket in said else "")
        for bucket in buckets
    )  # fmt: skip
    return _look(info, found, hosts, names, now)


def _look(info: StreamInfo, buckets: tuple[_Bucket, ...], hosts: tuple[_Host, ...], names: Names, now: float) -> _Look:
    cluster, config = info.cluster, info.config
    others: Sequence[Any] = (cluster.replicas or ()) if cluster else ()
    return _Look(
        at=now,
        stream=names.stream,
        messages=info.state.messages,
        bytes=info.state.bytes,
        most_bytes=max(0, config.max_bytes or 0),
        last=info.state.last_seq,
        leader=printable((cluster.leader if cluster else None) or ""),
        replicas=config.num_replicas or 1,
        replicas_current=1 + sum(bool(other.current) and not other.offline for other in others),
        buckets=buckets,
        hosts=hosts,
    )


def _bucket(bucket: int, consumer: ConsumerInfo, state: str, writer: str) -> _Bucket:
    floor = consumer.ack_floor.stream_seq if consumer.ack_floor else 0
    return _Bucket(bucket, state, writer, consumer.num_pending or 0, consumer.num_ack_pending or 0, floor)


async def _hosts(link: Link, names: Names, now: float) -> tuple[_Host, ...]:
    """Return the collectors that ever beat, as long as the stream of beats remembers them."""
    info = await link.js.stream_info(names.beats, subjects_filter=names.alive("*.*"))
    found = []
    for subject in sorted(info.state.subjects or {}):
        origin = subject.removeprefix(names.alive(""))
        message = await link.js.get_last_msg(names.beats, subject)
        if is_origin(origin):
            found.append(_host(origin, message.data or b"", message.time, now))
    return tuple(found)


def _host(origin: str, data: bytes, at: datetime | None, now: float) -> _Host:
    try:
        beat = msgspec.json.decode(data, type=_Beat)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        beat = _Beat()  # that it was there is known all the same
    heard = at.astimezone(UTC).timestamp() if at is not None else 0.0
    return _Host(origin, max(0.0, now - heard), max(0, beat.waits), max(0, beat.unsent_bytes))


def rates(before: _Look, after: _Look) -> _Rates | None:
    """Return what happened between two looks; None if no time passed, or the stream was made anew."""
    seconds = after.at - before.at
    if seconds <= 0 or after.last < before.last:
        return None
    return _Rates((after.last - before.last) / seconds, max(0, after.taken - before.taken) / seconds)


# ---- in words -------------------------------------------------------------------------------------------------


def lines(seen: _Look, speed: _Rates | None) -> Iterator[str]:
    """Return it in words, for people."""
    room = f" of {sized(seen.most_bytes)}" if seen.most_bytes else ""
    led = f"led by {seen.leader}, " if seen.leader else ""
    yield f"stream    {seen.stream}: {counted(seen.messages, 'record')} on their way, {sized(seen.bytes)}{room}"
    yield f"          {led}{seen.replicas_current} of {counted(seen.replicas, 'replica')} up to date"
    if speed is not None:
        yield f"          {speed.sent:,.0f} records/s came, {speed.taken:,.0f} records/s were taken"
    yield from _bucket_lines(seen.buckets)
    yield from _host_lines(seen.hosts)


def _bucket_lines(buckets: Sequence[_Bucket]) -> Iterator[str]:
    by_owner: dict[tuple[str, str], list[_Bucket]] = {}
    for one in buckets:
        by_owner.setdefault((one.state, one.writer), []).append(one)
    for (state, writer), its in sorted(by_owner.items(), key=lambda one: one[1][0].bucket):
        waiting, out = sum(one.waiting for one in its), sum(one.given_out for one in its)
        lag = f"{counted(waiting, 'record')} wait, {out:,} given out"
        worst = max(its, key=lambda one: one.waiting)
        most = f", most in {worst.bucket}: {worst.waiting:,}" if len(its) > 1 and worst.waiting else ""
        yield f"buckets   {shown_buckets(one.bucket for one in its)}: {_WHOSE[state].format(writer)}; {lag}{most}"


_WHOSE: Mapping[str, str] = {
    BucketState.OWNED: "{0} writes them",
    BucketState.RELEASED: "released by {0}; the next writer that is to have them takes them",
    BucketState.FREE: "nobody has had them yet",
    "lost": "they wait for the writer that had them, or for `streamer fleet take`",
}


def _host_lines(hosts: Sequence[_Host]) -> Iterator[str]:
    if not hosts:
        yield "hosts     no collector has been heard of"
    for one in hosts:
        heard = f"silent for {age(one.silent)}" if one.silent > _SILENT_SECONDS else f"heard {age(one.silent)} ago"
        waits = f"{counted(one.waits, 'record')} wait, {sized(one.unsent_bytes)} not sent"
        yield f"host      {one.origin}: {heard}; {waits}"
