"""Lines that no producer should write, and some do: huge, many, torn, doubled, full of odd characters (case 12)."""

from __future__ import annotations

import json
import os
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from streamer.reader.tail import Follower
from streamer.store.dataset.dead_letters import dead_letters_path
from tests.helpers.producer import (
    GOOD,
    accounts,
    add_outcome,
    bare,
    conversation,
    conversations,
    dialogue,
    jsonl,
    make_traces,
    messages,
    put,
    records,
    settings,
    work_off,
)
from tests.suites.faults.process import Executable

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.config import Config

MIB = 1 << 20


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Return the settings of a folder with outcomes for ``run`` and ``run-a``."""
    (tmp_path / "shards").mkdir()
    make_traces(tmp_path / "traces.db")
    for run in ("run", "run-a"):
        add_outcome(tmp_path / "traces.db", run, 1, 9)
    return settings(tmp_path)


def values(count: int) -> list[dict[str, Any]]:
    """Return so many records."""
    return [messages("run", turn, f"{turn}") for turn in range(count)]


def write(config: Config, data: bytes) -> None:
    """Write a shard."""
    (config.source.shards / "sft_run.jsonl").write_bytes(data)


def dead_letters(config: Config) -> list[dict[str, Any]]:
    """Return the dead letters."""
    return [json.loads(line) for line in dead_letters_path(config.dataset.path).read_bytes().splitlines()]


@pytest.mark.parametrize("fill", [b"\0", b"x"], ids=["zeros", "text"])
def test_a_line_of_500_megabytes_is_one_dead_letter_and_little_memory(config: Config, fill: bytes) -> None:
    """Between good lines; it is never held in memory, whatever it is made of."""
    path = config.source.shards / "sft_run.jsonl"
    text = 500 if os.environ.get("STREAMER_SCALE") == "1" else 100
    with path.open("wb") as file:
        file.write(jsonl(*values(2)))
        if fill == b"\0":
            file.seek(500 * MIB, 1)  # a hole, which costs the disk nothing
        else:
            for _ in range(text):
                file.write(fill * MIB)
        file.write(b"\n" + jsonl(*values(4)[2:]))
    executable = Executable(config.source.shards.parent)
    assert executable.peak_memory() < 200 * MIB
    assert conversations(records(config)) == conversations(values(4))
    (letter,) = dead_letters(config)
    assert (letter["reason"], letter["line"], letter["bytes"]) == (
        "too_long",
        3,
        (500 if fill == b"\0" else text) * MIB,
    )
    assert len(letter["head"]) <= 4 * 200
    accounts(config)


def test_an_unfinished_line_of_500_megabytes_costs_neither_memory_nor_other_shards(config: Config) -> None:
    """It may grow for hours: it is reported as unfinished, and all others are read."""
    with (config.source.shards / "a.jsonl").open("wb") as file:
        file.truncate(500 * MIB)
    write(config, jsonl(*values(3)))
    assert Executable(config.source.shards.parent).peak_memory() < 200 * MIB
    assert accounts(config).counts["appended"] == 3
    assert accounts(config).unfinished == 1


def test_lines_up_to_the_limit_are_taken_within_bounded_memory(config: Config) -> None:
    """Many lines of megabytes, as rollouts with images are."""
    some = [messages("run", turn, f"{turn}" + "x" * 6 * MIB) for turn in range(12)]
    write(config, jsonl(*some))
    assert Executable(config.source.shards.parent).peak_memory() < 200 * MIB
    assert accounts(config).counts["appended"] == 12


def test_100_000_dead_letters_in_a_row_are_all_told_and_hold_no_one_up(config: Config) -> None:
    """Each with its place; the log says so once for each batch and reason, not for each line."""
    write(config, jsonl(*values(1)) + b"nonsense\n{}\n" * 50_000 + jsonl(*values(2)[1:]))
    executable = Executable(config.source.shards.parent)
    assert executable.peak_memory() < 150 * MIB
    assert conversations(records(config)) == conversations(values(2))
    seen = accounts(config)
    assert seen.reasons["dead_lettered"] == {"not_json": 50_000, "no_conversation": 50_000}
    letters = dead_letters(config)
    assert [letter["line"] for letter in letters] == list(range(2, 100_002))
    assert len(executable.events("dead_lettered")) < 1000


HOSTILE = {
    "a line of zeros": b"\0" * 5000,
    "zeros before a line": b"\0" * 512 + GOOD,
    "zeros after a line": GOOD + b"\0" * 512,
    "zeros inside a line": GOOD[:50] + b"\0" * 20 + GOOD[50:],
    "two lines spliced by two writers": GOOD[:60] + GOOD + GOOD[60:],
    "two lines without the newline between": GOOD + GOOD,
    "the end of one line and the start of another": GOOD[40:] + GOOD[:40],
    "a line in a line's string": GOOD[:90] + b"\n" + GOOD[90:],
    "a byte order mark": b"\xef\xbb\xbf" + GOOD,
    "utf-16": GOOD.decode().encode("utf-16"),
    "latin-1": GOOD.replace(b"state", b"st\xe4te"),
    "a surrogate as bytes": GOOD.replace(b"state", b"\xed\xa0\x80"),
    "an overlong slash": GOOD.replace(b"state", b"\xc0\xaf"),
    "a lone surrogate": GOOD.replace(b"state", b"\\ud800"),
    "NaN": put("timestamp", b"NaN"),
    "infinity": put("turn", b"-Infinity"),
    "a number without an end": put("turn", b"9" * 100_000),
    "a number too large": put("turn", b"1e999"),
    "a trailing comma": GOOD[:-1] + b",}",
    "a comment": GOOD + b"// end",
    "single quotes": GOOD.replace(b'"', b"'"),
    "a deep nest": put("extra", b"[" * 200_000 + b"]" * 200_000),
    "a deep nest without an end": put("extra", b'{"a":' * 200_000),
    "a control character in a string": GOOD.replace(b"state", b"sta\x1bte"),
    "a tab in a string": GOOD.replace(b"state", b"sta\tte"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_line_is_a_record_or_a_dead_letter_and_harms_no_other(config: Config, name: str) -> None:
    """It stands between good lines; whatever it is, the dataset stays one JSON object in each line."""
    write(config, jsonl(*values(2)) + HOSTILE[name] + b"\n" + jsonl(*values(4)[2:]))
    work_off(config)
    seen = accounts(config)
    assert seen.read == 4 + HOSTILE[name].count(b"\n") + 1
    assert seen.counts["appended"] + seen.counts["dead_lettered"] == seen.read
    texts = Counter(record["messages"][1]["content"] for record in records(config))
    assert {"0", "1", "2", "3"} <= set(texts)
    assert max(texts.values()) == 1
    config.dataset.path.read_bytes().decode("utf-8")


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"])
def test_a_character_that_some_take_for_a_line_end_ends_no_line(config: Config, separator: str) -> None:
    """Whoever splits the dataset, by bytes or as text, gets whole lines, and the very text back."""
    text = f"one{separator}two"
    value = messages("run", 0, text)
    write(config, jsonl(value) if separator >= "\x80" else json.dumps(value).encode() + b"\n")
    work_off(config)
    data = config.dataset.path.read_bytes()
    assert len(data.splitlines()) == len(data.decode().splitlines()) == 1
    assert json.loads(data)["messages"][1]["content"] == text
    with Follower(config.dataset.path) as reader:
        assert [line.data for line in reader.read()] == [data]


def test_a_surrogate_pair_is_one_character_and_half_of_one_is_no_record(config: Config) -> None:
    r"""A trainer cannot read ``\ud83d`` alone: such a line is a dead letter."""
    whole, half = messages("run", 0, "PAIR"), messages("run", 1, "HALF")
    write(config, jsonl(whole, half).replace(b"PAIR", b"\\ud83d\\ude00").replace(b"HALF", b"\\ud83d"))
    work_off(config)
    assert [record["messages"][1]["content"] for record in records(config)] == ["\U0001f600"]
    assert [(letter["line"], letter["reason"]) for letter in dead_letters(config)] == [(2, "not_json")]
    assert accounts(config).read == 2


def test_of_duplicate_keys_the_last_one_counts_everywhere_alike(config: Config) -> None:
    """As JSON readers do: what is written is what the key was computed from, so a second copy is a duplicate."""
    line = jsonl(messages("run", 0, "first")).rstrip(b"\n")
    last = jsonl(messages("run", 0, "last")).rstrip(b"\n")
    doubled = line[:-1] + b", " + last[1:]
    write(config, doubled + b"\n" + last + b"\n")
    work_off(config)
    (record,) = records(config)
    assert bare(conversation(record)) == bare(conversation(json.loads(doubled)))
    assert accounts(config).counts["duplicate"] == 1


def test_what_two_writers_spliced_is_a_dead_letter_and_what_they_left_whole_is_not(config: Config) -> None:
    """Two processes that append to one shard at once, with writes that come in pieces."""
    first, second = jsonl(*values(3)), jsonl(*[dialogue("run", turn, f"other {turn}") for turn in range(3)])
    write(config, first[:500] + second[:300] + first[500:] + second[300:])
    work_off(config)
    seen = accounts(config)
    assert seen.read == 6
    # One line took the piece in; the other lost its beginning.
    assert (seen.counts["appended"], seen.counts["dead_lettered"]) == (4, 2)
