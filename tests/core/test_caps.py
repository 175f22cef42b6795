"""Caps: which values a record has, and whether there is room for one more."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.core.verdicts.caps import Cap, metadata_keys
from streamer.store.curation.cap_counts import Caps, values_of
from tests.helpers.producer import messages

SEED = Cap("metadata.seed", 2)


def line(metadata: Any, text: str = "state") -> bytes:
    """Return a dataset line with this metadata."""
    return json.dumps({**messages("run", 0, text), "metadata": metadata}).encode() + b"\n"


def shown(found: object) -> list[str]:
    """Return the values of a record whose metadata holds this, as people see them."""
    return [value.shown for value in values_of(line({"seed": found}), [SEED])[0]]


class TestValues:
    """What a record counts as."""

    @pytest.mark.parametrize(
        ("found", "expected"),
        [
            (7, ["7"]),
            ("7", ['"7"']),
            (False, ["false"]),
            (None, []),
            ([], []),
            (["wood", "stone", "wood", None], ['"wood"', '"stone"']),
            ({"wood": 2, "stone": 0, "coal": False, "iron": True}, ['"wood"', '"iron"']),
            ([[1, 2], {"b": 1, "a": 2}], ["[1,2]", '{"a":2,"b":1}']),
        ],
    )
    def test_a_list_has_several_and_null_is_none(self, found: object, expected: list[str]) -> None:
        """An object has the names of what holds in it."""
        assert shown(found) == expected

    def test_a_key_that_is_not_there_is_no_value(self) -> None:
        """Nor is one of a line of someone else."""
        assert values_of(line({}), [SEED]) == [[]]
        for foreign in (b"", b"{}", b"[]\n", line([]), line("x"), b"\xff\n"):
            assert not any(values_of(foreign, [SEED, Cap("prompt", 1)]))

    def test_a_run_is_a_key_of_the_metadata(self) -> None:
        """Under its own name."""
        assert [value.shown for value in values_of(line({"run_id": "a"}), [Cap("run_id", 1)])[0]] == ['"a"']

    def test_a_prompt_is_all_that_stands_before_the_last_reply(self) -> None:
        """Whatever the reply."""
        (one,), (same,), (other,) = (
            values_of(line({"run_id": "a", "turn": turn, "timestamp": None}, text), [Cap("prompt", 1)])[0]
            for turn, text in enumerate(("here", "here", "there"))
        )
        assert one == same != other

    def test_what_a_model_wrote_cannot_steer_a_terminal(self) -> None:
        """Nor fill the screen."""
        (text,) = shown("\x1b[2J\u202e" + "x" * 1000)
        assert text.isprintable()
        assert len(text) < 130

    def test_only_keys_that_the_line_has_not_anyway_are_asked_of_the_outcome(self) -> None:
        """In one order, whatever that of the caps."""
        caps = [Cap("metadata.seed", 1), Cap("prompt", 1), Cap("run_id", 1), Cap("metadata.a", 1)]
        assert metadata_keys(caps, {"run_id", "turn"}) == ("a", "seed")


def taken(found: list[object], caps: tuple[Cap, ...] = (SEED,)) -> list[object]:
    """Return which of some records get in, one after the other."""
    counts = Caps(caps)
    with closing(sqlite3.connect(":memory:")) as db:
        counts.prepare(db, forget=())
        got_in = []
        for number, one in enumerate(found):
            values = counts.values_of(line(one))
            counts.fetch(db, [values])
            if counts.full(values) is None:
                counts.add(values, number)
                got_in.append(one)
            counts.write(db)
        return got_in


def seeds(*values: object) -> list[object]:
    """Return the metadata of records with these values."""
    return [{"seed": value} for value in values]


class TestRoom:
    """Who gets in."""

    @given(st.lists(st.integers(0, 3)), st.integers(1, 4))
    def test_of_each_value_the_first_ones_get_in(self, values: list[int], most: int) -> None:
        """So many, and none of another value is kept out for them."""
        first = [value for number, value in enumerate(values) if values[:number].count(value) < most]
        assert taken(seeds(*values), (Cap("metadata.seed", most),)) == seeds(*first)

    @given(st.lists(st.lists(st.sampled_from("abc"), max_size=3)))
    def test_a_record_of_several_values_is_kept_out_when_all_are_full(self, values: list[list[str]]) -> None:
        """It counts for each of them, though: what is rare lets what is easy in, and is counted with it."""
        counts: Counter[str] = Counter()
        expected = []
        for of in values:
            if not of or any(counts[value] < 2 for value in of):
                counts.update(set(of))
                expected.append(of)
        assert taken(seeds(*values)) == seeds(*expected)

    def test_a_record_without_the_value_is_not_limited(self) -> None:
        """A cap speaks of records of which it can say something."""
        assert len(taken([{}] * 9 + seeds(None, None, None))) == 12

    def test_every_cap_has_to_have_room(self) -> None:
        """A record that one of them keeps out counts for none."""
        caps = Cap("metadata.seed", 2), Cap("run_id", 1)
        records: list[object] = [{"seed": 1, "run_id": run} for run in ("a", "a", "b", "c")]
        assert taken(records, caps) == [records[0], records[2]]
