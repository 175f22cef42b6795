"""The [filter] table: files of the wild work, and every mistake is named."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.base.errors import ConfigError
from streamer.base.text import printable
from streamer.commands.filter.conditions import CONDITIONS
from streamer.commands.filter.config import FilterConfig, load, read
from streamer.commands.filter.daemon import condition, daemon_config
from streamer.commands.filter.run import run
from streamer.config import Source
from streamer.sources.condition import check_condition
from tests.helpers.traces import add_session, make_conversations

WILD = [
    """
    # Filter config for Crafter image-only traces
    [filter]
    db = "traces/v3/synth_ai.db"
    output = "ft_data/crafter_image_only_sft.jsonl"
    min_official_score = 0.01  # Only include traces with rewards > 0
    limit = 10
    """,
    """
    [filter]
    db = "sqlite+aiosqlite:///traces/v3/synth_ai.db"
    output = "ft_data/x.jsonl"
    min_official_score = 0.1
    models = ["qwen/qwen3-32b", "openai/gpt-oss-120b"]
    shuffle = true
    shuffle_seed = 42
    """,
    """
    [eval]
    seeds = [1]
    [filter]
    db = "x.db"
    output = "x.json"
    splits = "train"
    offset = 0
    min_created_at = 2026-01-01
    max_created_at = "2026-02-01T00:00:00Z"
    [filter.min_judge_scores]
    quality = 1
    """,
]


def table(**values: Any) -> FilterConfig:
    """Return the configuration of a [filter] table with these keys."""
    return read({"db": "x.db", "output": "x.jsonl", **values}, "filter.toml")


@pytest.mark.parametrize("text", WILD)
def test_files_of_the_wild_work_unchanged(tmp_path: Path, text: str) -> None:
    """What `synth-ai filter` takes is taken, with paths from the working directory."""
    file = tmp_path / "filter.toml"
    file.write_text(text)
    config = load(file)
    assert config.output == Path.cwd() / config.output.relative_to(Path.cwd())
    assert isinstance(config.database, Path)
    assert not config.database.is_absolute()


@pytest.mark.parametrize(
    ("key", "raw", "says"),
    [
        ("db", 3, "3 is not"),
        ("db", " ", "is not the path or the URL"),
        ("db", "wss://host/x", "server"),
        ("output", "x.txt", ".jsonl or .json"),
        ("output", True, "true is not"),
        ("splits", 3, "3 is not"),
        ("task_ids", ["a", 3], "3 in it is not a text"),
        ("models", [""], "is not"),
        ("models", {"a": 1}, "a table is not"),
        ("min_official_score", "0.01", '"0.01" is not a finite number'),
        ("min_official_score", float("nan"), "nan is not"),
        ("max_official_score", float("inf"), "inf is not"),
        ("max_official_score", True, "true is not"),
        ("min_judge_scores", {"quality": "high"}, 'quality: "high" is not'),
        ("max_judge_scores", {"quality": float("nan")}, "quality: nan is not"),
        ("max_judge_scores", 0.5, "0.5 is not a table"),
        ("limit", 0, "from 1 on"),
        ("limit", 2.0, "2.0 is not"),
        ("limit", "10", '"10" is not'),
        ("offset", -1, "from 0 on"),
        ("offset", False, "false is not"),
        ("shuffle", "yes", "true or false"),
        ("shuffle_seed", 1.5, "1.5 is not"),
        ("min_created_at", "yesterday", "is not a time"),
        ("max_created_at", True, "is not a time"),
        ("min_oficial_score", 1, "did you mean min_official_score?"),
        ("where", "1", "there is no such key"),
        ("x\x1b[31m", 1, "x\\x1b[31m"),
    ],
)
def test_a_wrong_value_or_key_is_an_error_that_names_it(key: str, raw: object, says: str) -> None:
    """Nothing is coerced, and nothing is left out silently."""
    with pytest.raises(ConfigError) as raised:
        table(**{key: raw})
    text = str(raised.value)
    assert says in text
    assert (key if key.isprintable() else "x\\x1b") in text
    assert "\x1b" not in text
    assert raised.value.exit_code == 2


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"min_official_score": 2, "max_official_score": 1}, "min_official_score: 2 is above"),
        ({"min_created_at": "2026-02-01", "max_created_at": "2026-01-01"}, "min_created_at"),
        ({"min_judge_scores": {"q": 2}, "max_judge_scores": {"q": 1}}, "min_judge_scores.q"),
        ({"shuffle_seed": 1}, "shuffle = true"),
        ({"db": "x.json", "output": "x.json"}, "it is the trace database"),
    ],
)
def test_values_that_contradict_each_other_are_errors(values: dict[str, Any], says: str) -> None:
    """A filter that nothing could pass, or that would overwrite its source, is refused."""
    with pytest.raises(ConfigError, match=says.replace("(", r"\(")):
        table(**values)


def test_all_problems_are_named_at_once() -> None:
    """One run tells everything that has to be put right, required keys too."""
    with pytest.raises(ConfigError) as raised:
        read({"limit": 0, "modles": []}, "filter.toml")
    for part in ("filter.limit", "did you mean models?", "filter.db: it is missing", "filter.output: it is missing"):
        assert part in str(raised.value)


def test_a_misspelt_table_is_an_error(tmp_path: Path) -> None:
    """A file without [filter] is none."""
    file = tmp_path / "filter.toml"
    file.write_text('[fliter]\ndb = "x"\n')
    with pytest.raises(ConfigError, match=r"did you mean \[filter\]"):
        load(file)


FOLLOWED: list[dict[str, Any]] = [
    {},
    {"min_official_score": 0.01},
    {"max_official_score": 1, "min_official_score": 0.5},
    {"splits": ["train", "o'hara"]},
    {"task_ids": ["7"]},
    {"min_created_at": "2026-01-01T00:00:10Z", "max_created_at": "2026-01-01T00:00:20+00:00"},
    {"min_judge_scores": {'odd "name"': 0.5}},
    {"max_judge_scores": {"quality": 0.5}},
]


@pytest.mark.parametrize("values", FOLLOWED)
def test_a_daemon_takes_the_sessions_that_the_filter_takes(tmp_path: Path, values: dict[str, Any]) -> None:
    """The condition of the daemon is true for the outcomes of the sessions that are chosen, and for no other."""
    path = make_conversations(tmp_path / "traces.db")
    for i, reward in enumerate((0, 1, 2)):
        add_session(path, f"plain{i}", [reward], created=10.0 * i)
    judged = {"task_split": "o'hara", "task_id": 7, "judge_scores": {'odd "name"': 0.7, "quality": 0.2}}
    add_session(path, "judged", [1], created=15.0, metadata=judged)
    add_session(path, "odd", [1], metadata={"task_split": ["train"], "judge_scores": {"quality": "0.1"}})
    add_session(path, "broken", [1], metadata="{")
    config = table(db=str(path), output=str(tmp_path / "o.jsonl"), **values)
    lines: list[bytes] = []
    run(config, lines.append, tmp_path)
    source = Source(shards=tmp_path, database=config.db)
    where = daemon_config(config, source).qualify.where
    check_condition(where)
    with closing(sqlite3.connect(path)) as db:
        sql = f"SELECT session_id FROM outcome_rewards JOIN session_traces USING (session_id) WHERE ({where})"
        followed = {row[0] for row in db.execute(sql)}
    taken = {json.loads(line)["metadata"]["run_id"] for line in lines}
    assert taken == followed
    assert where == condition(config)


@pytest.mark.parametrize("values", [{"limit": 1}, {"offset": 1}, {"shuffle": True}])
def test_a_daemon_cannot_count_or_shuffle(values: dict[str, Any]) -> None:
    """What asks for an end is refused by name."""
    with pytest.raises(ConfigError, match=next(iter(values))):
        daemon_config(table(**values), Source(shards=Path(), database="x.db"))


def test_every_condition_is_a_key_of_the_table() -> None:
    """Counts are told under the names that users wrote."""
    assert set(CONDITIONS) <= set(FilterConfig.__struct_fields__)


_VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.lists(st.text() | st.integers(), max_size=2)
)
_ANY_KEY = st.sampled_from(sorted(FilterConfig.__struct_fields__)) | st.text(max_size=5)


@pytest.mark.slow
@given(st.dictionaries(_ANY_KEY, _VALUES | st.dictionaries(st.text(), _VALUES, max_size=2), max_size=5))
def test_whatever_stands_in_the_table_is_taken_or_named(values: dict[str, Any]) -> None:
    """There is no other error than one that names a key, and nothing of the file reaches a terminal raw."""
    told = "filter."
    try:
        read({"db": "x.db", "output": "x.jsonl", **values}, "filter.toml")
    except ConfigError as error:
        told = str(error)
    assert "filter." in told
    assert all(line == printable(line) for line in told.split("\n"))
