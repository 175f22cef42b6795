"""Compaction under SIGKILL: inside its calls, inside the ledger's, and at any moment of the executable."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import anyio
import msgspec
import pytest

from streamer.base.env import Env
from streamer.base.errors import UnavailableError
from streamer.base.files import Files
from streamer.commands.compact.run import compact
from streamer.reader.follow import follow
from streamer.store.parts.parts import RollRules
from tests.helpers.producer import (
    FakeClock,
    accounts,
    add_outcome,
    correct_outcome,
    dialogue,
    jsonl,
    make_traces,
    records,
    settings,
    work_off,
    written,
)
from tests.store.test_parts import described
from tests.suites.faults import vfs
from tests.suites.faults.process import Child
from tests.suites.faults.test_death import DyingFiles, DyingLedger, killed
from tests.suites.faults.test_disk import Failing

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamer.config import Config

ROOT = Path(__file__).resolve().parents[3]
KILLS = int(os.environ.get("STREAMER_KILLS", "10"))
"""How often a compaction is killed at random."""

DEATHS = 4
"""How often one of them is killed before it may end."""

ROLLOUTS, TURNS = 12, 10


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Return the settings of a dataset of many parts, every third rollout of which was withdrawn since."""
    (tmp_path / "shards").mkdir()
    traces = make_traces(tmp_path / "traces.db")
    for number in range(ROLLOUTS):
        add_outcome(traces, f"run-{number}", 1, 99)
        values = [dialogue(f"run-{number}", turn, f"{number} {turn}", seconds=float(turn)) for turn in range(TURNS)]
        shared = dialogue(f"run-{number}", TURNS, "said by all", seconds=float(TURNS))
        (tmp_path / "shards" / f"{number}.jsonl").write_bytes(jsonl(*values, shared))
    config = msgspec.structs.replace(settings(tmp_path, batch=8), roll=RollRules(records=7))
    work_off(config)
    assert len(records(config)) == ROLLOUTS * TURNS + 1
    for number in range(0, ROLLOUTS, 3):
        correct_outcome(traces, number + 1, 0)
    return config


def compacted(
    config: Config, files: Files | None = None, failpoint: Callable[[str], None] = lambda _point: None
) -> None:
    """Compact all of it in this process."""

    async def run() -> None:
        await compact(config, Env(files=files or Files(), clock=FakeClock(), failpoint=failpoint), close_live=True)

    anyio.run(run)


def is_whole(config: Config) -> None:
    """See that the dataset and its accounts are sound as they are left; finish, and see that all is as it should be."""
    work_off(config)
    accounts(config)
    described(config)
    compacted(config)
    work_off(config)
    good = [number for number in range(ROLLOUTS) if number % 3]
    found = [(record["metadata"]["run_id"], record["metadata"]["turn"]) for record in records(config)]
    shared = [(run, turn) for run, turn in found if turn == TURNS]
    assert sorted(pair for pair in found if pair[1] != TURNS) == sorted(
        (f"run-{number}", turn) for number in good for turn in range(TURNS)
    )
    assert len(shared) == 1
    seen = accounts(config)
    assert seen.adopted == 0
    assert seen.reasons["below_bar"].get("withdrawn", 0) + seen.reasons["below_bar"].get("where", 0) == 4 * (TURNS + 1)
    described(config)
    assert not list(config.dataset.path.parent.glob("*.compacting"))


@pytest.mark.parametrize("times", [1, 2, 5, 9])
@pytest.mark.parametrize(
    "call", ["one byte of an append", "all but one byte of an append", "before a sync", "after a sync"]
)
def test_a_death_inside_a_call_of_a_compaction_loses_nothing_and_doubles_nothing(
    config: Config, call: str, times: int
) -> None:
    """What takes the place of a part is torn, or may not be on the disk."""
    assert killed(partial(compacted, config, DyingFiles(call, times)))
    is_whole(config)


@pytest.mark.skipif(not vfs.available(), reason="this SQLite cannot be reached from outside")
def test_a_death_inside_any_write_to_the_ledger_of_a_compaction_loses_nothing(config: Config) -> None:
    """In the middle of its transaction, in a checkpoint, and in the recovery from such a death."""
    times = 1

    def work(times: int) -> None:
        with vfs.sqlite_asks(DyingLedger(times)):
            compacted(config)

    while killed(partial(work, times)):
        times += 5
    assert times > 30  # it did die in many places
    is_whole(config)


@pytest.mark.skipif(not vfs.available(), reason="this SQLite cannot be reached from outside")
@pytest.mark.parametrize("call", ["write", "sync"])
@pytest.mark.parametrize("point", ["part rewritten", "compaction committed"])
def test_a_ledger_without_room_leaves_a_compaction_done_or_undone(config: Config, point: str, call: str) -> None:
    """Whether the transaction reached the disk or not is found out by the next start."""
    failing = Failing(config.dataset.path.parent, "ledger", call)

    def fail(at: str) -> None:
        if at == point:
            failing.error = 28

    before = written(config.dataset.path)
    with vfs.sqlite_asks(failing), suppress(UnavailableError):
        compacted(config, failing, fail)
    assert failing.error
    assert set(written(config.dataset.path).splitlines()) <= set(before.splitlines())
    is_whole(config)


@pytest.mark.parametrize("seed", range(-(-KILLS // DEATHS)))
def test_a_compaction_that_is_killed_at_any_moment_loses_nothing_and_doubles_nothing(config: Config, seed: int) -> None:
    """Again and again, each time after another number of changes to its folder; tokens of before stay good."""
    rng = Random(seed)
    told = [(record.token, record.line) for record in follow(config.dataset.path, wait=False)]
    executable = _executable(config)
    deaths = 0
    for number in range(DEATHS):
        # Most are forks of this process, which costs less; some are the executable itself.
        process = executable() if number == seed % DEATHS else Child(partial(compacted, config))
        deaths += _killed_after(process, config.dataset.path.parent, rng.randint(1, 12))
        left = written(config.dataset.path)
        assert set(left.splitlines()) <= {line.rstrip(b"\n") for _, line in told}
    assert deaths
    work_off(config)
    accounts(config)
    compacted(config)
    kept = set(written(config.dataset.path).splitlines(keepends=True))
    for number in (0, len(told) // 3, len(told) - 1):
        rest = [record.line for record in follow(config.dataset.path, start=told[number][0], wait=False)]
        assert [line for line in rest if line in {line for _, line in told}] == [
            line for _, line in told[number + 1 :] if line in kept
        ]
    is_whole(config)


def _executable(config: Config) -> Callable[[], subprocess.Popen[bytes]]:
    """Return what starts the executable on a dataset."""
    file = config.source.shards.with_name("config.toml")
    file.write_text(
        f'[source]\nshards = "{config.source.shards}"\ndatabase = "{config.source.database}"\n'
        f'[dataset]\npath = "{config.dataset.path}"\n[roll]\nrecords = 7\n'
    )
    command = [sys.executable, "-m", "streamer", "compact", "--config", str(file), "--close-live"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("STREAMER_", "SFT_"))}
    return lambda: subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL)


def _killed_after(process: Child | subprocess.Popen[bytes], folder: Path, changes: int) -> bool:
    """Kill a process after so many changes of what the folder holds; say whether it came to that."""
    seen: set[frozenset[tuple[str, int, int]]] = set()

    def ended() -> bool:
        return process.ended() if isinstance(process, Child) else process.poll() is not None

    while len(seen) <= changes and not ended():  # no pause: it is over in some hundred milliseconds
        with suppress(FileNotFoundError):
            seen.add(frozenset((entry.name, entry.inode(), entry.stat().st_size) for entry in os.scandir(folder)))
    process.kill()
    code = process.wait()
    assert code in {0, -signal.SIGKILL}
    return code != 0
