"""Mutated lines and mutated configurations: what looks almost right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import settings as budget
from hypothesis import strategies as st

from tests.suites.faults import fuzz_config, fuzz_lines
from tests.suites.faults.fuzz_lines import LINES

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

EXAMPLES = int(os.environ.get("STREAMER_EXAMPLES", "400"))
CONFIG = fuzz_config.EXAMPLE

PIECES = st.sampled_from(
    [b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"null", b"true", b"-0", b"1e400", b"1e-400", b"0.1", b"9" * 30,
     b"\\ud800", b"\\udc00", b"\\ud83d\\ude00", b"\\u2028", b"\\u0000", b"\0", b"\xff", b"\xe2\x80\xa8", b"\r", b" ",
     b'"role"', b'"assistant"', b'"messages"', b'"dialogue"', b'"metadata"', b'"run_id"', b'{"a": ', b"[[[["]
)  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Draw a real-looking line to which a few things have happened."""
    line = bytearray(draw(st.sampled_from(LINES)))
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(line)))
        stop = min(len(line), start + draw(st.sampled_from([0, 0, 1, 1, 2, 5, 40])))
        other = draw(st.sampled_from(LINES))
        at = draw(st.integers(0, len(other)))
        line[start:stop] = draw(
            PIECES
            | st.binary(max_size=4)
            | st.just(b"")
            | st.just(other[at : at + 40])
            | st.just(bytes(line[start:stop]) * 2)
        )
    return bytes(line)


scalars = (
    st.none() | st.booleans() | st.integers() | st.integers(-(10**40), 10**40) | st.floats(allow_nan=False) | st.text(max_size=8)  # noqa: E501
    | st.sampled_from([-0.0, 1e22, 1e-7, 5e-324, 2**53 + 1, 2**63, 2**64, 0.1, 1e16])
)  # fmt: skip
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


@st.composite
def replaced(draw: st.DrawFn) -> bytes:
    """Draw a real-looking line in which a few values, at any depth, are others."""
    value: Any = json.loads(draw(st.sampled_from(LINES)))
    for _ in range(draw(st.integers(1, 3))):
        place = value
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and place[key] and draw(st.booleans()):
                place = place[key]
                continue
            place[key] = draw(anything)
            break
        if draw(st.booleans()) and isinstance(value.get("metadata"), dict):
            value["metadata"][draw(st.text(max_size=5))] = draw(anything)
    return json.dumps(value, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")


@given(mutated())
@budget(max_examples=EXAMPLES)
@example(LINES[0].replace(b"text", b"\\ud800"))
@example(LINES[2].replace(b'"turn": 1', b'"turn": 1e400'))
def test_a_mutated_line_is_blank_malformed_or_a_record_whose_key_can_be_found_again(line: bytes) -> None:
    """No other error, and no line of the dataset that recovery could not recognise."""
    fuzz_lines.check(line.replace(b"\n", b""))


@given(replaced())
@budget(max_examples=EXAMPLES)
def test_a_line_with_odd_values_is_malformed_or_a_record_whose_key_can_be_found_again(line: bytes) -> None:
    """Numbers beyond all types, null where there was text, keys that no one knows."""
    fuzz_lines.check(line)


def test_what_the_fuzzer_starts_from_is_taken() -> None:
    """Else it would mutate what is refused anyway."""
    assert all(fuzz_lines.check(line) for line in LINES)


@pytest.mark.parametrize("target", [fuzz_lines, fuzz_config], ids=["lines", "configurations"])
def test_a_fuzzing_target_runs_or_says_what_it_needs(target: ModuleType) -> None:
    """As a script, from anywhere; atheris is optional."""
    done = subprocess.run(
        [sys.executable, str(target.__file__), "-runs=100"], capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.returncode == 0 or "pip install atheris" in done.stderr


TOML = st.sampled_from(
    ["[", "]", "=", '"', "'", "#", "\n", "\r\n", ".", ",", "true", "-1", "0x", "1e400", "nan", "inf", '"5s"', '"9e99s"',
     "[[source]]", "[source]", "source.", "{a = 1}", "[1, 2]", '""', '"""', "1979-05-27", "\u2028", "\ufeff", "\x7f", "\\"]  # noqa: E501
)  # fmt: skip


@st.composite
def configurations(draw: st.DrawFn) -> str:
    """Draw the commented example, with comments taken off some keys, and a few things done to it."""
    lines = CONFIG.splitlines()
    keys = [n for n, line in enumerate(lines) if line.startswith("# ") and " = " in line and line[2:3].islower()]
    for number in draw(st.sets(st.sampled_from(keys), max_size=len(keys))):
        lines[number] = lines[number][2:].strip()
    text = "\n".join(line for line in lines if line[:1] not in {"#", ""})
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(text)))
        stop = min(len(text), start + draw(st.sampled_from([0, 1, 1, 3, 20])))
        text = text[:start] + draw(TOML | st.text(max_size=3)) + text[stop:]
    return text


@given(configurations())
@budget(max_examples=EXAMPLES)
def test_a_mutated_configuration_is_taken_or_named_as_wrong(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    """No other error, whatever a person left behind in the file."""
    fuzz_config.check(text.encode("utf-8", "surrogatepass"), tmp_path_factory.getbasetemp() / "mutated.toml")


def test_what_the_mutated_configurations_start_from_is_taken(tmp_path: Path) -> None:
    """The commented example, as it stands."""
    assert fuzz_config.check(CONFIG.encode(), tmp_path / "config.toml")
