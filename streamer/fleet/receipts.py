"""Receipts: how far a writer holds a collector's lines, and when a receipt proves that lines were lost. Pure.

A line that a writer does not hold may still be on its way, for weeks if the writer is away. So it is sent again only
on evidence: a writer was asked *after* the stream had acknowledged the line, and the answer shows that the line
cannot arrive any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from streamer.fleet.message import LAST_SEQUENCE, is_epoch, is_producer

MOST_MARKS = 256
"""Marks kept for one partition; beyond them every second one is dropped."""


class ReceiptRequest(msgspec.Struct, frozen=True):
    """A collector's question to the writer of a partition: how far it holds the lines of this epoch."""

    producer: str = msgspec.field(name="origin")
    epoch: str = msgspec.field(name="life")


class Receipt(msgspec.Struct, frozen=True):
    """A writer's statement that its ledger holds one collector's lines in one partition up to ``sequence``.

    An answer to a question also describes the stream at that time: its ``incarnation``, ``ack_floor`` (the stream
    sequence up to which every message of this partition was acknowledged), the ``last`` sequence it has assigned, and
    ``idle``: the partition is drained. A receipt sent unasked has an empty incarnation, and is no evidence.
    """

    partition: int = msgspec.field(name="bucket")
    producer: str = msgspec.field(name="origin")
    epoch: str = msgspec.field(name="life")
    sequence: int = msgspec.field(name="number")
    incarnation: str = ""
    ack_floor: int = msgspec.field(name="floor", default=0)
    last: int = 0
    idle: bool = False


class Mark(msgspec.Struct, frozen=True, gc=False):
    """A line that the stream acknowledged: its sequence, its log offset in the outbox, its sequence in the stream.

    ``order`` counts acknowledgements: it tells those before a question from those after it.
    """

    sequence: int
    offset: int
    stream_sequence: int
    incarnation: str
    order: int


def is_lost(marks: Iterable[Mark], receipt: Receipt, asked: int) -> bool:
    """Say whether an answer proves that a line is lost which the stream had acknowledged.

    Args:
        marks: Lines that the stream acknowledged.
        receipt: The answer.
        asked: Number of acknowledgements received before the writer was asked.
    """
    return bool(receipt.incarnation) and any(
        mark.sequence > receipt.sequence and mark.order <= asked and _cannot_arrive(mark, receipt) for mark in marks
    )


def _cannot_arrive(mark: Mark, receipt: Receipt) -> bool:
    """Say whether a message is not on its way any more: it was taken, or no stream holds it."""
    return (
        receipt.idle
        or receipt.incarnation != mark.incarnation
        or receipt.ack_floor >= mark.stream_sequence
        or receipt.last < mark.stream_sequence
    )


def thinned(marks: Sequence[Mark]) -> list[Mark]:
    """Return all marks if they are few; otherwise every second one, and always the last."""
    if len(marks) <= MOST_MARKS:
        return list(marks)
    return [*marks[:-1:2], marks[-1]]


def read_ask(data: bytes) -> ReceiptRequest | None:
    """Return the question in a message; None if the message is no question of a collector."""
    try:
        ask = msgspec.json.decode(data, type=ReceiptRequest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return ask if is_producer(ask.producer) and is_epoch(ask.epoch) else None


def read_receipts(data: bytes) -> list[Receipt]:
    """Return the receipts in a message; none if the message holds something else."""
    try:
        found = msgspec.json.decode(data, type=list[Receipt])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return []
    return [one for one in found if 0 <= one.sequence <= LAST_SEQUENCE]
