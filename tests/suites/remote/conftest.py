"""The server and the proxy before it, for one test each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.suites.remote.proxy import Proxy
from tests.suites.remote.sqld import Sqld

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def sqld(tmp_path: Path) -> Iterator[Sqld]:
    """Return a server with the empty tables of the task app."""
    with Sqld(tmp_path / "sqld") as server:
        server.make_tables()
        yield server


@pytest.fixture
def proxy(sqld: Sqld) -> Iterator[Proxy]:
    """Return a network between streamer and the server, which counts, and can fail."""
    with Proxy(sqld.port) as network:
        yield network
