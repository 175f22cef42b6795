"""Hosts of a fleet: collectors and writers as processes of their own, each with a folder, and what they bring about."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.helpers.place import Place
from tests.helpers.producer import add_outcome, dialogue, make_traces
from tests.suites.fleet.fleets import DATASET, STREAM, at

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nats.js import JetStreamContext


class Host(Place):
    """One host: its servers are known, and what it is called."""

    def __init__(self, folder: Path, servers: Iterable[str], source: str = "", text: str = "", fleet: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder)
        listed = ", ".join(f'"{server}"' for server in servers)
        self.config.write_text(
            f'{source}\n[dataset]\npath = "good.jsonl"\n[log]\nformat = "json"\n[fleet]\nservers = [{listed}]\n'
            f'dataset = "{DATASET}"\nname = "{folder.name}"\n{fleet}\n{text}\n'
        )

    def lines(self) -> list[bytes]:
        """Return the whole lines of the dataset."""
        data = self.dataset.read_bytes() if self.dataset.exists() else b""
        return data[: data.rfind(b"\n") + 1].splitlines()

    @property
    def delivery(self) -> dict[str, Any]:
        """Return what its status says of its outbox, after seeing that it adds up."""
        found = self.status()
        said: dict[str, Any] | None = found["delivery"]
        if said is None:  # it has not come so far
            return {"lines": 0, "delivered": 0, "undeliverable": {}, "sent": 0, "again": 0, "missing": 0}
        assert said["lines"] == found["dataset_lines"] + found["removed_lines"]
        aside = sum(said["undeliverable"].values())
        assert said["delivered"] + aside <= said["lines"]
        return said

    @property
    def waiting(self) -> int:
        """How many records wait for a receipt."""
        return waiting_in(self.delivery)


class Collector(Host):
    """A host on which an evaluation runs."""

    def __init__(self, folder: Path, servers: Iterable[str], text: str = "") -> None:
        source = '[source]\nshards = "shards"\ndatabase = "traces.db"\nscan_interval = "200ms"\n'
        super().__init__(folder, servers, source, f'[sink]\nkind = "jetstream"\n{text}')
        make_traces(self.traces)

    def rollout(self, run: str, texts: Sequence[str], reward: int = 1, **more: Any) -> None:
        """Play a rollout: a shard, then its outcome. The user says one of the texts in each turn."""
        self.shard(f"sft_{run}.jsonl", *(dialogue(run, turn, text, **more) for turn, text in enumerate(texts)))
        add_outcome(self.traces, run, reward, 10)


class Writer(Host):
    """A host that writes the dataset."""

    def __init__(self, folder: Path, servers: Iterable[str], text: str = "", buckets: str = "") -> None:
        chosen = f'buckets = "{buckets}"\n' if buckets else ""
        super().__init__(folder, servers, f'[source]\nkind = "jetstream"\n{chosen}', text)


def waiting_in(delivery: dict[str, Any]) -> int:
    """Return how many records wait for a receipt, as a status says of an outbox."""
    aside = sum(delivery["undeliverable"].values())
    return int(delivery["lines"] - delivery["delivered"] - aside - delivery["missing"])


def hurry_consumers(urls: Iterable[str], buckets: int, seconds: float = 1.0) -> None:
    """Let records that a dead writer had been given come again sooner than a real fleet does."""

    async def work(js: JetStreamContext) -> None:
        for bucket in range(buckets):
            config = (await js.consumer_info(STREAM, f"bucket-{bucket}")).config
            await js.add_consumer(STREAM, config.evolve(ack_wait=seconds))

    at(urls, work)


def resident(pid: int) -> int:
    """Return the bytes of memory that a process holds."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) << 10
