"""The rules of OpenAI for files of chat examples, each with what breaks it."""

from __future__ import annotations

import base64
import os
from typing import Any

import pytest

from streamer.commands.export.openai_rules import (
    FEWEST_EXAMPLES,
    MOST_FILE_BYTES,
    MOST_IMAGE_BYTES,
    MOST_IMAGE_EXAMPLES,
    FileRules,
    check_example,
)
from tests.helpers.exports import CALL, TOOLS, image

REPLY = {"role": "assistant", "content": "Go on."}
ASK = {"role": "user", "content": "What now?"}
CALLS = {"role": "assistant", "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "wood"}


def see(url: str, role: str = "user", **more: Any) -> dict[str, Any]:
    """Return a message with an image."""
    return {"role": role, "content": [{"type": "image_url", "image_url": {"url": url, **more}}]}


def calling(**function: Any) -> dict[str, Any]:
    """Return a message that calls such a function."""
    call = {**CALL, "function": {"name": "act", "arguments": "{}", **function}}
    return {"role": "assistant", "tool_calls": [call]}


def defining(**function: Any) -> dict[str, Any]:
    """Return the definition of such a function."""
    return {"type": "function", "function": {"name": "act", **function}}


def heavy() -> str:
    """Return an image of too many bytes: a small one with a long tail."""
    data = base64.b64decode(image().partition(",")[2]) + os.urandom(MOST_IMAGE_BYTES)
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


@pytest.mark.parametrize(
    "example",
    [
        {"messages": [ASK, REPLY]},
        {
            "messages": [
                {"role": "system", "content": "Play."},
                ASK,
                {**REPLY, "weight": 0},
                ASK,
                {**REPLY, "weight": 1},
            ]
        },
        {
            "messages": [{"role": "developer", "content": [{"type": "text", "text": "Play."}]}, ASK, CALLS],
            "tools": TOOLS,
        },
        {"messages": [ASK, CALLS, RESULT, REPLY], "tools": TOOLS, "parallel_tool_calls": False},
        {"messages": [see(image()), REPLY]},
        {"messages": [see(image(kind="JPEG")), see(image(kind="WEBP"), detail="low"), REPLY]},
        {"messages": [see(image(mode="RGBA")), see("https://example.org/cow.png"), REPLY]},
        {"messages": [ASK, {"role": "assistant", "content": None, "refusal": "No."}]},
    ],
)
def test_what_is_documented_is_fine(example: dict[str, Any]) -> None:
    """Examples of every kind that the guides show."""
    assert check_example(example) == []


@pytest.mark.parametrize(
    ("example", "rule"),
    [
        ([], "line"),
        ({"messages": [ASK, REPLY], "metadata": {}}, "line"),
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [ASK, 5, REPLY]}, "message"),
        ({"messages": [{**ASK, "mood": 1}, REPLY]}, "message"),
        ({"messages": [{**ASK, "name": 1}, REPLY]}, "message"),
        ({"messages": [{"role": "function", "content": "wood"}, REPLY]}, "message"),
        ({"messages": [{"role": "human", "content": "?"}, REPLY]}, "role"),
        ({"messages": [{"role": ["user"], "content": "?"}, REPLY]}, "role"),
        ({"messages": [ASK]}, "reply"),
        ({"messages": [REPLY, ASK]}, "reply"),
        ({"messages": [{"role": "user"}, REPLY]}, "content"),
        ({"messages": [ASK, {"role": "assistant", "content": None}]}, "content"),
        ({"messages": [{"role": "user", "content": 5}, REPLY]}, "content"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}, REPLY]}, "part"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}, REPLY]}, "part"),
        ({"messages": [{"role": "user", "content": [5]}, REPLY]}, "part"),
        ({"messages": [ASK, see(image(), "assistant")]}, "image_role"),
        ({"messages": [see(image(), "system"), ASK, REPLY]}, "image_role"),
        ({"messages": [see(image())] * 11 + [REPLY]}, "image_count"),
        ({"messages": [see("file:///etc/passwd"), REPLY]}, "image_url"),
        ({"messages": [see("data:image/png;base64,###"), REPLY]}, "image_url"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, REPLY]}, "image_url"),
        ({"messages": [see(image(), detail="best"), REPLY]}, "image_detail"),
        ({"messages": [see(image(kind="GIF")), REPLY]}, "image_format"),
        ({"messages": [see("data:image/png;base64,aGVsbG8="), REPLY]}, "image_format"),
        ({"messages": [see(image(mode="L")), REPLY]}, "image_mode"),
        ({"messages": [see(heavy()), REPLY]}, "image_size"),
        ({"messages": [ASK, {**REPLY, "weight": 0.5}]}, "weight"),
        ({"messages": [ASK, {**REPLY, "weight": True}]}, "weight"),
        ({"messages": [{**ASK, "weight": 1}, REPLY]}, "message"),
        ({"messages": [ASK, {"role": "assistant", "content": "", "tool_calls": []}]}, "tool_call"),
        ({"messages": [ASK, {"role": "assistant", "tool_calls": [{**CALL, "type": "code"}]}]}, "tool_call"),
        ({"messages": [ASK, {"role": "assistant", "tool_calls": [{**CALL, "index": 0}]}]}, "tool_call"),
        ({"messages": [ASK, {"role": "assistant", "tool_calls": [{**CALL, "id": ""}]}]}, "tool_call"),
        ({"messages": [ASK, {"role": "assistant", "tool_calls": [CALL, CALL]}]}, "tool_call"),
        ({"messages": [ASK, calling(name="a b")]}, "tool_call"),
        ({"messages": [ASK, calling(arguments={})]}, "tool_call"),
        ({"messages": [ASK, CALLS, ASK, REPLY]}, "tool_call_id"),
        ({"messages": [ASK, RESULT, REPLY]}, "tool_call_id"),
        ({"messages": [ASK, CALLS, {**RESULT, "tool_call_id": "c2"}, REPLY]}, "tool_call_id"),
        ({"messages": [ASK, CALLS, RESULT, RESULT, REPLY]}, "tool_call_id"),
        ({"messages": [ASK, REPLY], "tools": []}, "tools"),
        ({"messages": [ASK, REPLY], "tools": TOOLS * 129}, "tools"),
        ({"messages": [ASK, REPLY], "tools": [{"type": "function", "function": {}}]}, "tools"),
        ({"messages": [ASK, REPLY], "tools": [defining(parameters=1)]}, "tools"),
        ({"messages": [ASK, REPLY], "tools": TOOLS, "parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"messages": [ASK, REPLY], "parallel_tool_calls": True}, "parallel_tool_calls"),
        ({"messages": [ASK, calling(name="x")], "tools": TOOLS}, "undefined_tool"),
    ],
)  # fmt: skip
def test_what_breaks_a_rule_is_told_with_its_name(example: Any, rule: str) -> None:
    """And never by an error of our own."""
    assert rule in {found.rule for found in check_example(example)}


def test_every_violation_is_told() -> None:
    """Not the first one alone."""
    example = {"messages": [{**ASK, "mood": 1}, see(image(), "assistant")], "metadata": 1}
    assert [found.rule for found in check_example(example)] == ["line", "message", "image_role"]


def test_the_rules_of_files_are_told_for_each_split() -> None:
    """How many examples, how many with images, how large."""
    rules = FileRules()
    for _ in range(FEWEST_EXAMPLES - 1):
        rules.count("test", {"messages": [ASK, REPLY]})
    pictured = {"messages": [see("https://example.org/cow.png"), REPLY]}
    for _ in range(MOST_IMAGE_EXAMPLES + 1):
        rules.count("train", pictured)
    told = list(rules.warnings({"test": 10, "train": MOST_FILE_BYTES + 1}))
    assert [text.partition(":")[0] for text in told] == ["test", "train", "train"]
    assert "9 examples" in told[0]
    assert "50,001 examples with images" in told[1]
