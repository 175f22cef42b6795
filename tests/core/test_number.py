"""Values of SQLite become numbers by the documented rule, or are named as none."""

import struct
from typing import Any

import pytest

from streamer.core.records.number import number_of


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (None, None),
        (0, 0),
        (-3, -3),
        (2.5, 2.5),
        (b"\x00\x00\x00\x00\x00\x00\x00\x00", 0),
        (struct.pack("<q", -7), -7),
        (struct.pack("<q", 2**62), 2**62),
        ("10", 10),
        ("+10", 10),
        ("-0.0", 0.0),
        (" 1.5e3\n", 1500.0),
        ("7.", 7.0),
        ("9223372036854775807", 2**63 - 1),
        ("9223372036854775808", float(2**63)),
    ],
)
def test_a_number_is_taken_in_every_form_that_the_rule_names(value: Any, number: float | None) -> None:
    """The type is kept where it is a number already, and whole text stays whole."""
    found = number_of(value)
    assert (found.value, type(found.value), found.problem) == (number, type(number), "")
    assert bool(found.converted_from) is isinstance(value, str | bytes)


@pytest.mark.parametrize(
    "value",
    [
        *("", " ", "failed", "nan", "inf", "-Infinity", "1_000", "0x10", "1e999", "--1", "1 2", ".5", "1e", "٣", "1,5"),
        *(b"", b"1", b"\x00" * 4, b"\x00" * 9, float("inf"), float("-inf"), "1" * 5000),
    ],
)
def test_whatever_else_is_no_number_and_says_what_it_is(value: Any) -> None:
    """It has no value, so that no condition can take it for one; its problem is short."""
    found = number_of(value)
    assert found.value is None
    assert 0 < len(found.problem) < 100
