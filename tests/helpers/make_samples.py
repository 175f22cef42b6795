"""Make the samples in ``tests/data``: how those of version 0.1 were made, and how a later version adds its own.

``python -m tests.helpers.make_samples FOLDER`` with the extra ``fleet-tests``. FOLDER is a new one, never that of an
earlier version: a sample that a later version makes again proves nothing. What is in it is fixed, and so is the clock
of the dataset; inodes, and the names and times of a fleet's ends, are those of the machine and the moment.
"""

from __future__ import annotations

import json
import random
import signal
import string
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from streamer import follow
from streamer.base.env import Env
from streamer.commands.compact.run import compact
from streamer.config import Flags, load
from streamer.fleet.receipts import Receipt, ReceiptRequest
from tests.helpers.frozen import coming, freeze, said, stable
from tests.helpers.place import Place, ended, until
from tests.helpers.producer import EPOCH, FakeClock, add_outcome, correct_outcome, dialogue, jsonl, messages, work_off
from tests.helpers.traces import add_reward, add_session, decision, make_conversations
from tests.suites.fleet.fleets import OWNERS, STREAM, at, init, write_config
from tests.suites.fleet.hosts import Collector, Writer
from tests.suites.fleet.servers import Server

if TYPE_CHECKING:
    from nats.js import JetStreamContext

DAY = 86_400.0
TURNS = 4
RULES = """\
[source]
shards = "shards"
database = "traces.db"
conversations = "both"
scan_interval = "200ms"
[join]
never_scored_after = "{expire}"
[records]
turns = "until_last_reward"
reward_type = "achievement_delta"
[near]
threshold = 0.8
images = 8
[[cap]]
by = "metadata.env_seed"
most = 5
[[cap]]
by = "prompt"
most = 1
[roll]
records = 4
{retain}
[dataset]
path = "good.jsonl"
[log]
format = "json"
"""


class FixedClock(FakeClock):
    """A clock that begins an hour after the first rollout."""

    def __init__(self) -> None:
        super().__init__()
        self._start = EPOCH.timestamp() + 3600.0


class Sample(Place):
    """The folder of one dataset that has seen everything."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        super().__init__(folder)
        self.clock = FixedClock()
        make_conversations(self.traces)

    def rollout(self, run: str, texts: list[str], reward: int | None = 1, *, last: int = TURNS, **more: Any) -> int:
        """Play a rollout: a shard, rewards of its turns up to one, and an outcome; return the outcome's row."""
        self.shard(f"{run}.jsonl", *(dialogue(run, turn, text, seconds=turn) for turn, text in enumerate(texts)))
        if reward is None:
            return 0
        row = add_outcome(self.traces, run, reward, 10, **more)
        for turn in range(min(last + 1, len(texts))):
            add_reward(self.traces, run, turn, 1.0, seconds=turn + 0.5, achievements=[f"achievement_{turn}"])
        return row

    def work(self, expire: str = "3650d", retain: str = "") -> None:
        """Work everything off under these rules."""
        self.config.write_text(RULES.format(expire=expire, retain=retain))
        work_off(load(self.config, {}, Flags()), self.clock)

    def compact(self) -> None:
        """Take out what would not get in today."""
        config = load(self.config, {}, Flags())
        anyio.run(lambda: compact(config, Env(clock=self.clock)))

    def tokens(self) -> list[str]:
        """Return the place after each record that is there."""
        with follow(self.dataset, wait=False) as reader:
            return [record.token for record in reader]


def texts(run: str, turns: int = TURNS) -> list[str]:
    """Return what is said in a rollout."""
    return [said(run, turn) for turn in range(turns)]


def brief(run: str, turns: int) -> list[str]:
    """Return the same in a few words."""
    return [f"{run}: turn {turn}" for turn in range(turns)]


def noise(size: int, seed: int) -> str:
    """Return text that does not get much shorter when it is packed."""
    return "".join(random.Random(seed).choices(string.ascii_letters + string.digits, k=size))


def answer(place: Place, *arguments: str) -> Any:
    """Return the JSON that a command prints."""
    done = place.call(*arguments, "--json")
    assert done.returncode in {0, 1}, done.stderr
    return stable(done.stdout, place.folder)


def make_dataset(target: Path, folder: Path) -> dict[str, Any]:
    """Make a dataset with lines in each state, a removed part, a compacted one, and readers that stand in it."""
    sample = Sample(folder)
    sample.rollout("aged-out", texts("aged-out"), env_seed=1)
    sample.rollout("expired", texts("expired", 2), None)
    sample.rollout("kept", texts("kept"), env_seed=2)
    sample.work("1d", "[retain]\nrecords = 5")
    sample.clock.advance(2 * DAY)
    row = sample.rollout("compacted", texts("compacted", 2), env_seed=3)
    sample.work("1d")
    sample.rollout("beside", texts("beside", 3), env_seed=4)
    sample.work()
    before = sample.tokens()
    correct_outcome(sample.traces, row, 0)
    sample.work()
    sample.compact()
    good = texts("good")
    sample.rollout("good", [*good, f"{good[0]} and-one-word-more"], env_seed=5)
    again = [dialogue("good", turn, good[turn], seconds=turn) for turn in (0, 1)]
    (sample.shards / "copies").mkdir()
    with (sample.shards / "copies" / "good.jsonl").open("wb") as file:
        file.write(jsonl(*again) + b"no JSON\n" + b'{"run_id": "good", "x": "\xff"}\n' + b'{"run_id": "good"}\n')
    sample.rollout("bad", texts("bad", 2), 0, env_seed=6)
    sample.rollout("late", texts("late"), last=1, env_seed=7)
    sample.rollout("unrewarded", texts("unrewarded", 2), last=-1, env_seed=8)
    sample.rollout("capped-1", texts("capped-1"), env_seed=9)
    sample.rollout("capped-2", texts("capped-2"), env_seed=9)
    row = sample.rollout("retracted", texts("retracted", 2), env_seed=10)
    sample.rollout("waiting", texts("waiting", 2), None)
    add_outcome(sample.traces, "plain", 1, 10, env_seed=11)
    add_reward(sample.traces, "plain", 1, 1.0, seconds=1)
    sample.shard("plain.jsonl", *(messages("plain", turn, said("plain", turn), image=True) for turn in range(2)))
    rows = [line for turn in range(2) for line in decision(turn, said("database", turn))]
    add_session(sample.traces, "database", [1], rows=rows)
    add_reward(sample.traces, "database", 1, 1.0, seconds=1)
    with sample.shard("waiting.jsonl").open("ab") as file:
        file.write(b'{"run_id": "waiting", "unfinished')
    sample.work()
    correct_outcome(sample.traces, row, 0)
    sample.work()
    freeze(folder, target / "dataset")
    tokens = {"before the compaction": before, "now": sample.tokens()}
    return {
        "status": answer(sample, "status"),
        "verify": answer(sample, "verify"),
        "explain": {path.stem: answer(sample, "explain", path.stem) for path in sorted(sample.shards.glob("*.jsonl"))}
        | {name: answer(sample, "explain", name) for name in ("database", "copies/good.jsonl")},
        "tokens": {name: [[token, coming(sample.dataset, token)] for token in some] for name, some in tokens.items()},
    }


def make_fleet(target: Path, folder: Path) -> dict[str, Any]:
    """Make a collector of which some records wait, and two writers: a bucket went from the first to the second."""
    with Server(folder / "nats", options="max_payload: 4KB\n") as server:
        admin = write_config(folder / "admin.toml", [server.url], (), "buckets = 4")
        init(admin, "--replicas", "1", "--object-bytes", "10KB")
        collector = Collector(folder / "collector", [server.url])
        as_object, too_large = noise(4_100, 1), noise(14_000, 2)
        collector.rollout("delivered", [*brief("delivered", 12), as_object, too_large])
        writers = [Writer(folder / "writer-1", [server.url]), Writer(folder / "writer-2", [server.url], buckets="3")]
        assert collector.once().returncode == 3
        sent = at([server.url], stored)
        deliver(collector, writers[:1])
        first = writers[0]
        first.config.write_text(first.config.read_text().replace("[source]", '[source]\nbuckets = "0-2"'))
        with first.daemon() as daemon:
            until(lambda: any(not event["came"] for event in first.events("bucket_moved")))
            keys = at([server.url], moved)
            owners = at([server.url], owned)
            end(daemon)
        collector.rollout("second", brief("second", 6))
        deliver(collector, writers)
        collector.rollout("waits", brief("waits", 8))
        assert collector.once().returncode == 3
        parts = (collector, *writers)
        for host in parts:
            host.config.write_text(host.config.read_text().replace(server.url, "nats://nobody.invalid:4222"))
            freeze(host.folder, target / host.folder.name)
        return {
            "messages": sent,
            "owners": owners,
            "keys": keys,
            "receipt": msgspec.json.encode([Receipt(3, "eval.ab", "1a", 7, "cd", 5, 9, idle=True)]).decode(),
            "ask": msgspec.json.encode(ReceiptRequest("eval.ab", "1a")).decode(),
            "hosts": {
                host.folder.name: {
                    "status": answer(host, "status"),
                    "explain": {run: answer(host, "explain", run) for run in ("delivered", "second")},
                }
                for host in parts
            },
        }


def deliver(collector: Collector, writers: list[Writer]) -> None:
    """Let writers take everything that a collector has."""
    running = [writer.daemon() for writer in writers]
    processes = [one.__enter__() for one in running]
    assert collector.once().returncode == 0
    for process, one in zip(processes, running, strict=True):
        end(process)
        one.__exit__(None, None, None)


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop a daemon as a person does."""
    process.send_signal(signal.SIGTERM)
    assert ended(process) == 0


async def stored(js: JetStreamContext) -> list[dict[str, Any]]:
    """Return a message of each kind: headers, and the body in hex."""
    state = (await js.stream_info(STREAM)).state
    found = [await js.get_msg(STREAM, number) for number in range(state.first_seq, state.last_seq + 1)]
    kinds = {frozenset(one.headers or {}): one for one in found}
    return [{"headers": dict(one.headers or {}), "body": (one.data or b"").hex()} for one in kinds.values()]


async def owned(js: JetStreamContext) -> dict[str, str]:
    """Return what the servers say of each bucket's owner."""
    store = await js.key_value(OWNERS)
    return {key: ((await store.get(key)).value or b"").decode() for key in sorted(await store.keys())}


async def moved(js: JetStreamContext) -> str:
    """Return the keys of the bucket that was given up, in hex."""
    store = await js.key_value(OWNERS)
    name = json.loads((await store.get("3")).value or b"")["keys"]
    files = await js.object_store(f"{STREAM}-keys")
    return ((await files.get(name)).data or b"").hex()


def main() -> None:
    """Make all samples, in a folder that is not there yet."""
    target = Path(sys.argv[1])
    target.mkdir()
    with tempfile.TemporaryDirectory(prefix="samples-") as folder:
        found = make_dataset(target, Path(folder) / "dataset")
        found["fleet"] = make_fleet(target, Path(folder) / "fleet")
    (target / "expected.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
