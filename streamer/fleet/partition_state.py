"""Delivery state of one partition at a collector: how far its lines are numbered, acknowledged and held.

::

    lines of the partition   ····· delivered │ held, not yet in the ledger │ acknowledged │ published │ not read yet
                                             └ high watermark                             └ sequence

Memory is constant however many lines wait: a few marks stand for all lines that the stream acknowledged.
"""

from __future__ import annotations

from streamer.fleet.receipts import Mark, Receipt, is_lost, thinned
from streamer.store.ledger.delivery import Delivered


class PartitionState:
    """One partition in one epoch of an uplink. ``high_watermark``: a writer holds all lines up to this sequence.

    Args:
        delivered: Lines delivered before this epoch.
    """

    def __init__(self, delivered: Delivered) -> None:
        self._before = delivered
        self._done = Mark(0, delivered.offset, 0, "", 0)
        self._marks: list[Mark] = []
        self._first: int | None = None
        self.sequence = 0
        self.high_watermark = 0
        self.attempt = 0

    @property
    def delivered(self) -> Delivered:
        """The lines delivered so far, in this epoch and before."""
        return Delivered(self._done.offset, self._before.records + self._done.sequence)

    @property
    def waiting(self) -> int:
        """Number of lines that have a sequence and are not delivered."""
        return self.sequence - self._done.sequence

    @property
    def is_acknowledged(self) -> bool:
        """Say whether the stream has acknowledged lines that are not delivered."""
        return bool(self._marks)

    @property
    def low_watermark(self) -> int | None:
        """Log offset of a line start before which no line of this partition waits; None if no line waits."""
        if not self.waiting:
            return None
        return self._done.offset if self._done.sequence else self._first

    def is_new(self, offset: int) -> bool:
        """Say whether the line at a log offset was not delivered before this epoch."""
        return offset > self._before.offset

    def assign(self, offset: int) -> int:
        """Assign the next sequence to the line at a log offset, and return it."""
        if self._first is None:
            self._first = offset
        self.sequence += 1
        return self.sequence

    def acknowledged(self, mark: Mark) -> None:
        """Note a line that the stream has acknowledged."""
        if mark.sequence <= self._done.sequence:
            return
        self._marks = thinned(sorted([*self._marks, mark], key=lambda one: one.sequence))
        self._settle()

    def receive(self, receipt: Receipt) -> None:
        """Raise the high watermark to a writer's receipt, at most to the last sequence assigned."""
        self.high_watermark = max(self.high_watermark, min(receipt.sequence, self.sequence))
        self._settle()

    def is_lost(self, receipt: Receipt, asked: int) -> bool:
        """Say whether an answer proves that lines are lost; ``asked``: acknowledgements before the question."""
        return is_lost(self._marks, receipt, asked)

    def rewind(self) -> tuple[int, int]:
        """Begin to send again; return the sequence and the log offset of the last line that is delivered."""
        self.attempt += 1
        self._marks = [mark for mark in self._marks if mark.sequence <= self.high_watermark]
        return self._done.sequence, self._done.offset

    def _settle(self) -> None:
        for mark in self._marks:
            if mark.sequence <= self.high_watermark:
                self._done = mark
        self._marks = [mark for mark in self._marks if mark.sequence > self.high_watermark]
