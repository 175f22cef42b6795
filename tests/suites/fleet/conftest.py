"""The servers, for one test each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.suites.fleet.servers import Cluster, Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Return one server that syncs what it acknowledges."""
    with Server(tmp_path / "nats") as one:
        yield one


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Return three servers that hold each stream together."""
    with Cluster.of(tmp_path / "nats") as three:
        yield three
