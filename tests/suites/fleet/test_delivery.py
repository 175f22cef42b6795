"""Records on their way from collectors to a writer, through a real server: none lost, none twice, whatever happens."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers.place import ended, environment, until
from tests.suites.fleet.fleets import STREAM, at, init, write_config
from tests.suites.fleet.hosts import Collector, Host, Writer, hurry_consumers, resident, waiting_in
from tests.suites.fleet.servers import Server

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from nats.js import JetStreamContext

BUCKETS = 4


@pytest.fixture
def fleet(server: Server, tmp_path: Path) -> Server:
    """Return a server on which everything is set up."""
    set_up(server, tmp_path)
    return server


def set_up(server: Server, folder: Path, *arguments: str, buckets: int = BUCKETS) -> None:
    """Set a fleet up, or up again."""
    config = write_config(folder / "admin.toml", [server.url], (), f"buckets = {buckets}")
    init(config, "--replicas", "1", *arguments)


def texts(name: str, turns: int) -> list[str]:
    """Return what is said in a rollout, in so many turns, by nobody else."""
    return [f"{name}: the state in turn {turn}" for turn in range(turns)]


def has_lines(host: Host, lines: int) -> bool:
    """Say whether a dataset has so many lines."""
    return len(host.lines()) >= lines


def all_delivered(*collectors: Collector, lines: int = 1) -> bool:
    """Say whether each of these has so many lines, and writers hold all of them; both by one look."""
    return all(said["lines"] >= lines and waiting_in(said) == 0 for said in (one.delivery for one in collectors))


def assert_whole(writer: Host, expected: Iterable[str]) -> None:
    """See that a writer has each of some records once, byte by byte as a collector wrote it."""
    lines = writer.lines()
    assert sorted(json.loads(line)["messages"][1]["content"] for line in lines) == sorted(set(expected))
    assert writer.status()["dataset_lines"] == len(lines)
    assert writer.call("verify").returncode == 0


def test_what_collectors_bring_is_one_dataset_and_all_counts_agree(fleet: Server, tmp_path: Path) -> None:
    """Two hosts with some rollouts in common, one writer: the union, each line as its collector wrote it."""
    one, two = (Collector(tmp_path / name, [fleet.url]) for name in ("one", "two"))
    writer = Writer(tmp_path / "writer", [fleet.url])
    common = texts("common", 30)
    for host in (one, two):
        host.rollout(f"own-{host.folder.name}", texts(host.folder.name, 50))
        host.rollout("both", common)
        host.rollout("bad", texts("bad", 5), reward=0)
    with writer.daemon() as daemon:
        assert one.once().returncode == 0
        assert two.once().returncode == 0
        assert all_delivered(one, two)
        daemon.send_signal(signal.SIGTERM)
        assert ended(daemon) == 0
    assert_whole(writer, [*texts("one", 50), *texts("two", 50), *common])
    assert set(writer.lines()) <= {*one.lines(), *two.lines()}
    for host in (one, two):
        said = host.delivery
        assert said["lines"] == said["delivered"] == 80
        assert said["sent"] >= 80
        assert said["again"] == 0
    assert "sent_again" not in {event["event"] for event in one.events("sent_again")}


def test_a_writer_says_where_each_record_came_from_and_why(fleet: Server, tmp_path: Path) -> None:
    """Status and explain work on a writer as on any dataset."""
    collector, writer = Collector(tmp_path / "one", [fleet.url]), Writer(tmp_path / "writer", [fleet.url])
    collector.rollout("run", texts("run", 3))
    with writer.daemon():
        assert collector.once().returncode == 0
    explained = writer.call("explain", "run")
    assert explained.returncode == 0, explained.stderr
    assert "appended: it qualified at its collector" in explained.stdout
    status = writer.call("status").stdout
    assert "read             3 lines of" in status
    assert "bucket" in status
    shown = collector.call("status").stdout
    assert "outbox           of the collector" in shown
    assert "delivered      3" in shown


def test_a_single_pass_of_a_writer_takes_what_is_there(fleet: Server, tmp_path: Path) -> None:
    """It ends when the stream has nothing more for it; and that of a collector without a writer says that it waits."""
    collector, writer = Collector(tmp_path / "one", [fleet.url]), Writer(tmp_path / "writer", [fleet.url])
    collector.rollout("run", texts("run", 40))
    waits = collector.once()
    assert waits.returncode == 3
    assert "wait in the outbox for a writer's receipt" in waits.stderr
    taken = writer.once()
    assert taken.returncode == 0, taken.stderr
    assert_whole(writer, texts("run", 40))
    with writer.daemon():
        assert collector.once().returncode == 0
    assert_whole(writer, texts("run", 40))


def test_caps_and_near_duplicates_hold_across_hosts(fleet: Server, tmp_path: Path) -> None:
    """A writer compares and counts what comes from all of them."""
    rules = '[near]\nthreshold = 0.8\n[[cap]]\nby = "metadata.model"\nmost = 6\n'
    one, two = (Collector(tmp_path / name, [fleet.url]) for name in ("one", "two"))
    writer = Writer(tmp_path / "writer", [fleet.url], rules)
    long = " ".join(f"word{number}" for number in range(200))
    one.rollout("a", [f"{long} one"])
    two.rollout("b", [f"{long} two"])
    with writer.daemon():
        assert one.once().returncode == 0
        assert two.once().returncode == 0
        one.rollout("c", [f"{chr(97 + n) * 9} {n} {n * 7} " * 30 for n in range(9)])
        assert one.once().returncode == 0
    seen = writer.status()
    assert seen["reasons"]["duplicate"] == {"near": 1}
    assert seen["dataset_lines"] == 6
    assert seen["reasons"]["below_bar"] == {"cap metadata.model": 4}
    assert all_delivered(one, two)


def test_with_the_link_down_an_evaluation_goes_on_in_the_same_memory(server: Server, tmp_path: Path) -> None:
    """What it brings waits in the outbox, however much that is, and is delivered when the link is there."""
    collector, writer = Collector(tmp_path / "one", [server.url]), Writer(tmp_path / "writer", [server.url])
    set_up(server, tmp_path)
    server.kill()
    expected: list[str] = []
    sizes: list[int] = []
    with collector.daemon() as daemon, writer.daemon():
        for part in range(4):
            for run in range(10):
                said = [f"{text} {'x' * 10_000}" for text in texts(f"{part}-{run}", 20)]
                collector.rollout(f"run-{part}-{run}", said)
                expected += said
            until(partial(has_lines, collector, len(expected)))
            sizes.append(resident(daemon.pid))
        assert collector.waiting == len(expected)
        assert sizes[-1] - sizes[0] < 16 << 20
        told = [event["op"] for event in collector.events("trouble")]
        assert told.count("reach the fleet") == 1
        server.start()
        until(lambda: all_delivered(collector, lines=len(expected)))
        assert resident(daemon.pid) - sizes[0] < 64 << 20
    assert_whole(writer, expected)
    assert collector.delivery["again"] == 0


def test_kills_of_collector_and_writer_at_random_moments_lose_nothing(fleet: Server, tmp_path: Path) -> None:
    """Both die again and again while records come; in the end each record is there once."""
    hurry_consumers([fleet.url], BUCKETS)
    moments = random.Random(7)
    collector, writer = Collector(tmp_path / "one", [fleet.url]), Writer(tmp_path / "writer", [fleet.url])
    numbers = count()
    expected: list[str] = []

    def play() -> None:
        for _ in range(5):
            said = texts(f"run {next(numbers)}", 20)
            collector.rollout(f"run-{next(numbers)}", said)
            expected.extend(said)

    for _ in range(8):
        play()
        with collector.daemon(), writer.daemon():
            goal = len(writer.lines()) + moments.randrange(1, 100)
            play()
            until(partial(has_lines, writer, goal))
    with collector.daemon(), writer.daemon():
        until(lambda: all_delivered(collector, lines=len(expected)))
    assert_whole(writer, expected)
    assert sorted(collector.lines()) == sorted(writer.lines())


def test_a_server_that_lost_its_disk_gets_all_again_that_no_writer_holds(fleet: Server, tmp_path: Path) -> None:
    """The stream was only a carrier: its acknowledgements count for nothing."""
    collector, writer = Collector(tmp_path / "one", [fleet.url]), Writer(tmp_path / "writer", [fleet.url])
    before, lost, after = (texts(name, 60) for name in ("before", "lost", "after"))
    collector.rollout("before", before)
    with collector.daemon():
        with writer.daemon():
            until(lambda: all_delivered(collector, lines=60))
        collector.rollout("lost", lost)
        until(lambda: collector.delivery["sent"] >= 120)
        fleet.kill()
        fleet.wipe()
        fleet.start()
        fleet.until(fleet.is_healthy)
        set_up(fleet, tmp_path, "--after-loss")
        collector.rollout("after", after)
        with writer.daemon():
            until(lambda: all_delivered(collector, lines=180))
    assert_whole(writer, [*before, *lost, *after])
    assert collector.events("sent_again")
    assert collector.delivery["delivered"] == 180


def test_messages_that_the_stream_lost_are_sent_again_and_no_others_are_missing(fleet: Server, tmp_path: Path) -> None:
    """A gap in what a writer gets shows; the lines in it are sent once more."""
    collector, writer = Collector(tmp_path / "one", [fleet.url]), Writer(tmp_path / "writer", [fleet.url])
    said = texts("run", 100)
    collector.rollout("run", said)

    async def lose(js: JetStreamContext) -> None:
        for sequence in (3, 4, 50, 100):
            await js.delete_msg(STREAM, sequence)

    with collector.daemon():
        until(lambda: collector.delivery["sent"] >= 100)
        at([fleet.url], lose)
        with writer.daemon():
            until(lambda: all_delivered(collector, lines=len(said)))
        assert collector.events("sent_again")
    assert_whole(writer, said)


def test_a_writer_that_is_away_makes_nobody_send_again(fleet: Server, tmp_path: Path) -> None:
    """Only evidence does: what was taken by the stream is waited for."""
    collector, writer = Collector(tmp_path / "one", [fleet.url]), Writer(tmp_path / "writer", [fleet.url])
    said = texts("run", 100)
    collector.rollout("run", said)
    asked: list[str] = []

    async def hear(js: JetStreamContext) -> None:
        client = js._nc
        found = await client.subscribe("streamer.ask.crafter.*")
        while len(asked) < 3 * BUCKETS:  # each writer was asked three times
            asked.append((await found.next_msg(timeout=30)).subject)

    with collector.daemon():
        until(lambda: collector.delivery["sent"] >= 100)
        at([fleet.url], hear)
        assert collector.delivery["sent"] == 100
        assert stored(fleet) == 100
        with writer.daemon():
            until(lambda: all_delivered(collector, lines=len(said)))
    assert_whole(writer, said)
    assert not collector.events("sent_again")


def stored(server: Server) -> int:
    """Return how many messages the stream holds."""

    async def look(js: JetStreamContext) -> int:
        return int((await js.stream_info(STREAM)).state.messages)

    found: int = at([server.url], look)
    return found


def test_receipts_that_nobody_heard_are_asked_for(fleet: Server, tmp_path: Path) -> None:
    """A writer takes everything while its collector is down: the next life of that one finds out."""
    collector, writer = Collector(tmp_path / "one", [fleet.url]), Writer(tmp_path / "writer", [fleet.url])
    said = texts("run", 60)
    collector.rollout("run", said)
    with collector.daemon() as daemon:
        until(lambda: stored(fleet) == 60)
        daemon.kill()
    with writer.daemon():
        until(lambda: writer.holds(60))
        assert collector.waiting == 60
        with collector.daemon():
            until(lambda: all_delivered(collector, lines=len(said)))
    assert_whole(writer, said)


def test_what_a_writer_was_given_and_did_not_take_is_there_for_the_next_at_once(fleet: Server, tmp_path: Path) -> None:
    """It ends cleanly and gives it back; nobody waits until the servers believe that it is gone."""
    hurry_consumers([fleet.url], BUCKETS, seconds=3600.0)  # they never do
    collector = Collector(tmp_path / "one", [fleet.url])
    writer = Writer(tmp_path / "writer", [fleet.url], "[batch]\nrecords = 1\n")
    said = texts("run", 1500)
    collector.rollout("run", said)
    with collector.daemon():
        until(lambda: stored(fleet) == len(said))
    with writer.daemon() as daemon:
        until(lambda: writer.holds(10))
        daemon.send_signal(signal.SIGTERM)
        assert ended(daemon) == 0
    left = stored(fleet)
    assert left == len(said) - len(writer.lines()) > 0
    assert writer.once().returncode == 0
    assert stored(fleet) == 0
    assert_whole(writer, said)


def noise(size: int, seed: int) -> str:
    """Return text that does not get much shorter when it is packed."""
    return "".join(random.Random(seed).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=size))


def test_records_larger_than_a_message_travel_packed_or_as_objects(tmp_path: Path) -> None:
    """And what neither way takes is counted, told, explained, and holds up nothing."""
    with Server(tmp_path / "nats", options="max_payload: 64KB\n") as small:
        set_up(small, tmp_path, "--object-bytes", "1MB")
        collector, writer = Collector(tmp_path / "one", [small.url]), Writer(tmp_path / "writer", [small.url])
        packable, object_, too_large = "x" * 200_000, noise(300_000, 1), noise(4_000_000, 2)
        said = ["first", packable, object_, too_large, "last"]
        collector.rollout("run", said)
        with writer.daemon():
            assert collector.once().returncode == 0
        assert_whole(writer, [text for text in said if text is not too_large])
        assert collector.delivery["undeliverable"] == {"too_large": 1}
        assert collector.delivery["delivered"] == 4
        assert "1 (1 too_large)" in collector.call("status").stdout
        explained = collector.call("explain", "sft_run.jsonl:4").stdout
        assert "line 4 cannot be delivered to a writer: too_large" in explained
        assert set(writer.lines()) < set(collector.lines())

        async def look(js: JetStreamContext) -> list[Any]:
            store = await js.object_store(f"{STREAM}-objects")
            return [entry for entry in await store.list() if not entry.deleted]

        assert not [entry for entry in at([small.url], objects_or_none(look)) if not entry.name.startswith("keys")]


def objects_or_none(look: Any) -> Any:
    """Return a function that lists objects, of a store that may have none."""
    from nats.js.errors import NotFoundError  # noqa: PLC0415 - its class is all that is needed

    async def work(js: JetStreamContext) -> list[Any]:
        try:
            found: list[Any] = await look(js)
        except NotFoundError:
            return []
        return found

    return work


def test_a_full_stream_is_waited_for_and_told_once(server: Server, tmp_path: Path) -> None:
    """Collectors wait and say so, until a writer makes room."""
    set_up(server, tmp_path, "--stream-bytes", "200KB")
    collector, writer = Collector(tmp_path / "one", [server.url]), Writer(tmp_path / "writer", [server.url])
    said = [f"{text} {'y' * 3000}" for text in texts("run", 200)]
    collector.rollout("run", said)
    with collector.daemon():
        until(lambda: collector.events("trouble"))
        until(lambda: collector.holds(200))
        (trouble,) = collector.events("trouble")
        assert trouble["op"] == "send records to the fleet"
        assert "maximum bytes exceeded" in trouble["cause"]
        assert "outbox" in trouble["hint"]
        with writer.daemon():
            until(lambda: all_delivered(collector, lines=len(said)))
        assert [event["op"] for event in collector.events("trouble_over")] == ["send records to the fleet"]
    assert_whole(writer, said)
    assert not collector.events("sent_again")


def test_what_a_stranger_publishes_is_a_dead_letter_or_nothing(fleet: Server, tmp_path: Path) -> None:
    """No header and no body harms a writer, or what comes after it."""
    collector, writer = Collector(tmp_path / "one", [fleet.url]), Writer(tmp_path / "writer", [fleet.url])
    good = {"Streamer-Origin": "host.1a", "Streamer-Life": "2b", "Streamer-Number": "1"}
    line = (
        b'{"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"ho"}],'
        b'"metadata":{"run_id":"r","turn":0,"timestamp":null}}\n'
    )
    hostile: list[tuple[bytes, dict[str, str] | None]] = [
        (b"not a record", None),
        (line, None),
        (line, good | {"Streamer-Origin": "../../x"}),
        (line, good | {"Streamer-Number": "no number"}),
        (line, good | {"Streamer-Number": "7", "Streamer-Life": "x" * 60_000}),
        (b"\x1b[2J\n", good),
        (b"{}\n", good),
        (line + line, good),
        (b"x", good | {"Streamer-Encoding": "zlib"}),
        (line, good | {"Streamer-Encoding": "rot13"}),
        (b"", good),
        (b"", good | {"Streamer-Holds": "no key"}),
    ]
    ignored: list[tuple[bytes, dict[str, str] | None]] = [
        (b"", good | {"Streamer-Holds": "ab" * 16}),
        (b"", good | {"Streamer-Object": "not.there", "Streamer-Holds": "ab" * 16}),
        (b"", good | {"Streamer-Skipped": "1"}),
    ]

    async def publish(js: JetStreamContext) -> None:
        for body, headers in [*hostile, *ignored]:
            await js.publish("streamer.crafter.0", body, headers=headers)
        for bucket in range(BUCKETS):  # in all but one of these it is in the wrong bucket
            await js.publish(f"streamer.crafter.{bucket}", line, headers=good | {"Streamer-Number": f"{bucket + 2}"})
        for ask in (b"", b"{", b'{"origin":"*","life":">"}', b"[" * 10_000):
            await js._nc.publish("streamer.ask.crafter.0", ask, reply="nobody.listens")

    at([fleet.url], publish)
    collector.rollout("run", texts("run", 20))
    with writer.daemon():
        assert collector.once().returncode == 0
        until(lambda: stored(fleet) == 0)
    seen = writer.status()
    assert seen["dataset_lines"] == 21
    assert seen["reasons"]["dead_lettered"] == {
        "bad_encoding": 1, "bad_header": 8, "not_a_record": 3, "wrong_bucket": 3,
    }  # fmt: skip
    letters = writer.dataset.with_name("good.jsonl.dead.jsonl").read_text()
    assert letters.count("\n") == 15
    assert "\x1b" not in letters
    assert not [line for line in writer.log.read_text().splitlines() if "Traceback" in line]


def test_a_writer_with_other_keys_than_the_fleet_says_so(fleet: Server, tmp_path: Path) -> None:
    """The same record would be in two buckets; nothing is taken, and nothing is lost."""
    writer = Writer(tmp_path / "writer", [fleet.url], '[dedup]\nby = "prompt"\n')
    with writer.daemon():
        until(lambda: writer.events("trouble"))
        (trouble,) = writer.events("trouble")
        assert (trouble["op"], trouble["where"]) == ("use the configuration", "dedup.by")


def test_an_outbox_keeps_its_parts_until_they_are_delivered(fleet: Server, tmp_path: Path) -> None:
    """Retention comes second; when all is delivered, it comes."""
    rules = "[roll]\nrecords = 10\n[retain]\nrecords = 20\n"
    collector, writer = Collector(tmp_path / "one", [fleet.url], rules), Writer(tmp_path / "writer", [fleet.url])
    with collector.daemon():
        for run in range(10):
            collector.rollout(f"run-{run}", texts(f"run {run}", 10))
        until(lambda: collector.status()["accounting"]["appended"] == 100)
        assert collector.status()["removed_lines"] == 0
        with writer.daemon():
            until(lambda: all_delivered(collector, lines=100))
        collector.rollout("more", texts("more", 10))
        until(lambda: collector.status()["removed_lines"] >= 80)
        with writer.daemon():
            until(lambda: all_delivered(collector, lines=110))
    assert_whole(writer, [text for run in range(10) for text in texts(f"run {run}", 10)] + texts("more", 10))


def test_a_part_that_a_person_removed_is_passed_over_and_told(server: Server, tmp_path: Path) -> None:
    """What is gone cannot be delivered; what is there is, to the last line."""
    set_up(server, tmp_path)
    server.kill()
    collector = Collector(tmp_path / "one", [server.url], "[roll]\nrecords = 10\n")
    writer = Writer(tmp_path / "writer", [server.url])
    for run in range(5):
        collector.rollout(f"run-{run}", texts(f"run {run}", 10))
    assert collector.once().returncode == 3  # nobody is there to deliver them to
    gone = json.loads(f"[{','.join((collector.folder / 'good-00002.jsonl').read_text().splitlines())}]")
    (collector.folder / "good-00002.jsonl").unlink()
    server.start()
    server.until(server.is_healthy)
    with collector.daemon(), writer.daemon():
        until(lambda: all_delivered(collector, lines=50))
    assert collector.events("outbox_missing")
    assert (collector.delivery["delivered"], collector.delivery["missing"]) == (40, 10)
    missing = {line["messages"][1]["content"] for line in gone}
    assert_whole(writer, {text for run in range(5) for text in texts(f"run {run}", 10)} - missing)


def test_without_the_client_a_fleet_is_refused_with_the_name_of_the_extra(tmp_path: Path) -> None:
    """And without a traceback: by a collector and by a writer."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "nats.py").write_text("raise ImportError('hidden', name='nats')\n")
    for host in (Collector(tmp_path / "one", ["nats://one"]), Writer(tmp_path / "writer", ["nats://one"])):
        done = subprocess.run(
            [sys.executable, "-m", "streamer", "run", "--config", host.config],
            cwd=host.folder, env=environment() | {"PYTHONPATH": str(hidden)}, check=False, capture_output=True,
            text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 2
        assert "install the extra `fleet`" in done.stderr
        assert "Traceback" not in done.stderr


def test_other_rules_are_tried_without_being_sent_to_anyone(fleet: Server, tmp_path: Path) -> None:
    """A replay on a collector stays there, and a writer has nothing to play again."""
    collector, writer = Collector(tmp_path / "one", [fleet.url]), Writer(tmp_path / "writer", [fleet.url])
    collector.rollout("run", texts("run", 5))
    with writer.daemon():
        assert collector.once().returncode == 0
    stricter = ("--out", "other.jsonl", "--where", "total_reward > 100")
    assert collector.call("replay", "good.jsonl", *stricter).returncode == 0
    assert collector.call("replay", "good.jsonl", "--out", "same.jsonl").returncode == 0
    assert stored(fleet) == 0
    refused = writer.call("replay", "good.jsonl", "--out", "other.jsonl")
    assert refused.returncode == 2
    assert "cannot be judged again" in refused.stderr


def test_an_outbox_with_holes_is_delivered_around_them(server: Server, tmp_path: Path) -> None:
    """What a compaction took out before it was delivered does not travel, and nothing else is missed."""
    set_up(server, tmp_path)
    server.kill()
    collector = Collector(tmp_path / "one", [server.url], "[roll]\nrecords = 10\n")
    writer = Writer(tmp_path / "writer", [server.url])
    for run in range(5):
        collector.rollout(f"run-{run}", texts(f"run {run}", 10), reward=1 + run % 2)
    assert collector.once().returncode == 3  # nobody is there to deliver them to
    compacted = collector.call("compact", "--where", "total_reward > 1")
    assert compacted.returncode == 0, compacted.stderr
    server.start()
    server.until(server.is_healthy)
    left = [json.loads(line)["messages"][1]["content"] for file in parts(collector) for line in file]
    with collector.daemon(), writer.daemon():
        until(lambda: has_lines(writer, len(left)))
        until(lambda: collector.waiting == 0)
    assert 0 < len(left) < 50
    assert set(left) <= {json.loads(line)["messages"][1]["content"] for line in writer.lines()}
    assert len(writer.lines()) == len(set(writer.lines()))
    assert collector.events("outbox_missing") == []


def parts(host: Host) -> list[list[bytes]]:
    """Return the lines of each file of a dataset that rolls."""
    return [
        file.read_bytes().splitlines() for file in sorted(host.folder.glob("good*.jsonl")) if "dead" not in file.name
    ]


def test_doctor_looks_at_the_fleet_and_at_what_each_end_needs(fleet: Server, tmp_path: Path) -> None:
    """A writer needs no shards; a fleet that cannot be reached is a problem with a remedy."""
    collector, writer = Collector(tmp_path / "one", [fleet.url]), Writer(tmp_path / "writer", [fleet.url])
    collector.rollout("run", texts("run", 5))
    for host in (collector, writer):
        found = host.call("doctor")
        assert found.returncode == 0, found.stdout
        assert f"ok       the stream {STREAM} is there, with {BUCKETS} buckets" in found.stdout
        assert ("the shard folder" in found.stdout) is (host is collector)
    fleet.kill()
    found = writer.call("doctor")
    assert found.returncode == 1
    assert "PROBLEM  cannot reach the fleet" in found.stdout
    assert "-> see [fleet] servers" in found.stdout
