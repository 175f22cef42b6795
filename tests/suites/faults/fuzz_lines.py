"""What must hold for any bytes of a line, and a target for atheris.

``python tests/suites/faults/fuzz_lines.py -runs=100000`` starts it.

Atheris is optional: coverage leads it to inputs that hypothesis does not draw. Everything it finds belongs
into ``tests/core/test_layouts.py`` as an example.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import msgspec

from streamer.core.records.dataset_line import encode_line, line_key
from streamer.core.records.key import DedupBy, record_key
from streamer.core.records.layouts import Envelope, MalformedError, record_of
from streamer.core.records.model import Line, Outcome, SourceRecord
from streamer.core.verdicts.judge import Item, parse
from tests.helpers.producer import dialogue, jsonl, messages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

OUTCOME = Outcome(1, "run", 3, 1, 8, "2026-01-01T00:00:09+00:00", 1, qualifies=True, rule="r")
SHARD = "run_2026-01-01_00-00-00.jsonl"
LINES = [
    jsonl(value).rstrip(b"\n")
    for value in (
        dialogue("run", 3, "text \u2028 ü 🜁", image=True),
        dialogue("", 0, "", seconds=None),
        messages("run", 1, 'a \\ b " c'),
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": None, "tool_calls": [
            {"id": "x", "function": {"name": "f", "arguments": {"a": 1.5}}}]}, {"role": "tool", "content": "",
            "tool_call_id": "x"}], "metadata": {"session_id": 7, "timestamp": 1.0e9}},
        {"messages": [{"role": "assistant", "content": [{"type": "text", "text": "t"}]}]},
    )
]  # fmt: skip
"""Lines as they should be, from which fuzzing starts."""

_ENDS = ("\u2028", "\u2029", "\x85")


def check(data: bytes) -> bool:
    """See that a line is blank, a dead letter, or a record that the dataset can hold; say whether it is a record.

    The last one is what recovery stands on: the key of a record can be computed again from its dataset line.
    """
    item = parse(Line(SHARD, 1, 0, len(data) + 1, data), 1, 0.0, 1 << 20)
    if item is None:
        assert not data.strip()
        return False
    record = record_or_none(item)
    if record is None:
        return False
    line = encode_line(record, OUTCOME, SHARD)
    assert line.endswith(b"\n")
    text = line.decode("utf-8")
    assert not any(end in text for end in _ENDS)
    assert len(line.splitlines()) == len(text.splitlines()) == 1
    value = json.loads(text)
    assert value["messages"] == json.loads(msgspec.json.encode(record.messages))
    assert value["metadata"]["run_id"] == record.session
    for by in DedupBy:
        key = record_key(record.conversation, by, (record.session, record.turn, record.timestamp))
        assert line_key(line, by) == key, by
    return True


def record_or_none(item: Item) -> SourceRecord | None:
    """Return the record of a line, None if it is a dead letter."""
    if not isinstance(item.content, Envelope):
        return None
    try:
        return record_of(item.content)
    except MalformedError:
        return None


def fuzz(check: Callable[[bytes], object], examples: Iterable[bytes]) -> None:
    """Let atheris look for bytes that break a check."""
    try:
        atheris = importlib.import_module("atheris")
    except ModuleNotFoundError:
        sys.exit(
            "atheris is not installed: `pip install atheris` (it is optional; test_fuzz.py beside this file needs none)"
        )
    atheris.instrument_all()
    with tempfile.TemporaryDirectory() as corpus:
        for number, example in enumerate(examples):
            Path(corpus, f"{number}").write_bytes(example)
        atheris.Setup([*sys.argv, corpus], lambda data: check(data) and None)
        atheris.Fuzz()


def main() -> None:
    """Let atheris look for lines that break it."""
    fuzz(check, LINES)


if __name__ == "__main__":
    main()
