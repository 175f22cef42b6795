"""The pages of both ends of a fleet, while records travel between them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx

from tests.helpers.place import PATIENCE, until
from tests.helpers.web import events, got
from tests.suites.fleet.fleets import init, write_config
from tests.suites.fleet.hosts import Collector, Host, Writer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.suites.fleet.servers import Server

WEB = '[web]\nlisten = "127.0.0.1:0"\n'


@contextmanager
def page(host: Host) -> Iterator[httpx.Client]:
    """Run the daemon of a host, and give a client for its page."""
    with host.daemon():
        until(lambda: host.events("page_served"))
        with httpx.Client(base_url=host.events("page_served")[-1]["url"], timeout=PATIENCE) as client:
            yield client


def fleet(client: httpx.Client) -> Any:
    """Return what a page says of the fleet."""
    return got(client, "/api/state")["fleet"]


def test_each_end_tells_of_the_other_while_records_travel(server: Server, tmp_path: Path) -> None:
    """Live, at both: what is delivered, who brought it, whose the buckets are, and a link that is down."""
    init(write_config(tmp_path / "admin.toml", [server.url], (), "buckets = 4"), "--replicas", "1")
    collector = Collector(tmp_path / "one", [server.url], WEB)
    writer = Writer(tmp_path / "main", [server.url], WEB)
    with page(collector) as sends:
        collector.rollout("first", [f"state {turn}" for turn in range(20)])
        until(lambda: fleet(sends)["collector"]["sent"] == 20)
        seen = fleet(sends)["collector"]
        assert (seen["lines"], seen["delivered"], seen["waiting"]) == (20, 0, 20)
        with page(writer) as takes, events(takes) as told:
            told.until_read(20)
            until(lambda: fleet(sends)["collector"]["delivered"] == 20)
            until(lambda: sum(host["records"] for host in fleet(takes)["writer"]["hosts"]) == 20)
            seen = fleet(takes)
            (host,) = seen["writer"]["hosts"]
            assert (host["origin"], host["records"]) == (fleet(sends)["collector"]["origin"], 20)
            assert host["origin"].startswith("one.")
            assert (seen["writer"]["buckets"], seen["writer"]["owned"], seen["trouble"]) == ("0-3", 4, "")
            assert seen["writer"]["name"].startswith("main.")
            until(lambda: got(takes, "/api/state")["sources"]["streams"] > 0)
            server.kill()
            for client in (sends, takes):
                until(lambda client=client: fleet(client)["trouble"] == "reach the fleet")  # type: ignore[misc]
