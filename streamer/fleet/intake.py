"""The intake of a writer: records that have qualified at their collectors, as one more inbox of the pipeline.

Invariants
- A message is acknowledged after the ledger's commit that holds its line, its key or its dead letter; so is a receipt
  said. What was pulled and not committed comes again, to this writer or to the next one.
- A writer pulls from a bucket only while that is its own (``owners``).
- Nothing that a message says is believed but the line itself: its key is computed here, and has to be of the bucket.
- What is held in memory has a limit: each bucket has one request under way, for so many messages and bytes.
"""

from __future__ import annotations

import secrets
import socket
import sqlite3
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
from anyio import to_thread

from streamer.base.env import Env
from streamer.base.errors import StreamerError, UnavailableError
from streamer.base.events import PartitionMoved
from streamer.base.failures import ActiveFailures
from streamer.base.files import Clock, path_text
from streamer.config import Config
from streamer.config.fleet_names import Names, bucket_of, host_name
from streamer.core.records.arrived import ArrivedRecord
from streamer.core.records.dataset_line import keys_meaning
from streamer.core.records.layouts import MalformedError
from streamer.core.records.model import Cursor, Line, Span
from streamer.core.verdicts.judge import Item
from streamer.fleet import durability, objects, origins
from streamer.fleet.beside import first_of, to_its_end, until_first
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
from streamer.fleet.message import Message, MessagePlace, read, record, unpack
from streamer.fleet.origins import Held
from streamer.fleet.owners import BucketChange, Holding, Owners
from streamer.fleet.receipts import Receipt, ReceiptRequest, read_ask
from streamer.sources.inbox import Work
from streamer.sources.reader import Budget
from streamer.store.ledger.ledger import Ledger
from streamer.store.ledger.paths import stream_path

if TYPE_CHECKING:
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

TAKE = "take records of the fleet"
"""What is being done while none come because something is not there."""

_BATCH = 2048
"""Messages that are asked for at once, of all buckets together."""

_BATCH_BYTES = 8 << 20
_LEAST = 32
_SLACK = 64 << 10
"""Bytes beside the payload that the servers count as well."""

_PULL_SECONDS = 30.0
_GRACE = 5.0
"""After so many seconds more than a request may last, it is taken as lost."""

_GIVE_BACK_SECONDS = 5.0
"""For so long an end waits for the servers; what they were not told comes again all the same."""

_TEND_SECONDS = 2.0
_MOST_ASKS = 10_000
_NO_INODE = -1


class _Pulled(msgspec.Struct, frozen=True):
    """A message as it came: its bucket, its sequence in the stream of that incarnation, and what acknowledges it."""

    bucket: int
    sequence: int
    incarnation: str
    headers: Mapping[str, Any] | None
    body: bytes
    reply: str


class _Read(msgspec.Struct, frozen=True):
    """What a message holds: what it says, if it can be read, and its line, or why that cannot be taken."""

    pulled: _Pulled
    message: Message | None
    content: ArrivedRecord | MalformedError | None


class Intake:
    """The records of a fleet.

    Args:
        config: the fleet, the buckets to take, and what makes two records the same one.
        ledger: of this writer.
        env: Clock and events.
        failures: what does not work, of this intake or of one before it.
        news: called when something has come.

    ``error`` is why nothing can come now.

    Raises:
        MissingExtraError: the client is not installed.
    """

    has_news = False

    def __init__(
        self,
        config: Config,
        ledger: Ledger,
        env: Env,
        failures: ActiveFailures,
        news: Callable[[], None],
    ) -> None:
        require()
        self._fleet = config.fleet
        self._wanted = config.source.buckets
        self._by = config.dedup.by
        self._ledger = ledger
        self._clock = env.clock
        self._emit = env.emit
        self._news = news
        self._failures = failures
        self._names = Names(config.fleet.prefix, config.fleet.dataset)
        self._pulled: deque[_Pulled] = deque()
        self._judged: list[_Pulled] = []
        self._session: _Session | None = None
        self._buckets = 0
        self.error: UnavailableError | None = None

    # -- the inbox -------------------------------------------------------------------------------------------

    def look(self, _paths: object) -> None:
        """There are no notifications of records: they come by themselves."""

    async def scan(self) -> None:
        """There is no folder to look at."""

    async def pending(self, spans: Sequence[tuple[Span, Cursor]], _budget: Budget) -> Work:
        """Put spans back: what was acknowledged is not there to be judged again."""
        taken = [span for span, _ in spans]
        return Work((), (), taken, taken)

    @property
    def is_at_rest(self) -> bool:
        """Say whether all that the stream holds for this writer was taken."""
        return not self._pulled and self._session is not None and self._session.is_at_rest

    async def new(self, budget: Budget) -> Work | None:
        """Return records that have come; None if there are none."""
        pulled: list[_Pulled] = []
        while self._pulled and not budget.spent:
            pulled.append(self._pulled.popleft())
            budget.lines -= 1
            budget.size -= len(pulled[-1].body)
        if not pulled:
            return None
        session = self._session
        if session is None:
            return Work(())  # all of it comes again
        try:
            fetched = await session.fetch(pulled)
        except UnavailableError:
            session.give_up()  # with what it was given, which counts as held: the next one is given it again
            return Work(())
        self._judged = pulled
        found = await to_thread.run_sync(self._read, pulled, fetched)
        places = [(one.pulled.bucket, one.message.place) for one in found if one.message is not None]
        again = await self._ledger.look(partial(origins.already, places=places))
        items, cursors = await self._items(found, again)
        held = [_held(one) for one in found if one.message is not None]
        taken: dict[tuple[str, int, str], int] = {}

        def also(db: sqlite3.Connection) -> None:
            taken.update(origins.take(db, [one for one in held if one is not None], self._clock.now()))

        async def done() -> None:
            self._judged = []
            await session.done(pulled, list(fetched), taken)

        return Work(items, cursors, also=also, done=done)

    def _read(self, pulled: Sequence[_Pulled], fetched: Mapping[str, bytes | None]) -> list[_Read]:
        return [self._read_one(one, fetched) for one in pulled]

    def _read_one(self, one: _Pulled, fetched: Mapping[str, bytes | None]) -> _Read:
        message = None
        try:
            message = read(one.headers, one.body)
            if not message.is_record:
                return _Read(one, message, None)
            body = fetched.get(message.object) if message.object else message.body
            if body is None:  # taken by now, or lost: its key says which
                return _Read(one, msgspec.structs.replace(message, object=""), None)
            found = record(unpack(body) if message.packed else body, self._by)
        except MalformedError as error:
            return _Read(one, message, error)
        if bucket_of(found.key, self._buckets) != one.bucket:
            return _Read(one, message, MalformedError("wrong_bucket", "its key belongs into another one"))
        return _Read(one, message, found)

    async def _items(
        self, found: Sequence[_Read], again: set[tuple[int, MessagePlace]]
    ) -> tuple[list[Item], list[Cursor]]:
        """Return the lines of a batch, and how far each bucket has come with them."""
        paths = {stream_path(one.pulled.incarnation, one.pulled.bucket) for one in found}
        cursors, _ = await self._ledger.cursors(dict.fromkeys(paths, _NO_INODE))
        since = self._clock.now()
        items: list[Item] = []
        for one in found:
            path = stream_path(one.pulled.incarnation, one.pulled.bucket)
            cursor = cursors.get(path) or Cursor(path, id=self._ledger.new_shard_id())
            sequence, is_again = one.pulled.sequence, False
            if one.message is not None:
                is_again = (one.pulled.bucket, one.message.place) in again
            is_next = sequence >= cursor.offset
            start = cursor.offset if is_next else sequence
            if one.content is not None:
                line = Line(path_text(path), cursor.lines + 1, start, sequence + 1, one.pulled.body)
                content = one.content
                if isinstance(content, ArrivedRecord):
                    content = msgspec.structs.replace(content, again=is_again)
                items.append(Item(line, cursor.id, since, content))
            cursors[path] = msgspec.structs.replace(
                cursor,
                offset=sequence + 1 if is_next and one.content is not None else cursor.offset,
                lines=cursor.lines + (one.content is not None),
            )
        return items, list(cursors.values())

    # -- the links -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Pull until cancelled: link after link, with a pause after each failure."""
        await durability.tell(self._fleet, self._emit)
        while True:
            try:
                await self._ledger.transact(origins.prepare)
                await self._one_link()
            except StreamerError as error:
                await self._clock.sleep(self.fails(error))
            except Exception as error:  # noqa: BLE001 - told with its name, and tried again with another link
                await self._clock.sleep(self.fails(unexpected(TAKE, self._names.stream, error)))

    async def _one_link(self) -> None:
        who = await self._ledger.transact(partial(origins.writer, new=secrets.token_hex(4)))
        writer = f"{self._fleet.name or host_name(socket.gethostname())}.{who}"
        async with connected(self._fleet, f"streamer writer {writer}") as link:
            stream = await stream_of(link, self._names)
            check_dedup(stream, self._names, self._by)
            self._buckets = stream.buckets
            owners = Owners(
                link, self._names, self._ledger, writer, stream.buckets, keys_meaning(self._by), self._moved
            )
            session = _Session(link, stream, self._names, self._ledger, owners, self._clock, self)
            self._session = session
            try:
                with answered(link, TAKE, self._names.stream):
                    await session.run()
            finally:
                self._session = None
                await to_its_end(partial(self._give_back, link, session))
        cause = link.complaint or "the connection was lost"
        raise UnavailableError(CONNECT, link.where, cause, "see nats-server; it is retried")

    async def _give_back(self, link: Link, session: _Session) -> None:
        """Let what was given out and is not committed come again at once; without that, it does so later."""
        with anyio.move_on_after(_GIVE_BACK_SECONDS), suppress(Exception):
            if not link.lost.is_set():
                await session.hear_out()
                for one in (*self._judged, *self._pulled):
                    await link.client.publish(one.reply, b"-NAK")
                await link.client.flush()  # a connection that is closed too soon takes them with it
        self._judged = []
        self._pulled.clear()

    def _moved(self, moved: BucketChange) -> None:
        self._emit(PartitionMoved(moved.bucket, moved.came, moved.keys))

    @property
    def wanted(self) -> frozenset[int] | None:
        """The buckets to have; None for all."""
        return self._wanted

    def take(self, pulled: _Pulled) -> None:
        """Take a message in, to be judged with the next batch."""
        self._pulled.append(pulled)
        self._news()

    def works(self) -> None:
        """Take note that records can come."""
        self.error = None
        self._failures.all_over()

    def fails(self, error: StreamerError) -> float:
        """Take note that records cannot come; return the seconds after which that is tried again."""
        self.error = UnavailableError(error.op, error.where, error.cause, error.hint)
        pause = self._failures.begin(error)
        self._news()
        return pause


def _held(one: _Read) -> Held | None:
    """Return what a message is when its batch is committed: held for sure, or if its key is."""
    message = one.message
    if message is None:
        return None
    if one.content is None and not message.skipped:
        return Held(message.place, one.pulled.bucket, message.holds)
    return Held(message.place, one.pulled.bucket)


class _Pull(msgspec.Struct):
    """The request that is under way for a bucket: how many messages are still to come of it, and until when."""

    number: int
    left: int
    until: float


class _Session:
    """What an intake does while one link stands."""

    def __init__(
        self,
        link: Link,
        stream: Stream,
        names: Names,
        ledger: Ledger,
        owners: Owners,
        clock: Clock,
        intake: Intake,
    ) -> None:
        self._link = link
        self._stream = stream
        self._names = names
        self._ledger = ledger
        self._owners = owners
        self._clock = clock
        self._intake = intake
        self._inbox = link.client.new_inbox()
        self._coming: Subscription | None = None
        self._pulls: dict[int, _Pull] = {}
        self._numbers = 0
        self._held = 0
        self._asks: dict[int, list[tuple[ReceiptRequest, str]]] = {}
        self._asked = anyio.Event()
        self._holding = Holding()
        self._idle: set[int] = set()
        self._change = anyio.Event()
        self._doubt = False
        self._looked: set[int] = set()

    @property
    def is_at_rest(self) -> bool:
        """Say whether nothing is left in any bucket of ours, as far as the servers have said."""
        return not self._held and self._holding.owned <= self._idle and bool(self._holding.owned)

    async def run(self) -> None:
        """Pull and answer until the link is lost."""
        client = self._link.client
        self._coming = await client.subscribe(
            f"{self._inbox}.>", cb=self._on_message, pending_bytes_limit=0, pending_msgs_limit=0
        )
        await client.subscribe(f"{self._names.prefix}.ask.{self._names.dataset}.*", cb=self._on_ask)
        await until_first(self._pull, self._answer, self._link.lost.wait)

    async def hear_out(self) -> None:
        """Have the requests end, and take in what had been sent for them.

        While they stand, what is given back comes to them again, and nobody is there to take it any more.
        """
        if self._coming is not None:
            await self._coming.drain()

    # -- pulling ---------------------------------------------------------------------------------------------

    async def _pull(self) -> None:
        """Keep one request under way for each bucket that is ours."""
        next_tend = 0.0
        while True:
            now = self._clock.monotonic()
            if now >= next_tend:
                await self._look_at_stream()
                await self._tend()
                next_tend = now + _TEND_SECONDS
            for bucket in sorted(self._holding.owned):
                pull = self._pulls.get(bucket)
                if pull is None or pull.left <= 0 or now >= pull.until:
                    await self._request(bucket, now)
            self._change = anyio.Event()
            await first_of(_TEND_SECONDS, self._change.wait)

    async def _look_at_stream(self) -> None:
        """End this session if another stream stands in the place of the one it began with."""
        if self._doubt:
            self._doubt = False
            if await stream_of(self._link, self._names) != self._stream:
                self._link.lost.set()

    async def _tend(self) -> None:
        self._holding = await self._owners.tend(self._intake.wanted)
        self._pulls = {bucket: pull for bucket, pull in self._pulls.items() if bucket in self._holding.owned}
        if not self._holding.owned and self._holding.elsewhere:
            bucket, whose = next(iter(self._holding.elsewhere.items()))
            cause = f"none of them is ours: bucket {bucket} is {whose or 'nobody'}'s"
            hint = "see `streamer fleet status`, and `streamer fleet take`; it is retried"
            self._intake.fails(UnavailableError(TAKE, self._names.owners, cause, hint))
        elif self._holding.owned:
            self._intake.works()

    async def _request(self, bucket: int, now: float) -> None:
        share = max(1, len(self._holding.owned))
        batch = max(_LEAST, _BATCH // share)
        if self._held >= _BATCH or bucket not in self._holding.owned:
            return
        self._numbers += 1
        self._pulls[bucket] = _Pull(self._numbers, batch, now + _PULL_SECONDS + _GRACE)
        request: dict[str, object] = {
            "batch": batch,
            "max_bytes": max(_BATCH_BYTES // share, self._link.most_bytes + _SLACK),
        }
        if bucket in self._looked:
            request["expires"] = int(_PULL_SECONDS * 1e9)
        else:  # the first one only says whether there is anything
            request["no_wait"] = True
            self._looked.add(bucket)
        await self._link.client.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{self._names.stream}.{self._names.consumer(bucket)}",
            msgspec.json.encode(request),
            reply=f"{self._inbox}.{bucket}.{self._numbers}",
        )

    async def _on_message(self, msg: Msg) -> None:
        if not msg.reply:
            self._on_status(msg)
            return
        bucket = msg.subject.rpartition(".")[2]
        if not bucket.isdigit() or int(bucket) not in self._holding.owned:
            return
        sequence, pending = msg.metadata.sequence.stream, msg.metadata.num_pending
        pull = self._pulls.get(int(bucket))
        if pull is not None:
            pull.left -= 1
            if pull.left <= 0:
                self._change.set()
        if pending:
            self._idle.discard(int(bucket))
        else:
            self._idle.add(int(bucket))
        self._held += 1
        self._intake.take(_Pulled(int(bucket), sequence, self._stream.incarnation, msg.headers, msg.data, msg.reply))

    def _on_status(self, msg: Msg) -> None:
        """See to a request that has ended, or whose consumer is not there."""
        bucket, _, number = msg.subject.removeprefix(f"{self._inbox}.").partition(".")
        status = (msg.headers or {}).get("Status", "")
        pull = self._pulls.get(int(bucket)) if bucket.isdigit() else None
        if status == _HEARTBEAT or pull is None or number != str(pull.number):
            return
        if status in (_ENDED, _EMPTY):
            self._idle.add(int(bucket))
            pull.left = 0
            self._change.set()
            return
        # A consumer that is gone, moves, or has given out too much: asked again with the next look.
        pull.left = 0
        self._doubt = True
        if status == _NOBODY:
            hint = "see `streamer fleet init`; it is retried"
            cause = "it does not answer: is it there, and has it a leader?"
            self._intake.fails(UnavailableError(TAKE, self._names.consumer(int(bucket)), cause, hint))

    # -- objects ---------------------------------------------------------------------------------------------

    async def fetch(self, pulled: Sequence[_Pulled]) -> dict[str, bytes | None]:
        """Return the objects that messages name; None for one that is not there."""
        found: dict[str, bytes | None] = {}
        for one in pulled:
            try:
                name = read(one.headers, one.body).object
            except MalformedError:
                continue
            if name and name not in found:
                with answered(self._link, "fetch a record", self._names.objects):
                    found[name] = await objects.get(self._link, self._names, name)
        return found

    # -- after the commit --------------------------------------------------------------------------------------

    def give_up(self) -> None:
        """End the link: what was given out over it and is not committed comes again."""
        self._link.lost.set()

    async def done(
        self, pulled: Sequence[_Pulled], fetched: Sequence[str], taken: Mapping[tuple[str, int, str], int]
    ) -> None:
        """Acknowledge what was committed, and tell collectors."""
        self._held -= len(pulled)
        self._change.set()
        if self._link.lost.is_set():
            return
        try:
            with answered(self._link, TAKE, self._names.stream):
                for one in pulled:
                    await self._link.client.publish(one.reply, b"+ACK")
                await self._tell(taken)
                for name in fetched:
                    await objects.remove(self._link, self._names, name)
        except UnavailableError:  # what was not acknowledged comes again, and is known then
            self.give_up()

    async def _tell(self, taken: Mapping[tuple[str, int, str], int]) -> None:
        by_origin: dict[str, list[Receipt]] = {}
        for (origin, bucket, life), number in taken.items():
            by_origin.setdefault(origin, []).append(Receipt(bucket, origin, life, number))
        for origin, receipts in by_origin.items():
            await self._link.client.publish(self._names.receipt(origin), msgspec.json.encode(receipts))

    # -- answers -----------------------------------------------------------------------------------------------

    async def _on_ask(self, msg: Msg) -> None:
        bucket = msg.subject.rpartition(".")[2]
        ask = read_ask(msg.data)
        if ask is None or not msg.reply or not bucket.isdigit() or int(bucket) not in self._holding.owned:
            return
        asks = self._asks.setdefault(int(bucket), [])
        if len(asks) < _MOST_ASKS:
            asks.append((ask, msg.reply))
            self._asked.set()

    async def _answer(self) -> None:
        """Answer all that was asked about a bucket after one look at it, which comes after the questions."""
        while True:
            if not self._asks:
                self._asked = anyio.Event()
                await self._asked.wait()
            bucket = next(iter(self._asks))
            asks = self._asks.pop(bucket)
            stand = await self._stand(bucket)
            for ask, reply in asks:
                number = await self._ledger.look(
                    partial(origins.number_held, origin=ask.origin, bucket=bucket, life=ask.life)
                )
                receipt = msgspec.structs.replace(stand, origin=ask.origin, life=ask.life, number=number)
                await self._link.client.publish(reply, msgspec.json.encode([receipt]))

    async def _stand(self, bucket: int) -> Receipt:
        """Return how the stream stands in a bucket."""
        stream = await self._link.js.stream_info(self._names.stream)
        consumer = await self._link.js.consumer_info(self._names.stream, self._names.consumer(bucket))
        return Receipt(
            bucket=bucket,
            origin="",
            life="",
            number=0,
            incarnation=str(stream.created),
            floor=consumer.ack_floor.stream_seq if consumer.ack_floor else 0,
            last=stream.state.last_seq,
            idle=consumer.num_pending == 0 and consumer.num_ack_pending == 0,
        )


_HEARTBEAT, _EMPTY, _ENDED, _NOBODY = "100", "404", "408", "503"
"""What the servers say in place of a message."""
