"""What a hostile run id, link or condition can reach: nothing outside the files of the dataset."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import stat
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import anyio
import msgspec
import pytest

from streamer.base.errors import ConfigError
from streamer.sources.database_file import open_trace_database
from streamer.store.views.snapshot import snapshot
from tests.helpers.producer import (
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
from tests.suites.faults.process import Executable, child, drive, eventually, lines, live, running, soon

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.config import Config
    from streamer.daemon.pipeline import Pipeline
    from tests.helpers.producer import FakeClock


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


def hostile_runs(config: Config) -> set[str]:
    """Write lines whose run ids are paths and worse, good ones and dead letters; return the run ids."""
    folder = config.source.shards.parent
    runs = [*RUNS, f"{folder}/evil", f"{folder}/out/../evil", f"{config.dataset.path}", f"{folder}/evil\0.jsonl"]
    values = [dialogue(run, turn, f"{turn} {run}") for turn, run in enumerate(runs)]
    for run in runs:
        add_outcome(folder / "traces.db", run, 1, 9)
    lines_of_garbage = b"".join(b'{"run_id": "../../evil", "x": ' + run.encode() + b"\n" for run in runs)
    (config.source.shards / "sft_..%2fevil.jsonl").write_bytes(jsonl(*values) + lines_of_garbage)
    return set(runs)


def test_whatever_a_run_id_says_no_file_outside_the_dataset_is_written(tmp_path: Path, config: Config) -> None:
    """It is a text in the dataset and in the ledger, never a path."""
    runs = hostile_runs(config)
    before = everything(tmp_path)
    work_off(config)
    after = everything(tmp_path)
    new = {path for path in after if after[path] != before.get(path)}
    assert {os.path.relpath(path, config.dataset.path.parent) for path in new} <= OURS | {"."}
    assert set(before) <= set(after)
    assert {record["metadata"]["run_id"] for record in records(config)} == runs


WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("os.", "shutil.", "subprocess.", "pty.", "ftplib.", "socket.connect")
HARMLESS = ("os.listdir", "os.scandir", "os.walk", "os.getxattr", "os.listxattr")


def test_whatever_a_run_id_says_no_call_names_a_file_outside_the_dataset(tmp_path: Path, config: Config) -> None:
    """Every call of the interpreter that opens for writing, makes, moves, removes, connects or runs is looked at."""
    runs = hostile_runs(config)
    report = os.open(tmp_path / "report", os.O_WRONLY | os.O_CREAT)

    def look(event: str, values: tuple[object, ...]) -> None:
        opens = event == "open" and isinstance(values[2], int) and values[2] & WRITES
        changes = event.startswith(CHANGES) and event not in HARMLESS
        place = values[0] if values else None
        if isinstance(place, int):
            return  # a descriptor, of a file that was looked at when it was opened
        if opens or changes or event == "sqlite3.connect":
            text = os.fsdecode(place) if isinstance(place, str | bytes | os.PathLike) else repr(place)
            os.write(report, json.dumps([event, text]).encode() + b"\n")

    def work() -> None:
        sys.addaudithook(look)
        live(config)

    with child(work) as process:
        eventually(lambda: lines(config.dataset.path) == len(runs))
        process.kill(signal.SIGTERM)
        assert process.wait() == 0
    os.close(report)
    named = [json.loads(line) for line in (tmp_path / "report").read_text().splitlines()]
    ours = {str(config.dataset.path.with_name(name)) for name in (*OURS, "good.jsonl.lock")}
    ledger = str(config.dataset.ledger)
    allowed = {
        *(("open", path) for path in ours),
        ("os.mkdir", str(config.dataset.path.parent)),
        ("sqlite3.connect", ledger),
        ("sqlite3.connect", f"{ledger}.new"),
        ("os.rename", f"{ledger}.new"),
        *(("os.remove", ledger + suffix) for suffix in (".new", ".new-journal", "-wal", "-shm")),
        ("open", f"{ledger}.new"),
        ("sqlite3.connect", f"file:{tmp_path}/traces.db?mode=ro"),
        ("sqlite3.connect", ":memory:"),
        ("subprocess.Popen", sys.executable),  # the process that evaluates the condition, and its standard error
        ("open", os.devnull),
    }
    assert ("open", str(config.dataset.path)) in {(event, text) for event, text in named}
    assert {(event, text) for event, text in named} <= allowed


@pytest.mark.parametrize("follow", [True, False], ids=["links followed", "links not followed"])
def test_a_link_out_of_the_shard_folder_is_followed_only_on_request(
    tmp_path: Path, config: Config, *, follow: bool
) -> None:
    """To a file, to a folder, absolute or relative."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "a.jsonl").write_bytes(jsonl(messages("run", 0, "secret 0")))
    (secret / "b.jsonl").write_bytes(jsonl(messages("run", 1, "secret 1")))
    (secret / "c.jsonl").write_bytes(jsonl(messages("run", 2, "secret 2")))
    shards = config.source.shards
    (shards / "file.jsonl").symlink_to(secret / "a.jsonl")
    (shards / "folder").symlink_to("../secret")
    (shards / "sft_run.jsonl").write_bytes(jsonl(messages("run", 9, "mine")))
    work_off(msgspec.structs.replace(config, source=msgspec.structs.replace(config.source, follow_symlinks=follow)))
    texts = {record["messages"][1]["content"] for record in records(config)}
    assert texts == ({"mine", "secret 0", "secret 1", "secret 2"} if follow else {"mine"})
    accounts(config)


@pytest.mark.parametrize("what", ["a shard", "its folder", "a folder above"])
@pytest.mark.parametrize("known", [True, False], ids=["read before", "new"])
def test_a_link_that_takes_the_place_of_something_after_the_scan_is_not_followed(
    tmp_path: Path, config: Config, what: str, *, known: bool
) -> None:
    """Between the moment that a shard is found and the moment that it is opened."""
    below = config.source.shards / "above" / "below"
    below.mkdir(parents=True)
    path = below / "x.jsonl"
    mine = jsonl(messages("run", 0, "mine"))
    secret = tmp_path / "secret" / "below"
    secret.mkdir(parents=True)
    (secret / "x.jsonl").write_bytes(mine * known + jsonl(messages("run", 1, "secret 1")))
    place = {"a shard": path, "its folder": below, "a folder above": below.parent}[what]
    target = {"a shard": secret / "x.jsonl", "its folder": secret, "a folder above": secret.parent}[what]

    async def test(pipeline: Pipeline, clock: FakeClock) -> None:
        path.write_bytes(mine)
        if known:
            await pipeline.drain()
            clock.advance(60.0)
            path.write_bytes(mine + jsonl(messages("run", 1, "more")))
        await pipeline.scan()
        place.rename(tmp_path / "away")
        place.symlink_to(target)
        while await pipeline.poll():
            pass
        while await pipeline.step():
            pass

    drive(config, test)
    assert "secret 1" not in {record["messages"][1]["content"] for record in records(config)}
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


STATEMENTS = (
    "ATTACH DATABASE '{folder}/evil.db' AS evil",
    "ATTACH DATABASE ':memory:' AS evil",
    "DETACH DATABASE main",
    "CREATE TABLE evil (x)",
    "CREATE TEMP TABLE evil (x)",
    "CREATE TEMP TRIGGER evil AFTER INSERT ON outcome_rewards BEGIN SELECT 1; END",
    "CREATE VIRTUAL TABLE temp.evil USING fts5(x)",
    "INSERT INTO outcome_rewards SELECT * FROM outcome_rewards",
    "UPDATE outcome_rewards SET total_reward = 9",
    "UPDATE sqlite_master SET sql = ''",
    "DELETE FROM outcome_rewards",
    "DROP TABLE outcome_rewards",
    "ALTER TABLE outcome_rewards ADD COLUMN evil",
    "VACUUM INTO '{folder}/evil.db'",
    "REINDEX",
    "ANALYZE",
    "BEGIN IMMEDIATE",
    "PRAGMA query_only = 0",
    "PRAGMA journal_mode = wal",
    "PRAGMA writable_schema = 1",
    "PRAGMA user_version = 7",
    "PRAGMA wal_checkpoint(TRUNCATE)",
    "SELECT load_extension('evil')",
)


@pytest.mark.parametrize("sql", STATEMENTS)
def test_the_connection_on_which_a_condition_is_asked_can_only_read(tmp_path: Path, config: Config, sql: str) -> None:
    """Even if someone found a way to make a condition a statement of its own: SQLite's authorizer refuses it."""
    traces = tmp_path / "traces.db"
    before = everything(tmp_path)

    async def main() -> None:
        async with open_trace_database(traces) as db:
            with pytest.raises(
                sqlite3.DatabaseError,
                match=r"not authorized|prohibited|authorization denied|may not be modified|readonly",
            ):
                await db.execute_fetchall(sql.format(folder=tmp_path))
            assert list(await db.execute_fetchall("SELECT count(*) FROM outcome_rewards")) == [(1,)]

    anyio.run(main)
    assert everything(tmp_path) == before
    assert config.source.database == str(traces)


@pytest.mark.parametrize(
    ("where", "reasons"),
    [
        ("(SELECT 1 FROM pragma_journal_mode('wal'))", {"below_bar": {"condition_failed": 1}}),
        ("(SELECT count(*) FROM pragma_database_list) > 9", {"below_bar": {"where": 1}}),
        ("zeroblob(2000000000) IS NOT NULL", {"below_bar": {"value_too_long": 1}}),
    ],
)
def test_whatever_a_condition_does_the_database_stays_as_it_was(
    config: Config, where: str, reasons: dict[str, dict[str, int]]
) -> None:
    """Byte for byte: it is evaluated elsewhere. Where it fails, the line is counted with the reason."""
    (config.source.shards / "sft_run.jsonl").write_bytes(jsonl(messages("run", 0, "a")))
    traces = config.source.shards.parent / "traces.db"
    before = traces.read_bytes()
    work_off(msgspec.structs.replace(config, qualify=msgspec.structs.replace(config.qualify, where=where)))
    assert traces.read_bytes() == before
    assert {state: found for state, found in accounts(config).reasons.items() if found} == reasons


@pytest.mark.parametrize(
    "where",
    [
        "(WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n) > 0",
        "(WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 9000) SELECT count(*) FROM n, n, n) > 0",
    ],
    ids=["endless recursion", "endless product"],
)
def test_a_condition_without_an_end_holds_up_neither_producer_nor_shards(
    tmp_path: Path, config: Config, where: str
) -> None:
    """It is given up row by row; lines are read and wait meanwhile, and the producer can write."""
    for number in range(300):
        add_outcome(tmp_path / "traces.db", f"run-{number}", 1, 9)
    source = msgspec.structs.replace(config.source, scan_interval=0.05)
    endless = msgspec.structs.replace(
        config, source=source, qualify=msgspec.structs.replace(config.qualify, where=where)
    )

    async def main() -> None:
        async with running(endless):
            (config.source.shards / "sft_run.jsonl").write_bytes(jsonl(messages("run", 0, "a")))
            await soon(lambda: snapshot(config.dataset.path, config.dataset.ledger).counts["waiting"] == 1)
            with closing(sqlite3.connect(tmp_path / "traces.db", timeout=2.0)) as db, db:
                db.execute("UPDATE outcome_rewards SET total_steps = 9")

    anyio.run(main)
    assert accounts(config).counts["appended"] == 0
    work_off(config)
    assert accounts(config).counts["appended"] == 1


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        (
            "length(trim(replace(hex(zeroblob(200000)), '0', 'a'), hex(zeroblob(20000)) || 'a')) = 0",
            "condition_too_slow",
        ),
        ("instr(zeroblob(20000000), zeroblob(10000000) || x'01') = 0", "value_too_long"),
    ],
    ids=["a trim", "a search"],
)
def test_a_condition_whose_one_step_takes_hours_holds_up_neither_producer_nor_shards(
    tmp_path: Path, config: Config, where: str, reason: str
) -> None:
    """SQLite asks no one while it computes one function of large values."""
    executable = Executable(tmp_path)
    (tmp_path / "config.toml").open("a").write(f'[qualify]\nwhere = """{where}"""\n')
    with executable.daemon():
        executable.shard("sft_run.jsonl", messages("run", 0, "a"))
        eventually(config.dataset.path.exists)
        with closing(sqlite3.connect(tmp_path / "traces.db", timeout=5.0)) as db:
            for steps in range(20):
                with db:
                    db.execute("UPDATE outcome_rewards SET total_steps = ?", (steps,))
        eventually(lambda: snapshot(config.dataset.path).reasons.get("below_bar") == {reason: 1}, patience=20)
