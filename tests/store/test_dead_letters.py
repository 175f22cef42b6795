"""The dead letters follow the ledger, whatever is restored, removed or lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from streamer.config import Config
from streamer.store.dataset.dead_letters import dead_letters_path
from tests.helpers.producer import accounts, make_traces, settings, work_off


def prepared(folder: Path) -> Config:
    """Return a configuration whose shard folder holds one shard of two bad lines."""
    make_traces(folder / "traces.db")
    (folder / "shards").mkdir()
    (folder / "shards" / "b.jsonl").write_bytes(b"bad b\n" * 2)
    return settings(folder)


def letters(config: Config) -> list[tuple[str, int]]:
    """Return (shard, line) of every dead letter, sorted."""
    lines = dead_letters_path(config.dataset.path).read_bytes().splitlines()
    return sorted((letter["shard"], letter["line"]) for letter in map(json.loads, lines))


def test_a_restored_ledger_that_does_not_know_the_file_writes_it_anew(tmp_path: Path) -> None:
    """The ledger was lost and built again, in another order; then an older copy of it came back."""
    config = prepared(tmp_path)
    work_off(config)
    shutil.copy(config.dataset.ledger, tmp_path / "copy")
    (tmp_path / "shards" / "a.jsonl").write_bytes(b"a bad line of another length\n" * 3)
    config.dataset.ledger.unlink()
    work_off(config)
    shutil.copy(tmp_path / "copy", config.dataset.ledger)
    work_off(config)
    assert letters(config) == [("a.jsonl", 1), ("a.jsonl", 2), ("a.jsonl", 3), ("b.jsonl", 1), ("b.jsonl", 2)]


def test_an_older_ledger_of_the_same_file_takes_the_rest_back_and_tells_it_again(tmp_path: Path) -> None:
    """What it has not committed is cut, and written once more as the lines are read again."""
    config = prepared(tmp_path)
    work_off(config)
    shutil.copy(config.dataset.ledger, tmp_path / "copy")
    (tmp_path / "shards" / "c.jsonl").write_bytes(b"bad c\n")
    work_off(config)
    before = dead_letters_path(config.dataset.path).read_bytes()
    shutil.copy(tmp_path / "copy", config.dataset.ledger)
    work_off(config)
    assert dead_letters_path(config.dataset.path).read_bytes() == before


def test_a_file_that_a_person_removed_stays_removed(tmp_path: Path) -> None:
    """Its letters were read; only new ones begin it again."""
    config = prepared(tmp_path)
    work_off(config)
    dead_letters_path(config.dataset.path).unlink()
    work_off(config)
    assert not dead_letters_path(config.dataset.path).exists()
    (tmp_path / "shards" / "c.jsonl").write_bytes(b"bad c\n")
    work_off(config)
    assert letters(config) == [("c.jsonl", 1)]


def forgotten(config: Config, folder: Path) -> None:
    """Put an older ledger back that does not know the file of dead letters as it is now."""
    work_off(config)
    shutil.copy(config.dataset.ledger, folder / "copy")
    (folder / "shards" / "a.jsonl").write_bytes(b"a bad line of another length\n" * 3)
    config.dataset.ledger.unlink()
    work_off(config)
    shutil.copy(folder / "copy", config.dataset.ledger)


def test_a_shard_that_cannot_be_read_now_is_told_of_when_it_can(tmp_path: Path) -> None:
    """The file is written anew while the shard is away; its letters follow as soon as it is back."""
    config = prepared(tmp_path)
    forgotten(config, tmp_path)
    (tmp_path / "shards" / "b.jsonl").rename(tmp_path / "away")
    work_off(config)
    assert letters(config) == [("a.jsonl", 1), ("a.jsonl", 2), ("a.jsonl", 3)]
    (tmp_path / "away").rename(tmp_path / "shards" / "b.jsonl")
    work_off(config)
    assert letters(config) == [("a.jsonl", 1), ("a.jsonl", 2), ("a.jsonl", 3), ("b.jsonl", 1), ("b.jsonl", 2)]
    assert accounts(config).counts["dead_lettered"] == 5


def test_of_bytes_that_were_overwritten_nothing_can_be_told_again(tmp_path: Path) -> None:
    """Such lines leave the lines read, and are counted as overwritten."""
    config = prepared(tmp_path)
    work_off(config)
    (tmp_path / "shards" / "b.jsonl").write_bytes(b"another bad one\n")
    forgotten(config, tmp_path)
    work_off(config)
    assert letters(config) == [("a.jsonl", 1), ("a.jsonl", 2), ("a.jsonl", 3), ("b.jsonl", 1)]
    seen = accounts(config)
    assert (seen.counts["dead_lettered"], seen.overwritten) == (4, 2)
