"""What a hostile run id, link or condition can reach: nothing outside the files of the dataset."""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import closing
from typing import TYPE_CHECKING

import anyio
import msgspec
import pytest

from streamer.errors import ConfigError
from streamer.events import Trouble
from tests.faults.process import Executable, child, drive, eventually, lines, live, running, soon
from tests.producer import (
    accounts,
    add_outcome,
    dialogue,
    jsonl,
    make_traces,
    messages,
    records,
    settings,
    work_off,
)

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.config import Config
    from streamer.pipeline import Pipeline
    from tests.producer import FakeClock


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Return the settings of a folder with an outcome for every record of ``run``."""
    (tmp_path / "shards").mkdir()
    add_outcome(make_traces(tmp_path / "traces.db"), "run", 1, 9)
    return settings(tmp_path)


def everything(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return all files below a folder with their mode, size and time of change."""
    found = {}
    for path in sorted(folder.rglob("*")):
        state = path.lstat()
        found[str(path)] = (state.st_mode, state.st_size, state.st_mtime_ns if path.is_file() else 0)
    return found


OURS = {"good.jsonl", "good.jsonl.ledger", "good.jsonl.ledger-wal", "good.jsonl.ledger-shm", "good.jsonl.dead.jsonl"}
RUNS = (
    "../../evil", "/etc/streamer-evil", "..", "a/b/c", "nul\0byte", "~root", "$(touch evil)", "`touch evil`", "'; DROP TABLE span; --",  # noqa: E501
    "%2e%2e%2f", "con\x1b]0;evil\x07", "x" * 5000, "-rf", "*", "good.jsonl", "\u202eevil", " ",
)  # fmt: skip


def test_whatever_a_run_id_says_no_file_outside_the_dataset_is_written(tmp_path: Path, config: Config) -> None:
    """It is a text in the dataset and in the ledger, never a path."""
    values = [dialogue(run, turn, f"{turn} {run}") for turn, run in enumerate(RUNS)]
    for run in RUNS:
        add_outcome(tmp_path / "traces.db", run, 1, 9)
    lines_of_garbage = b"".join(b'{"run_id": "../../evil", "x": ' + run.encode() + b"\n" for run in RUNS)
    (config.source.shards / "sft_..%2fevil.jsonl").write_bytes(jsonl(*values) + lines_of_garbage)
    before = everything(tmp_path)
    work_off(config)
    after = everything(tmp_path)
    new = {path for path in after if after[path] != before.get(path)}
    assert {os.path.relpath(path, config.dataset.path.parent) for path in new} <= OURS | {"."}
    assert set(before) <= set(after)
    assert {record["metadata"]["run_id"] for record in records(config)} == set(RUNS)


@pytest.mark.parametrize("follow", [True, False], ids=["links followed", "links not followed"])
def test_a_link_out_of_the_shard_folder_is_followed_only_on_request(
    tmp_path: Path, config: Config, *, follow: bool
) -> None:
    """To a file, to a folder, absolute or relative, and one that takes the place of a shard after the scan."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "a.jsonl").write_bytes(jsonl(messages("run", 0, "secret 0")))
    (secret / "b.jsonl").write_bytes(jsonl(messages("run", 1, "secret 1")))
    (secret / "c.jsonl").write_bytes(jsonl(messages("run", 2, "secret 2")))
    shards = config.source.shards
    (shards / "file.jsonl").symlink_to(secret / "a.jsonl")
    (shards / "folder").symlink_to("../secret")
    (shards / "sft_run.jsonl").write_bytes(jsonl(messages("run", 9, "mine")))
    (shards / "later.jsonl").write_bytes(jsonl(messages("run", 8, "before")))
    config = msgspec.structs.replace(config, source=msgspec.structs.replace(config.source, follow_symlinks=follow))

    async def test(pipeline: Pipeline, _clock: FakeClock) -> None:
        await pipeline.scan()
        (shards / "later.jsonl").unlink()
        (shards / "later.jsonl").symlink_to(secret / "c.jsonl")
        await pipeline.drain()

    drive(config, test)
    texts = {record["messages"][1]["content"] for record in records(config)}
    assert texts == ({"mine", "secret 0", "secret 1", "secret 2"} if follow else {"mine"})
    accounts(config)


def test_every_file_that_is_created_is_private_to_user_and_group(tmp_path: Path, config: Config) -> None:
    """Whatever the umask: dataset, ledger and what SQLite lays beside it, dead letters, lock."""
    (config.source.shards / "sft_run.jsonl").write_bytes(jsonl(messages("run", 0, "a")) + b"nonsense\n")

    def work() -> None:
        os.umask(0)
        live(config)

    with child(work) as process:
        eventually(lambda: lines(config.dataset.path) == 1)
        eventually((tmp_path / "out" / "good.jsonl.dead.jsonl").exists)
        made = {path.name: stat.S_IMODE(path.stat().st_mode) for path in config.dataset.path.parent.iterdir()}
        process.kill()
    assert OURS | {"good.jsonl.lock"} == set(made)
    assert not {name: oct(mode) for name, mode in made.items() if mode & ~0o640}


FORBIDDEN = (
    "1; DELETE FROM outcome_rewards",
    "1); DELETE FROM outcome_rewards; --",
    "total_reward > 0) UNION SELECT 1,2,3,4,5,6,7 --",
    "(DELETE FROM outcome_rewards)",
    "load_extension('/tmp/evil.so')",
    "writefile('/tmp/evil', 'x')",
    "readfile('/etc/passwd') IS NOT NULL",
    "1 IN (ATTACH DATABASE '/tmp/evil.db' AS evil)",
    "total_reward > 0; ATTACH DATABASE '/tmp/evil.db' AS evil",
)


@pytest.mark.parametrize("where", FORBIDDEN)
def test_a_condition_that_wants_more_than_to_read_is_refused(tmp_path: Path, config: Config, where: str) -> None:
    """Nothing is written, attached, loaded or created, and the executable says what is wrong."""
    (config.source.shards / "sft_run.jsonl").write_bytes(jsonl(messages("run", 0, "a")))
    executable = Executable(tmp_path)
    before = everything(tmp_path)
    with pytest.raises(ConfigError):
        work_off(msgspec.structs.replace(config, qualify=msgspec.structs.replace(config.qualify, where=where)))
    assert executable.start("--once", "--where", where).wait(timeout=20) == ConfigError.exit_code
    assert "qualify.where" in executable.log.read_text()
    after = everything(tmp_path)
    assert {path for path, state in before.items() if after.get(path) != state} <= {str(executable.log)}
    with closing(sqlite3.connect(tmp_path / "traces.db")) as db:
        assert db.execute("SELECT count(*) FROM outcome_rewards").fetchone() == (1,)


@pytest.mark.parametrize(
    "where",
    [
        "(SELECT 1 FROM pragma_journal_mode('wal'))",
        "(SELECT count(*) FROM pragma_database_list) > 0",
        "zeroblob(2000000000) IS NOT NULL",
    ],
)
def test_a_condition_that_fails_on_a_row_changes_nothing_and_lines_wait(config: Config, where: str) -> None:
    """What SQLite only sees while it evaluates: the database stays as it was, byte for byte."""
    (config.source.shards / "sft_run.jsonl").write_bytes(jsonl(messages("run", 0, "a")))
    traces = config.source.shards.parent / "traces.db"
    before = traces.read_bytes()
    asked = msgspec.structs.replace(config, qualify=msgspec.structs.replace(config.qualify, where=where))
    assert any(isinstance(event, Trouble) for event in work_off(asked))
    assert traces.read_bytes() == before
    assert accounts(config).counts["waiting"] == 1


@pytest.mark.parametrize(
    "where",
    [
        "(WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n) > 0",
        "(SELECT count(*) FROM outcome_rewards a, outcome_rewards b, outcome_rewards c, outcome_rewards d) > 0",
    ],
    ids=["endless recursion", "endless product"],
)
def test_a_condition_without_an_end_holds_up_neither_producer_nor_shards(
    tmp_path: Path, config: Config, where: str
) -> None:
    """It is broken off, said once, and tried again in smaller pages; lines are read and wait meanwhile."""
    for number in range(300):
        add_outcome(tmp_path / "traces.db", f"run-{number}", 1, 9)
    source = msgspec.structs.replace(config.source, scan_interval=0.05)
    endless = msgspec.structs.replace(
        config, source=source, qualify=msgspec.structs.replace(config.qualify, where=where)
    )

    async def main() -> None:
        async with running(endless) as told:
            await soon(lambda: any(isinstance(event, Trouble) for event in told))
            (config.source.shards / "sft_run.jsonl").write_bytes(jsonl(messages("run", 0, "a")))
            await soon(lambda: accounts(config).counts["waiting"] == 1)
            with closing(sqlite3.connect(tmp_path / "traces.db", timeout=2.0)) as db, db:
                db.execute("UPDATE outcome_rewards SET total_steps = 9")
            await soon(lambda: sum(isinstance(event, Trouble) for event in told) > 1 or accounts(config).read)

    anyio.run(main)
    assert accounts(config).counts["appended"] == 0
    work_off(config)
    assert accounts(config).counts["appended"] == 1
