"""The container, booted once, with streamer installed in it by the first steps of the README."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.suites.systemd.chapter import run_block
from tests.suites.systemd.container import Container
from tests.suites.systemd.instance import Instance
from tests.suites.systemd.prepare import why_not

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAME = "crafter"
"""The instance that the README installs."""


@pytest.fixture(scope="session")
def container() -> Iterator[Container]:
    """Return a container that is up."""
    folder = Path(os.environ.get("STREAMER_SYSTEMD", "missing"))
    if why_not():
        pytest.skip(why_not())
    if not (folder / "base.made-with").exists():
        pytest.skip("there is no root folder yet: make test-systemd makes one")
    with Container(folder / "base", folder / "run", folder / "wheels", folder / "previous") as up:
        yield up


@pytest.fixture(scope="session")
def crafter(container: Container) -> Instance:
    """Return the instance that the first block of the README installs and starts."""
    instance = Instance(container, NAME)
    run_block(container, 0)
    return instance


@pytest.fixture
def instance(crafter: Instance, request: pytest.FixtureRequest) -> Iterator[Callable[..., Instance]]:
    """Return a function that makes an instance for one test; the service is stopped when the test is over."""
    made: list[Instance] = []

    def make(more: str = "", drop_in: str = "", folder: str = "") -> Instance:
        name = request.node.name.removeprefix("test_").replace("[", "-").rstrip("]")[:60]
        made.append(Instance(crafter.container, name, folder))
        made[-1].install(more, drop_in)
        return made[-1]

    yield make
    for one in made:
        one.container.call("systemctl", "kill", "--signal=KILL", one.unit)
        one.container.call("systemctl", "stop", one.unit)
