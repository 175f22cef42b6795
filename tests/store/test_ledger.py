"""The ledger: its sums, what it refuses, and old versions of it."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from streamer.base.errors import RefusedError, UnavailableError
from streamer.base.files import Files
from streamer.core.records.model import Cursor, Outcome, Span, State
from streamer.core.verdicts.join import JoinRule
from streamer.store.ledger.ledger import Ledger
from streamer.store.ledger.schema import APPLICATION_ID, SCHEMA_VERSION
from streamer.store.ledger.transactions import BatchCommit
from streamer.store.views.snapshot import snapshot
from tests.helpers.producer import (
    FakeClock,
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
    from collections.abc import Awaitable, Callable

    from streamer.config import Config

SAMPLE = Path(__file__).parents[1] / "data" / "ledger-v1.sql"
"""Dump of a ledger that a real run left behind; frozen: it changes only by a new file for a new version."""

sessions = st.sampled_from(["a", "b"])
spans = st.builds(
    lambda shard, lines, session, state, reason, time: Span(
        shard, 0, 10, 1, lines, session, state, reason, None, time, time, since=float(lines)
    ),
    st.integers(1, 3),
    st.integers(1, 5),
    sessions,
    st.sampled_from(State),
    st.sampled_from(["", "where", "unreadable"]),
    st.none() | st.integers(0, 5),
)
outcomes = st.builds(
    lambda number, session, reward, time: Outcome(number, session, reward, 1, 8, str(time), time, reward > 0, "r"),
    st.integers(1, 3), sessions, st.integers(-1, 2), st.none() | st.integers(0, 5),
)  # fmt: skip
pages = st.lists(outcomes, max_size=2, unique_by=lambda row: row.id)
actions = st.lists(
    st.tuples(st.just("commit"), st.lists(spans, max_size=4), st.lists(spans, max_size=2))
    | st.tuples(st.just("judge again"), st.integers(1, 9))
    | st.tuples(st.just("overwritten"), st.integers(1, 3))
    | st.tuples(st.just("expire"), st.floats(0, 6))
    | st.tuples(st.just("revive"), st.integers(1, 3))
    | st.tuples(st.just("outcomes"), pages, st.sampled_from(JoinRule)),
    max_size=10,
)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Return the settings of a folder in which some records of every kind have been worked off."""
    (tmp_path / "shards").mkdir()
    traces = make_traces(tmp_path / "traces.db")
    for session, reward in (("good", 3), ("bad", 0)):
        add_outcome(traces, session, reward, 9)
    lines = [dialogue(session, turn, f"{turn}") for session in ("good", "bad", "open") for turn in range(3)]
    (tmp_path / "shards" / "a.jsonl").write_bytes(jsonl(*lines) + b"nonsense\n" + jsonl(lines[0], messages("good")))
    config = settings(tmp_path)
    work_off(config)
    return config


def with_ledger(path: Path, work: Callable[[Ledger], Awaitable[Any]]) -> Any:
    """Open a ledger, do some work, close it."""

    async def main() -> Any:
        async with Ledger.open(path, Files()) as ledger:
            return await work(ledger)

    return anyio.run(main)


def execute(path: Path, script: str) -> None:
    """Do something to a ledger, as someone else."""
    with closing(sqlite3.connect(path)) as db:
        db.executescript(script)


async def perform(ledger: Ledger, action: tuple[Any, ...]) -> None:
    """Do one of the things that change accounts."""
    name, *values = action
    if name == "commit":
        cursors = [Cursor(f"{i}.jsonl", id=i, stat=(1, i, 0, 0, 0)) for i in (1, 2, 3)]
        await ledger.commit(BatchCommit(cursors=cursors, spans=values[0], pending=values[1]))
    elif name == "judge again":
        found = [span for span, _ in await ledger.pending(values[0])]
        judged = [msgspec.structs.replace(span, state=State.DUPLICATE, reason="") for span in found]
        await ledger.commit(BatchCommit(taken=found, spans=judged))
    elif name == "overwritten":
        await ledger.overwritten(values[0])
    elif name == "expire":
        await ledger.expire(values[0])
    elif name == "revive":
        await ledger.unblock(values)
    else:
        await ledger.store_outcomes(sorted(values[0], key=lambda row: row.id), values[1])


@pytest.mark.slow
@given(actions)
@budget(max_examples=60)
def test_the_tally_is_the_sum_of_the_spans_whatever_happens(
    tmp_path_factory: pytest.TempPathFactory, todo: list[tuple[Any, ...]]
) -> None:
    """Rule 1, after every transaction; lines leave the accounts only as overwritten ones."""
    path = tmp_path_factory.mktemp("ledger") / "ledger"
    put = 0

    async def work(ledger: Ledger) -> None:
        nonlocal put
        for action in todo:
            await perform(ledger, action)
            if action[0] == "commit":
                put += sum(span.lines for span in (*action[1], *action[2]))
            with closing(sqlite3.connect(path)) as db:
                by_span = db.execute(
                    "SELECT state, reason, sum(lines) FROM span GROUP BY 1, 2 ORDER BY 1, 2"
                ).fetchall()
                tally = db.execute("SELECT * FROM tally WHERE lines ORDER BY 1, 2").fetchall()
                lost = db.execute("SELECT overwritten FROM meta").fetchone()[0]
            assert by_span == tally
            assert sum((await ledger.counts()).lines.values()) == sum(row[2] for row in tally) == put - lost

    with_ledger(path, work)


def test_a_transaction_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    """Cursors, verdicts, keys and lengths come together or not at all."""
    span = Span(1, 0, 10, 1, 1, "a", State.ACCEPTED)
    batch = BatchCommit(cursors=[Cursor("1.jsonl", id=1)], spans=[span], appended=[(b"key", 0)], dataset_length=10)

    async def work(ledger: Ledger) -> None:
        await ledger.commit(batch)
        with pytest.raises(RefusedError):
            await ledger.commit(msgspec.structs.replace(batch, dataset_length=20))  # the key is there already
        assert (await ledger.head()).dataset_length == 10
        assert (await ledger.head()).dataset_lines == 1
        assert sum((await ledger.counts()).lines.values()) == 1
        assert await ledger.known([b"key", b"other"]) == {b"key": True}

    with_ledger(tmp_path / "ledger", work)


def test_a_ledger_that_someone_holds_is_tried_again(tmp_path: Path) -> None:
    """SQLite's own errors of the moment are not refused."""

    async def work(ledger: Ledger) -> None:
        await ledger._db.execute("PRAGMA busy_timeout=0")
        with closing(sqlite3.connect(tmp_path / "ledger", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(UnavailableError) as caught:
                await ledger.commit(BatchCommit())
            assert caught.value.retry
        await ledger.commit(BatchCommit())

    with_ledger(tmp_path / "ledger", work)


def test_undecodable_names_come_back_as_they_were(tmp_path: Path) -> None:
    """A path is bytes."""
    cursor = Cursor("\udcff/a.jsonl", 1, 10, 2, 12, b"f", (2**63 - 1, 2, 5, 6, 7))

    async def work(ledger: Ledger) -> None:
        await ledger.commit(BatchCommit(cursors=[cursor]))
        assert await ledger.cursors({cursor.path: 1, "other": 0}) == ({cursor.path: cursor}, [])

    with_ledger(tmp_path / "ledger", work)


class TestRefused:
    """Files that are no ledger of this version: left as they are, and a person is told the way out."""

    def refused(self, config: Config) -> RefusedError:
        """Return the error with which the whole path refuses to open; the file stays as it was."""
        before = config.dataset.ledger.read_bytes()
        with pytest.raises(RefusedError) as caught:
            work_off(config)
        assert config.dataset.ledger.read_bytes() == before
        assert caught.value.where == str(config.dataset.ledger)
        assert not caught.value.retry
        return caught.value

    def test_a_newer_schema(self, config: Config) -> None:
        """Both versions are named."""
        execute(config.dataset.ledger, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        error = self.refused(config)
        assert f"version is {SCHEMA_VERSION + 1}" in error.cause
        assert f"knows {SCHEMA_VERSION}" in error.cause
        assert "move it away" in error.hint

    def test_a_database_of_another_program(self, config: Config) -> None:
        """Even one that has tables of the same names."""
        execute(config.dataset.ledger, "PRAGMA application_id = 1")
        assert "another program" in self.refused(config).cause

    @pytest.mark.parametrize("keep", [0, 50, 100, 1024, 4096, 8192])
    def test_a_file_of_zeros_or_damage(self, config: Config, keep: int) -> None:
        """What a power loss leaves on some file systems: the way out is a command."""
        size = config.dataset.ledger.stat().st_size
        data = config.dataset.ledger.read_bytes()[:keep] + b"\0" * (size - keep)
        self.without_wal(config)
        config.dataset.ledger.write_bytes(data)
        error = self.refused(config)
        assert f"mv '{config.dataset.ledger}'" in error.hint

    @pytest.mark.parametrize("pages", [1, 2, 5])
    def test_a_file_that_was_cut(self, config: Config, pages: int) -> None:
        """Its first page still says what it was."""
        data = config.dataset.ledger.read_bytes()
        self.without_wal(config)
        config.dataset.ledger.write_bytes(data[: pages * 4096])
        assert "malformed" in self.refused(config).cause

    @pytest.mark.parametrize("junk", [b"not a database, but longer than its header is" * 30, b"x"])
    def test_a_file_of_something_else(self, config: Config, junk: bytes) -> None:
        """Whatever it is, it is not ours to overwrite."""
        self.without_wal(config)
        config.dataset.ledger.write_bytes(junk)
        assert "mv" in self.refused(config).hint

    def test_the_way_out_leads_out(self, config: Config) -> None:
        """Moved away, the ledger is rebuilt from the dataset, and nothing is written twice."""
        before = config.dataset.path.read_bytes()
        execute(config.dataset.ledger, "PRAGMA application_id = 1")
        self.refused(config)
        for path in list(config.dataset.ledger.parent.glob("good.jsonl.ledger*")):
            path.rename(path.with_name(f"{path.name}.bad"))
        work_off(config)
        assert config.dataset.path.read_bytes() == before
        assert accounts(config).adopted == 0

    @staticmethod
    def without_wal(config: Config) -> None:
        """Remove what SQLite keeps beside a ledger, if it does."""
        for suffix in ("-wal", "-shm"):
            with suppress(FileNotFoundError):
                config.dataset.ledger.with_name(f"{config.dataset.ledger.name}{suffix}").unlink()


def test_an_empty_file_is_a_new_ledger(tmp_path: Path) -> None:
    """A crash while it was being created leaves one."""
    (tmp_path / "ledger").touch()
    assert with_ledger(tmp_path / "ledger", lambda ledger: ledger.head()).dataset_length == 0


class TestSchemaVersion1:
    """The frozen sample."""

    @pytest.fixture
    def sample(self, tmp_path: Path) -> Path:
        """Return a ledger made from the dump."""
        path = tmp_path / "good.jsonl.ledger"
        execute(path, SAMPLE.read_text())
        return path

    def test_it_says_what_it_is(self, sample: Path) -> None:
        """The dump holds the pragmas by which a ledger is recognised."""
        with closing(sqlite3.connect(sample)) as db:
            assert db.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
            assert db.execute("PRAGMA user_version").fetchone() == (1,)

    def test_it_still_opens_and_says_the_same(self, sample: Path) -> None:
        """Lengths, accounts, cursors, keys, outcomes and due spans."""

        async def work(ledger: Ledger) -> None:
            head = await ledger.head()
            assert (head.dataset_lines, head.keys) == (3, "conversation/1")
            assert {state: lines for state, lines in (await ledger.counts()).lines.items() if lines} == {
                State.ACCEPTED: 3, State.DUPLICATE: 1, State.REJECTED: 3, State.WAITING: 2, State.EXPIRED: 1,
                State.DEAD_LETTERED: 1,
            }  # fmt: skip
            (cursor,) = (await ledger.cursors({"good_2026-01-01_00-00-00.jsonl": 0}))[0].values()
            assert (cursor.lines, len(cursor.fingerprint)) == (5, 16)
            (row,) = (await ledger.outcomes(["good"]))["good"]
            assert (row.total_reward, row.qualifies) == (3, True)
            await ledger.store_outcomes([msgspec.structs.replace(row, id=99, session="open", ref=0)], JoinRule.AS_OF)
            assert {span.session for span, _ in await ledger.pending(100)} == {"open"}

        with_ledger(sample, work)

    def test_it_is_read_from_outside(self, sample: Path) -> None:
        """By ``streamer status``."""
        seen = snapshot(sample.with_name("good.jsonl"), sample)
        assert (seen.read, seen.dataset_lines, seen.adopted) == (11, 3, 0)

    def test_once_opened_it_has_the_very_same_tables_as_a_new_one(self, sample: Path, tmp_path: Path) -> None:
        """Tables and last columns that came later are added; any other change needs a new version, and a new sample."""
        before, columns = schema(sample), outcome_columns(sample)
        for path in (sample, tmp_path / "new"):
            with_ledger(path, lambda ledger: ledger.head())
        after = schema(sample)
        assert after == schema(tmp_path / "new")
        changed = {name for name in before if before[name] != after[name]}
        assert changed == {"outcome"}
        assert outcome_columns(sample) == [*columns, "metadata", "problem"]


def outcome_columns(path: Path) -> list[str]:
    """Return the columns of the table of outcomes, in order."""
    with closing(sqlite3.connect(path)) as db:
        return [name for (name,) in db.execute("SELECT name FROM pragma_table_info('outcome')")]


def schema(path: Path) -> dict[str, str]:
    """Return the statements that make the tables and indexes of a ledger, by name."""
    with closing(sqlite3.connect(path)) as db:
        return {name: sql or "" for name, sql in db.execute("SELECT name, sql FROM sqlite_master")}


def test_a_ledger_is_read_by_all_and_written_by_one(config: Config) -> None:
    """A look from outside does not touch the file."""
    before = config.dataset.ledger.read_bytes()
    assert accounts(config).read == 12
    assert config.dataset.ledger.read_bytes() == before
    assert len(records(config)) == 4


def test_ages_are_labels_and_decide_nothing(config: Config) -> None:
    """Rule 10: a clock that is set back changes no verdict and loses no line."""
    clock = FakeClock()
    clock.advance(-(10**9))
    before = config.dataset.path.read_bytes()
    work_off(config, clock)
    assert config.dataset.path.read_bytes() == before
    assert accounts(config).read == 12
