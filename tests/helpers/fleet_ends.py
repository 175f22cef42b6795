"""Ends of a fleet without its servers: ledgers as collectors and writers leave them, and a page of such an end."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from queue import Queue
from typing import TYPE_CHECKING

from anyio.from_thread import start_blocking_portal

from streamer.base.events import Event, FailureBegan, WebUIServed
from streamer.base.files import Files
from streamer.config import Flags, load
from streamer.daemon.observers.health import Health
from streamer.fleet import producers
from streamer.fleet.message import MessageId
from streamer.fleet.producers import Held
from streamer.store.ledger import delivery
from streamer.store.ledger.delivery import Delivered, Progress, Undeliverable
from streamer.store.ledger.ledger import Ledger
from streamer.web.server import WebUi
from tests.helpers.place import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path

DATASET = "crafter"
FLEET = f'[fleet]\nservers = ["nats://nobody.invalid"]\ndataset = "{DATASET}"\nname = "host-1"\n'
COLLECTOR = f'[sink]\nkind = "jetstream"\n{FLEET}'
WRITER = f'[source]\nkind = "jetstream"\n{FLEET}'


def transact(ledger: Path, *works: Callable[[sqlite3.Connection], object]) -> None:
    """Write into a ledger as its daemon does; it is made if there is none."""

    async def main() -> None:
        async with Ledger.open(ledger, Files()) as opened:
            for work in works:
                await opened.transact(work)

    with start_blocking_portal() as portal:  # in a thread of its own: that of a test with a browser has a loop already
        portal.call(main)


def as_collector(ledger: Path, delivered: Mapping[int, Delivered], floor: int, aside: Iterable[Undeliverable]) -> None:
    """Leave what an uplink leaves that has sent 5 messages, one of them once more."""
    transact(
        ledger,
        partial(delivery.prepare, collector="ab"),
        partial(delivery.begin, partitions=4),
        *(partial(delivery.set_aside, line=line) for line in aside),
        partial(delivery.save, progress=Progress(floor, delivered, sent=5, again=1)),
    )


def as_writer(ledger: Path, hosts: Mapping[str, tuple[int, float]], owned: Iterable[int] = (0, 1, 3)) -> None:
    """Leave what an intake leaves that took so many records of some collectors, each so many seconds ago."""
    now = time.time()

    def take(db: sqlite3.Connection) -> None:
        for producer, (records, ago) in hosts.items():
            held = [Held(MessageId(producer, "1a", number), number % 4) for number in range(1, records + 1)]
            producers.store(db, held, now - ago)

    transact(ledger, producers.prepare, partial(producers.name_writer, new="cd"), take)
    with closing(sqlite3.connect(ledger)) as db, db:  # what the servers say, which are not there
        db.execute("CREATE TABLE owned_bucket (bucket INTEGER PRIMARY KEY, state TEXT NOT NULL)")
        rows = [*((partition, "owned") for partition in owned), (2, "released")]
        db.executemany("INSERT INTO owned_bucket VALUES (?, ?)", rows)


@contextmanager
def page_of(config: Path, trouble: FailureBegan | None = None, port: int = 0) -> Iterator[str]:
    """Serve the page of a daemon that is configured so, and give its address."""
    with config.open("a") as file:
        file.write(f'[web]\nlisten = "127.0.0.1:{port}"\n')
    loaded = load(config, {}, Flags())
    health = Health(time.monotonic)
    if trouble is not None:
        health(trouble)
    told: Queue[str] = Queue()
    emit = partial(_tell, told)
    page = WebUi([loaded], {loaded.dataset.path: health}, emit)
    with page.served():
        yield told.get(timeout=PATIENCE)


def _tell(told: Queue[str], event: Event) -> None:
    if isinstance(event, WebUIServed):
        told.put(event.url)
