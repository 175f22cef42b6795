"""A dataset that grows, as `datasets` and torch iterate over it."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

import streamer
from streamer import StreamerError
from tests.helpers.exports import record, rollouts, write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a dataset of twenty rollouts."""
    return write(tmp_path / "good.jsonl", *rollouts(20))


def append(path: Path, *values: Any) -> None:
    """Write at the end, as the daemon does."""
    with path.open("ab") as file:
        for value in values:
            file.write(json.dumps(value).encode() + b"\n")


def place(row: dict[str, Any]) -> tuple[str, int]:
    """Return what tells a row from all others."""
    return row["metadata"]["run_id"], row["metadata"]["turn"]


def test_datasets_gets_rows_as_they_are(path: Path) -> None:
    """Messages and metadata; each pass sees what has come."""
    data = streamer.hf_dataset(path)
    assert list(data) == rollouts(20)
    append(path, record("new"))
    assert place(list(data)[-1]) == ("new", 0)


@pytest.mark.parametrize("shards", [1, 3])
def test_datasets_resumes_where_its_state_says(path: Path, shards: int) -> None:
    """Without loss or repeat, also if the dataset has grown."""
    whole = Counter(map(place, streamer.hf_dataset(path, shards=shards)))
    assert len(whole) == sum(whole.values()) == 60
    for stop in (0, 1, 25, 60):
        data = streamer.hf_dataset(path, shards=shards)
        before = [place(row) for row in islice(data, stop)]
        state = json.loads(json.dumps(data.state_dict()))
        again = streamer.hf_dataset(path, shards=shards)
        again.load_state_dict(state)
        assert Counter(before + [place(row) for row in again]) == whole


def test_the_end_is_where_the_dataset_ended(path: Path) -> None:
    """In every pass: what came since."""
    made = streamer.hf_dataset(path, start="end"), streamer.torch_dataset(path, start="end")
    append(path, record("new"))
    for data in made:
        assert [place(row) for row in data] == [place(row) for row in data] == [("new", 0)]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_share_the_records(path: Path, workers: int) -> None:
    """Each comes once, and a rollout comes from one of them."""
    for data in (streamer.torch_dataset(path), streamer.hf_dataset(path, shards=max(1, workers))):
        rows = [place(row) for row in DataLoader(data, batch_size=None, num_workers=workers)]
        assert sorted(rows) == sorted(map(place, rollouts(20)))


def test_processes_and_their_workers_share_the_records(path: Path) -> None:
    """As many as they are."""
    rows = [
        place(row)
        for rank in range(2)
        for row in DataLoader(streamer.torch_dataset(path, shard=(rank, 2)), batch_size=None, num_workers=2)
    ]
    assert sorted(rows) == sorted(map(place, rollouts(20)))


def test_torch_resumes_where_its_state_says(path: Path) -> None:
    """The pass after that begins at the start again."""
    data = streamer.torch_dataset(path)
    before = [place(row) for row in islice(data, 25)]
    again = pickle.loads(pickle.dumps(streamer.torch_dataset(path)))
    again.load_state_dict(data.state_dict())
    append(path, record("new"))
    after = [place(row) for row in again]
    assert before + after == [*map(place, rollouts(20)), ("new", 0)]
    assert len(list(again)) == 61


def test_it_waits_for_records_if_told_to(path: Path) -> None:
    """The pass goes on with what comes."""
    for data in (streamer.torch_dataset(path, wait=True), streamer.hf_dataset(path, wait=True)):
        rows = iter(data)
        seen = path.read_bytes().count(b"\n")
        assert len(list(islice(rows, seen))) == seen
        append(path, record("new", seen))
        assert place(next(rows)) == ("new", seen)


def test_a_token_of_another_dataset_is_refused_at_once(path: Path, tmp_path: Path) -> None:
    """Not in a worker, later."""
    other = write(tmp_path / "other.jsonl", *(record("x", i) for i in range(90)))
    with streamer.follow(other, wait=False) as records:
        token = next(records).token
    for make in (streamer.hf_dataset, streamer.torch_dataset):
        with pytest.raises(StreamerError, match="another dataset"):
            make(path, start=token)
