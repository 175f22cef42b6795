"""The frozen ends of a fleet, on new servers: what waits arrives, and nothing is written twice."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tests.helpers.frozen import thaw
from tests.helpers.place import Place, until
from tests.helpers.producer import written
from tests.suites.fleet.fleets import init, write_config
from tests.suites.fleet.hosts import waiting_in

if TYPE_CHECKING:
    from pathlib import Path

    from tests.suites.fleet.servers import Server


def test_a_frozen_fleet_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    """The servers lost all: what no writer held is sent again, and each record is with one writer, once."""
    admin = write_config(tmp_path / "admin.toml", [server.url], (), "buckets = 4")
    init(admin, "--replicas", "1", "--after-loss")
    places = []
    for name in ("collector", "writer-1", "writer-2"):
        folder = tmp_path / name
        folder.mkdir()
        place = Place(folder)
        thaw(name, folder)
        place.config.write_text(place.config.read_text().replace("nats://nobody.invalid:4222", server.url))
        places.append(place)
    collector, *writers = places
    before = [written(place.dataset) for place in places]
    sent = collector.status()["delivery"]["sent"]
    with ExitStack() as stack:
        for writer in writers:
            stack.enter_context(writer.daemon())
        done = collector.once()
        assert done.returncode == 0, done.stderr
        until(lambda: sum(len(writer.records()) for writer in writers) >= len(collector.records()) - 1)
    delivery = collector.status()["delivery"]
    assert (delivery["lines"], delivery["delivered"], delivery["undeliverable"]) == (28, 27, {"too_large": 1})
    assert waiting_in(delivery) == 0
    assert delivery["sent"] - sent == 8
    for place, lines in zip(places, before, strict=True):
        assert written(place.dataset).startswith(lines)
    held = sorted(line for writer in writers for line in written(writer.dataset).splitlines())
    assert held == sorted(
        line
        for line in written(collector.dataset).splitlines()
        if len(json.loads(line)["messages"][1]["content"]) < 10_000
    )
