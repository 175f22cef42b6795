"""What of an outbox is still to be delivered, in one life of an uplink: which line is next, and how far all of it is.

It is read in one of two ways: on, from the last line that was sent; or once more, in the buckets of which a writer
showed that lines were lost, from the last of theirs that is held up to where the first way has come.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from functools import partial

import msgspec
from anyio import to_thread

from streamer.base.events import Emit, OutboxMissing, RecordsResent
from streamer.config.fleet_names import bucket_of
from streamer.core.records.dataset_line import line_key
from streamer.core.records.key import DedupBy
from streamer.fleet.lane import Lane
from streamer.fleet.outbox import Outbox, OutboxLine
from streamer.fleet.receipts import Mark, Receipt
from streamer.store.ledger import delivery
from streamer.store.ledger.delivery import Delivered, Progress, Undeliverable
from streamer.store.ledger.ledger import Ledger


class Next(msgspec.Struct, frozen=True, gc=False):
    """A line that may have to be sent: in which bucket, and under which key; it has none if it is no record."""

    line: OutboxLine
    bucket: int
    key: bytes | None


class _Again:
    """Lines that are sent once more: of which buckets, each after a number and a place, and up to where."""

    def __init__(self, after: Mapping[int, tuple[int, int]], floor: int, stop: int) -> None:
        self.numbers = {bucket: number for bucket, (number, _) in after.items()}
        self.places = {bucket: place for bucket, (_, place) in after.items()}
        self.position = max(floor, min(self.places.values()))
        self.stop = stop


class Backlog:
    """One life.

    Args:
        outbox: its lines.
        ledger: remembers what is delivered.
        by: what makes two records the same one.
        emit: is told of what a person should know.
    """

    def __init__(self, outbox: Outbox, ledger: Ledger, by: DedupBy, emit: Emit) -> None:
        self._outbox = outbox
        self._ledger = ledger
        self._by = by
        self._emit = emit
        self._position = self._committed = 0
        self._orders = 0
        self._rewinds: dict[int, tuple[int, int]] = {}
        self._again: _Again | None = None
        self._sent = self._resent = 0
        self._saved: dict[int, Delivered] = {}
        self._saved_floor = 0
        self.life = ""
        self.is_outdated = False  # a writer has taken over that does not know what the one before held of this life
        self.lanes: Sequence[Lane] = ()

    async def begin(self, buckets: int) -> None:
        """Begin a new life: number lines anew, from the first one on that is not delivered."""
        floor, delivered = await self._ledger.transact(partial(delivery.begin, buckets=buckets))
        self.lanes = [Lane(delivered.get(bucket, Delivered())) for bucket in range(buckets)]
        self.life = secrets.token_hex(8)
        self.is_outdated = False
        self._saved, self._saved_floor = delivered, floor
        self._position = floor
        self._rewinds.clear()
        self._again = None

    def committed(self, length: int) -> None:
        """Take note that the outbox is committed up to a place."""
        self._committed = length

    # -- how far it is -------------------------------------------------------------------------------------

    @property
    def waits(self) -> int:
        """How many lines were sent and are not delivered."""
        return sum(lane.waits for lane in self.lanes)

    @property
    def unsent(self) -> int:
        """How many bytes were not sent yet."""
        return max(0, self._committed - self._position)

    @property
    def is_delivered(self) -> bool:
        """Say whether all that is there is delivered, and the ledger knows."""
        return bool(self.lanes) and not self.unsent and not self.waits and not self.is_unsaved

    @property
    def floor(self) -> int:
        """A place at which a line begins, and before which nothing waits."""
        floors = (lane.floor for lane in self.lanes)
        return min([self._position, *(floor for floor in floors if floor is not None)])

    # -- which line is next ----------------------------------------------------------------------------------

    @property
    def has_next(self) -> bool:
        """Say whether there is something to read."""
        return self._again is not None or bool(self._rewinds) or self._position < self._committed

    async def read(self) -> list[Next]:
        """Return the next lines, each of which is ``passed`` or ``taken`` in order before this is called again.

        Raises:
            UnavailableError: the outbox cannot be read now.
        """
        if self._again is None and self._rewinds:
            self._again = _Again(self._rewinds, self._saved_floor, self._position)
            self._rewinds = {}
        again = self._again
        start, stop = (self._position, self._committed) if again is None else (again.position, again.stop)
        found = await self._outbox.read(start, stop)
        if found.missing:
            await self._pass_over(found.missing, found.after)
        elif not found.lines:
            self._go_on(found.after)
        return await to_thread.run_sync(self._keys, found.lines)

    async def _pass_over(self, missing: int, after: int) -> None:
        self._emit(OutboxMissing(missing))
        if self._again is None:
            self._position = after
        else:  # lines had numbers that are not there to be counted again
            await self.begin(len(self.lanes))

    def _keys(self, lines: Sequence[OutboxLine]) -> list[Next]:
        return [self._next(line) for line in lines]

    def _next(self, line: OutboxLine) -> Next:
        try:
            key = line_key(line.data, self._by)
        except ValueError:
            return Next(line, -1, None)
        return Next(line, bucket_of(key, len(self.lanes)), key)

    def number(self, one: Next) -> int | None:
        """Return the number of a line that has to be sent; None for one that has not."""
        again = self._again
        if one.key is None:
            return None
        if again is None:
            lane = self.lanes[one.bucket]
            return lane.number + 1 if lane.takes(one.line.place) else None
        if one.line.place <= again.places.get(one.bucket, one.line.place):
            return None
        # Lines of an earlier life that were delivered have no number in this one.
        return again.numbers[one.bucket] + 1 if self.lanes[one.bucket].takes(one.line.place) else None

    def take(self, one: Next) -> None:
        """Go on behind a line that is sent, or that has not to be."""
        number = self.number(one)
        after = one.line.place + len(one.line.data)
        if self._again is None:
            if number is not None:
                self.lanes[one.bucket].numbered(one.line.place)
        elif number is not None:
            self._again.numbers[one.bucket] = number
        self._go_on(after)

    def _go_on(self, after: int) -> None:
        if self._again is None:
            self._position = after
            return
        self._again.position = after
        if after >= self._again.stop:
            self._again = None

    @property
    def is_again(self) -> bool:
        """Say whether what is read now was sent before."""
        return self._again is not None

    # -- what becomes of it ------------------------------------------------------------------------------------

    @property
    def orders(self) -> int:
        """How many acknowledgements there were."""
        return self._orders

    def acknowledged(self, bucket: int, number: int, place: int, sequence: int, incarnation: str, attempt: int) -> None:
        """Take note of a line that the stream has."""
        self._orders += 1
        if attempt:
            self._resent += 1
        else:
            self._sent += 1
        self.lanes[bucket].acknowledged(Mark(number, place, sequence, incarnation, self._orders))

    def hear(self, receipt: Receipt, asked: int | None) -> bool:
        """Take note of a receipt; say whether it shows that lines have to be sent again.

        Args:
            receipt: what a writer holds.
            asked: how many acknowledgements there were when it was asked; None if it was not.
        """
        if receipt.life != self.life or not 0 <= receipt.bucket < len(self.lanes):
            return False
        lane = self.lanes[receipt.bucket]
        lane.hear(receipt)
        is_sending = receipt.bucket in self._rewinds or (self._again and receipt.bucket in self._again.numbers)
        if asked is None or is_sending or not lane.lost(receipt, asked):
            return False
        self.is_outdated |= receipt.number < lane.have
        self._rewinds[receipt.bucket] = lane.rewind()
        self._emit(RecordsResent(receipt.bucket, lane.number - self._rewinds[receipt.bucket][0]))
        return True

    async def set_aside(self, line: Undeliverable) -> bool:
        """Remember a line that cannot travel; say whether that is new."""
        return await self._ledger.transact(partial(delivery.set_aside, line=line))

    @property
    def is_unsaved(self) -> bool:
        """Say whether the ledger does not know all of it."""
        return bool(self._sent or self._resent or self._changed()) or self.floor != self._saved_floor

    async def save(self) -> None:
        """Have the ledger know what is delivered."""
        floor, changed, sent, resent = self.floor, self._changed(), self._sent, self._resent
        await self._ledger.transact(partial(delivery.save, progress=Progress(floor, changed, sent, resent)))
        self._sent -= sent
        self._resent -= resent
        self._saved = {**self._saved, **changed}
        self._saved_floor = floor

    def _changed(self) -> dict[int, Delivered]:
        return {
            bucket: lane.delivered
            for bucket, lane in enumerate(self.lanes)
            if lane.delivered != self._saved.get(bucket, Delivered())
        }
