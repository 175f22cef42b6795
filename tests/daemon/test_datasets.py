"""Several datasets from one daemon, through the real executable: each is what a daemon of its own would have made."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers.place import REAL, Place, Rollouts, ended, until
from tests.helpers.producer import add_outcome, conversations, dialogue, jsonl, make_traces

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """
[[dataset]]
path = "good/good.jsonl"
"""
BEST = """
[[dataset]]
path = "best/best.jsonl"
qualify.where = "total_reward >= 2"
dedup.by = "prompt"
[dataset.records]
images = "any"
max_turn = 5
[dataset.roll]
records = 4
[[dataset.cap]]
by = "run_id"
most = 2
"""
RARE = """
[[dataset]]
path = "rare.jsonl"
ledger = "rare.state"
join.rule = "max"
dedup.by = "none"
[dataset.records]
images = "with"
"""


class Several(Place):
    """A place whose daemon writes several datasets."""

    def configure(self, text: str = "", source: str = "", datasets: str = GOOD + BEST) -> None:
        """Write the configuration; ``text`` holds more tables."""
        self.config.write_text(
            f'[source]\nshards = "shards"\ndatabase = "traces.db"\nscan_interval = "200ms"\n{source}\n'
            f'[log]\nformat = "json"\n{text}\n{datasets}'
        )

    def files(self) -> dict[str, bytes]:
        """Return all lines that were written, by file; without what is no dataset."""
        found = [path for path in self.folder.rglob("*.jsonl") if path.parent != self.shards]
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in found}

    def statuses(self, *arguments: str) -> list[dict[str, Any]]:
        """Return what is said of each dataset, after seeing that it adds up."""
        done = self.call("status", "--json", *arguments)
        assert done.returncode == 0, done.stderr
        values: dict[str, Any] = json.loads(done.stdout)
        for one in values.get("datasets", [values]):
            accounting = dict(one["accounting"])
            assert accounting.pop("read") == sum(accounting.values())
            assert one["dataset_lines"] == accounting["appended"] + one["adopted"]
        found: list[dict[str, Any]] = values.get("datasets", [values])
        return found

    def appended(self) -> list[int]:
        """Return how many records each dataset has taken."""
        return [one["accounting"]["appended"] for one in self.statuses()]


@pytest.fixture
def place(tmp_path: Path) -> Several:
    """Return a folder with an empty trace database."""
    made = Several(tmp_path)
    make_traces(made.traces)
    return made


def fill(place: Place, runs: int = 12) -> None:
    """Write rollouts with rewards from 0 to 3, some with images and some with equal prompts."""
    for run in range(runs):
        add_outcome(place.traces, f"run-{run}", run % 4, 9)
        values = (dialogue(f"run-{run}", turn, f"r{run}t{turn // 2}", image=run % 3 == 0) for turn in range(8))
        place.shard(f"run-{run}_2026-01-01_00-00-{run:02}.jsonl", *values)


@pytest.fixture
def written(place: Several) -> tuple[str, ...]:
    """Return the flags that name what the real task app wrote, where that is at hand, or what is made here."""
    if (REAL / "traces.db").exists():
        return "--shards", str(REAL / "shards"), "--database", str(REAL / "traces.db")
    fill(place)
    return ()


@pytest.mark.slow
def test_each_dataset_is_what_a_daemon_of_its_own_makes_of_the_same(
    place: Several, written: tuple[str, ...], tmp_path: Path
) -> None:
    """Byte for byte and part for part, with the same accounts; a second pass adds nothing."""
    place.configure(datasets=GOOD + BEST + RARE)
    done = place.once(*written)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("lines read") == 3
    together, accounts = place.files(), [one["accounting"] for one in place.statuses()]
    assert place.once(*written).returncode == 0
    assert place.files() == together
    alone: dict[str, bytes] = {}
    for number, dataset in enumerate((GOOD, BEST, RARE)):
        (tmp_path / f"alone-{number}").mkdir()
        other = Several(tmp_path / f"alone-{number}")
        other.configure(datasets=dataset)
        flags = written or ("--shards", str(place.shards), "--database", str(place.traces))
        assert other.once(*flags).returncode == 0
        alone |= other.files()
        assert [one["accounting"] for one in other.statuses()] == [accounts[number]]
    assert together == alone
    assert len(together) > 3  # there are parts
    assert all(together.values())


@pytest.mark.slow
def test_each_record_is_explained_for_each_dataset(place: Several) -> None:
    """Where it stands in the one, and in the other."""
    fill(place, 6)
    place.configure()
    assert place.once().returncode == 0
    for dataset, status in zip(("good/good.jsonl", "best/best.jsonl"), place.statuses(), strict=True):
        reasons: list[dict[str, Any]] = []
        for shard in sorted(path.name for path in place.shards.iterdir()):
            done = place.call("explain", "--json", shard, "--dataset", dataset)
            assert done.returncode == 0, done.stderr
            reasons += json.loads(done.stdout)["reasons"]
        assert all(reason["because"] for reason in reasons)
        assert sum(reason["lines"] for reason in reasons) == status["accounting"]["read"] == 48
    without = place.call("explain", "run-3")
    assert without.returncode == 2
    assert "name one of them: " in without.stderr
    assert "cap on run_id was full" in place.call("explain", "run-3", "--dataset", "best/best.jsonl").stdout


@pytest.mark.slow
def test_commands_tell_of_all_datasets_or_want_to_know_which(place: Several) -> None:
    """None takes the first one for the only one."""
    fill(place)
    place.configure()
    assert place.once().returncode == 0
    best = ("--dataset", "best/best.jsonl")
    for command in (
        ("tail", "--no-follow"),
        ("report",),
        ("explain", "run-3"),
        ("export", "--to", "trl", "--out", "x"),
    ):
        done = place.call(*command)
        assert done.returncode == 2, done.stdout
        assert "several are configured" in done.stderr
        assert "Traceback" not in done.stderr
    assert place.call("tail", "--no-follow", "-n", "1", *best).stdout.startswith("run-")
    assert place.call("report", *best).returncode == 0
    assert [one["dataset"].rpartition("/")[2] for one in place.statuses()] == ["good.jsonl", "best.jsonl"]
    assert [one["dataset"].rpartition("/")[2] for one in place.statuses(*best)] == ["best.jsonl"]
    text = place.call("status").stdout
    assert text.count("read  ") == 2
    verified = json.loads(place.call("verify", "--json").stdout)["datasets"]
    assert [one["fine"] for one in verified] == [True, True]
    found = place.call("doctor")
    assert found.returncode == 0, found.stdout
    assert found.stdout.count("notifications of changes") == 1
    assert "best.jsonl: " in found.stdout
    refused = place.once("--where", "1")
    assert refused.returncode == 2
    assert "each with a condition of its own" in refused.stderr


@pytest.mark.slow
def test_one_of_them_can_be_run_alone(place: Several) -> None:
    """Then a condition from outside has a meaning; and the other daemon may hold the rest."""
    fill(place)
    place.configure()
    assert place.once("--dataset", "best/best.jsonl", "--where", "total_reward = 3").returncode == 0
    assert place.appended()[0] == 0
    assert {json.loads(line)["metadata"]["total_reward"] for line in place.files()["best/best.jsonl"].splitlines()} <= {
        3
    }
    with place.daemon() as daemon:
        until(lambda: place.events("committed"))
        held = place.once("--dataset", "best/best.jsonl")
        assert held.returncode == 4
        daemon.send_signal(signal.SIGTERM)
        assert ended(daemon) == 0


@pytest.mark.slow
def test_their_files_may_lie_in_the_shard_folder(place: Several) -> None:
    """None of them is a shard, neither one's own nor another one's."""
    fill(place)
    place.configure(datasets=(GOOD + BEST).replace('"good/', '"shards/').replace('"best/', '"shards/'))
    for _ in range(2):
        assert place.once().returncode == 0
    assert [one["accounting"]["read"] for one in place.statuses()] == [96, 96]
    assert [one["lag"]["unread_shards"] for one in place.statuses()] == [0, 0]
    assert place.once("--dataset", "shards/best.jsonl").returncode == 0
    assert [one["accounting"]["read"] for one in place.statuses()] == [96, 96]


@pytest.mark.slow
def test_twelve_deaths_during_a_live_run_lose_nothing_in_any_dataset(place: Several, tmp_path: Path) -> None:
    """Each is continued from where it was, and no line that was visible ever changed."""
    roll = GOOD + BEST.replace('[[dataset.cap]]\nby = "run_id"\nmost = 2\n', "").replace("prompt", "conversation")
    place.configure("[batch]\nrecords = 5\nmilliseconds = 1", datasets=roll)
    rollouts = Rollouts(place, seed=12)
    moments = random.Random(12)
    seen = b""
    good = place.folder / "good" / "good.jsonl"
    for _ in range(12):
        with place.daemon() as daemon:
            for _ in range(6):
                rollouts.write()
            lines = seen.count(b"\n") + moments.randrange(6 * rollouts.good - seen.count(b"\n"))
            until(partial(_holds, good, lines))
            os.kill(daemon.pid, signal.SIGKILL)
            daemon.wait()
        data = good.read_bytes()
        assert data.startswith(seen)
        seen = data[: data.rfind(b"\n") + 1]
    assert place.once().returncode == 0
    (tmp_path / "undisturbed").mkdir()
    other = Several(tmp_path / "undisturbed")
    other.configure(datasets=roll)
    assert other.once("--shards", str(place.shards), "--database", str(place.traces)).returncode == 0
    for name in ("good/good", "best/best"):
        assert conversations(_records(place, name)) == conversations(_records(other, name))
    assert place.appended() == other.appended()
    assert [one["adopted"] for one in place.statuses()] == [0, 0]


def _holds(dataset: Path, lines: int) -> bool:
    return dataset.exists() and dataset.read_bytes().count(b"\n") >= lines


def _records(place: Several, name: str) -> list[dict[str, Any]]:
    return [
        json.loads(line) for file, data in place.files().items() if file.startswith(name) for line in data.splitlines()
    ]


@pytest.mark.slow
def test_a_dataset_that_is_added_later_catches_up_and_the_other_is_left_as_it_is(place: Several) -> None:
    """With a restart; a reload says that it needs one."""
    fill(place)
    place.configure(datasets=GOOD)
    with place.daemon() as daemon:
        until(lambda: place.statuses()[0]["accounting"]["read"] == 96)
        before = place.files()["good/good.jsonl"]
        place.configure(datasets=GOOD + BEST)
        daemon.send_signal(signal.SIGHUP)
        until(lambda: any("(new)" in event["refused"] for event in place.events("reloaded")))
        daemon.send_signal(signal.SIGTERM)
        assert ended(daemon) == 0
    with place.daemon() as daemon:
        until(lambda: [one["accounting"]["read"] for one in place.statuses()] == [96, 96])
        add_outcome(place.traces, "new", 3, 9)
        place.shard("new_2026-01-01_00-01-00.jsonl", *(dialogue("new", turn, f"new {turn}") for turn in range(2)))
        until(lambda: [one["accounting"]["read"] for one in place.statuses()] == [98, 98])
        daemon.send_signal(signal.SIGTERM)
        assert ended(daemon) == 0
    assert place.files()["good/good.jsonl"].startswith(before)


@pytest.mark.slow
def test_a_reload_is_for_each_dataset_and_a_bad_one_for_none(place: Several) -> None:
    """The condition of one changes; a condition that cannot be evaluated changes neither."""
    fill(place)
    place.configure()
    with place.daemon() as daemon:
        until(lambda: [one["accounting"]["read"] for one in place.statuses()] == [96, 96])
        place.configure(datasets=GOOD + 'qualify.where = "0"\n' + BEST.replace(">= 2", ">= no_such"))
        daemon.send_signal(signal.SIGHUP)
        until(lambda: place.events("reload_failed"))
        place.configure(datasets=GOOD + BEST.replace(">= 2", ">= 9"))
        daemon.send_signal(signal.SIGHUP)
        until(lambda: len(place.events("reloaded")) == 2)
        changed = {event["dataset"].rpartition("/")[2]: event["changed"] for event in place.events("reloaded")}
        assert changed == {"good.jsonl": "", "best.jsonl": "qualify.where"}
        before = place.appended()
        add_outcome(place.traces, "new", 3, 9)
        place.shard("new_2026-01-01_00-01-00.jsonl", dialogue("new", 0, "new"))
        until(lambda: [one["accounting"]["read"] for one in place.statuses()] == [97, 97])
        until(lambda: place.appended() == [before[0] + 1, before[1]])
        daemon.send_signal(signal.SIGTERM)
        assert ended(daemon) == 0


@pytest.mark.slow
def test_a_dataset_that_lost_its_ledger_is_adopted_and_the_other_does_not_notice(place: Several) -> None:
    """Nothing is there twice."""
    fill(place)
    place.configure(datasets=GOOD + RARE)
    assert place.once().returncode == 0
    before = place.files()
    for path in (place.folder / "good").glob("good.jsonl.ledger*"):
        path.unlink()
    assert place.once().returncode == 0
    assert place.files() == before
    assert [one["accounting"]["read"] for one in place.statuses()] == [96, 96]


@pytest.mark.slow
def test_one_that_a_person_has_to_look_at_does_not_hold_up_the_others(place: Several) -> None:
    """It is told of, tried again, and goes on when it was put right; if it was not, the exit code says so."""
    fill(place)
    place.configure(datasets=GOOD + BEST.partition("[dataset.roll]")[0])
    assert place.once().returncode == 0
    best = place.folder / "best" / "best.jsonl"
    whole = best.read_bytes()
    best.write_bytes(whole[: whole.find(b"\n") + 1])
    with place.daemon() as daemon:
        until(lambda: place.events("trouble"))
        (trouble,) = place.events("trouble")
        assert trouble["dataset"].endswith("best.jsonl")
        add_outcome(place.traces, "new", 3, 9)
        place.shard("new_2026-01-01_00-01-00.jsonl", dialogue("new", 0, "new"))
        until(lambda: place.statuses()[0]["accounting"]["read"] == 97)
        daemon.send_signal(signal.SIGTERM)
        assert ended(daemon) == 5
    with place.daemon() as daemon:
        until(lambda: len(place.events("trouble")) == 2)
        best.write_bytes(whole)
        until(lambda: place.statuses()[1]["accounting"]["read"] == 97)
        until(lambda: place.events("trouble_over"))
        daemon.send_signal(signal.SIGTERM)
        assert ended(daemon) == 0
    assert best.read_bytes().startswith(whole)


@pytest.mark.slow
def test_the_daemon_ends_when_a_person_has_to_look_at_all_of_them(place: Several) -> None:
    """There is nothing left to do."""
    fill(place)
    place.configure(datasets=GOOD + RARE)
    assert place.once().returncode == 0
    for name in ("good/good.jsonl", "rare.jsonl"):
        (place.folder / name).write_bytes(b"")
    with place.daemon() as daemon:
        assert ended(daemon) == 5


@pytest.mark.slow
def test_until_idle_waits_for_all_datasets(place: Several) -> None:
    """And ends once."""
    fill(place)
    place.configure()
    assert place.call("run", "--until-idle", "500ms").returncode == 0
    assert [one["accounting"]["read"] for one in place.statuses()] == [96, 96]


@pytest.mark.slow
def test_until_idle_does_not_wait_for_a_person(place: Several) -> None:
    """It ends when the others are idle, with the code of the one that has to be looked at."""
    fill(place)
    place.configure(datasets=GOOD + RARE)
    assert place.once().returncode == 0
    (place.folder / "rare.jsonl").write_bytes(b"")
    add_outcome(place.traces, "new", 3, 9)
    place.shard("new_2026-01-01_00-01-00.jsonl", dialogue("new", 0, "new"))
    done = place.call("run", "--until-idle", "500ms")
    assert done.returncode == 5
    assert "Traceback" not in done.stderr
    assert [one["accounting"]["read"] for one in place.statuses()] == [97, 96]


@pytest.mark.slow
def test_the_service_manager_is_told_of_all_datasets_in_one_line(place: Several) -> None:
    """Ready when the first one is; the records are added up."""
    fill(place)
    place.configure()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(place.folder / "notify"))
        manager.settimeout(20)
        with place.daemon(NOTIFY_SOCKET=str(place.folder / "notify")) as daemon:
            assert manager.recv(4096).decode().startswith("READY=1\nSTATUS=working off")
            while "6 records; 0 waiting" not in (text := manager.recv(4096).decode()):
                assert text.startswith("STATUS=2 datasets: ")
            daemon.send_signal(signal.SIGTERM)
            assert ended(daemon) == 0


@pytest.mark.slow
def test_log_lines_say_which_dataset_only_where_there_are_several(place: Several) -> None:
    """Whoever reads the log of one dataset sees what there was before."""
    add_outcome(place.traces, "run", 3, 9)
    (place.shards / "a.jsonl").write_bytes(jsonl(dialogue("run")))
    for datasets, named in ((GOOD, False), (GOOD + BEST, True)):
        place.configure(datasets=datasets)
        done = place.once()
        (event, *_) = [json.loads(line) for line in done.stderr.splitlines()]
        assert ("dataset" in event) is named
