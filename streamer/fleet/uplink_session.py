"""Delivery over one link: publish lines, follow acknowledgements and receipts, ask writers, save progress."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import anyio
import msgspec
from anyio import to_thread

from streamer.base.errors import UnavailableError
from streamer.base.events import Emit, RecordUndeliverable
from streamer.fleet import objects
from streamer.fleet.backlog import Backlog, BacklogLine
from streamer.fleet.beside import first_of, until_first
from streamer.fleet.end import SessionContext
from streamer.fleet.in_flight import InFlight, InFlightMessages, PublishAck
from streamer.fleet.message import HEADER_BYTES, Message, MessageId, headers, pack
from streamer.fleet.receipts import Receipt, ReceiptRequest, read_receipts
from streamer.store.ledger.delivery import Undeliverable

if TYPE_CHECKING:
    from nats.aio.msg import Msg

SEND = "send records to the fleet"
"""The operation that fails while the stream accepts no record."""

_TOO_LARGE, _REFUSED = "too_large", "refused"
"""Reasons of lines that cannot be sent: too large for a message and the object store; or refused by the stream."""

_RECOVERED_AFTER = 512
"""Messages accepted in succession after which a stream that refused some counts as recovered."""

_TICK = 0.5
_ANSWER_SECONDS = 10.0
"""A message not acknowledged for so long is published again, under the same id."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 5.0
"""Seconds between two tries while the stream refuses messages."""

_ASK_SECONDS = 3.0
"""A writer that sent no receipt for so long while lines wait is asked."""

_ALIVE_SECONDS = 10.0
_TOO_LARGE_FOR_STREAM = 10054


class _Question(NamedTuple):
    """A question to a partition's writer; ``orders``: acknowledgements received before it was asked."""

    partition: int
    orders: int
    since: float


class UplinkSession:
    """Delivers the lines of a backlog over one link.

    Args:
        context: The link.
        backlog: The lines to deliver, in an epoch with as many partitions as the stream has.
        in_flight: Messages in flight; those of the last link are published again.
        emit: Called with every event.
    """

    def __init__(self, context: SessionContext, backlog: Backlog, in_flight: InFlightMessages, emit: Emit) -> None:
        self._link, stream, self._names, self._producer, self._status, self._clock = context
        self._backlog = backlog
        self._in_flight = in_flight
        self._emit = emit
        self._inbox = self._link.client.new_inbox()
        self._incarnation = stream.incarnation
        self._heard = [float("-inf")] * stream.partitions
        self._questions: dict[str, _Question] = {}
        self._room = anyio.Event()
        self._blocked_until: float | None = None
        self._pause = _FIRST_PAUSE
        self._accepted = 0
        self._tokens = 0
        self._next_alive = 0.0

    async def run(self) -> None:
        """Deliver until the link is lost."""
        client = self._link.client
        await client.subscribe(f"{self._inbox}.*", cb=self._on_reply, pending_bytes_limit=0)
        await client.subscribe(self._names.receipt(self._producer), cb=self._on_receipt)
        if self._status.error is not None and self._status.error.op != SEND:
            self._status.works()  # the fleet is reached; whether its stream accepts records is another matter
        for flight in self._in_flight.remove_all():
            await self._publish(flight)
        await until_first(self._send, self._maintain, self._link.lost.wait)

    # -- sending ---------------------------------------------------------------------------------------------

    async def _send(self) -> None:
        while True:
            await self._backlog.until_next()
            for one in await self._backlog.read():
                await self._send_one(one)

    async def _send_one(self, one: BacklogLine) -> None:
        sequence = self._backlog.sequence(one)
        if sequence is None or one.key is None:
            self._backlog.advance(one, None)
            return
        while self._blocked_until is not None or self._in_flight.is_full:
            self._room = anyio.Event()
            await self._room.wait()
        attempt = self._backlog.attempt(one)
        message = await self._message(one, MessageId(self._producer, self._backlog.epoch, sequence), attempt)
        # Nothing is awaited from here until the message is in flight: a lost link leaves both done, or neither.
        self._backlog.advance(one, sequence)
        await self._publish(InFlight(one.partition, one.line.offset, one.key, attempt, message))

    async def _message(self, one: BacklogLine, message_id: MessageId, attempt: int) -> Message:
        """Return the message for a line: plain, packed, in an object, or skipped if it cannot be sent."""
        line, most = one.line.data, self._link.most_bytes - HEADER_BYTES
        if len(line) <= most:
            return Message(message_id, line)
        packed = await to_thread.run_sync(pack, line)
        if len(packed) <= most:
            return Message(message_id, packed, packed=True)
        name = f"{message_id.producer}.{message_id.epoch}.{one.partition}.{message_id.sequence}.{attempt}"
        cause = await objects.put(self._link, self._names, name, packed)
        if cause is None:
            return Message(message_id, packed=True, object=name, holds=one.key)
        cause = f"more than max_payload ({self._link.most_bytes}) allows, and {cause}"
        await self._set_aside(one.partition, one.line.offset, len(line), _TOO_LARGE, cause)
        return Message(message_id, skipped=True)

    async def _set_aside(self, partition: int, offset: int, size: int, reason: str, cause: str) -> None:
        if await self._backlog.set_aside(Undeliverable(offset, partition, size, reason)):
            self._emit(RecordUndeliverable(offset, size, reason, cause))

    async def _publish(self, flight: InFlight) -> None:
        self._tokens += 1
        token = str(self._tokens)
        flight.since, flight.failed = self._clock.monotonic(), False
        self._in_flight[token] = flight
        await self._link.client.publish(
            self._names.subject(flight.partition),
            flight.message.body,
            reply=f"{self._inbox}.{token}",
            headers=headers(flight.message, self._names.stream, flight.dedup_id),
        )

    # -- answers ---------------------------------------------------------------------------------------------

    async def _on_reply(self, msg: Msg) -> None:
        token = msg.subject.rpartition(".")[2]
        if token in self._questions:
            self._on_answer(msg, self._questions.pop(token))
            return
        flight = self._in_flight.get(token)
        if flight is None:
            return
        ack = PublishAck.of(msg)
        if ack.seq and not (ack.duplicate and flight.message.is_record):
            self._in_flight.remove(token)
            self._on_accepted(flight, ack.seq)
        elif ack.seq:  # the stream has a record with this key, maybe of another collector: send the key alone
            self._in_flight.remove(token)
            flight.message = Message(flight.message.id, holds=flight.key)
            await self._publish(flight)
        elif ack.code == _TOO_LARGE_FOR_STREAM and flight.message.is_record:
            await self._set_aside(flight.partition, flight.offset, len(flight.message.body), _REFUSED, ack.cause)
            self._in_flight.remove(token)
            flight.message = Message(flight.message.id, skipped=True)
            await self._publish(flight)
        else:
            flight.failed = True
            self._on_refused(ack.cause)

    def _on_accepted(self, flight: InFlight, stream_sequence: int) -> None:
        self._backlog.acknowledged(flight, stream_sequence, self._incarnation)
        self._blocked_until, self._pause = None, _FIRST_PAUSE
        self._accepted += 1
        # A full stream that drains accepts some and refuses some: that is one failure until it accepts all.
        if self._status.error is not None and (not self._in_flight or self._accepted >= _RECOVERED_AFTER):
            self._status.works()
        self._room.set()

    def _on_refused(self, cause: str) -> None:
        """Report that the stream accepts nothing now, and pause."""
        if self._blocked_until is not None and self._clock.monotonic() < self._blocked_until:
            return
        hint = "see `streamer fleet status`; what is collected waits in the outbox"
        self._status.fails(UnavailableError(SEND, self._names.stream, cause, hint))
        self._accepted = 0
        self._blocked_until = self._clock.monotonic() + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    async def _on_receipt(self, msg: Msg) -> None:
        for receipt in read_receipts(msg.data):
            self._receive(receipt, None)

    def _on_answer(self, msg: Msg, question: _Question) -> None:
        for receipt in read_receipts(msg.data):
            if receipt.partition == question.partition and receipt.producer == self._producer:
                self._receive(receipt, question.orders)

    def _receive(self, receipt: Receipt, asked: int | None) -> None:
        if self._backlog.receive(receipt, asked):
            self._incarnation = receipt.incarnation
        if self._backlog.is_outdated:  # the next link begins a new epoch
            self._link.complaint = "a writer has taken over that does not know what was held before"
            self._link.lost.set()
        if 0 <= receipt.partition < len(self._heard):
            self._heard[receipt.partition] = self._clock.monotonic()

    # -- maintenance -----------------------------------------------------------------------------------------

    async def _maintain(self) -> None:
        """Publish again, ask writers, save progress, and send heartbeats."""
        while True:
            now = self._clock.monotonic()
            await self._publish_again(now)
            await self._ask(now)
            if self._backlog.is_unsaved:
                await self._backlog.save()
            if now >= self._next_alive:
                self._next_alive = now + _ALIVE_SECONDS
                await self._send_heartbeat()
            if not (self._in_flight or self._backlog.waiting or self._backlog.is_unsaved):
                await first_of(self._next_alive - now, self._backlog.until_next)
            await self._clock.sleep(_TICK)

    async def _publish_again(self, now: float) -> None:
        """Publish messages without an acknowledgement; of refused ones only the first, to probe the stream."""
        failed = [token for token, flight in self._in_flight.items() if flight.failed]
        late = [
            token
            for token, flight in self._in_flight.items()
            if not flight.failed and now - flight.since >= _ANSWER_SECONDS
        ]
        if self._blocked_until is not None:
            failed = failed[:1] if now >= self._blocked_until else []
        if late:
            self._on_refused(self._link.complaint or "it does not say that it has taken them")
        for token in [*failed, *late]:
            await self._publish(self._in_flight.remove(token))

    async def _ask(self, now: float) -> None:
        self._questions = {token: one for token, one in self._questions.items() if now - one.since < _ANSWER_SECONDS}
        asked = {one.partition for one in self._questions.values()}
        for partition in self._backlog.unconfirmed():
            if partition not in asked and now - self._heard[partition] >= _ASK_SECONDS:
                self._tokens += 1
                self._heard[partition] = now
                self._questions[str(self._tokens)] = _Question(partition, self._backlog.orders, now)
                ask = msgspec.json.encode(ReceiptRequest(self._producer, self._backlog.epoch))
                await self._link.client.publish(self._names.ask(partition), ask, reply=f"{self._inbox}.{self._tokens}")

    async def _send_heartbeat(self) -> None:
        said = {"origin": self._producer, "waits": self._backlog.waiting, "unsent_bytes": self._backlog.unsent}
        await self._link.client.publish(self._names.alive(self._producer), msgspec.json.encode(said))
