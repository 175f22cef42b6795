"""Receipts: what a writer says it holds of a collector's lines, and when that is evidence that some are lost. Pure.

Only evidence sends a line again. A line that a writer does not hold may still be on its way, for weeks if the writer is
away; so it is sent again only when a writer was asked *after* the stream had acknowledged it, and the answer shows that
it cannot come any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from streamer.fleet.message import LAST_NUMBER, is_life, is_origin

MOST_MARKS = 256
"""Marks that are kept of one bucket, whatever waits: beyond them every second one is given up."""


class ReceiptRequest(msgspec.Struct, frozen=True):
    """What a collector asks the writer of a bucket."""

    origin: str
    life: str


class Receipt(msgspec.Struct, frozen=True):
    """What a writer's ledger holds of one collector's lines in one bucket: all of them up to ``number``.

    An answer also says how the stream stood when it was asked: its ``incarnation``, the sequence up to which everything
    in this bucket was taken (``floor``), the ``last`` one that it has given, and whether nothing was left to be taken
    (``idle``). What is said unasked has an empty incarnation, and is no evidence.
    """

    bucket: int
    origin: str
    life: str
    number: int
    incarnation: str = ""
    floor: int = 0
    last: int = 0
    idle: bool = False


class Mark(msgspec.Struct, frozen=True, gc=False):
    """A line that the stream acknowledged: its number, the place where it begins in the outbox, its sequence.

    ``order`` counts acknowledgements, to tell those before a question from those after it.
    """

    number: int
    place: int
    sequence: int
    incarnation: str
    order: int


def is_lost(marks: Iterable[Mark], receipt: Receipt, asked: int) -> bool:
    """Say whether an answer shows that a line is lost which the stream had acknowledged.

    Args:
        marks: lines that were acknowledged.
        receipt: the answer.
        asked: how many acknowledgements there had been when the writer was asked.
    """
    return bool(receipt.incarnation) and any(
        mark.number > receipt.number and mark.order <= asked and _is_over(mark, receipt) for mark in marks
    )


def _is_over(mark: Mark, receipt: Receipt) -> bool:
    """Say whether a message cannot be on its way any more: it was taken, or is in no stream."""
    return (
        receipt.idle
        or receipt.incarnation != mark.incarnation
        or receipt.floor >= mark.sequence
        or receipt.last < mark.sequence
    )


def thinned(marks: Sequence[Mark]) -> list[Mark]:
    """Return marks that are not too many: the last one always, of the others every second."""
    if len(marks) <= MOST_MARKS:
        return list(marks)
    return [*marks[:-1:2], marks[-1]]


def read_ask(data: bytes) -> ReceiptRequest | None:
    """Return what is asked; None if it is nothing that a collector asks."""
    try:
        ask = msgspec.json.decode(data, type=ReceiptRequest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return ask if is_origin(ask.origin) and is_life(ask.life) else None


def read_receipts(data: bytes) -> list[Receipt]:
    """Return the receipts in a message; none if it is no such message."""
    try:
        found = msgspec.json.decode(data, type=list[Receipt])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return []
    return [one for one in found if 0 <= one.number <= LAST_NUMBER]
