"""The uplink of a collector: it follows the outbox, publishes its lines, and counts as delivered what a writer holds.

Invariants
- What is committed in the outbox waits there until a receipt covers it, whatever becomes of link, stream and writers.
- A line is sent again only when its acknowledgement does not come, or on evidence (``receipts``) that it is lost.
- What is held in memory has a limit, whatever waits: some lines under way, and a few marks for each bucket.
- Nothing of this holds up the pipeline: all that both use is the ledger, in short transactions.

A *life* is one run of an uplink. In each life lines are numbered anew by bucket, from the first one that is not
delivered on, so that nothing depends on what an earlier life, or another copy of the same ledger, has sent.
"""

from __future__ import annotations

import secrets
import socket
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
from anyio import to_thread

from streamer.base.env import Env
from streamer.base.errors import StreamerError, UnavailableError
from streamer.base.events import RecordUndeliverable
from streamer.base.failures import ActiveFailures
from streamer.base.files import Clock
from streamer.config import Config
from streamer.config.fleet_names import Names, host_name
from streamer.fleet import durability, objects
from streamer.fleet.backlog import Backlog, Next
from streamer.fleet.beside import first_of, until_first
from streamer.fleet.connection import (
    CONNECT,
    Link,
    Stream,
    answered,
    check_dedup,
    connected,
    require,
    stream_of,
    unexpected,
)
from streamer.fleet.message import HEADER_BYTES, Message, MessagePlace, headers, pack
from streamer.fleet.outbox import Outbox
from streamer.fleet.receipts import ReceiptRequest, read_receipts
from streamer.store.ledger import delivery
from streamer.store.ledger.delivery import Undeliverable
from streamer.store.ledger.ledger import Ledger

if TYPE_CHECKING:
    from nats.aio.msg import Msg

SEND = "send records to the fleet"
"""What is being done while the stream does not take them."""

_TOO_LARGE, _REFUSED = "too_large", "refused"
"""Reasons of lines that cannot travel: too large for a message, and for the object store; or for the stream."""

_MOST_FLYING = 512
_MOST_BYTES = 8 << 20
"""How much is published and not acknowledged at most; a single line may be more."""

_TICK = 0.5
_ANSWER_SECONDS = 10.0
"""After so long without an acknowledgement a message is published again, under the same id."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 5.0
"""Seconds between two tries while the stream takes nothing."""

_ASK_SECONDS = 3.0
"""A writer is asked when it has said nothing for so long while lines wait."""

_ALIVE_SECONDS = 10.0
_TOO_LARGE_FOR_STREAM = 10054


class _Flight(msgspec.Struct):
    """A message that was published and is not acknowledged yet; ``failed`` if the stream did not take it."""

    bucket: int
    place: int
    key: bytes
    attempt: int
    message: Message
    since: float = 0.0
    failed: bool = False

    @property
    def id(self) -> str:
        """The id under which the stream takes it once: the key of the record; for what is none, one of its own."""
        where = f"{self.message.place.life}.{self.bucket}.{self.message.place.number}"
        again = f".{self.attempt}" if self.attempt else ""
        return f"{self.key.hex()}{again}" if self.message.is_record else f"{where}{again}"


class _Flights(dict[str, _Flight]):
    """All of them by token; ``bytes`` is how much they hold."""

    bytes = 0

    def __setitem__(self, token: str, flight: _Flight) -> None:
        """Add one."""
        self.bytes += len(flight.message.body)
        super().__setitem__(token, flight)

    def land(self, token: str) -> _Flight:
        """Take one away that is there, and return it."""
        flight = super().pop(token)
        self.bytes -= len(flight.message.body)
        return flight

    def land_all(self) -> list[_Flight]:
        """Take all of them away, and return them."""
        return [self.land(token) for token in list(self)]


class Uplink:
    """Delivers the lines of one outbox.

    Args:
        config: the fleet, and what makes two records the same one.
        ledger: that of the outbox.
        env: Files, clock and events.
        failures: what does not work, of this uplink or of one before it.

    ``error`` is why nothing can be sent now.

    Raises:
        MissingExtraError: the client is not installed.
    """

    def __init__(self, config: Config, ledger: Ledger, env: Env, failures: ActiveFailures) -> None:
        require()
        self._fleet = config.fleet
        self._by = config.dedup.by
        self._ledger = ledger
        self._clock = env.clock
        self._failures = failures
        self._news = anyio.Event()
        self._flights = _Flights()
        self._origin = ""
        self.emit = env.emit
        self.names = Names(config.fleet.prefix, config.fleet.dataset)
        self.backlog = Backlog(Outbox(config.dataset.path, ledger, env.files), ledger, config.dedup.by, env.emit)
        self.error: UnavailableError | None = None

    def committed(self, length: int) -> None:
        """Take note that the outbox is committed up to a place."""
        self.backlog.committed(length)
        self._news.set()

    async def undelivered(self) -> int | None:
        """Return how many records no writer has said to hold."""
        stand = await self._ledger.look(delivery.delivery)
        return None if stand is None else stand.waiting

    async def keep_from(self) -> int | None:
        """Return the place from which on lines of the outbox may wait."""
        return await self._ledger.look(delivery.kept_from) or 0

    @property
    def is_at_rest(self) -> bool:
        """Say whether all that is in the outbox is delivered."""
        return self.backlog.is_delivered

    @property
    def away(self) -> int:
        """How many buckets with lines that wait have no writer that answers."""
        return sum(lane.away for lane in self.backlog.lanes if lane.waits)

    async def run(self) -> None:
        """Deliver until cancelled: link after link, with a pause after each failure."""
        await durability.tell(self._fleet, self.emit)
        while True:
            try:
                await self._one_link()
            except StreamerError as error:
                # A wrong setting, too: the evaluation goes on, and what it brings waits in the outbox.
                await self._clock.sleep(self.fails(error))
            except Exception as error:  # noqa: BLE001 - told with its name, and tried again with another link
                await self._clock.sleep(self.fails(unexpected(SEND, self.names.stream, error)))

    def fails(self, error: StreamerError) -> float:
        """Take note that nothing can be sent now; return the seconds after which that is tried again."""
        self.error = UnavailableError(error.op, error.where, error.cause, error.hint)
        return self._failures.begin(error)

    def reached(self) -> None:
        """Take note that the fleet is reached; whether its stream takes records is another matter."""
        if self.error is not None and self.error.op != SEND:
            self.works()

    def works(self) -> None:
        """Take note that records are taken."""
        self.error = None
        self._failures.all_over()

    async def _one_link(self) -> None:
        if not self._origin:
            who = await self._ledger.transact(partial(delivery.prepare, collector=secrets.token_hex(4)))
            self._origin = f"{self._fleet.name or host_name(socket.gethostname())}.{who}"
        async with connected(self._fleet, f"streamer collector {self._origin}") as link:
            stream = await stream_of(link, self.names)
            check_dedup(stream, self.names, self._by)
            if len(self.backlog.lanes) != stream.buckets or self.backlog.is_outdated:
                self._flights.land_all()
                await self.backlog.begin(stream.buckets)
            with answered(link, SEND, self.names.stream):
                await _Session(self, link, stream, self._origin, self._flights, self._clock).run(self._has_news)
        cause = link.complaint or "the connection was lost"
        raise UnavailableError(CONNECT, link.where, cause, "see nats-server; it is retried")

    async def _has_news(self) -> None:
        """Return when something was committed."""
        await self._news.wait()
        self._news = anyio.Event()


class _Session:
    """What an uplink does while one link stands."""

    def __init__(
        self, uplink: Uplink, link: Link, stream: Stream, origin: str, flights: _Flights, clock: Clock
    ) -> None:
        self._uplink = uplink
        self._backlog = uplink.backlog
        self._names = uplink.names
        self._link = link
        self._stream = stream
        self._origin = origin
        self._flights = flights
        self._clock = clock
        self._inbox = link.client.new_inbox()
        self._asked: dict[str, tuple[int, int, float]] = {}
        self._incarnation = stream.incarnation
        self._room = anyio.Event()
        self._more = anyio.Event()
        self._blocked_until: float | None = None
        self._pause = _FIRST_PAUSE
        self._taken_since = 0
        self._tokens = 0
        self._next_alive = 0.0

    async def run(self, has_news: Any) -> None:
        """Deliver until the link is lost."""
        client = self._link.client
        await client.subscribe(f"{self._inbox}.*", cb=self._on_reply, pending_bytes_limit=0)
        await client.subscribe(self._names.receipt(self._origin), cb=self._on_receipt)
        self._uplink.reached()
        if any(len(flight.message.body) + HEADER_BYTES > self._link.most_bytes for flight in self._flights.values()):
            self._flights.land_all()  # these servers take less than those before
            await self._backlog.begin(self._stream.buckets)
        for flight in self._flights.land_all():  # what was under way when the last link was lost
            await self._publish(flight)
        await until_first(self._send, partial(self._watch_news, has_news), self._look_after, self._link.lost.wait)

    async def _watch_news(self, has_news: Any) -> None:
        while True:
            await has_news()
            self._more.set()

    # -- sending ---------------------------------------------------------------------------------------------

    async def _send(self) -> None:
        while True:
            if not self._backlog.has_next:
                self._more = anyio.Event()
                await self._more.wait()
                continue
            life = self._backlog.life
            for one in await self._backlog.read():
                if life == self._backlog.life:
                    await self._send_one(one)

    async def _send_one(self, one: Next) -> None:
        number = self._backlog.number(one)
        if number is None or one.key is None:
            self._backlog.take(one)
            return
        await self._until_room()
        attempt = self._backlog.lanes[one.bucket].attempt if self._backlog.is_again else 0
        place = MessagePlace(self._origin, self._backlog.life, number)
        message = await self._message(one, place, attempt)
        # From here to the flight's place among the others nothing waits: a lost link leaves all of it or nothing.
        self._backlog.take(one)
        await self._publish(_Flight(one.bucket, one.line.place, one.key, attempt, message))

    async def _until_room(self) -> None:
        while self._blocked_until is not None or self._is_full:
            self._room = anyio.Event()
            await self._room.wait()

    @property
    def _is_full(self) -> bool:
        return len(self._flights) >= _MOST_FLYING or self._flights.bytes >= _MOST_BYTES

    async def _message(self, one: Next, place: MessagePlace, attempt: int) -> Message:
        """Return the message of a line: as it is, packed, in an object, or one that says that it cannot travel."""
        line, most = one.line.data, self._link.most_bytes - HEADER_BYTES
        if len(line) <= most:
            return Message(place, line)
        packed = await to_thread.run_sync(pack, line)
        if len(packed) <= most:
            return Message(place, packed, packed=True)
        name = f"{place.origin}.{place.life}.{one.bucket}.{place.number}.{attempt}"
        cause = await objects.put(self._link, self._names, name, packed)
        if cause is None:
            return Message(place, packed=True, object=name, holds=one.key)
        cause = f"more than max_payload ({self._link.most_bytes}) allows, and {cause}"
        await self._set_aside(one.bucket, one.line.place, len(line), _TOO_LARGE, cause)
        return Message(place, skipped=True)

    async def _set_aside(self, bucket: int, place: int, size: int, reason: str, cause: str) -> None:
        if await self._backlog.set_aside(Undeliverable(place, bucket, size, reason)):
            self._uplink.emit(RecordUndeliverable(place, size, reason, cause))

    async def _publish(self, flight: _Flight) -> None:
        self._tokens += 1
        token = str(self._tokens)
        flight.since, flight.failed = self._clock.monotonic(), False
        self._flights[token] = flight
        await self._link.client.publish(
            self._names.subject(flight.bucket),
            flight.message.body,
            reply=f"{self._inbox}.{token}",
            headers=headers(flight.message, self._names.stream, flight.id),
        )

    # -- answers ---------------------------------------------------------------------------------------------

    async def _on_reply(self, msg: Msg) -> None:
        token = msg.subject.rpartition(".")[2]
        if token in self._asked:
            self._answered(msg, *self._asked.pop(token))
            return
        flight = self._flights.get(token)
        if flight is None:
            return
        said = _Answer.of(msg)
        if said.seq and not (said.duplicate and flight.message.is_record):
            self._flights.land(token)
            self._taken(flight, said.seq)
        elif said.seq:
            # The stream has a record of this key, maybe of another collector: that is all that has to be said.
            self._flights.land(token)
            flight.message = msgspec.structs.replace(
                flight.message, body=b"", packed=False, object="", holds=flight.key
            )
            await self._publish(flight)
        elif said.code == _TOO_LARGE_FOR_STREAM and flight.message.is_record:
            await self._set_aside(flight.bucket, flight.place, len(flight.message.body), _REFUSED, said.cause)
            self._flights.land(token)
            flight.message = Message(flight.message.place, skipped=True)
            await self._publish(flight)
        else:
            flight.failed = True
            self._refused(said.cause)

    def _taken(self, flight: _Flight, sequence: int) -> None:
        if flight.message.place.life == self._backlog.life:
            number, place = flight.message.place.number, flight.place
            self._backlog.acknowledged(flight.bucket, number, place, sequence, self._incarnation, flight.attempt)
        self._blocked_until, self._pause = None, _FIRST_PAUSE
        self._taken_since += 1
        # A stream that is full and drained takes some and refuses some: that is one trouble until it takes all.
        if self._uplink.error is not None and (not self._flights or self._taken_since >= _MOST_FLYING):
            self._uplink.works()
        self._room.set()

    def _refused(self, cause: str) -> None:
        """Take note that the stream takes nothing now."""
        if self._blocked_until is not None and self._clock.monotonic() < self._blocked_until:
            return
        hint = "see `streamer fleet status`; what is collected waits in the outbox"
        self._uplink.fails(UnavailableError(SEND, self._names.stream, cause, hint))
        self._taken_since = 0
        self._blocked_until = self._clock.monotonic() + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    async def _on_receipt(self, msg: Msg) -> None:
        for receipt in read_receipts(msg.data):
            self._hear(receipt, None)

    def _answered(self, msg: Msg, bucket: int, asked: int, _since: float) -> None:
        lane = self._backlog.lanes[bucket]
        if not msg.data:  # nobody is there
            lane.away = True
            return
        for receipt in read_receipts(msg.data):
            if receipt.bucket == bucket and receipt.origin == self._origin:
                self._hear(receipt, asked)

    def _hear(self, receipt: Any, asked: int | None) -> None:
        if self._backlog.hear(receipt, asked):
            self._incarnation = receipt.incarnation
            self._more.set()
        if self._backlog.is_outdated:  # lines are numbered anew over the next link
            self._link.complaint = "a writer has taken over that does not know what was held before"
            self._link.lost.set()
        if 0 <= receipt.bucket < len(self._backlog.lanes):
            self._backlog.lanes[receipt.bucket].heard = self._clock.monotonic()

    # -- from time to time -----------------------------------------------------------------------------------

    async def _look_after(self) -> None:
        """See to what was not acknowledged or answered, ask writers, and have the ledger know."""
        while True:
            now = self._clock.monotonic()
            await self._publish_again(now)
            await self._ask(now)
            if self._backlog.is_unsaved:
                await self._backlog.save()
            if now >= self._next_alive:
                self._next_alive = now + _ALIVE_SECONDS
                await self._tell_alive()
            if self._flights or self._backlog.waits or self._backlog.is_unsaved:
                await self._clock.sleep(_TICK)
            else:
                await first_of(self._next_alive - now, self._more.wait)
                await self._clock.sleep(_TICK)

    async def _publish_again(self, now: float) -> None:
        """Publish what was not acknowledged for too long; of what was refused the first, to see whether it is taken."""
        failed = [token for token, flight in self._flights.items() if flight.failed]
        late = [
            token
            for token, flight in self._flights.items()
            if not flight.failed and now - flight.since >= _ANSWER_SECONDS
        ]
        if self._blocked_until is not None:
            failed = failed[:1] if now >= self._blocked_until else []
        if late:
            self._refused(self._link.complaint or "it does not say that it has taken them")
        for token in [*failed, *late]:
            await self._publish(self._flights.land(token))

    async def _ask(self, now: float) -> None:
        self._asked = {token: asked for token, asked in self._asked.items() if now - asked[2] < _ANSWER_SECONDS}
        busy = {bucket for bucket, _, _ in self._asked.values()}
        for bucket, lane in enumerate(self._backlog.lanes):
            if lane.is_acknowledged and bucket not in busy and now - lane.heard >= _ASK_SECONDS:
                self._tokens += 1
                lane.heard = now
                self._asked[str(self._tokens)] = bucket, self._backlog.orders, now
                ask = msgspec.json.encode(ReceiptRequest(self._origin, self._backlog.life))
                await self._link.client.publish(self._names.ask(bucket), ask, reply=f"{self._inbox}.{self._tokens}")

    async def _tell_alive(self) -> None:
        said = {"origin": self._origin, "waits": self._backlog.waits, "unsent_bytes": self._backlog.unsent}
        await self._link.client.publish(self._names.alive(self._origin), msgspec.json.encode(said))


class _Error(msgspec.Struct):
    err_code: int = 0
    description: str = ""


class _Answer(msgspec.Struct):
    """What the stream says of a message: its sequence, or why it did not take it."""

    seq: int = 0
    duplicate: bool = False
    error: _Error | None = None

    @property
    def code(self) -> int:
        """The number of the error."""
        return self.error.err_code if self.error else 0

    @property
    def cause(self) -> str:
        """Why it was not taken."""
        return self.error.description if self.error else "no stream takes them now"

    @classmethod
    def of(cls, msg: Msg) -> _Answer:
        """Read an answer; one without data says that nobody was there."""
        try:
            return msgspec.json.decode(msg.data, type=cls) if msg.data else cls()
        except msgspec.MsgspecError:
            return cls()
