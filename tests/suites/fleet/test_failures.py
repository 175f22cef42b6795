"""What is not the fault of any process: networks that are cut, and disks that are full. Both need root."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.suites.fleet.company import Company, urls_without
from tests.suites.fleet.fleets import STREAM, init, write_config
from tests.suites.fleet.networks import Networks, why_not
from tests.suites.fleet.servers import Cluster, Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SERVERS = ("n1", "n2", "n3")
HOSTS = ("eval-0", "eval-1", "w-0", "w-1")


@contextmanager
def apart(folder: Path) -> Iterator[tuple[Networks, Cluster, Company]]:
    """Give three servers and a company of which each has a network of its own, all of them in reach of this one."""
    if why_not():
        pytest.skip(why_not())
    with Networks(*SERVERS, *HOSTS, "me") as networks:
        servers = [
            Server(folder / "nats", name, host=networks.address(name), inside=networks.inside(name)) for name in SERVERS
        ]
        cluster = Cluster(servers, ask=networks.inside("me"))
        with cluster:
            init(write_config(folder / "admin.toml", cluster.urls, (), "buckets = 4"), inside=networks.inside("me"))
            hosts = Company(folder / "hosts", cluster.urls, 2, ("0-1", "2-3"))
            for host in (*hosts.collectors, *hosts.writers):
                host.inside = list(networks.inside(host.folder.name))
            yield networks, cluster, hosts


@pytest.mark.parametrize("whom", ["eval-0", "w-0", "leader", "all servers"])
def test_a_network_that_is_cut_delays_and_loses_nothing(tmp_path: Path, whom: str) -> None:
    """Nobody is told: packets just do not come. What was played meanwhile is there when the network is."""
    with apart(tmp_path) as (networks, cluster, hosts), hosts:
        hosts.play(10)
        hosts.until(lambda: hosts.written() == hosts.expected)
        leader = cluster.until_led(STREAM)
        names = {"leader": [leader.name], "all servers": [*SERVERS]}.get(whom, [whom])
        for name in names:
            networks.cut(name)
        hosts.play(10)
        if whom == "leader":
            hosts.until(lambda: cluster.leader(STREAM) not in (None, leader))
        hosts.until(lambda: all(host.lines() == hosts.expected for host in hosts.collectors))  # evaluation goes on
        for name in names:
            networks.join(name)
        hosts.play(5)
        hosts.settle()
        hosts.check()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a folder on a disk of 48 MB."""
    if os.geteuid() != 0:
        pytest.skip("file systems can be mounted by root alone")
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)], check=False)
    if done.returncode:
        pytest.skip("this machine mounts nothing (a container without the right to?)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_server_whose_disk_is_full_loses_nothing_that_counts(tmp_path: Path, small_disk: Path) -> None:
    """One of three runs out of room, under load, and gets it back: all records arrive, none twice."""
    cluster = Cluster.of(tmp_path / "nats")
    cluster.servers[0].store = small_disk / "store"
    with cluster:
        config = write_config(tmp_path / "admin.toml", cluster.urls, (), "buckets = 4")
        init(config, "--stream-bytes", "4MiB", "--object-bytes", "1MiB")
        hosts = Company(tmp_path / "hosts", urls_without(cluster, cluster.servers[0]), 2, ("0-1", "2-3"))
        with hosts:
            hosts.play(5)
            hosts.settle()
            for writer in hosts.writers:
                writer.end(signal.SIGTERM)
            filler = small_disk / "filler"
            _fill(filler)
            hosts.play(20)
            hosts.until(partial(_are_sent, hosts))
            for writer in hosts.writers:
                writer.start()
            hosts.until(lambda: hosts.written() == hosts.expected)
            assert "no space left" in cluster.servers[0].log.read_text()
            filler.unlink()
            cluster.servers[0].kill()
            cluster.restart()
            hosts.play(5)
            hosts.settle()
            hosts.check()


def _are_sent(hosts: Company) -> bool:
    return all(one.lines() == hosts.expected and one.sent >= one.lines() for one in hosts.collectors)


def _fill(file: Path) -> None:
    """Write until there is no room any more."""
    with file.open("wb", buffering=0) as opened:
        try:
            while True:
                opened.write(b"\0" * 4096)
        except OSError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017 - that is how far it goes
