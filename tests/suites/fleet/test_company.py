"""A whole company: eight hosts evaluate, two write, three servers carry; and what can happen to each of them.

After all of it the writers together have what one machine has that saw every shard, and nothing twice.
"""

from __future__ import annotations

import signal
from functools import partial
from typing import TYPE_CHECKING

import anyio
import pytest

from streamer.config.fleet_names import parse_partitions
from tests.suites.fleet.company import Company
from tests.suites.fleet.fleets import STREAM, at, hurry, init, owners, write_config

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from nats.js import JetStreamContext

    from tests.suites.fleet.servers import Cluster

BUCKETS = "buckets = 8"
HALVES = ("0-3", "4-7")


def company(cluster: Cluster, folder: Path, collectors: int = 8) -> Company:
    """Return a company whose fleet is set up."""
    init(write_config(folder / "admin.toml", cluster.urls, cluster.monitors, BUCKETS))
    hurry(cluster.urls, 8)
    return Company(folder / "hosts", cluster.urls, collectors, HALVES)


def test_eight_hosts_make_one_dataset(cluster: Cluster, tmp_path: Path) -> None:
    """Each rollout is played at two of them, and its records are there once."""
    with company(cluster, tmp_path) as hosts:
        hosts.play(60)
        hosts.settle()
        hosts.check()


@pytest.mark.parametrize("whom", ["leader", "collector", "writer", "all of them"])
def test_whoever_is_killed_nothing_is_lost_and_nothing_is_there_twice(
    cluster: Cluster, tmp_path: Path, whom: str
) -> None:
    """By kill -9, while records are on their way, three times; and started again."""
    with company(cluster, tmp_path) as hosts:
        for turn in range(3):
            hosts.play(20)
            hosts.until(lambda: hosts.written() > hosts.expected - 40)
            leader = cluster.until_led(STREAM)
            collector, writer = hosts.collectors[turn], hosts.writers[turn % 2]
            hosts.play(20)
            if whom in ("leader", "all of them"):
                leader.kill()
            if whom in ("collector", "all of them"):
                collector.end()
            if whom in ("writer", "all of them"):
                writer.end()
            hosts.play(10)
            for host in (collector, writer):
                if host.process is None:
                    host.start()
            cluster.restart()
        hosts.settle()
        hosts.check()


def test_a_cluster_that_lost_its_disks_gets_everything_again(cluster: Cluster, tmp_path: Path) -> None:
    """Whatever no writer has said to hold is still with the collectors; writers have their buckets again."""
    with company(cluster, tmp_path) as hosts:
        hosts.play(30)
        hosts.settle()
        for writer in hosts.writers:
            writer.end()
        before = hosts.written()
        hosts.play(30)
        hosts.until(lambda: sum(collector.sent for collector in hosts.collectors) > 2 * before)
        cluster.kill()
        cluster.wipe()
        cluster.restart()
        init(hosts.folder.parent / "admin.toml", "--after-loss", code=0)
        hurry(cluster.urls, 8)
        for writer in hosts.writers:
            writer.start()
        hosts.settle()
        hosts.check()


def test_a_bucket_is_handed_over_under_load(cluster: Cluster, tmp_path: Path) -> None:
    """Its keys go with it: what the writer before has written does not come again from another host."""
    with company(cluster, tmp_path) as hosts:
        for buckets in (("0-1", "2-7"), ("0-6", "7"), HALVES):
            hosts.play(20)
            for writer, mine in zip(hosts.writers, buckets, strict=True):
                writer.end(signal.SIGTERM)
                writer.buckets = mine
                writer.configure()
                hosts.play(5)
                writer.start()
                hosts.play(5)
            hosts.until(partial(_have, cluster.urls, buckets))
        hosts.play(20)
        hosts.collectors[0].plays(hosts.rollouts)  # all of it once more, from a host that had a part of it
        hosts.settle()
        hosts.check()
        moved = [event for writer in hosts.writers for event in writer.events("bucket_moved")]
        for came in (True, False):
            assert {event["bucket"] for event in moved if event["keys"] and event["came"] is came} == {2, 3, 4, 5, 6}


def test_a_collector_that_was_away_for_longer_than_the_stream_keeps_records(cluster: Cluster, tmp_path: Path) -> None:
    """What the stream has forgotten meanwhile is sent again, as no receipt covers it."""
    with company(cluster, tmp_path, collectors=2) as hosts:
        hosts.play(10)
        hosts.settle()
        for writer in hosts.writers:
            writer.end()
        hosts.play(20)
        hosts.until(lambda: sum(one.sent for one in hosts.collectors) >= sum(one.lines() for one in hosts.collectors))
        for collector in hosts.collectors:
            collector.end()
        at(cluster.urls, forget)
        for host in (*hosts.collectors, *hosts.writers):
            host.start()
        hosts.settle()
        hosts.check()


def _have(urls: list[str], buckets: Sequence[str]) -> bool:
    """Say whether the first writer has the first buckets, and so on."""
    expected = {bucket: f"w-{n}" for n, text in enumerate(buckets) for bucket in parse_partitions(text) or ()}
    return {bucket: owner["writer"].partition(".")[0] for bucket, owner in owners(urls).items()} == expected


async def forget(js: JetStreamContext) -> None:
    """Let the stream drop everything for its age, as after a day."""
    config = (await js.stream_info(STREAM)).config
    await js.update_stream(config.evolve(max_age=0.2, duplicate_window=0.1))
    while (await js.stream_info(STREAM)).state.messages:  # noqa: ASYNC110 - the stream tells nobody
        await anyio.sleep(0.02)
    await js.update_stream(config)
