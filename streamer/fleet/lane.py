"""What is on its way in one bucket: how far lines are numbered, acknowledged by the stream, held by a writer.

::

    lines of the bucket   ····· delivered │ held, but for the ledger │ acknowledged │ published │ not read yet
                                          └ have                                    └ number

Its memory is the same however much waits: a few marks stand for all lines that were acknowledged.
"""

from __future__ import annotations

from streamer.fleet.receipts import Mark, Receipt, is_lost, thinned
from streamer.store.ledger.delivery import Delivered


class Lane:
    """One bucket in one life of an uplink.

    Args:
        delivered: what was delivered before this life.
    """

    def __init__(self, delivered: Delivered) -> None:
        self._before = delivered
        self._done = Mark(0, delivered.place, 0, "", 0)
        self._marks: list[Mark] = []
        self._first: int | None = None
        self.number = 0
        self.have = 0
        self.attempt = 0
        self.heard = float("-inf")
        self.away = False

    @property
    def delivered(self) -> Delivered:
        """What is delivered by now."""
        return Delivered(self._done.place, self._before.records + self._done.number)

    @property
    def waits(self) -> int:
        """How many lines were numbered and are not delivered."""
        return self.number - self._done.number

    @property
    def is_acknowledged(self) -> bool:
        """Say whether the stream has acknowledged lines that are not delivered."""
        return bool(self._marks)

    @property
    def floor(self) -> int | None:
        """A place at which a line begins and before which nothing of this bucket waits; None if nothing waits."""
        if not self.waits:
            return None
        return self._done.place if self._done.number else self._first

    def takes(self, place: int) -> bool:
        """Say whether the line at a place was not delivered before this life."""
        return place > self._before.place

    def numbered(self, place: int) -> int:
        """Give the line at a place, the next one of the bucket, its number."""
        if self._first is None:
            self._first = place
        self.number += 1
        return self.number

    def acknowledged(self, mark: Mark) -> None:
        """Take note of a line that the stream has."""
        if mark.number <= self._done.number:
            return
        self._marks = thinned(sorted([*self._marks, mark], key=lambda one: one.number))
        self._settle()

    def hear(self, receipt: Receipt) -> None:
        """Take note of what a writer holds."""
        self.away = False
        self.have = max(self.have, min(receipt.number, self.number))
        self._settle()

    def lost(self, receipt: Receipt, asked: int) -> bool:
        """Say whether an answer to what was asked after so many acknowledgements shows that lines are lost."""
        return is_lost(self._marks, receipt, asked)

    def rewind(self) -> tuple[int, int]:
        """Begin to send again; return the number and the place after which that has to begin."""
        self.attempt += 1
        self._marks = [mark for mark in self._marks if mark.number <= self.have]
        return self._done.number, self._done.place

    def _settle(self) -> None:
        for mark in self._marks:
            if mark.number <= self.have:
                self._done = mark
        self._marks = [mark for mark in self._marks if mark.number > self.have]
