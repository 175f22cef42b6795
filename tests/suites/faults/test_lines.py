"""Lines that are seen in parts, cut, and rewritten under the reader (cases 3 and 4)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.helpers.producer import (
    FakeClock,
    accounts,
    add_outcome,
    conversations,
    dialogue,
    jsonl,
    make_traces,
    messages,
    records,
    settings,
    work_off,
)
from tests.suites.faults.process import drive

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Any

    from streamer.config import Config
    from streamer.daemon.pipeline import Pipeline

PAGE = 4096
BLOCK = 1 << 20


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Return the settings of a folder with an outcome for every record of ``run``."""
    (tmp_path / "shards").mkdir()
    add_outcome(make_traces(tmp_path / "traces.db"), "run", 1, 9)
    return settings(tmp_path, max_line=4 * BLOCK)


def shard(config: Config, name: str = "sft_run.jsonl") -> Path:
    """Return where a shard is."""
    return config.source.shards / name


def values(count: int, text: str = "state") -> list[dict[str, Any]]:
    """Return so many records."""
    return [messages("run", turn, f"{text} {turn}") for turn in range(count)]


def is_exactly(config: Config, expected: Sequence[dict[str, Any]], unfinished: int = 0) -> None:
    """See that these records are there, no others, and that the accounts add up."""
    assert conversations(records(config)) == conversations(expected)
    seen = accounts(config)
    assert seen.unfinished == unfinished
    assert seen.counts["waiting"] == seen.counts["dead_lettered"] == 0


def grows_through(config: Config, data: bytes, cuts: Sequence[int], expected: Sequence[dict[str, Any]]) -> None:
    """Let a shard grow up to each cut in turn, and be looked at each time; then all of it."""

    async def test(pipeline: Pipeline, clock: FakeClock) -> None:
        for cut in [*cuts, len(data)]:
            shard(config).write_bytes(data[:cut])
            clock.advance(60.0)
            await pipeline.drain()
            assert len(records(config)) == data[:cut].count(b"\n")

    drive(config, test)
    is_exactly(config, expected)


def test_a_line_that_is_seen_up_to_a_page_boundary_is_read_when_it_is_whole(config: Config) -> None:
    """What a page cache shows of a write that goes on: multiples of a page, and the bytes around them."""
    expected = [messages("run", turn, f"{turn} {'x' * 6000}") for turn in range(5)]
    data = jsonl(*expected)
    cuts = [page + more for page in range(PAGE, len(data), PAGE) for more in (-1, 0, 1)]
    grows_through(config, data, cuts, expected)


def test_a_line_that_is_seen_up_to_a_block_boundary_is_read_when_it_is_whole(config: Config) -> None:
    """The boundaries of our own reads."""
    expected = [messages("run", 0, "a" * (BLOCK - 300)), messages("run", 1, "b" * 2 * BLOCK), messages("run", 2, "c")]
    data = jsonl(*expected)
    grows_through(config, data, [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 3 * BLOCK], expected)


def test_a_character_that_is_split_between_two_reads_arrives_whole(config: Config) -> None:
    """Between any two bytes of characters of two, three and four bytes."""
    expected = [messages("run", turn, f"ü✓🜁{turn}") for turn in range(3)]
    data = jsonl(*expected)
    start = data.find("ü".encode())
    grows_through(config, data, range(start, start + 11), expected)


@pytest.mark.parametrize("first", [1, 2, 3])
def test_a_character_that_lies_across_two_of_our_own_reads_arrives_whole(config: Config, first: int) -> None:
    """A block ends after one, two or three of its four bytes, in the text of a line or in the next line's."""
    head = jsonl(messages("run", 0, "SPLIT")).find(b"SPLIT")
    expected = [messages("run", turn, "a" * (BLOCK - head - first) + "🜁" + "b" * turn) for turn in range(2)]
    data = jsonl(*expected)
    assert data[BLOCK - first : BLOCK - first + 4] == "🜁".encode()
    shard(config).write_bytes(data)
    work_off(config)
    is_exactly(config, expected)


def test_a_last_line_without_a_newline_waits_for_ever_and_is_reported(config: Config) -> None:
    """Rule 5: however long it lies there, whole JSON or not; across restarts, and when others arrive."""
    expected = values(3)
    shard(config).write_bytes(jsonl(*expected).rstrip(b"\n"))
    clock = FakeClock()
    for _ in range(3):
        work_off(config, clock)
        clock.advance(10 * 86_400.0)
        is_exactly(config, expected[:2], unfinished=1)
    with shard(config).open("ab") as file:
        file.write(b"\n")
    work_off(config, clock)
    is_exactly(config, expected)


def test_an_empty_shard_and_one_of_newlines_hold_no_lines(config: Config) -> None:
    """They are nothing to wait for, either."""
    shard(config, "empty.jsonl").touch()
    shard(config, "blank.jsonl").write_bytes(b"\n\n \r\n\n")
    work_off(config)
    is_exactly(config, [])


@pytest.mark.parametrize("ending", [b"\r\n", b" \n", b"\t\r\n"])
def test_white_space_before_a_newline_belongs_to_no_record(config: Config, ending: bytes) -> None:
    """A shard that went through another system."""
    expected = values(3)
    shard(config).write_bytes(jsonl(*expected).replace(b"\n", ending))
    work_off(config)
    is_exactly(config, expected)


# -- truncated in place, and grown again -------------------------------------------------------------------

AGAIN = {
    "smaller": [messages("run", turn, f"b{turn}") for turn in range(2)],
    "equal": [messages("run", turn, f"b{turn}") for turn in range(4)],
    "larger": [messages("run", turn, f"b{turn}") for turn in range(7)],
}


@pytest.mark.parametrize("up", [True, False], ids=["daemon up", "daemon down"])
@pytest.mark.parametrize("seen", [True, False], ids=["seen while empty", "not seen while empty"])
@pytest.mark.parametrize("size", AGAIN)
def test_a_shard_that_is_truncated_in_place_and_grows_again_is_read_again(
    config: Config, size: str, *, seen: bool, up: bool
) -> None:
    """What was appended stays; what is new comes; nothing twice, whatever the new size."""
    first = [messages("run", turn, f"a{turn}") for turn in range(4)]
    shard(config).write_bytes(jsonl(*first))
    assert (len(jsonl(*AGAIN[size])) == len(jsonl(*first))) == (size == "equal")

    def regrow() -> None:
        with shard(config).open("r+b") as file:
            file.write(jsonl(*AGAIN[size]))

    if not up:
        work_off(config)
        os.truncate(shard(config), 0)
        if seen:
            work_off(config)
        regrow()
        work_off(config)
    else:

        async def test(pipeline: Pipeline, clock: FakeClock) -> None:
            for change in (lambda: None, lambda: os.truncate(shard(config), 0), regrow):
                change()  # type: ignore[no-untyped-call]
                clock.advance(60.0)
                if seen or change is regrow or not records_are_there(config):
                    await pipeline.drain()

        drive(config, test)
    is_exactly(config, [*first, *AGAIN[size]])


def records_are_there(config: Config) -> bool:
    """Say whether anything was appended yet."""
    return config.dataset.path.stat().st_size > 0


def test_a_waiting_line_whose_bytes_were_truncated_away_is_counted_as_overwritten(config: Config) -> None:
    """Rule 1: it is no longer among the lines read, and the accounts say how many there were."""
    lost = [dialogue("late", turn, f"a{turn}") for turn in range(3)]
    shard(config).write_bytes(jsonl(*lost))
    work_off(config)
    assert accounts(config).counts["waiting"] == 3
    new = [dialogue("late", turn, f"b{turn}") for turn in range(2)]
    shard(config).write_bytes(jsonl(*new))
    work_off(config)
    add_outcome(config.source.shards.parent / "traces.db", "late", 1, 9)
    work_off(config)
    is_exactly(config, new)
    assert accounts(config).overwritten == 3
