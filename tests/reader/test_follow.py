"""``streamer.follow``: every record once, from any token on, whatever happens to daemon and dataset meanwhile."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamer
from streamer import StreamerError, follow
from streamer.base.errors import ConfigError, MissingExtraError, RefusedError
from tests.helpers.exports import record, rollouts, write
from tests.helpers.place import Place, until
from tests.helpers.producer import add_outcome, dialogue, make_traces

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from anyio.abc import TaskGroup

QUICK = 0.001
PATIENCE = 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the dataset is."""
    return tmp_path / "good.jsonl"


def append(path: Path, *values: Any) -> None:
    """Write at the end, as the daemon does."""
    with path.open("ab") as file:
        for value in values:
            file.write(value if isinstance(value, bytes) else json.dumps(value).encode() + b"\n")


def there(path: Path, **options: Any) -> list[streamer.Record]:
    """Return the records that are there now."""
    with follow(path, wait=False, **options) as records:
        return list(records)


def turns(records: Iterable[streamer.Record]) -> list[int]:
    """Return the turns of records."""
    return [found.metadata["turn"] for found in records]


def test_records_hold_what_their_lines_do(path: Path) -> None:
    """As objects, and as the line itself."""
    values = rollouts(3)
    write(path, *values)
    found = there(path)
    assert [{"messages": one.messages, "metadata": one.metadata} for one in found] == values
    assert b"".join(one.line for one in found) == path.read_bytes()


def test_the_token_of_a_record_is_the_place_after_it(path: Path) -> None:
    """Of any record; the last one is that of the reader, too."""
    write(path, *(record(turn=i) for i in range(20)))
    found = there(path)
    for i, one in enumerate(found):
        assert turns(there(path, start=one.token)) == list(range(i + 1, 20))
    with follow(path, wait=False) as reader:
        nothing_yet = reader.token
        list(reader)
        assert reader.token == found[-1].token
    assert turns(there(path, start=nothing_yet)) == list(range(20))
    assert all(one.token.isprintable() and one.token.isascii() for one in found)


def test_a_token_is_good_in_another_process_and_on_a_copy(path: Path) -> None:
    """It says what was read, and not where."""
    write(path, *(record(turn=i) for i in range(5)))
    token = there(path)[2].token
    copy = path.with_name("copy.jsonl")
    copy.write_bytes(path.read_bytes())
    reader = f"streamer.follow({str(copy)!r}, start={token!r}, wait=False)"
    code = f"import streamer; print([one.metadata['turn'] for one in {reader}])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout == "[3, 4]\n"


@pytest.mark.parametrize("other", [[record("b", i) for i in range(50)], [record(turn=0)], []])
def test_a_token_of_another_dataset_is_refused(path: Path, other: list[Any]) -> None:
    """Be that longer, shorter, empty or not there."""
    write(path, *(record(turn=i) for i in range(20)))
    token = there(path)[9].token
    write(path, *other)
    with pytest.raises(RefusedError, match="is of another dataset"):
        there(path, start=token)
    path.unlink()
    with pytest.raises(RefusedError, match="is of another dataset"):
        there(path, start=token)


@pytest.mark.parametrize("token", ["", "now", "streamer1-5", "streamer1--1-" + "0" * 32, "x\x1b[2J", "9" * 100])
def test_what_is_no_token_is_named(path: Path, token: str) -> None:
    """And cannot steer a terminal."""
    with pytest.raises(ConfigError, match="neither a token") as error:
        there(path, start=token)
    assert "\x1b" not in str(error.value)
    assert isinstance(error.value, StreamerError)


def test_one_can_begin_at_the_end(path: Path) -> None:
    """Only what comes is wanted then."""
    write(path, record(turn=0))
    with follow(path, start="end", wait=False) as reader:
        assert list(reader) == []
        append(path, record(turn=1))
        assert turns(reader) == [1]


def test_what_comes_later_is_waited_for(path: Path) -> None:
    """The dataset itself, too; an unfinished line until it is whole."""
    line = json.dumps(record(turn=1)).encode() + b"\n"

    def write_later(reader: streamer.Following) -> Iterator[int]:
        write(path, record(turn=0))
        yield next(reader).metadata["turn"]
        append(path, line[:100])
        timer = threading.Timer(0.01, append, (path, line[100:]))
        timer.start()
        yield next(reader).metadata["turn"]
        timer.join()

    with follow(path, poll=QUICK) as reader:
        assert list(write_later(reader)) == [0, 1]


def test_while_it_waits_others_run(path: Path) -> None:
    """As an async iterator."""
    found: list[int] = []

    async def consume(tasks: TaskGroup) -> None:
        async for one in follow(path, poll=QUICK):
            found.append(one.metadata["turn"])
            tasks.start_soon(produce, len(found))
            if len(found) == 3:
                return

    async def produce(turn: int) -> None:
        append(path, record(turn=turn))

    async def main() -> None:
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(consume, tasks)
                tasks.start_soon(produce, 0)

    anyio.run(main)
    assert found == [0, 1, 2]


def test_what_is_no_record_is_skipped_counted_and_told(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With its place; the rest goes on, and tokens count it."""
    write(path, record(turn=0), b"\x1b[2J\n", record(turn=1))
    with follow(path, wait=False) as reader:
        assert turns(reader) == [0, 1]
        assert reader.skipped == 1
    (told,) = caplog.messages
    assert "good.jsonl, byte" in told
    assert "\x1b" not in told
    assert turns(there(path, start=there(path)[0].token)) == [1]


def test_a_torn_tail_that_is_cut_back_was_never_a_record(path: Path) -> None:
    """A daemon that starts after a crash does that."""
    write(path, record(turn=0), json.dumps(record(turn=1)).encode()[:50])
    with follow(path, wait=False) as reader:
        assert turns(reader) == [0]
        write(path, record(turn=0), record(turn=2))
        assert turns(reader) == [2]


def test_a_roll_is_followed_without_loss_or_repeat(path: Path) -> None:
    """The old file is read to its end first; tokens are of the file that their record is in."""
    write(path, record(turn=0))
    with follow(path, wait=False) as reader:
        assert turns(reader) == [0]
        append(path, record(turn=1))
        path.rename(path.with_name("good-1.jsonl"))
        write(path, record(turn=2), record(turn=3))
        found = list(reader)
        assert turns(found) == [1, 2, 3]
    assert turns(there(path, start=found[1].token)) == [3]


def test_a_dataset_that_lost_records_that_were_read_is_refused(path: Path) -> None:
    """They might come again, in another order: a person decides."""
    write(path, record(turn=0), record(turn=1))
    with follow(path, wait=False) as reader:
        assert turns(reader) == [0, 1]
        write(path, record(turn=5))
        with pytest.raises(RefusedError, match="another dataset stands there"):
            next(reader)


def test_readers_of_all_shards_get_each_record_once_and_whole_rollouts(path: Path) -> None:
    """Told by run id, so that it holds for records to come."""
    write(path, *rollouts(50))
    shards = [there(path, shard=(i, 3)) for i in range(3)]
    runs = [{one.metadata["run_id"] for one in shard} for shard in shards]
    assert sum(map(len, shards)) == 150
    assert sum(map(len, runs)) == len(set.union(*runs)) == 50
    assert all(runs)
    token = shards[1][4].token
    assert there(path, shard=(1, 3), start=token) == shards[1][5:]


@pytest.mark.parametrize("shard", [(3, 3), (-1, 3), (0, 0)])
def test_a_shard_that_is_none_is_named(path: Path, shard: tuple[int, int]) -> None:
    """Its records would go to no one."""
    with pytest.raises(ConfigError, match="shard"):
        follow(path, shard=shard)


@given(
    texts=st.lists(st.text(max_size=50), min_size=1, max_size=12),
    stops=st.lists(st.integers(0, 4), max_size=12),
)
def test_however_often_a_reader_stops_it_gets_every_record_once(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], stops: list[int]
) -> None:
    """In order, over any number of tokens."""
    path = write(tmp_path_factory.mktemp("stops") / "good.jsonl", *(record(model=text) for text in texts))
    found: list[str] = []
    token = "beginning"
    for stop in [*stops, len(texts)]:
        with follow(path, start=token, wait=False) as reader:
            for _ in range(stop):
                one = next(reader, None)
                found += [] if one is None else [one.metadata["model"]]
            token = reader.token
    assert found == texts


def take(reader: streamer.Following, found: list[streamer.Record], wanted: int) -> bool:
    """Take what is there; say whether it is as much as wanted. No more is taken."""
    found += islice(reader, wanted - len(found))
    return len(found) == wanted


@pytest.mark.slow
def test_a_reader_outlives_daemons_that_are_killed(tmp_path: Path) -> None:
    """It gets what is in the dataset, each record once, while daemons come and go, and resumes by its token."""
    place = Place(tmp_path)
    make_traces(place.traces)
    found: list[streamer.Record] = []
    token = "beginning"
    for life in range(4):
        for run in (f"run-{life}-a", f"run-{life}-b"):
            place.shard(f"{run}.jsonl", *(dialogue(run, turn, f"{run} {turn}") for turn in range(5)))
            add_outcome(place.traces, run, 1, 9)
        wanted = (life + 1) * 10 - 3 * (life % 2)  # some are there and not yet read when it dies
        with place.daemon() as daemon, follow(place.dataset, start=token, wait=False) as reader:
            until(partial(take, reader, found, wanted))
            daemon.send_signal(signal.SIGKILL)
            token = reader.token
    with place.daemon(), follow(place.dataset, start=token, wait=False) as reader:
        until(partial(take, reader, found, 40))
    assert b"".join(one.line for one in found) == place.dataset.read_bytes()
    assert len({(one.metadata["run_id"], one.metadata["turn"]) for one in found}) == 40


def test_the_public_names_are_there_and_light() -> None:
    """Neither trainers' libraries nor anything else is imported before it is asked for."""
    code = "import sys, streamer; print(sorted(streamer.__all__)); print([m for m in sys.modules if 'streamer' in m])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=PATIENCE)
    names, modules = done.stdout.splitlines()
    assert names == "['Following', 'Record', 'StreamerError', 'follow', 'hf_dataset', 'torch_dataset']"
    assert modules == "['streamer']"
    assert all(getattr(streamer, name) for name in streamer.__all__)
    with pytest.raises(AttributeError):
        _ = streamer.nonsense
    assert (Path(streamer.__file__).parent / "py.typed").exists()


@pytest.mark.parametrize(("make", "missing"), [("hf_dataset", "datasets"), ("torch_dataset", "torch")])
def test_a_library_that_is_missing_is_named(
    path: Path, make: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no dependency of ours."""
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtraError, match=f"pip install {missing}"):
        getattr(streamer, make)(path)
