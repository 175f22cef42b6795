"""Arrivals: messages that a writer has pulled, decoded, verified, and turned into lines of a batch.

No claim of a message is trusted but the line itself: its key is computed here, and has to belong to the partition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from streamer.base.files import path_text
from streamer.config.fleet_names import partition_of
from streamer.core.records.arrived import ArrivedRecord
from streamer.core.records.key import DedupBy
from streamer.core.records.layouts import MalformedError
from streamer.core.records.model import Cursor, Line
from streamer.core.verdicts.judge import Item
from streamer.fleet.message import Message, MessageId, read, record, unpack
from streamer.fleet.producers import Held
from streamer.store.ledger.ledger import Ledger
from streamer.store.ledger.paths import stream_path

_NO_INODE = -1


class PulledMessage(msgspec.Struct, frozen=True):
    """A raw message: its partition, its sequence in that incarnation of the stream, and the subject of its ack."""

    partition: int
    stream_sequence: int
    incarnation: str
    headers: Mapping[str, Any] | None
    body: bytes
    reply: str

    @property
    def path(self) -> str:
        """The path under which the ledger keeps a cursor for its partition of the stream."""
        return stream_path(self.incarnation, self.partition)


class Arrival(msgspec.Struct, frozen=True):
    """A pulled message, decoded (None if it is malformed), with its record, or the reason to dead-letter it."""

    pulled: PulledMessage
    message: Message | None
    content: ArrivedRecord | MalformedError | None = None

    @property
    def id(self) -> tuple[int, MessageId] | None:
        """The partition and the id of the message; None if it is malformed."""
        return None if self.message is None else (self.pulled.partition, self.message.id)

    @property
    def held(self) -> Held | None:
        """The entry to store once the batch is committed; None if the message is malformed."""
        if self.message is None:
            return None
        depends = self.content is None and not self.message.skipped
        return Held(self.message.id, self.pulled.partition, self.message.holds if depends else None)


def decoded(pulled: PulledMessage) -> Arrival:
    """Decode a message's headers."""
    try:
        return Arrival(pulled, read(pulled.headers, pulled.body))
    except MalformedError as error:
        return Arrival(pulled, None, error)


def verified(arrival: Arrival, fetched: Mapping[str, bytes | None], by: DedupBy, partitions: int) -> Arrival:
    """Return an arrival with its record, or with the reason why it is none.

    Args:
        arrival: A decoded message.
        fetched: Objects by name; None for one that is missing: its record was taken before, or is lost.
        by: What makes two records duplicates.
        partitions: Number of partitions.
    """
    pulled, message = arrival.pulled, arrival.message
    if message is None or not message.is_record:
        return arrival
    body = fetched.get(message.object) if message.object else message.body
    if body is None:
        return arrival
    try:
        found = record(unpack(body) if message.packed else body, by)
    except MalformedError as error:
        return Arrival(pulled, message, error)
    if partition_of(found.key, partitions) != pulled.partition:
        return Arrival(pulled, message, MalformedError("wrong_bucket", "its key belongs into another one"))
    return Arrival(pulled, message, found)


async def to_items(
    arrivals: Sequence[Arrival], already_held: set[tuple[int, MessageId]], ledger: Ledger, now: float
) -> tuple[list[Item], list[Cursor]]:
    """Return the lines of a batch, and the cursor of each partition after them.

    Args:
        arrivals: Verified messages, in the order in which they came.
        already_held: Ids of messages that an earlier batch has stored.
        ledger: Holds the cursors.
        now: Seconds since 1970.
    """
    cursors, _ = await ledger.cursors(dict.fromkeys({one.pulled.path for one in arrivals}, _NO_INODE))
    items: list[Item] = []
    for one in arrivals:
        path, sequence, content = one.pulled.path, one.pulled.stream_sequence, one.content
        cursor = cursors.get(path) or Cursor(path, id=ledger.new_shard_id())
        is_next = sequence >= cursor.offset
        if content is not None:
            start = cursor.offset if is_next else sequence
            line = Line(path_text(path), cursor.lines + 1, start, sequence + 1, one.pulled.body)
            if isinstance(content, ArrivedRecord) and one.id in already_held:
                content = msgspec.structs.replace(content, again=True)
            items.append(Item(line, cursor.id, now, content))
        cursors[path] = msgspec.structs.replace(
            cursor,
            offset=sequence + 1 if is_next and content is not None else cursor.offset,
            lines=cursor.lines + (content is not None),
        )
    return items, list(cursors.values())
