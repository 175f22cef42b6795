"""``streamer replay``: judges the same lines by other rules, and compares the results."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

import pytest

from streamer.base.errors import ConfigError
from streamer.commands.cli import _app
from streamer.store.views.compare import Comparison, Records, compare
from tests.helpers.producer import add_outcome, jsonl, make_traces, messages, settings, work_off, written

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from streamer.config import Config


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Return the settings of a processed folder: good and better rollouts, a bad one, and one that waits."""
    folder = tmp_path / "work"
    (folder / "shards").mkdir(parents=True)
    traces = make_traces(folder / "traces.db")
    for session, reward in (("good", 1), ("better", 5), ("bad", 0)):
        add_outcome(traces, session, reward, 99)
    for session in ("good", "better", "bad", "waits"):
        lines = [messages(session, turn, f"{session} {turn}") for turn in range(3)]
        shared = messages(session, 3, "the same everywhere")
        (folder / "shards" / f"{session}.jsonl").write_bytes(jsonl(*lines, shared) + b"nonsense\n")
    config = settings(folder)
    work_off(config)
    return config


class Replayed(NamedTuple):
    """What the command printed."""

    output: str
    errors: str


@pytest.fixture
def replayed(config: Config, capsys: pytest.CaptureFixture[str]) -> Callable[..., Replayed]:
    """Return a function that runs the command beside the dataset."""

    def replay(*options: str, dataset: Path = config.dataset.path, out: str = "other.jsonl") -> Replayed:
        command = ["replay", str(dataset), "--out", str(config.dataset.path.with_name(out)), *options]
        _app(["replay"])(command, standalone_mode=False)
        return Replayed(*capsys.readouterr())

    return replay


def runs(dataset: Path) -> set[str]:
    """Return the rollouts with records in a dataset."""
    return {json.loads(line)["metadata"]["run_id"] for line in written(dataset).splitlines()}


def test_a_stricter_condition_leaves_records_out_and_says_which(
    config: Config, replayed: Callable[..., Replayed]
) -> None:
    """Folder and database come from the ledger of the dataset, which does not change."""
    before = config.dataset.path.read_bytes()
    output, _ = replayed("--where", "total_reward >= 5")
    assert runs(config.dataset.path.with_name("other.jsonl")) == {"better"}
    assert config.dataset.path.read_bytes() == before
    assert "4 records in both" in output
    assert "3 only in good.jsonl" in output
    assert "0 only in other.jsonl" in output
    assert "appended -> below the bar (where): 3 lines of 1 rollout" in output
    assert "such as good.jsonl:1" in output


def test_a_looser_condition_lets_records_in(replayed: Callable[..., Replayed]) -> None:
    """The JSON has the same comparison, and its sums include every line."""
    output, errors = replayed("--where", "total_reward >= 0", "--json")
    found = json.loads(output)
    assert found["records"] == {"both": 7, "only_old": 0, "only_new": 3}
    changed = {(change["old"]["state"], change["new"]["state"]): change["lines"] for change in found["changes"]}
    # What all rollouts say alike comes from the first shard now.
    assert changed == {("below the bar", "appended"): 4, ("appended", "duplicate"): 1}
    assert found["unchanged"] + sum(changed.values()) == 20
    assert "20 lines read" in errors


def test_equal_rules_change_nothing(config: Config, replayed: Callable[..., Replayed]) -> None:
    """It holds whatever the daemon had read of each shard."""
    replayed()
    found = compare(config.dataset.ledger, config.dataset.path.with_name("other.jsonl.ledger"))
    assert found == Comparison(Records(7, 0, 0), 20, [])


def test_other_keys_cannot_be_compared_but_lines_can(
    config: Config, replayed: Callable[..., Replayed], tmp_path: Path
) -> None:
    """By another dedup.by, equal records are others, so only lines are compared."""
    file = tmp_path / "rules.toml"
    file.write_text(
        f'[source]\nshards = "{config.source.shards}"\ndatabase = "{config.source.database}"\n[dedup]\nby = "prompt"\n'
    )
    output, _ = replayed("--config", str(file))
    assert "records cannot be compared" in output


def test_lines_that_only_one_of_them_has_read_are_told(config: Config, replayed: Callable[..., Replayed]) -> None:
    """The comparison counts a missing shard, a new one, and one that grew."""
    shards = config.source.shards
    (shards / "bad.jsonl").unlink()
    (shards / "new.jsonl").write_bytes(jsonl(messages("good", 9, "new")))
    with (shards / "good.jsonl").open("ab") as shard:
        shard.write(jsonl(messages("good", 10, "more")))
    replayed()
    found = compare(config.dataset.ledger, config.dataset.path.with_name("other.jsonl.ledger"))
    by_fate = {(str(change.old), str(change.new)): (change.lines, change.examples) for change in found.changes}
    assert by_fate[("below the bar (where)", "not read")] == (4, ["bad.jsonl:1"])
    assert by_fate[("not read", "appended")] == (2, ["good.jsonl:6"])


def test_a_replay_can_be_repeated(replayed: Callable[..., Replayed]) -> None:
    """A second replay continues the first, and reports the same."""
    first, again = (replayed("--where", "total_reward >= 5").output for _ in range(2))
    assert first == again


@pytest.mark.parametrize(
    ("out", "dataset", "words"),
    [("good.jsonl", "good.jsonl", "to be compared with"), ("other.jsonl", "stranger.jsonl", "there is no such ledger")],
)
def test_a_dataset_is_not_compared_with_itself_or_with_nothing(
    config: Config, replayed: Callable[..., Replayed], out: str, dataset: str, words: str
) -> None:
    """It raises a configuration error that names the remedy."""
    with pytest.raises(ConfigError, match=words):
        replayed(dataset=config.dataset.path.with_name(dataset), out=out)


def test_without_a_ledger_there_is_nothing_to_compare(config: Config, tmp_path: Path) -> None:
    """The error names the missing ledger."""
    with pytest.raises(ConfigError, match="there is no such ledger"):
        compare(config.dataset.ledger, tmp_path / "none.ledger")
