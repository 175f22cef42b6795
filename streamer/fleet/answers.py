"""Receipts of a writer: sent after each commit, and in answer to the questions of collectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import anyio
import msgspec

from streamer.config.fleet_names import Names
from streamer.fleet import producers
from streamer.fleet.connection import Link
from streamer.fleet.receipts import Receipt, ReceiptRequest, read_ask
from streamer.store.ledger.ledger import Ledger

if TYPE_CHECKING:
    from nats.aio.msg import Msg

_MOST_QUESTIONS = 10_000
"""Questions kept for one partition."""


class ReceiptDesk:
    """Sends receipts over one link.

    Args:
        link: The link.
        names: Names of the fleet.
        ledger: Ledger of the writer.
        owns: Says whether the writer owns a partition.
    """

    def __init__(self, link: Link, names: Names, ledger: Ledger, owns: Callable[[int], bool]) -> None:
        self._link = link
        self._names = names
        self._ledger = ledger
        self._owns = owns
        self._questions: dict[int, list[tuple[ReceiptRequest, str]]] = {}
        self._asked = anyio.Event()

    async def run(self) -> None:
        """Answer questions until cancelled: one look at a partition, after them, answers all that wait for it."""
        await self._link.client.subscribe(f"{self._names.prefix}.ask.{self._names.dataset}.*", cb=self._on_question)
        while True:
            if not self._questions:
                self._asked = anyio.Event()
                await self._asked.wait()
            partition = next(iter(self._questions))
            questions = self._questions.pop(partition)
            receipt = await self._describe(partition)
            for ask, reply in questions:
                held = partial(producers.held_up_to, producer=ask.producer, partition=partition, epoch=ask.epoch)
                sequence = await self._ledger.look(held)
                answer = msgspec.structs.replace(receipt, producer=ask.producer, epoch=ask.epoch, sequence=sequence)
                await self._link.client.publish(reply, msgspec.json.encode([answer]))

    async def confirm(self, held: Mapping[tuple[str, int, str], int]) -> None:
        """Send receipts unasked after a commit; ``held``: (producer, partition, epoch) -> sequence."""
        by_producer: dict[str, list[Receipt]] = {}
        for (producer, partition, epoch), sequence in held.items():
            by_producer.setdefault(producer, []).append(Receipt(partition, producer, epoch, sequence))
        for producer, receipts in by_producer.items():
            await self._link.client.publish(self._names.receipt(producer), msgspec.json.encode(receipts))

    async def _on_question(self, msg: Msg) -> None:
        partition = msg.subject.rpartition(".")[2]
        ask = read_ask(msg.data)
        if ask is None or not msg.reply or not partition.isdigit() or not self._owns(int(partition)):
            return
        questions = self._questions.setdefault(int(partition), [])
        if len(questions) < _MOST_QUESTIONS:
            questions.append((ask, msg.reply))
            self._asked.set()

    async def _describe(self, partition: int) -> Receipt:
        """Return a receipt that describes the stream in a partition, without a collector."""
        stream = await self._link.js.stream_info(self._names.stream)
        consumer = await self._link.js.consumer_info(self._names.stream, self._names.consumer(partition))
        return Receipt(
            partition=partition,
            producer="",
            epoch="",
            sequence=0,
            incarnation=str(stream.created),
            ack_floor=consumer.ack_floor.stream_seq if consumer.ack_floor else 0,
            last=stream.state.last_seq,
            idle=consumer.num_pending == 0 and consumer.num_ack_pending == 0,
        )
