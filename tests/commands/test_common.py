"""The parts that commands share."""

from __future__ import annotations

import json

import pytest

from streamer.commands.common import print_json


@pytest.mark.parametrize("text", ["\xe9", "\u2028", "\U0001f3b2", "\x1b[2J", "\udcff"])
def test_json_of_any_text_is_ascii_that_readers_take(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """No character steers a terminal, and a reader of JSON gets the same text."""
    print_json({"name": text})
    output = capsys.readouterr().out
    assert output.isascii()
    assert "\x1b" not in output
    assert json.loads(output) == {"name": text}
