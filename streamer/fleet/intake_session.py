"""Intake over one link: pull messages from owned partitions, fetch objects, acknowledge after the commit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import anyio
import msgspec

from streamer.base.errors import UnavailableError
from streamer.fleet import objects
from streamer.fleet.answers import ReceiptDesk
from streamer.fleet.arrivals import PulledMessage
from streamer.fleet.beside import first_of, until_first
from streamer.fleet.connection import answered, stream_of
from streamer.fleet.end import SessionContext
from streamer.fleet.owners import Holding, Owners
from streamer.store.ledger.ledger import Ledger

if TYPE_CHECKING:
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

TAKE = "take records of the fleet"
"""The operation that fails while no record can be pulled."""

_BATCH = 2048
"""Messages requested at once, from all partitions together."""

_BATCH_BYTES = 8 << 20
_LEAST = 32
_SLACK = 64 << 10
"""Bytes besides the payload that the servers count."""

_PULL_SECONDS = 30.0
_GRACE = 5.0
"""A request without an answer this many seconds after its expiry counts as lost."""

_RECONCILE_SECONDS = 2.0
_HEARTBEAT, _EMPTY, _ENDED, _NO_RESPONDERS = "100", "404", "408", "503"
"""Status codes that the servers send in place of a message."""


class _Pull(msgspec.Struct):
    """The pending request for a partition: its number, how many messages it may still bring, and until when."""

    number: int
    left: int
    until: float


class IntakeSession:
    """Pulls messages over one link.

    Args:
        context: The link.
        ledger: Ledger of the writer.
        owners: Ownership of partitions.
        wanted: The partitions to own; None for all.
        on_pulled: Called with each message.
    """

    def __init__(
        self,
        context: SessionContext,
        ledger: Ledger,
        owners: Owners,
        wanted: frozenset[int] | None,
        on_pulled: Callable[[PulledMessage], None],
    ) -> None:
        self._link, self._stream, self._names, _, self._status, self._clock = context
        self._owners = owners
        self._wanted = wanted
        self._on_pulled = on_pulled
        self._desk = ReceiptDesk(self._link, self._names, ledger, lambda partition: partition in self._holding.owned)
        self._inbox = self._link.client.new_inbox()
        self._subscription: Subscription | None = None
        self._pulls: dict[int, _Pull] = {}
        self._numbers = 0
        self._uncommitted = 0
        self._holding = Holding()
        self._idle: set[int] = set()
        self._probed: set[int] = set()
        self._change = anyio.Event()
        self._doubt = False

    @property
    def is_at_rest(self) -> bool:
        """Say whether owned partitions are drained, as far as the servers have said."""
        return not self._uncommitted and self._holding.owned <= self._idle and bool(self._holding.owned)

    async def run(self) -> None:
        """Pull and answer until the link is lost."""
        self._subscription = await self._link.client.subscribe(
            f"{self._inbox}.>", cb=self._on_message, pending_bytes_limit=0, pending_msgs_limit=0
        )
        await until_first(self._pull, self._desk.run, self._link.lost.wait)

    async def drain(self) -> None:
        """End the pending requests, and receive the messages already sent for them.

        A pending request would receive the messages that are given back, and nobody would process them.
        """
        if self._subscription is not None:
            await self._subscription.drain()

    def give_up(self) -> None:
        """End the link: the stream delivers its uncommitted messages again."""
        self._link.lost.set()

    # -- pulling ---------------------------------------------------------------------------------------------

    async def _pull(self) -> None:
        """Keep one request pending for each owned partition."""
        next_reconcile = 0.0
        while True:
            now = self._clock.monotonic()
            if now >= next_reconcile:
                await self._check_stream()
                await self._reconcile()
                next_reconcile = now + _RECONCILE_SECONDS
            for partition in sorted(self._holding.owned):
                pull = self._pulls.get(partition)
                if pull is None or pull.left <= 0 or now >= pull.until:
                    await self._request(partition, now)
            self._change = anyio.Event()
            await first_of(_RECONCILE_SECONDS, self._change.wait)

    async def _check_stream(self) -> None:
        """End this session if the stream was replaced by another one."""
        if self._doubt:
            self._doubt = False
            if await stream_of(self._link, self._names) != self._stream:
                self.give_up()

    async def _reconcile(self) -> None:
        self._holding = await self._owners.reconcile(self._wanted)
        self._pulls = {one: pull for one, pull in self._pulls.items() if one in self._holding.owned}
        if not self._holding.owned and self._holding.elsewhere:
            partition, owner = next(iter(self._holding.elsewhere.items()))
            cause = f"none of them is ours: bucket {partition} is {owner or 'nobody'}'s"
            hint = "see `streamer fleet status`, and `streamer fleet take`; it is retried"
            self._status.fails(UnavailableError(TAKE, self._names.owners, cause, hint))
        elif self._holding.owned:
            self._status.works()

    async def _request(self, partition: int, now: float) -> None:
        share = max(1, len(self._holding.owned))
        batch = max(_LEAST, _BATCH // share)
        if self._uncommitted >= _BATCH or partition not in self._holding.owned:
            return
        self._numbers += 1
        self._pulls[partition] = _Pull(self._numbers, batch, now + _PULL_SECONDS + _GRACE)
        request: dict[str, object] = {
            "batch": batch,
            "max_bytes": max(_BATCH_BYTES // share, self._link.most_bytes + _SLACK),
        }
        if partition in self._probed:
            request["expires"] = int(_PULL_SECONDS * 1e9)
        else:  # the first request returns at once: it shows whether the partition is empty
            request["no_wait"] = True
            self._probed.add(partition)
        await self._link.client.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{self._names.stream}.{self._names.consumer(partition)}",
            msgspec.json.encode(request),
            reply=f"{self._inbox}.{partition}.{self._numbers}",
        )

    async def _on_message(self, msg: Msg) -> None:
        if not msg.reply:
            self._on_status(msg)
            return
        last = msg.subject.rpartition(".")[2]
        if not last.isdigit() or int(last) not in self._holding.owned:
            return
        partition, metadata = int(last), msg.metadata
        pull = self._pulls.get(partition)
        if pull is not None:
            pull.left -= 1
            if pull.left <= 0:
                self._change.set()
        if metadata.num_pending:
            self._idle.discard(partition)
        else:
            self._idle.add(partition)
        self._uncommitted += 1
        sequence, incarnation = metadata.sequence.stream, self._stream.incarnation
        self._on_pulled(PulledMessage(partition, sequence, incarnation, msg.headers, msg.data, msg.reply))

    def _on_status(self, msg: Msg) -> None:
        """Handle the end of a request, or a consumer that does not answer."""
        partition, _, number = msg.subject.removeprefix(f"{self._inbox}.").partition(".")
        status = (msg.headers or {}).get("Status", "")
        pull = self._pulls.get(int(partition)) if partition.isdigit() else None
        if status == _HEARTBEAT or pull is None or number != str(pull.number):
            return
        pull.left = 0
        if status in (_ENDED, _EMPTY):
            self._idle.add(int(partition))
            self._change.set()
            return
        # The consumer is gone, moves, or has too many messages pending: the next round requests again.
        self._doubt = True
        if status == _NO_RESPONDERS:
            hint = "see `streamer fleet init`; it is retried"
            cause = "it does not answer: is it there, and has it a leader?"
            self._status.fails(UnavailableError(TAKE, self._names.consumer(int(partition)), cause, hint))

    # -- batches ---------------------------------------------------------------------------------------------

    async def fetch(self, wanted: Iterable[str]) -> dict[str, bytes | None]:
        """Return objects by name; None for one that is missing.

        Raises:
            UnavailableError: The servers do not answer.
        """
        found: dict[str, bytes | None] = {}
        for name in wanted:
            with answered(self._link, "fetch a record", self._names.objects):
                found[name] = await objects.get(self._link, self._names, name)
        return found

    async def done(
        self, pulled: Sequence[PulledMessage], fetched: Iterable[str], held: Mapping[tuple[str, int, str], int]
    ) -> None:
        """Acknowledge the messages of a committed batch, send receipts, and remove its objects.

        Args:
            pulled: The messages.
            fetched: Names of the objects.
            held: New high watermarks: (producer, partition, epoch) -> sequence.
        """
        self._uncommitted -= len(pulled)
        self._change.set()
        if self._link.lost.is_set():
            return
        try:
            with answered(self._link, TAKE, self._names.stream):
                for one in pulled:
                    await self._link.client.publish(one.reply, b"+ACK")
                await self._desk.confirm(held)
                for name in fetched:
                    await objects.remove(self._link, self._names, name)
        except UnavailableError:  # messages without an acknowledgement come again, and are recognised then
            self.give_up()
