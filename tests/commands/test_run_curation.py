"""Near-duplicates and caps through the real executable, over what a task app wrote."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers.place import PATIENCE, REAL, Place, ended, environment, until
from tests.helpers.producer import add_outcome, dialogue, make_traces

if TYPE_CHECKING:
    from pathlib import Path

NEAR = "[near]\nthreshold = 0.8\n"
CAPS = """
[[cap]]
by = "metadata.env_seed"
most = 3
[[cap]]
by = "metadata.final_achievements"
most = 20
[[cap]]
by = "prompt"
most = 1
"""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Return a folder with an empty trace database."""
    place = Place(tmp_path)
    make_traces(place.traces)
    return place


@pytest.fixture
def written(place: Place) -> tuple[str, ...]:
    """Return the flags that name what the real task app wrote, where that is at hand, or what is made here."""
    if (REAL / "traces.db").exists():
        return "--shards", str(REAL / "shards"), "--database", str(REAL / "traces.db")
    for run in range(12):
        achievements = ["collect_wood"] * (run % 2) + ["collect_diamond"] * (run % 5 == 0)
        add_outcome(
            place.traces, f"run-{run}", len(achievements), 9, env_seed=run // 2, final_achievements=achievements
        )
        words = [" ".join(f"r{run}p{turn // 2}w{word}" for word in range(60)) + f" step {turn}" for turn in range(8)]
        place.shard(
            f"run-{run}_2026-01-01_00-00-{run:02}.jsonl",
            *(dialogue(f"run-{run}", turn, text, image=run % 3 == 0) for turn, text in enumerate(words)),
        )
    return ()


def explained(place: Place) -> list[dict[str, Any]]:
    """Return the reasons of all lines of all shards that were read."""
    shards = {row["metadata"]["shard"] for row in place.records()}
    found: list[dict[str, Any]] = []
    for shard in sorted(shards):
        done = place.call("explain", "--json", shard)
        assert done.returncode == 0, done.stderr
        found += json.loads(done.stdout)["reasons"]
    return found


@pytest.mark.slow
def test_each_record_that_is_left_out_is_counted_and_explained(place: Place, written: tuple[str, ...]) -> None:
    """The accounts add up, the rules hold between the records that are there, and the dataset is fine."""
    place.configure()
    assert place.once(*written).returncode == 0
    everything = len(place.records())
    for path in place.folder.glob("good.jsonl*"):
        path.unlink()
    place.configure(NEAR + CAPS)
    done = place.once(*written)
    assert done.returncode == 0, done.stderr
    status = place.status()
    left_out = Counter[str]()
    for state in ("duplicate", "below_bar"):
        for reason, lines in status["reasons"].get(state, {}).items():
            left_out[reason] += lines
    del left_out["where"]
    assert {"near", "cap metadata.env_seed"} <= left_out.keys()
    assert len(place.records()) + left_out.total() == everything
    seeds = Counter(row["metadata"]["env_seed"] for row in place.records())
    assert max(seeds.values()) == 3
    told = [
        reason for reason in explained(place) if "nearly equals" in reason["because"] or "cap on" in reason["because"]
    ]
    assert told
    assert all(len(reason["details"]) == min(reason["lines"], 21) for reason in told)
    assert all("byte" in detail and "run" in detail for reason in told for detail in reason["details"][:20])
    assert place.call("verify", str(place.dataset)).returncode == 0
    before = place.dataset.read_bytes()
    assert place.once(*written).returncode == 0
    assert place.dataset.read_bytes() == before


@pytest.mark.slow
def test_a_cap_takes_effect_without_a_restart(place: Place) -> None:
    """It counts what is there; near-duplicates wait for a restart."""
    add_outcome(place.traces, "run", 1, 9)
    place.shard("a.jsonl", *(dialogue("run", turn, f"turn {turn}") for turn in range(3)))
    place.configure('[[cap]]\nby = "run_id"\nmost = 5\n')
    with place.daemon() as daemon:
        until(lambda: place.holds(3))
        place.configure(
            NEAR + '[[cap]]\nby = "metadata.env_seed"\nmost = 4\n[[cap]]\nby = "metadata.model"\nmost = 4\n'
        )
        daemon.send_signal(signal.SIGHUP)
        until(lambda: place.events("reloaded"))
        (event,) = place.events("reloaded")
        assert event["changed"] == "cap"
        assert event["refused"] == "near.threshold"
        place.shard("b.jsonl", *(dialogue("run", turn, f"turn {turn}") for turn in range(3, 6)))
        until(lambda: place.status()["accounting"]["below_bar"] == 2)
        daemon.send_signal(signal.SIGTERM)
        assert ended(daemon) == 0
    assert [row["metadata"].get("env_seed") for row in place.records()] == [None, None, None, 7]
    assert place.status()["reasons"]["below_bar"] == {"cap metadata.model": 2}


@pytest.mark.slow
@pytest.mark.parametrize(("text", "extra"), [("threshold = 0.8", "near"), ("images = 3", "images")])
def test_without_its_package_it_does_not_begin_and_says_what_to_install(place: Place, text: str, extra: str) -> None:
    """A daemon that left near-duplicates in would be no help."""
    place.configure(f"[near]\n{text}\n")
    blocked = place.folder / "blocked"
    for package in ("rensa", "PIL"):
        (blocked / package).mkdir(parents=True)
        (blocked / package / "__init__.py").write_text("raise ImportError")
    for command, code in ((["run", "--once"], 2), (["doctor"], 1)):
        done = subprocess.run(
            [sys.executable, "-m", "streamer", *command, "--config", str(place.config)],
            env=environment() | {"PYTHONPATH": os.pathsep.join([str(blocked), *sys.path])}, cwd=place.folder,
            check=False, capture_output=True, text=True, timeout=PATIENCE,
        )  # fmt: skip
        assert done.returncode == code
        assert f"install the extra `{extra}`" in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
