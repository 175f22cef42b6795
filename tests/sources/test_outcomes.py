"""Outcome rows of a real SQLite database: found, found again when they change, and never disturbed."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import AsyncExitStack, closing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from streamer.base.errors import ConfigError, UnavailableError
from streamer.config.database_url import local_path
from streamer.core.records.layouts import time_us
from streamer.core.verdicts.reasons import CONDITION_TOO_SLOW
from streamer.sources.outcomes import PAGE, OutcomePoller, rule_name
from tests.helpers.producer import EPOCH, FakeClock, add_outcome, correct_outcome, make_traces

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from streamer.core.records.model import Outcome

LONG = 3600.0
"""Seconds after which every sweep is allowed to go on."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the trace database is, or will be."""
    return tmp_path / "traces.db"


@pytest.fixture(params=["delete", "wal"])
def traces(path: Path, request: pytest.FixtureRequest) -> Path:
    """Return an empty trace database in either journal mode."""
    return make_traces(path, wal=request.param == "wal")


class Patient(OutcomePoller):
    """A poller before each of whose polls much time passes: sweeps go on, file times are not believed."""

    async def poll(self) -> Sequence[Outcome]:
        """Let time pass, and poll."""
        clock = self._clock
        assert isinstance(clock, FakeClock)
        clock.advance(LONG)
        return await super().poll()


def polling(
    path: Path | str,
    test: Callable[[OutcomePoller], Awaitable[None]],
    where: str = "total_reward > 0",
    clock: FakeClock | None = None,
) -> None:
    """Run a test with a poller, and close that. Without a clock of the test's own there is time enough."""

    async def main() -> None:
        async with AsyncExitStack() as stack:
            poller = OutcomePoller(str(path), where, clock) if clock else Patient(str(path), where, FakeClock())
            stack.push_async_callback(poller.close)
            await test(poller)

    anyio.run(main)


async def everything(poller: OutcomePoller) -> list[Outcome]:
    """Poll until every row that is there has been returned."""
    rows = list(await poller.poll())
    while not poller.caught_up:
        rows += await poller.poll()
    return rows


async def swept(poller: OutcomePoller) -> list[Outcome]:
    """Poll until known rows have been read again, if there is reason to."""
    rows = list(await poller.poll())
    while poller.sweeping:
        rows += await poller.poll()
    return rows


def rewards(rows: Sequence[Outcome]) -> list[tuple[int, Any]]:
    """Return ids and rewards, each once: a sweep may repeat rows."""
    return sorted({(row.id, row.total_reward) for row in rows})


def execute(path: Path, *statements: str) -> None:
    """Do something to a database, as someone else."""
    with closing(sqlite3.connect(path)) as db, db:
        for statement in statements:
            db.execute(statement)


def content(path: Path) -> bytes:
    """Return the bytes of a file."""
    return path.read_bytes()


def many_rows(number: int) -> str:
    """Return the statement that adds many rows; every second one has a reward."""
    return (
        "INSERT INTO outcome_rewards (session_id, total_reward, achievements_count, total_steps, created_at)"
        f" WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {number})"
        " SELECT 'run-' || i, i % 2, 1, 8, '2026-01-01' FROM n"
    )


def test_a_row_is_read_with_the_verdict_of_the_database(traces: Path) -> None:
    """Each column, the time, and whether the condition holds."""
    add_outcome(traces, "run-a", 3, 1.5)
    add_outcome(traces, "run-b", 0, 2)

    async def test(poller: OutcomePoller) -> None:
        first, second = await everything(poller)
        assert (first.id, first.session, first.total_reward) == (1, "run-a", 3)
        assert (first.achievements_count, first.total_steps) == (1, 8)
        assert first.created_us == time_us(first.created_at) == round((EPOCH.timestamp() + 1.5) * 1e6)
        assert (first.qualifies, second.qualifies) == (True, False)
        assert first.rule == rule_name("total_reward > 0")

    polling(traces, test)


def test_new_rows_come_with_the_next_poll(traces: Path) -> None:
    """And once they have been swept too, a database that does not change is not read."""

    async def test(poller: OutcomePoller) -> None:
        assert await everything(poller) == []
        for session in ("run-a", "run-b"):
            add_outcome(traces, session, 3)
            assert [row.session for row in await poller.poll()] == [session]
            await swept(poller)
            assert await everything(poller) == []

    polling(traces, test)


def test_a_quiet_database_is_left_alone(path: Path) -> None:
    """While size and time of its files stand still it is not even asked, but for once a second."""
    clock = FakeClock()
    make_traces(path)
    add_outcome(path, "run-a", 3)

    async def test(poller: OutcomePoller) -> None:
        await everything(poller)
        with closing(sqlite3.connect(path, isolation_level=None)) as producer:
            producer.execute("BEGIN EXCLUSIVE")
            assert await poller.poll() == ()
            clock.advance(LONG)
            with pytest.raises(UnavailableError, match="locked"):
                await poller.poll()

    polling(path, test, clock=clock)


def test_many_rows_come_page_by_page(path: Path) -> None:
    """No page exceeds its limit, and no row is skipped."""
    make_traces(path)
    numbers = 2 * PAGE + 7
    execute(path, many_rows(numbers))

    async def test(poller: OutcomePoller) -> None:
        pages = []
        while not poller.caught_up:
            pages.append(await poller.poll())
        assert [len(page) for page in pages] == [PAGE, PAGE, 7]
        assert [row.id for page in pages for row in page] == list(range(1, numbers + 1))
        assert [row.qualifies for row in pages[-1]] == [i % 2 == 1 for i in range(2 * PAGE + 1, numbers + 1)]

    polling(path, test)


def test_a_corrected_row_is_noticed(traces: Path) -> None:
    """With the sweep that a change sets off; without a change there is none."""
    for i in range(3):
        add_outcome(traces, f"run-{i}", 0)

    async def test(poller: OutcomePoller) -> None:
        await everything(poller)
        assert not poller.sweeping
        correct_outcome(traces, 2, 5)
        found = await swept(poller)
        assert (2, 5) in rewards(found)
        assert [row.qualifies for row in found if row.id == 2] == [True]
        assert await swept(poller) == []

    polling(traces, test)


def test_a_correction_and_a_new_row_in_one_transaction_are_both_noticed(traces: Path) -> None:
    """The new row does not hide the old one."""
    add_outcome(traces, "run-a", 0)

    async def test(poller: OutcomePoller) -> None:
        await everything(poller)
        execute(
            traces,
            "UPDATE outcome_rewards SET total_reward = 9 WHERE id = 1",
            "INSERT INTO outcome_rewards (session_id, total_reward, achievements_count, total_steps, created_at)"
            " VALUES ('run-b', 4, 1, 8, '2026-01-01')",
        )
        assert rewards(await swept(poller)) == [(1, 9), (2, 4)]

    polling(traces, test)


def test_sweeps_are_slow(path: Path) -> None:
    """One page of known rows at a time, with a pause, however often it is polled."""
    clock = FakeClock()
    make_traces(path)
    execute(path, many_rows(2 * PAGE + 1))

    async def test(poller: OutcomePoller) -> None:
        await everything(poller)
        correct_outcome(path, 1, 1)
        clock.advance(LONG)
        sizes = []
        while True:
            sizes.append(len(await poller.poll()))
            if not poller.sweeping:
                break
            assert await poller.poll() == ()
            clock.advance(LONG)
        assert sizes == [PAGE, PAGE, 1]

    polling(path, test, clock=clock)


def test_a_row_that_is_corrected_between_two_pages_of_the_first_pass_is_noticed(path: Path) -> None:
    """The first pass has read it before, and nothing changes afterwards."""
    make_traces(path)
    execute(path, many_rows(PAGE + 1))

    async def test(poller: OutcomePoller) -> None:
        assert len(await poller.poll()) == PAGE
        correct_outcome(path, 1, 5)
        assert (1, 5) in rewards([*await everything(poller), *await swept(poller)])

    polling(path, test)


def test_a_replaced_database_is_read_from_its_start(traces: Path, tmp_path: Path) -> None:
    """Its ids begin again."""
    add_outcome(traces, "run-a", 3)
    other = make_traces(tmp_path / "other.db")
    add_outcome(other, "run-b", 4)

    async def test(poller: OutcomePoller) -> None:
        await everything(poller)
        other.rename(traces)
        for name in ("traces.db-wal", "traces.db-shm"):
            (tmp_path / name).unlink(missing_ok=True)
        assert [(row.id, row.session) for row in await everything(poller)] == [(1, "run-b")]

    polling(traces, test)


def test_a_database_that_goes_away_is_waited_for_and_read_again(traces: Path, tmp_path: Path) -> None:
    """Earlier rows may be returned again: the ledger knows them."""
    add_outcome(traces, "run-a", 3)

    async def test(poller: OutcomePoller) -> None:
        await everything(poller)
        os.rename(traces, tmp_path / "away.db")
        with pytest.raises(UnavailableError, match="no such file"):
            await poller.poll()
        os.rename(tmp_path / "away.db", traces)
        add_outcome(traces, "run-b", 4)
        assert [row.session for row in await everything(poller)] == ["run-a", "run-b"]

    polling(traces, test)


def test_a_missing_database_is_waited_for_and_not_created(path: Path) -> None:
    """No file appears that would look like one; the error names the file and the variables."""

    async def test(poller: OutcomePoller) -> None:
        for _ in range(2):
            with pytest.raises(UnavailableError) as caught:
                await poller.poll()
            assert caught.value.where == str(path)
            assert "TURSO_LOCAL_DB_URL" in caught.value.hint
            assert list(path.parent.iterdir()) == []
        make_traces(path)
        add_outcome(path, "run-a", 3)
        assert len(await everything(poller)) == 1

    polling(path, test)


def test_a_missing_table_is_waited_for(path: Path) -> None:
    """The producer makes it with its first rollout; an empty file is a database without tables."""
    path.touch()

    async def test(poller: OutcomePoller) -> None:
        with pytest.raises(UnavailableError, match="no table outcome_rewards yet"):
            await poller.poll()
        assert os.stat(path).st_size == 0
        make_traces(path)
        add_outcome(path, "run-a", 3)
        assert len(await everything(poller)) == 1

    polling(path, test)


@pytest.mark.parametrize("column", ["session_id", "total_reward"])
def test_a_table_without_the_columns_that_are_needed_is_named(path: Path, column: str) -> None:
    """It is some other program's table of that name."""
    other = {"session_id": "total_reward", "total_reward": "session_id"}[column]
    execute(path, f"CREATE TABLE outcome_rewards (id INTEGER PRIMARY KEY, {other} TEXT)")

    async def test(poller: OutcomePoller) -> None:
        with pytest.raises(UnavailableError, match=f"no column {column}"):
            await poller.poll()

    polling(path, test)


def test_columns_that_are_not_needed_may_be_missing(path: Path) -> None:
    """Also the id, and the table of sessions."""
    execute(path, "CREATE TABLE outcome_rewards (session_id TEXT, total_reward REAL)",
            "INSERT INTO outcome_rewards VALUES ('run-a', 0.5), ('run-b', NULL), (NULL, 1), (17, 'much')")  # fmt: skip

    async def test(poller: OutcomePoller) -> None:
        rows = await everything(poller)
        assert [(row.id, row.session, row.total_reward, row.qualifies) for row in rows[:3]] == [
            (1, "run-a", 0.5, True), (2, "run-b", None, False), (3, "", 1, True),
        ]  # fmt: skip
        assert (rows[3].session, rows[3].total_reward) == ("17", None)
        assert {(row.achievements_count, row.total_steps, row.created_us) for row in rows} == {(None, None, None)}

    polling(path, test)


def test_a_text_that_is_no_utf_8_does_not_stop_other_rows(path: Path) -> None:
    """SQLite takes any bytes for text; one odd row must not hold up all that come after it."""
    make_traces(path)
    add_outcome(path, "run-a", 3)
    execute(path, "UPDATE outcome_rewards SET session_id = CAST(x'ff00fe' AS TEXT)")
    add_outcome(path, "run-b", 4)

    async def test(poller: OutcomePoller) -> None:
        assert [row.session for row in await everything(poller)][1:] == ["run-b"]

    polling(path, test)


def test_a_busy_database_delays_us_and_is_read_later(path: Path) -> None:
    """Rule 7: the producer holds its lock; we wait a moment, give up, and come back."""
    make_traces(path)
    add_outcome(path, "run-a", 3)

    async def test(poller: OutcomePoller) -> None:
        for opened in (False, True):
            with closing(sqlite3.connect(path, isolation_level=None)) as producer:
                producer.execute("BEGIN EXCLUSIVE")
                producer.execute("UPDATE outcome_rewards SET total_steps = 9")
                with pytest.raises(UnavailableError, match="locked") as caught:
                    await poller.poll()
                assert "the producer is writing" in caught.value.hint
                producer.execute("COMMIT")
            assert len(await everything(poller)) == 1, opened

    polling(path, test)


def test_a_condition_can_be_checked_while_the_database_is_busy(path: Path) -> None:
    """A reload may come at any moment: it waits, or says so in our own words, and ends nothing."""
    make_traces(path)

    async def test(poller: OutcomePoller) -> None:
        await everything(poller)
        with closing(sqlite3.connect(path, isolation_level=None)) as producer:
            producer.execute("BEGIN EXCLUSIVE")
            with suppress(UnavailableError):
                await poller.check("total_reward > 1")
        assert await everything(poller) == []

    polling(path, test)


@pytest.mark.parametrize("wal", [False, True])
def test_the_producer_can_commit_whenever_we_are_not_reading(path: Path, wal: bool) -> None:  # noqa: FBT001
    """Rule 7: after a poll no lock is held, not even a shared one; no wait is needed."""
    make_traces(path, wal=wal)
    add_outcome(path, "run-a", 3)

    async def test(poller: OutcomePoller) -> None:
        await everything(poller)
        with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as producer:
            producer.execute("BEGIN EXCLUSIVE")
            producer.execute("UPDATE outcome_rewards SET total_steps = 9")
            producer.execute("COMMIT")
            if wal:
                assert producer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0

    polling(path, test)


def test_the_database_is_never_written(traces: Path) -> None:
    """Rule 7: no poll, sweep, rejection or check changes a byte of it."""
    add_outcome(traces, "run-a", 3)
    before = traces.read_bytes()
    state = traces.stat()

    async def test(poller: OutcomePoller) -> None:
        await everything(poller)
        await poller.check("total_reward > 1")
        with pytest.raises(ConfigError):
            await poller.check("no such column")
        poller.set_where("total_reward > 2")
        await everything(poller)

    polling(traces, test)
    assert traces.read_bytes() == before
    assert traces.stat().st_mtime_ns == state.st_mtime_ns


def test_no_file_appears_beside_a_database_without_a_wal(path: Path) -> None:
    """No journal, no lock."""
    make_traces(path)
    add_outcome(path, "run-a", 3)
    seen: list[list[Path]] = []

    async def test(poller: OutcomePoller) -> None:
        await everything(poller)
        seen.append(list(path.parent.iterdir()))

    polling(path, test)
    assert [*seen, list(path.parent.iterdir())] == [[path], [path]]


@pytest.mark.parametrize(
    "where",
    [
        "reward > 0",
        "total_reward >",
        "total_reward > 0)",
        "created_at > '2025'",
        "total_reward > 0; DROP TABLE x",
        "total_reward > ?",
        "nosuch(total_reward)",
        "DELETE FROM outcome_rewards",
        "load_extension('x')",
        "count(*) > 0",
        "max(total_reward) > 3",
    ],
)
@pytest.mark.parametrize("filled", [False, True])
def test_a_condition_that_cannot_be_evaluated_for_each_row_is_named(path: Path, where: str, filled: bool) -> None:  # noqa: FBT001
    """A misspelt column, a syntax error, a column of both tables, a sum over all rows."""
    make_traces(path)
    if filled:
        add_outcome(path, "run-a", 3)

    async def test(poller: OutcomePoller) -> None:
        with pytest.raises(ConfigError) as caught:
            await poller.poll()
        assert caught.value.where == "qualify.where"
        assert where in caught.value.cause

    polling(path, test, where)


def test_a_condition_that_takes_too_long_does_not_hold_up_the_producer(path: Path) -> None:
    """Rule 7: it runs outside the database and is given up; its row is named, and a fast condition still works."""
    make_traces(path)
    add_outcome(path, "run-a", 3)
    forever = "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n) > 0"

    async def test(poller: OutcomePoller) -> None:
        assert [row.problem for row in await everything(poller)] == [CONDITION_TOO_SLOW]
        with closing(sqlite3.connect(path, timeout=0)) as producer, producer:
            producer.execute("UPDATE outcome_rewards SET total_steps = 9")
        poller.set_where("total_reward > 0")
        assert len(await everything(poller)) == 1

    polling(path, test, forever)


@pytest.mark.parametrize(
    ("where", "sessions"),
    [
        ("total_reward > 0 -- good ones", ["run-a"]),
        ("total_reward > 5 OR session_id = 'run-b'", ["run-b"]),
        ("outcome_rewards.created_at < '2026-01-01T00:00:05'", ["run-a"]),
        ("json_extract(reward_metadata, '$.env_seed') = 7", ["run-a", "run-b"]),
        ("json_extract(session_traces.metadata, '$.run_id') = 'run-a'", ["run-a"]),
        ("num_timesteps = 8 AND total_reward", ["run-a"]),
        ("NULL", []),
    ],
)
def test_a_condition_is_sql_over_the_row_and_its_session(traces: Path, where: str, sessions: list[str]) -> None:
    """Everything that the database itself can evaluate."""
    add_outcome(traces, "run-a", 3)
    add_outcome(traces, "run-b", 0, 10)

    async def test(poller: OutcomePoller) -> None:
        rows = await everything(poller)
        assert [row.session for row in rows] == ["run-a", "run-b"]
        assert [row.session for row in rows if row.qualifies] == sessions

    polling(traces, test, where)


def test_a_new_condition_is_asked_of_every_row(traces: Path) -> None:
    """And each row says under which condition it was read."""
    add_outcome(traces, "run-a", 3)

    async def test(poller: OutcomePoller) -> None:
        await everything(poller)
        poller.set_where("total_reward > 5")
        (row,) = await everything(poller)
        assert (row.qualifies, row.rule) == (False, rule_name("total_reward > 5"))

    polling(traces, test)


def test_a_row_without_a_session_of_its_own_is_read_all_the_same(path: Path) -> None:
    """The outcome may be written before the end of its session."""
    make_traces(path)
    add_outcome(path, "run-a", 3)
    execute(path, "DELETE FROM session_traces")

    async def test(poller: OutcomePoller) -> None:
        assert [row.qualifies for row in await everything(poller)] == [True]

    polling(path, test)


def test_a_damaged_database_is_no_reason_to_end(path: Path) -> None:
    """The error names a command to check the file; once the file is repaired, it is read."""
    path.write_bytes(b"this is no database at all" * 100)

    async def test(poller: OutcomePoller) -> None:
        with pytest.raises(UnavailableError, match="not a database") as caught:
            await poller.poll()
        assert "quick_check" in caught.value.hint
        os.unlink(path)
        make_traces(path)
        add_outcome(path, "run-a", 3)
        assert len(await everything(poller)) == 1

    polling(path, test)


def test_the_folder_of_sqld_names_its_database(tmp_path: Path) -> None:
    """Also when it appears only later."""
    folder = tmp_path / "sqld"

    async def test(poller: OutcomePoller) -> None:
        with pytest.raises(UnavailableError):
            await poller.poll()
        folder.mkdir()
        with pytest.raises(UnavailableError):
            await poller.poll()
        traces = make_traces(folder / "dbs" / "default" / "data", wal=True)
        add_outcome(traces, "run-a", 3)
        assert len(await everything(poller)) == 1

    polling(folder, test)


def test_a_wal_database_is_read_while_its_writer_lives(path: Path) -> None:
    """Rows that were never checkpointed are seen."""
    make_traces(path, wal=True)
    before = content(path)
    seen: list[bytes] = []

    async def test(poller: OutcomePoller) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as producer:
            producer.execute("PRAGMA wal_autocheckpoint=0")
            producer.execute("SELECT count(*) FROM outcome_rewards").fetchall()
            add_outcome(path, "run-a", 3)
            assert len(await everything(poller)) == 1
            add_outcome(path, "run-b", 3)
            assert [row.session for row in await everything(poller) if row.id > 1] == ["run-b"]
            seen.append(content(path))

    polling(path, test)
    assert seen == [before]


@pytest.mark.parametrize(
    "url",
    ["{path}", "file:{path}", "file://{path}", "sqlite:///{path}", "sqlite+aiosqlite:///{path}",
     "sqlite+pysqlite:///{path}?timeout=5", "sqlite+libsql:///{path}", "libsql:///{path}", "sqlite:///{path}#x"],
)  # fmt: skip
def test_a_path_or_any_url_of_a_file_names_it(tmp_path: Path, url: str) -> None:
    """As SQLAlchemy and libsql write it, with spaces and signs in the path."""
    path = make_traces(tmp_path / "my traces%20?#.db" if url == "{path}" else tmp_path / "traces.db")
    add_outcome(path, "run-a", 3)

    async def test(poller: OutcomePoller) -> None:
        assert poller.path == path
        assert len(await everything(poller)) == 1

    polling(url.format(path=path), test)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite+aiosqlite:///traces/a.db", "traces/a.db"),
        ("sqlite:////var/a%20b.db", "/var/a b.db"),
        ("file:a.db", "a.db"),
        ("file:///var/a.db?mode=rw", "/var/a.db"),
        ("traces/a.db", "traces/a.db"),
        ("C:odd.db", "C:odd.db"),
        ("~/a.db", "HOME/a.db"),
    ],
)
def test_relative_and_absolute_urls_are_told_apart(url: str, expected: str) -> None:
    """Three slashes and four."""
    assert local_path(url) == Path(expected.replace("HOME", str(Path.home())))


def test_a_copy_under_way_is_waited_for(path: Path, tmp_path: Path) -> None:
    """Half a database is damaged; the whole one is read."""
    whole = make_traces(tmp_path / "whole.db")
    for i in range(300):
        add_outcome(whole, f"run-{i}", 3)
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])

    async def test(poller: OutcomePoller) -> None:
        with pytest.raises(UnavailableError):
            await everything(poller)
        await anyio.to_thread.run_sync(partial(shutil.copyfile, whole, path))
        assert len(await everything(poller)) == 300

    polling(path, test)
