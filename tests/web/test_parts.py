"""The page of a dataset that rolls: its records through all files, and through the removal of old parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.helpers.place import until
from tests.helpers.producer import add_outcome, dialogue, make_traces
from tests.helpers.web import Site, flow, got, refused

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

ROLL = "[roll]\nrecords = 3\n[retain]\nrecords = 8\n"


def places(client: httpx.Client) -> dict[int, int]:
    """Return the places of all records that the page shows, page by page, with their turns."""
    found: dict[int, int] = {}
    before: int | None = None
    while True:
        page = got(client, "/api/records", limit=2, **({} if before is None else {"before": before}))
        found |= {record["offset"]: record["turn"] for record in page["records"]}
        before = page["next"]
        if before is None:
            return found


@pytest.mark.slow
def test_places_stay_when_parts_are_closed_and_removed(tmp_path: Path) -> None:
    """Records keep their address for as long as they are kept; what is not kept is not there any more."""
    site = Site(tmp_path)
    add_outcome(make_traces(site.traces), "good", 3, 99)
    site.configure(ROLL)
    site.shard("1.jsonl", *(dialogue("good", turn, f"state {turn}") for turn in range(7)))
    with site.served() as client:
        until(lambda: flow(got(client, "/api/state"))["appended"] == 7)
        first = places(client)
        assert sorted(first.values()) == list(range(7))
        (oldest,) = (place for place, turn in first.items() if turn == 0)
        assert got(client, f"/api/records/{oldest}")["turn"] == 0
        site.shard("2.jsonl", *(dialogue("good", turn, f"state {turn}") for turn in range(7, 14)))
        until(lambda: flow(got(client, "/api/state"))["appended"] == 14)
        until(lambda: got(client, "/api/state")["dataset"]["records"] == 8)
        second = places(client)
        assert sorted(second.values()) == list(range(6, 14))
        (kept,) = (place for place, turn in first.items() if turn == 6)
        assert second[kept] == 6
        assert got(client, f"/api/records/{kept}")["turn"] == 6
        refused(client, f"/api/records/{oldest}", 404)
        turns = got(client, "/api/rollouts/good")["turns"]
        assert [turn["turn"] for turn in turns] == list(range(14))
