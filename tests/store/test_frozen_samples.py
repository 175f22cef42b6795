"""What an earlier version left is taken on: its lines stay, its counts hold, and it knows again what it had seen."""

from __future__ import annotations

import io
import json
import sqlite3
import subprocess
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import pytest
from typer.testing import CliRunner

from streamer import follow
from streamer.base.files import Files
from streamer.commands.cli import _app
from streamer.core.records.key import DedupBy
from streamer.fleet import handoff, message, producers
from streamer.fleet.owners import Owner
from streamer.fleet.receipts import Receipt, ReceiptRequest
from streamer.store.ledger import delivery
from streamer.store.ledger.ledger import Ledger
from tests.helpers.frozen import FROZEN, coming, said, stable, thaw
from tests.helpers.place import Place
from tests.helpers.producer import add_outcome, correct_outcome, dialogue, written
from tests.helpers.traces import add_reward

if TYPE_CHECKING:
    from collections.abc import Callable

EXPECTED: dict[str, Any] = json.loads((FROZEN / "expected.json").read_text())
HOSTS: dict[str, Any] = EXPECTED["fleet"]["hosts"]


class Thawed(Place):
    """A frozen folder that was put back, and the commands to be run there."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir()
        super().__init__(folder)
        thaw(name, folder)

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, in the process of the test."""
        command, *rest = arguments
        called = [command, "--config", str(self.config), *rest]
        done = CliRunner().invoke(_app([command]), called, catch_exceptions=False)
        return subprocess.CompletedProcess(called, done.exit_code, done.stdout, done.output)

    def answer(self, *arguments: str) -> Any:
        """Return the JSON that a command prints."""
        return stable(self.call(*arguments, "--json").stdout, self.folder)

    def files(self) -> dict[str, bytes]:
        """Return every file of the dataset but the ledger and the lock, by name."""
        return {
            path.name: path.read_bytes()
            for path in self.folder.glob("good*")
            if "ledger" not in path.name and "lock" not in path.name
        }

    def run(self) -> None:
        """Work off what is there."""
        done = self.once()
        assert done.returncode == 0, done.stderr


@pytest.fixture
def sample(tmp_path: Path) -> Thawed:
    """Return the dataset."""
    return Thawed(tmp_path / "dataset", "dataset")


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Thawed:
    """Return one end of a fleet."""
    return Thawed(tmp_path / request.param, request.param)


def change(before: dict[str, Any], after: dict[str, Any]) -> dict[str, int]:
    """Return by how much each count of lines changed."""
    counts, old = after["accounting"], before["accounting"]
    return {state: counts[state] - old[state] for state in counts if counts[state] != old[state]}


def play_again(sample: Thawed, runs: list[str]) -> None:
    """Read turns of some rollouts once more, one that is nearly known, and one whose seed is at its cap."""
    sample.shard("again.jsonl", *(dialogue(run, 0, said(run, 0)) for run in runs))
    sample.shard("alike.jsonl", dialogue("late", 1, f"{said('late', 1)} and-one-word-more", seconds=1))
    sample.shard("more.jsonl", dialogue("capped-1", 3, said("more", 0), seconds=3))
    sample.run()
    for shard, reason in (("alike.jsonl", "near"), ("more.jsonl", "cap metadata.env_seed")):
        assert [one["reason"] for one in sample.answer("explain", shard)["reasons"]] == [reason]


class TestDataset:
    """A dataset with lines in each state, a removed part and a compacted one."""

    def test_it_is_what_it_was(self, sample: Thawed) -> None:
        """Commands that only look say of it what they said then."""
        assert sample.answer("status") == EXPECTED["status"]
        assert sample.answer("verify") == EXPECTED["verify"]

    def test_a_run_without_news_changes_nothing(self, sample: Thawed) -> None:
        """No byte of its files, no count, no reason."""
        before = sample.files()
        sample.run()
        assert sample.files() == before
        assert sample.answer("status") == EXPECTED["status"]
        for subject, reasons in EXPECTED["explain"].items():
            assert sample.answer("explain", subject) == reasons

    def test_news_come_after_what_is_there(self, sample: Thawed) -> None:
        """Outcomes of lines that wait, and of those that had expired, and a new rollout; all old lines stay."""
        before, lines = sample.files(), written(sample.dataset)
        for run in ("waiting", "expired"):
            add_outcome(sample.traces, run, 1, 10, env_seed=20)
            add_reward(sample.traces, run, 1, 1.0, seconds=1.5)
        sample.shard("new.jsonl", dialogue("new", 0, said("new", 0)), "no record")
        add_outcome(sample.traces, "new", 1, 10, env_seed=21)
        add_reward(sample.traces, "new", 0, 1.0, seconds=0.5)
        sample.run()
        after = sample.files()
        closed = {name for name in before if name[5:10].isdigit()}
        assert {name: after[name] for name in closed} == {name: before[name] for name in closed}
        assert after["good.jsonl.dead.jsonl"].startswith(before["good.jsonl.dead.jsonl"])
        assert written(sample.dataset).startswith(lines)
        assert change(EXPECTED["status"], sample.status()) == {
            "read": 2, "appended": 5, "waiting": -2, "never_scored": -2, "dead_lettered": 1,
        }  # fmt: skip
        assert sample.call("verify").returncode == 0

    def test_it_knows_what_it_had_seen(self, sample: Thawed) -> None:
        """A duplicate, also of a removed part; a near-duplicate; a value that is at its cap."""
        lines = written(sample.dataset)
        play_again(sample, ["kept", "late", "aged-out"])
        assert change(EXPECTED["status"], sample.status()) == {"read": 5, "duplicate": 4, "below_bar": 1}
        assert written(sample.dataset) == lines

    def test_without_its_ledger_it_knows_what_it_holds(self, sample: Thawed) -> None:
        """A line of a shard that is in the dataset already counts as appended, and is not written again."""
        lines = written(sample.dataset)
        (sample.folder / "good.jsonl.ledger").unlink()
        for path in sample.shards.rglob("*.jsonl"):
            path.unlink()
        sample.run()
        before = sample.status()
        assert before["adopted"] > 0
        play_again(sample, ["kept", "late"])
        assert change(before, sample.status()) == {"read": 4, "appended": 2, "duplicate": 1, "below_bar": 1}
        assert written(sample.dataset).startswith(lines)
        assert sample.status()["dataset_lines"] == before["dataset_lines"]

    def test_readers_go_on_where_they_were(self, sample: Thawed) -> None:
        """Tokens are good, also those of a part that was compacted since, and after the next compaction."""
        for some in EXPECTED["tokens"].values():
            assert [coming(sample.dataset, token) for token, _ in some] == [left for _, left in some]
        done = sample.call("compact", "--close-live", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["removed"]["withdrawn"]["records"] == 2
        for some in EXPECTED["tokens"].values():
            assert [coming(sample.dataset, token) <= left for token, left in some] == [True] * len(some)
            assert coming(sample.dataset, some[0][0]) == some[0][1] - 2
        sample.run()
        assert sample.call("verify").returncode == 0

    def test_a_rollout_that_was_taken_out_comes_back(self, sample: Thawed) -> None:
        """When its outcome is corrected upwards, its lines are read again at the places the ledger knows."""
        correct_outcome(sample.traces, 3, 1)
        sample.run()
        assert change(EXPECTED["status"], sample.status()) == {"appended": 2, "below_bar": -2}
        with follow(sample.dataset, wait=False) as reader:
            assert [record.metadata["run_id"] for record in reader][-2:] == ["compacted", "compacted"]


def transacted(ledger: Path, work: Callable[..., Any]) -> Any:
    """Do something inside a transaction of a ledger, as its daemon does."""

    async def main() -> Any:
        async with Ledger.open(ledger, Files()) as opened:
            return await opened.transact(work)

    return anyio.run(main)


class TestFleet:
    """A collector of which some records wait, two writers, and what was on the servers between them."""

    def test_an_end_is_what_it_was(self, host: Thawed) -> None:
        """Commands that only look say of it what they said then."""
        expected = HOSTS[host.folder.name]
        assert host.answer("status") == expected["status"]
        for run, reasons in expected["explain"].items():
            assert host.answer("explain", run) == reasons
        assert host.call("verify").returncode == 0

    def test_a_collector_goes_on_where_it_was(self, tmp_path: Path) -> None:
        """It bears the same name, and knows in each bucket what is delivered and from where on lines may wait."""
        sample = Thawed(tmp_path / "collector", "collector")
        before = HOSTS["collector"]["status"]["delivery"]
        ledger = sample.folder / "good.jsonl.ledger"
        assert transacted(ledger, partial(delivery.prepare, collector="another")) == before["collector"]
        floor, delivered = transacted(ledger, partial(delivery.begin, partitions=4))
        assert floor == before["floor"]
        assert sum(one.records for one in delivered.values()) - 1 == before["delivered"] == 19  # one is undeliverable
        assert sample.answer("status")["delivery"] == before

    @pytest.mark.parametrize("name", ["writer-1", "writer-2"])
    def test_a_writer_knows_what_it_holds(self, tmp_path: Path, name: str) -> None:
        """Its name, the numbers of each life of the collector, and the keys of its lines and of those it took over."""
        sample = Thawed(tmp_path / name, name)
        ledger = sample.folder / "good.jsonl.ledger"
        with closing(sqlite3.connect(ledger)) as db:
            called, held, keys = (
                db.execute(sql).fetchall()
                for sql in ("SELECT name FROM writer", "SELECT * FROM origin", "SELECT key, offset FROM record")
            )
        assert transacted(ledger, partial(producers.name_writer, new="another")) == called[0][0]
        assert len(held) >= 2
        for _, producer, partition, epoch, numbers, *_ in held:
            look = partial(producers.held_up_to, producer=producer, partition=partition, epoch=epoch)
            found = transacted(ledger, look)
            assert [[1, found]] == json.loads(numbers)
        known = {key for key, _ in keys}
        lines = written(sample.dataset).splitlines(keepends=True)
        assert {message.record(line, DedupBy.CONVERSATION).key for line in lines} <= known
        elsewhere = {key for key, place in keys if place == handoff.ELSEWHERE}
        moved = io.BytesIO(bytes.fromhex(EXPECTED["fleet"]["keys"]))
        came = set(handoff.keys_in(moved, handoff.read_head(moved, 3, 4, "conversation/2")))
        assert elsewhere == (came if name == "writer-2" else set())
        assert came <= known

    def test_a_message_is_read_and_written_as_it_was(self) -> None:
        """A record as it is, one in an object, and one that cannot travel: same headers, same bytes."""
        lines = written(FROZEN / "collector" / "good.jsonl").splitlines(keepends=True)
        kinds = set()
        for one in EXPECTED["fleet"]["messages"]:
            headers, body = one["headers"], bytes.fromhex(one["body"])
            found = message.read(headers, body)
            assert message.headers(found, "streamer-crafter", headers[message.MSG_ID]) == headers
            assert found.id.producer.endswith(HOSTS["collector"]["status"]["delivery"]["collector"])
            if body:
                assert (message.unpack(body) if found.packed else body) in lines
            kinds.add(
                "object" if found.object else "skipped" if found.skipped else "packed" if found.packed else "plain"
            )
        assert kinds >= {"object", "skipped", "plain"}

    def test_what_is_said_between_the_ends_is_read_as_it_was(self) -> None:
        """Who has which bucket, what a collector asks, and a receipt."""
        fleet = EXPECTED["fleet"]
        owners = [msgspec.json.decode(text, type=Owner) for text in fleet["owners"].values()]
        assert [owner.state for owner in owners] == ["owned", "owned", "owned", "released"]
        assert [bool(owner.keys) for owner in owners] == [False, False, False, True]
        assert msgspec.json.decode(fleet["ask"], type=ReceiptRequest) == ReceiptRequest("eval.ab", "1a")
        receipt = Receipt(3, "eval.ab", "1a", 7, "cd", 5, 9, idle=True)
        assert msgspec.json.decode(fleet["receipt"], type=list[Receipt]) == [receipt]
