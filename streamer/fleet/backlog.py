"""The backlog of an uplink: lines of the outbox that are not delivered, in one epoch.

It is read in one of two ways: forward, from the last line sent; or once more, in partitions whose writer proved that
lines are lost, from the last delivered line of each up to where forward reading has come.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import islice

import anyio
import msgspec
from anyio import to_thread

from streamer.base.events import Emit, OutboxMissing, RecordsResent
from streamer.base.lines import FileLine
from streamer.config.fleet_names import partition_of
from streamer.core.records.dataset_line import line_key
from streamer.core.records.key import DedupBy
from streamer.fleet.in_flight import InFlight
from streamer.fleet.outbox import Outbox
from streamer.fleet.partition_state import PartitionState
from streamer.fleet.receipts import Mark, Receipt
from streamer.store.ledger import delivery
from streamer.store.ledger.delivery import Delivered, Progress, Undeliverable
from streamer.store.ledger.ledger import Ledger

_MOST_KEYS = 16_384
"""Keys of newly committed lines that are kept; those of other lines are computed from the line."""


class BacklogLine(msgspec.Struct, frozen=True, gc=False):
    """A line that may have to be sent, its partition and its key; the key is None if the line is no record."""

    line: FileLine
    partition: int
    key: bytes | None


class _Resend:
    """Lines to send once more: per partition those after a sequence and a log offset, up to ``stop``."""

    def __init__(self, after: Mapping[int, tuple[int, int]], low_watermark: int, stop: int) -> None:
        self.sequences = {partition: sequence for partition, (sequence, _) in after.items()}
        self.offsets = {partition: offset for partition, (_, offset) in after.items()}
        self.position = max(low_watermark, min(self.offsets.values()))
        self.stop = stop


class Backlog:
    """Lines to deliver and their progress, epoch after epoch.

    Args:
        outbox: The lines.
        ledger: Stores progress.
        by: What makes two records duplicates.
        emit: Called with every event.
    """

    def __init__(self, outbox: Outbox, ledger: Ledger, by: DedupBy, emit: Emit) -> None:
        self._outbox = outbox
        self._ledger = ledger
        self._by = by
        self._emit = emit
        self._position = self._committed = 0
        self._fresh: deque[tuple[bytes, int]] = deque()
        self._more = anyio.Event()
        self._rewinds: dict[int, tuple[int, int]] = {}
        self._resend: _Resend | None = None
        self._sent = self._resent = 0
        self._saved: dict[int, Delivered] = {}
        self._saved_low_watermark = 0
        self._states: Sequence[PartitionState] = ()
        self.epoch = ""
        self.orders = 0
        """Number of acknowledgements so far."""
        self.is_outdated = False
        """A writer has taken over that does not know what the previous one held of this epoch."""

    def needs_epoch(self, partitions: int) -> bool:
        """Say whether a new epoch has to begin before lines can be sent to this number of partitions."""
        return len(self._states) != partitions or self.is_outdated

    async def begin(self, partitions: int) -> None:
        """Begin a new epoch: number lines anew, from the first one that is not delivered."""
        low_watermark, delivered = await self._ledger.transact(partial(delivery.begin, partitions=partitions))
        self._states = [PartitionState(delivered.get(partition, Delivered())) for partition in range(partitions)]
        self.epoch = secrets.token_hex(8)
        self.is_outdated = False
        self._saved, self._saved_low_watermark = delivered, low_watermark
        self._position = low_watermark
        self._rewinds.clear()
        self._resend = None

    def committed(self, length: int, keys: Iterable[tuple[bytes, int]]) -> None:
        """Note that the outbox is committed up to ``length``; ``keys``: (key, log offset) of its newest lines."""
        self._committed = length
        self._fresh.extend(islice(keys, max(0, _MOST_KEYS - len(self._fresh))))
        self._wake()

    # -- progress ------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Number of lines sent and not delivered."""
        return sum(state.waiting for state in self._states)

    @property
    def unsent(self) -> int:
        """Number of bytes not sent yet."""
        return max(0, self._committed - self._position)

    @property
    def is_delivered(self) -> bool:
        """Say whether every line is delivered, and stored as such."""
        return bool(self._states) and not self.unsent and not self.waiting and not self.is_unsaved

    @property
    def _low_watermark(self) -> int:
        """Log offset of a line start before which no line waits."""
        marks = (state.low_watermark for state in self._states)
        return min([self._position, *(mark for mark in marks if mark is not None)])

    # -- the next lines ------------------------------------------------------------------------------------

    @property
    def _has_next(self) -> bool:
        return self._resend is not None or bool(self._rewinds) or self._position < self._committed

    async def until_next(self) -> None:
        """Wait until there are lines to read."""
        while not self._has_next:
            await self._more.wait()

    def _wake(self) -> None:
        more, self._more = self._more, anyio.Event()
        more.set()

    async def read(self) -> list[BacklogLine]:
        """Return the next lines; call ``advance`` for each of them in order before the next call.

        Raises:
            UnavailableError: The outbox cannot be read now.
        """
        if self._resend is None and self._rewinds:
            self._resend = _Resend(self._rewinds, self._saved_low_watermark, self._position)
            self._rewinds = {}
        resend = self._resend
        start, stop = (self._position, self._committed) if resend is None else (resend.position, resend.stop)
        found = await self._outbox.read(start, stop)
        if found.missing:
            self._emit(OutboxMissing(found.missing))
            if resend is not None:  # missing lines had sequences, which cannot be counted again
                await self.begin(len(self._states))
                return []
        if not found.lines:
            self._go_on(found.after)
        keys = [self._fresh_key(line.offset) for line in found.lines]
        return await to_thread.run_sync(self._keyed, found.lines, keys)

    def _fresh_key(self, offset: int) -> bytes | None:
        """Return the key of a newly committed line if it is kept; lines ask for their keys in order."""
        while self._fresh and self._fresh[0][1] < offset:
            self._fresh.popleft()
        return self._fresh.popleft()[0] if self._fresh and self._fresh[0][1] == offset else None

    def _keyed(self, lines: Sequence[FileLine], keys: Sequence[bytes | None]) -> list[BacklogLine]:
        return [self._line(line, key) for line, key in zip(lines, keys, strict=True)]

    def _line(self, line: FileLine, key: bytes | None) -> BacklogLine:
        if key is None:
            try:
                key = line_key(line.data, self._by)
            except ValueError:
                return BacklogLine(line, -1, None)
        return BacklogLine(line, partition_of(key, len(self._states)), key)

    def sequence(self, one: BacklogLine) -> int | None:
        """Return the sequence under which to send a line; None if it must not be sent."""
        if one.key is None or not self._states[one.partition].is_new(one.line.offset):
            return None
        if self._resend is None:
            return self._states[one.partition].sequence + 1
        if one.line.offset <= self._resend.offsets.get(one.partition, one.line.offset):
            return None
        return self._resend.sequences[one.partition] + 1

    def attempt(self, one: BacklogLine) -> int:
        """Return how often the lines of this partition have been sent before."""
        return self._states[one.partition].attempt if self._resend is not None else 0

    def advance(self, one: BacklogLine, sequence: int | None) -> None:
        """Advance past a line that was sent under a sequence, or skipped (None)."""
        if sequence is not None and self._resend is None:
            self._states[one.partition].assign(one.line.offset)
        elif sequence is not None and self._resend is not None:
            self._resend.sequences[one.partition] = sequence
        self._go_on(one.line.stop)

    def _go_on(self, after: int) -> None:
        if self._resend is None:
            self._position = after
            return
        self._resend.position = after
        if after >= self._resend.stop:
            self._resend = None

    # -- acknowledgements and receipts ---------------------------------------------------------------------

    def acknowledged(self, flight: InFlight, stream_sequence: int, incarnation: str) -> None:
        """Note a message that the stream has accepted; one of an earlier epoch changes nothing."""
        if flight.message.id.epoch != self.epoch:
            return
        self.orders += 1
        if flight.attempt:
            self._resent += 1
        else:
            self._sent += 1
        mark = Mark(flight.message.id.sequence, flight.offset, stream_sequence, incarnation, self.orders)
        self._states[flight.partition].acknowledged(mark)

    def unconfirmed(self) -> list[int]:
        """Return partitions with lines that the stream has acknowledged and no writer has confirmed."""
        return [partition for partition, state in enumerate(self._states) if state.is_acknowledged]

    def receive(self, receipt: Receipt, asked: int | None) -> bool:
        """Note a receipt; say whether it proves that lines have to be sent again.

        Args:
            receipt: A writer's receipt.
            asked: Value of ``orders`` when the writer was asked; None for a receipt sent unasked.
        """
        if receipt.epoch != self.epoch or not 0 <= receipt.partition < len(self._states):
            return False
        partition, state = receipt.partition, self._states[receipt.partition]
        state.receive(receipt)
        is_sending = partition in self._rewinds or (self._resend and partition in self._resend.sequences)
        if asked is None or is_sending or not state.is_lost(receipt, asked):
            return False
        self.is_outdated |= receipt.sequence < state.high_watermark
        self._rewinds[partition] = state.rewind()
        self._emit(RecordsResent(partition, state.sequence - self._rewinds[partition][0]))
        self._wake()
        return True

    async def set_aside(self, line: Undeliverable) -> bool:
        """Store a line that cannot be sent; say whether it is new."""
        return await self._ledger.transact(partial(delivery.set_aside, line=line))

    @property
    def is_unsaved(self) -> bool:
        """Say whether there is progress that the ledger does not hold."""
        return bool(self._sent or self._resent or self._changed()) or self._low_watermark != self._saved_low_watermark

    async def save(self) -> None:
        """Persist delivery progress."""
        low_watermark, changed, sent, resent = self._low_watermark, self._changed(), self._sent, self._resent
        await self._ledger.transact(partial(delivery.save, progress=Progress(low_watermark, changed, sent, resent)))
        self._sent -= sent
        self._resent -= resent
        self._saved = {**self._saved, **changed}
        self._saved_low_watermark = low_watermark

    def _changed(self) -> dict[int, Delivered]:
        return {
            partition: state.delivered
            for partition, state in enumerate(self._states)
            if state.delivered != self._saved.get(partition, Delivered())
        }
