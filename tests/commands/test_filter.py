"""``streamer filter``: every key does what it says, the old output stays whole, the producer is not harmed."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from streamer.base.atomic_file import AtomicFile
from streamer.base.errors import LockedError, RefusedError, UnavailableError
from streamer.base.files import Files
from streamer.base.lock import DatasetLock
from streamer.commands.cli import _app
from streamer.commands.filter.config import FilterConfig, read
from streamer.commands.filter.run import Counts, run
from streamer.commands.verify.inspect import inspect
from streamer.core.records.trace_messages import Row
from streamer.sources.pages import FilePages
from tests.helpers.producer import make_traces
from tests.helpers.traces import add_session, decision, make_conversations, tool_reply

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def config(folder: Path, **values: Any) -> FilterConfig:
    """Return the filter of ``traces.db`` in a folder, with these keys."""
    return read({"db": str(folder / "traces.db"), "output": str(folder / "out.jsonl"), **values}, "filter.toml")


def filtered(
    folder: Path, between: Callable[[], None] = lambda: None, *, page: tuple[int, int] = (500, 1 << 20), **values: Any
) -> tuple[list[dict[str, Any]], Counts]:
    """Return the values of the lines that a filter gives, and its counts; ``page`` is (rows, characters)."""

    def pages(db: sqlite3.Connection, path: Path) -> FilePages:
        return FilePages(db, path, between, rows=page[0], characters=page[1])

    lines: list[bytes] = []
    counts = run(config(folder, **values), lines.append, folder, pages)
    assert all(line.endswith(b"\n") for line in lines)
    return [json.loads(line) for line in lines], counts


def taken(folder: Path, **values: Any) -> list[str]:
    """Return the sessions whose examples a filter takes, each once, in order."""
    return list(dict.fromkeys(line["metadata"]["run_id"] for line in filtered(folder, **values)[0]))


def cli(folder: Path, *flags: str, **values: Any) -> tuple[int, str]:
    """Run the command with a file of these keys; return exit code and output."""
    keys = {"db": str(folder / "traces.db"), "output": str(folder / "out.jsonl"), **values}
    file = folder / "filter.toml"
    file.write_text("[filter]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items()))
    result = CliRunner().invoke(_app(["filter"]), ["filter", "--config", str(file), *flags])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a trace database of five sessions."""
    path = make_conversations(tmp_path / "traces.db")
    eval_of = {
        "task_split": "train",
        "task_id": "t1",
        "model": "gpt",
        "official_score": 0.5,
        "judge_scores": {"q": 0.8},
    }
    add_session(path, "good", [3], created=10, model="qwen", turns=2)
    add_session(path, "bad", [0], created=0, model="qwen")
    add_session(path, "unscored", [], created=20)
    add_session(path, "judged", [], created=30, metadata=eval_of)
    add_session(
        path, "other", [1], created=40, metadata={"task_split": "test", "task_id": 2, "judge_scores": {"q": 0.1}}
    )
    return tmp_path


KEYS: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["bad", "good", "unscored", "judged", "other"]),
    ({"splits": ["train"]}, ["judged"]),
    ({"splits": "test"}, ["other"]),
    ({"splits": []}, ["bad", "good", "unscored", "judged", "other"]),
    ({"task_ids": ["t1", "2"]}, ["judged", "other"]),
    ({"models": ["gpt"]}, ["judged"]),
    ({"models": ["qwen"]}, ["bad", "good"]),
    ({"min_official_score": 0.01}, ["good", "judged", "other"]),
    ({"min_official_score": 0}, ["bad", "good", "judged", "other"]),
    ({"max_official_score": 1}, ["bad", "judged", "other"]),
    ({"min_official_score": 1, "max_official_score": 1}, ["other"]),
    ({"min_judge_scores": {"q": 0.8}}, ["judged"]),
    ({"max_judge_scores": {"q": 0.2}}, ["other"]),
    ({"max_judge_scores": {"unknown": 0.2}}, []),
    ({"min_created_at": "2026-01-01T00:00:30Z"}, ["judged", "other"]),
    ({"min_created_at": "2026-01-01T01:00:30+01:00"}, ["judged", "other"]),
    ({"max_created_at": "2026-01-01T00:00:10"}, ["bad", "good"]),
    ({"max_created_at": 1767225610}, ["bad", "good"]),
    ({"limit": 2}, ["bad", "good"]),
    ({"limit": 1, "offset": 3}, ["unscored"]),
    ({"offset": 4}, ["judged", "other"]),
]


@pytest.mark.parametrize(("values", "sessions"), KEYS)
def test_every_key_does_what_it_says(folder: Path, values: dict[str, Any], sessions: list[str]) -> None:
    """One key at a time; sessions come by the time at which they were created."""
    assert taken(folder, **values) == sessions


def test_every_session_is_counted_once(folder: Path) -> None:
    """A session counts at the first condition that it fails, and the counts add up."""
    _, counts = filtered(folder, splits=["train", "test"], min_official_score=0.6, max_judge_scores={"q": 0.2})
    assert counts.removed == {"splits": 3, "min_official_score": 1, "max_judge_scores": 0}
    assert counts.sessions == sum(counts.removed.values()) + counts.chosen == 5


def test_a_line_is_one_of_the_dataset_with_reward_and_session(folder: Path) -> None:
    """The reward is there without a bound, and what synth-ai filter says of a session, too."""
    lines, _ = filtered(folder)
    [line] = [line for line in lines if line["metadata"]["run_id"] == "other"]
    assert line["metadata"]["total_reward"] == 1
    assert line["metadata"]["session_id"] == "other"
    assert line["metadata"]["created_at"] == "2026-01-01T00:00:40+00:00"
    assert len({tuple(line["metadata"]) for line in lines}) == 1
    assert [message["role"] for message in line["messages"]] == ["system", "user", "assistant"]


def test_the_output_is_a_dataset_without_problems(folder: Path) -> None:
    """`streamer verify` finds nothing, and only user and group may read the file."""
    code, _ = cli(folder)
    report = inspect(folder / "out.jsonl")
    assert (code, report.lines, report.problems.counts) == (0, 6, {})
    assert stat.S_IMODE((folder / "out.jsonl").stat().st_mode) == 0o640


def test_each_record_has_the_outcome_of_its_own_rollout(folder: Path) -> None:
    """Of a session that was run twice only the rollout that is good enough is taken."""
    path = folder / "traces.db"
    start = decision(0)[0].time
    assert start is not None
    rows = [
        Row(row.id, row.timestep, row.type, row.content, row.metadata, start + after)
        for text, after in (("first", 1.0), ("second", 100.5), ("third", 500.0))
        for row in decision(0, text)
    ]
    add_session(path, "twice", [0, 5], rows=rows)
    lines = [line for line in filtered(folder)[0] if line["metadata"]["run_id"] == "twice"]
    assert [line["metadata"]["total_reward"] for line in lines] == [0, 5, 5]
    lines, counts = filtered(folder, min_official_score=5)
    assert [line["messages"][1]["content"] for line in lines] == ["second", "third"]
    assert (counts.chosen, counts.other_rollouts) == (1, 1)


def test_shuffle_is_the_same_for_the_same_seed(folder: Path) -> None:
    """The order of examples depends on the seed alone, and offset and limit cut it into pages."""
    path = folder / "traces.db"
    for i in range(20):
        add_session(path, f"more{i}", [1], turns=3)
    shuffles: list[dict[str, Any]] = [{}, *({"shuffle": True, "shuffle_seed": seed} for seed in (1, 1, 2))]
    plain, one, again, two = (
        [line["messages"][1]["content"] for line in filtered(folder, **values)[0]] for values in shuffles
    )
    assert one == again
    assert sorted(plain) == sorted(one) == sorted(two)
    assert len({tuple(plain), tuple(one), tuple(two)}) == 3
    pages = [filtered(folder, shuffle=True, shuffle_seed=1, offset=at, limit=33)[0] for at in (0, 33)]
    assert [line["messages"][1]["content"] for page in pages for line in page] == one


@given(
    sessions=st.lists(
        st.tuples(
            st.lists(st.none() | st.integers(-1, 2) | st.sampled_from(["x", 0.5]), max_size=2),
            st.none() | st.floats(-1, 1) | st.just("1"),
            st.integers(0, 5),
        ),
        max_size=6,
    ),
    low=st.none() | st.sampled_from([0, 0.5, 1]),
    offset=st.integers(0, 4),
    limit=st.none() | st.integers(1, 4),
    shuffle=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_a_filter_takes_what_its_conditions_say(
    tmp_path_factory: pytest.TempPathFactory,
    sessions: list[tuple[list[Any], Any, int]],
    low: float | None,
    offset: int,
    limit: int | None,
    shuffle: bool,  # noqa: FBT001 - drawn
) -> None:
    """Whatever sessions there are, the lines are those that a plain reading of the conditions gives."""
    folder = tmp_path_factory.mktemp("drawn")
    path = make_conversations(folder / "traces.db")
    expected = []
    for i, (rewards, official, created) in enumerate(sessions):
        given_rewards = [0 if reward is None else reward for reward in rewards]
        add_session(path, f"s{i}", given_rewards, created=created, metadata={"official_score": official})
        # A record is older than all outcomes of its session, so the first of them is its own.
        score = given_rewards[0] if given_rewards else official
        is_good = low is None or (isinstance(score, int | float) and score >= low)
        if is_good and not (given_rewards and score == "x"):  # a reward that is no number
            expected.append((created, i, f"s{i}"))
    chosen = [name for _, _, name in sorted(expected)]
    asked: dict[str, Any] = {"offset": offset, "shuffle": shuffle}
    asked |= {} if low is None else {"min_official_score": low}
    asked |= {} if limit is None else {"limit": limit}
    names = [line["metadata"]["run_id"] for line in filtered(folder, **asked)[0]]
    window = chosen[offset:][:limit]
    if shuffle:
        assert len(names) == len(set(names)) == len(window)
        assert set(names) <= set(chosen)
    else:
        assert names == window


def test_exact_duplicates_are_written_once_and_counted(folder: Path) -> None:
    """The same conversation in two sessions is one example."""
    for name in ("twin1", "twin2"):
        add_session(folder / "traces.db", name, [1], rows=decision(0, "the very same"))
    lines, counts = filtered(folder)
    assert (len(lines), counts.duplicates) == (7, 1)


def test_dead_letters_are_counted_and_never_written(folder: Path) -> None:
    """A cut or missing reply is told with its reason, the session and the first place."""
    cut = tool_reply("x" * 5000)[:4000] + "…"
    add_session(folder / "traces.db", "cut", [1], rows=[*decision(0, reply=cut), *decision(1, first=4)[:2]])
    add_session(folder / "traces.db", "silent", [1], rows=[])
    _, counts = filtered(folder)
    assert counts.dead == {"reply_truncated": 1, "reply_missing": 1, "no_conversation": 1}
    assert (counts.first_dead["reply_truncated"].session, counts.written) == ("cut", 6)
    _, text = cli(folder)
    assert "reply_truncated, the first: session cut turn 0: message row" in text


def test_prompt_and_completion_serve_where_there_are_no_messages(folder: Path) -> None:
    """A session of `synth-ai eval` has them in its metadata, and its official score."""
    metadata = {"prompt": "2+2?", "completion": "4", "official_score": 0.9, "model": "gpt"}
    add_session(folder / "traces.db", "eval", [], rows=[], metadata=metadata)
    [line] = filtered(folder, min_official_score=0.8, max_official_score=0.95)[0]
    assert [message["content"] for message in line["messages"]] == ["2+2?", "4"]
    assert (line["metadata"]["total_reward"], line["metadata"]["official_score"]) == (None, 0.9)


def test_a_database_without_outcomes_or_events_or_messages_is_read(tmp_path: Path) -> None:
    """Tables that another version lacks are no reason to fail."""
    with closing(sqlite3.connect(tmp_path / "traces.db")) as db:
        db.execute("CREATE TABLE session_traces (session_id, created_at, metadata)")
        db.execute('INSERT INTO session_traces VALUES (\'a\', 0, \'{"prompt": "p", "completion": "c"}\')')
        db.commit()
    assert taken(tmp_path, models=[]) == ["a"]
    assert taken(tmp_path, max_official_score=1) == []


def test_hostile_values_are_taken_for_what_they_are(tmp_path: Path) -> None:
    """No metadata, time, reward or id makes the pass fail; none of them meets a bound that it is no number for."""
    path = make_conversations(tmp_path / "traces.db")
    for i, metadata in enumerate(["{", "[1]", "null", "[" * 9999, '{"judge_scores": 3}', '{"model": ["x"]}', ""]):
        add_session(path, f"m{i}", ["NaN"], metadata=metadata, created_at="never")
    add_session(path, "'; DROP TABLE messages; --", [2.5, "x"], created_at=b"\xff")
    add_session(path, "inf", [float("inf")], metadata={"task_id": 2**70})
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE messages SET metadata = x'ff00', content = CAST(x'ff22' AS TEXT) WHERE session_id = 'm0'")
    for values in ({}, {"models": ["x"]}, {"task_ids": ["x"]}, {"min_judge_scores": {"q": 0}}, {"min_created_at": 0}):
        filtered(tmp_path, **values)
    assert taken(tmp_path, min_official_score=2, max_official_score=9) == ["'; DROP TABLE messages; --"]


def test_what_models_wrote_cannot_steer_a_terminal(folder: Path) -> None:
    """A sample of a dry run, a session id and a detail show escapes, never are any."""
    evil = "\x1b]0;pwned\x07\u202e\r\n\x9b31m"
    add_session(folder / "traces.db", evil, [9], rows=decision(0, evil, reply=tool_reply(evil)))
    add_session(folder / "traces.db", f"{evil}2", [9], rows=[*decision(0)[:2], Row(9, 1, evil, evil)])
    code, text = cli(folder, "--dry-run", min_official_score=9)
    assert code == 0
    assert not set(text) & {"\x1b", "\x07", "\u202e", "\x9b", "\r"}
    assert "\\x1b]0;pwned" in text
    assert "dead letters unknown_role" in text


def test_a_dry_run_writes_nothing_and_shows_ten(folder: Path) -> None:
    """Counts and samples, and no file."""
    add_session(folder / "traces.db", "long", [1], turns=20)
    before = sorted(os.listdir(folder))
    code, text = cli(folder, "--dry-run")
    assert (code, text.count("  turn "), "26 examples would be written" in text) == (0, 10, True)
    assert sorted(set(os.listdir(folder)) - {"filter.toml"}) == before


def test_nothing_matched_is_exit_code_1_and_leaves_the_output(folder: Path) -> None:
    """The counts say which condition removed everything, and the old file stays."""
    (folder / "out.jsonl").write_text("old\n")
    code, text = cli(folder, min_official_score=99)
    assert (code, (folder / "out.jsonl").read_text()) == (1, "old\n")
    assert "5 removed by min_official_score" in text
    assert not [name for name in os.listdir(folder) if name.endswith(".part")]


def test_no_database_is_an_error_and_none_is_made(tmp_path: Path) -> None:
    """A path that is wrong is told, and stays empty."""
    with pytest.raises(UnavailableError, match="no such file"):
        cli(tmp_path)
    assert os.listdir(tmp_path) == ["filter.toml"]
    (tmp_path / "traces.db").write_text("no database")
    with pytest.raises(UnavailableError, match="not a database"):
        cli(tmp_path)
    with closing(sqlite3.connect(tmp_path / "empty.db")):
        pass
    with pytest.raises(UnavailableError, match="no table session_traces"):
        cli(tmp_path, db=str(tmp_path / "empty.db"))


def test_the_database_is_not_touched(folder: Path) -> None:
    """Not one byte of it changes, and no journal appears beside it."""
    before = (folder / "traces.db").read_bytes(), sorted(os.listdir(folder))
    filtered(folder, shuffle=True, models=["qwen", "gpt"])
    assert ((folder / "traces.db").read_bytes(), sorted(os.listdir(folder))) == before


def test_no_read_spans_two_pages(folder: Path) -> None:
    """A producer in delete-journal mode that does not wait at all can commit after every page."""
    path = folder / "traces.db"
    add_session(path, "long", [1], turns=20, model="qwen")
    commits = 0
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as producer:

        def commit() -> None:
            nonlocal commits
            producer.execute("UPDATE session_traces SET num_events = num_events + 1")
            commits += 1

        lines, counts = filtered(folder, commit, page=(4, 1 << 20), models=["qwen", "gpt"])
    assert (len(lines), counts.dead) == (24, {})
    assert commits > 20


def test_a_page_is_broken_off_when_it_is_large_enough(folder: Path) -> None:
    """Rows with large images are read a few at a time, and none is lost or read twice."""
    whole, _ = filtered(folder)
    pages: list[None] = []
    paged, _ = filtered(folder, lambda: pages.append(None), page=(500, 1))
    assert paged == whole
    assert len(pages) > 20


def test_rows_that_arrive_while_it_runs_do_no_harm(folder: Path) -> None:
    """A rollout that goes on gives the rows that were there, each once."""
    path = folder / "traces.db"
    added = iter(range(100))

    def go_on() -> None:
        add_session(path, f"late{next(added)}", [1])

    lines, counts = filtered(folder, go_on)
    assert len(lines) == len({line["messages"][1]["content"] for line in lines}) == counts.written


def test_killed_in_the_middle_it_leaves_the_old_output_whole(folder: Path) -> None:
    """The new file takes the place of the old one at once, or not at all; what is left does not disturb the next."""
    (folder / "out.jsonl").write_text("old\n")
    script = (
        "import os, sys; from pathlib import Path; from streamer.base.files import Files;"
        "from streamer.base.atomic_file import AtomicFile;"
        "out = AtomicFile(Path(sys.argv[1]), Files()).__enter__(); out.write(b'x' * (2 << 20));"
        "os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(folder / "out.jsonl")], check=False)
    assert killed.returncode == -9
    assert (folder / "out.jsonl").read_text() == "old\n"
    assert (folder / ".out.jsonl.part").stat().st_size > 0
    code, _ = cli(folder)
    assert (code, inspect(folder / "out.jsonl").problems.counts) == (0, {})
    assert not (folder / ".out.jsonl.part").exists()


class FullDisk(Files):
    """A disk that takes nothing more."""

    def write(self, _fd: int, _data: bytes | memoryview) -> int:
        """Fail as a full disk does."""
        raise OSError(28, "No space left on device")


def test_a_full_disk_leaves_the_old_output(tmp_path: Path) -> None:
    """The error names the output, and nothing is left behind."""
    (tmp_path / "out.jsonl").write_text("old\n")
    with AtomicFile(tmp_path / "out.jsonl", FullDisk()) as output:
        output.write(b"new\n")
        with pytest.raises(UnavailableError, match="No space left"):
            output.publish()
    assert os.listdir(tmp_path) == ["out.jsonl"]
    assert (tmp_path / "out.jsonl").read_text() == "old\n"


def test_a_dataset_of_a_daemon_is_not_replaced(folder: Path) -> None:
    """Neither while it runs, nor when its ledger lies beside it."""
    with DatasetLock(folder / "out.jsonl"), pytest.raises(LockedError):
        cli(folder)
    with suppress(FileNotFoundError):
        (folder / "out.jsonl.lock").unlink()
    (folder / "out.jsonl.ledger").write_bytes(b"")
    with pytest.raises(RefusedError, match="ledger"):
        cli(folder)


def test_two_filters_do_not_write_one_output(tmp_path: Path) -> None:
    """The second one ends, and the first one's file is as it wrote it."""
    with AtomicFile(tmp_path / "out.jsonl", Files()) as first:
        first.write(b"first\n")
        with pytest.raises(LockedError), AtomicFile(tmp_path / "out.jsonl", Files()):
            pass
        first.publish()
    assert (tmp_path / "out.jsonl").read_bytes() == b"first\n"


def test_a_link_at_the_temporary_name_is_not_followed(tmp_path: Path) -> None:
    """Nobody gets another file overwritten through it."""
    (tmp_path / "precious").write_text("precious")
    (tmp_path / ".out.jsonl.part").symlink_to(tmp_path / "precious")
    with pytest.raises(UnavailableError), AtomicFile(tmp_path / "out.jsonl", Files()):
        pass
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_database_of_another_shape_is_told(tmp_path: Path) -> None:
    """A missing column is named."""
    path = make_traces(tmp_path / "traces.db")
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE messages (id INTEGER PRIMARY KEY, text)")
    with pytest.raises(UnavailableError, match="messages has no column content"):
        filtered(tmp_path)


@pytest.mark.slow
def test_a_session_of_many_pages_is_read_by_id(tmp_path: Path) -> None:
    """Rows with and without a timestep, of several runs, come in the order of their ids, each once."""
    path = make_conversations(tmp_path / "traces.db")
    rows: list[Row] = []
    for run_number in range(3):
        rows += [Row(0, None, kind, f"loose {run_number} {i}") for i in range(1500) for kind in ("user", "assistant")]
        rows += [row for turn in range(1500) for row in decision(turn, f"{run_number} {turn}")]
    add_session(path, "long", [1], rows=rows)
    lines, counts = filtered(tmp_path)
    asked = [next(m["content"] for m in line["messages"] if m["role"] == "user") for line in lines]
    assert counts.dead == {}
    assert asked == [
        text
        for run_number in range(3)
        for text in (*(f"loose {run_number} {i}" for i in range(1500)), *(f"{run_number} {i}" for i in range(1500)))
    ]
