"""What the page says of an end of a fleet, out of a ledger as collectors and writers leave them. No server is there."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("uvicorn", reason="the page needs the extra `web`: pip install '.[web]'")

import httpx

from streamer.base.events import FailureBegan
from streamer.config import Flags, load
from streamer.fleet.connection import CONNECT
from streamer.fleet.producers import LONGEST_PRODUCER
from streamer.store.ledger.delivery import Delivered, Undeliverable
from streamer.web.fleet import HOSTS_SHOWN, SILENT_AFTER
from tests.helpers.fleet_ends import COLLECTOR, DATASET, WRITER, as_collector, as_writer, page_of
from tests.helpers.place import PATIENCE, Place
from tests.helpers.producer import add_outcome, dialogue, make_traces, work_off
from tests.helpers.web import got

if TYPE_CHECKING:
    from pathlib import Path

UNREACHABLE = FailureBegan(CONNECT, "nats://nobody.invalid", "no such host", "see [fleet] servers")


class End(Place):
    """A host with five records in its dataset, and the configuration of one end of a fleet."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        add_outcome(make_traces(self.traces), "run", 1, 10)
        self.shard("sft_run.jsonl", *(dialogue("run", turn, f"state {turn}") for turn in range(5)))
        with ThreadPoolExecutor(1) as thread:  # a browser runs an event loop in this one
            thread.submit(work_off, load(self.config, {}, Flags())).result()
        self.ledger = self.dataset.with_name("good.jsonl.ledger")

    def state(self, text: str, trouble: FailureBegan | None = None) -> dict[str, Any]:
        """Return what its page says."""
        self.become(text)
        with page_of(self.config, trouble) as address, httpx.Client(base_url=address, timeout=PATIENCE) as client:
            found: dict[str, Any] = got(client, "/api/state")
            return found

    def become(self, text: str) -> None:
        """Write its configuration; what is not said is that of one machine."""
        source = "" if "[source]" in text else f'[source]\nshards = "{self.shards}"\ndatabase = "{self.traces}"\n'
        self.config.write_text(f'{source}[dataset]\npath = "{self.dataset}"\n{text}\n')


@pytest.fixture
def end(tmp_path: Path) -> End:
    """Return a host."""
    return End(tmp_path)


def test_a_daemon_that_is_no_end_of_a_fleet_says_nothing_of_one(end: End) -> None:
    """The section is not there."""
    assert end.state("")["fleet"] is None


def test_a_collector_says_what_writers_hold_of_its_outbox(end: End) -> None:
    """And what waits, where that begins, and what cannot travel: all lines are accounted for."""
    line, size = end.dataset.read_bytes().index(b"\n") + 1, end.dataset.stat().st_size
    as_collector(
        end.ledger, {0: Delivered(0, 1), 1: Delivered(line, 1)}, line, [Undeliverable(size, 2, 9, "too_large")]
    )
    seen = end.state(COLLECTOR)["fleet"]
    assert (seen["dataset"], seen["trouble"], seen["writer"]) == (DATASET, "", None)
    assert seen["collector"] == {
        "origin": "host-1.ab", "lines": 5, "delivered": 2, "waiting": 2, "behind": size - line,
        "undeliverable": {"too_large": 1}, "missing": 0, "sent": 5, "again": 1,
    }  # fmt: skip


def test_a_collector_that_has_no_name_yet_has_all_of_it_waiting(end: End) -> None:
    """It never tried to reach the servers before, and says that it cannot."""
    seen = end.state(COLLECTOR, UNREACHABLE)
    assert seen["fleet"]["trouble"] == CONNECT
    assert [trouble["op"] for trouble in seen["troubles"]] == [CONNECT]
    said = seen["fleet"]["collector"]
    assert (said["origin"], said["lines"], said["delivered"], said["waiting"]) == ("", 5, 0, 5)
    assert said["behind"] == end.dataset.stat().st_size


def test_a_writer_says_of_whom_it_heard_and_which_buckets_are_its_own(end: End) -> None:
    """The latest first; a collector of which nothing came for some minutes is silent."""
    as_writer(end.ledger, {"eval-1.ab": (7, SILENT_AFTER + 60), "eval-2.cd": (8, 5)})
    before = time.time()
    state = end.state(WRITER)
    seen = state["fleet"]["writer"]
    assert state["fleet"]["collector"] is None
    assert (seen["name"], seen["buckets"], seen["owned"]) == ("host-1.cd", "0-1,3", 3)
    assert (seen["known"], seen["silent"], seen["again"]) == (2, 1, 0)
    assert [(host["origin"], host["records"]) for host in seen["hosts"]] == [("eval-2.cd", 8), ("eval-1.ab", 7)]
    assert all(host["seen"] <= before for host in seen["hosts"])
    assert state["fleet"]["silent_after"] == SILENT_AFTER
    assert state["sources"]["database"] == state["trace_database"]["place"] == ""
    assert state["lag"] is None


def test_a_new_writer_has_heard_of_nobody(end: End) -> None:
    """Its ledger has no table of a fleet yet."""
    seen = end.state(WRITER)["fleet"]["writer"]
    assert seen == {"name": "", "buckets": "", "owned": 0, "hosts": [], "known": 0, "silent": 0, "again": 0}


def test_a_writer_names_so_many_collectors_and_counts_the_others(end: End) -> None:
    """However many there are, and whatever another writer's ledger said that they are called."""
    hosts = {f"eval-{number}.ab": (1, number) for number in range(HOSTS_SHOWN + 30)}
    as_writer(end.ledger, {**hosts, "<script>\x1b[2J" + "x" * 10_000: (1, 0.0)}, owned=range(0, 4096, 3))
    seen = end.state(WRITER)["fleet"]["writer"]
    assert (seen["known"], len(seen["hosts"]), seen["owned"]) == (HOSTS_SHOWN + 31, HOSTS_SHOWN, 1366)
    assert seen["hosts"][0]["origin"].startswith("<script>\x1b[2J")
    assert max(len(host["origin"]) for host in seen["hosts"]) == LONGEST_PRODUCER
    assert len(seen["buckets"]) == 200
