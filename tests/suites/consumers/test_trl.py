"""Exports in TRL's own hands: what its trainers do with rows before they train."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from trl.data_utils import apply_chat_template, is_conversational, maybe_convert_to_chatml, prepare_multimodal_messages

from tests.helpers.exports import CALL, TOOLS, chat, image, record, rollouts, run, write

# As the templates of many models do: arguments are looked into, and written as JSON.
TEMPLATE = """
{%- if tools %}<tools>{{ tools | tojson }}</tools>{% endif -%}
{%- for message in messages -%}
<{{ message.role }}>{{ message.content if message.content }}
{%- for call in message.tool_calls or [] -%}
<call>{{ call.function.name }}
{%- for key, value in call.function.arguments.items() %} {{ key }}={{ value }}{% endfor %}
{{- " " + (call.function.arguments | tojson) }}</call>
{%- endfor -%}
</{{ message.role }}>
{%- endfor -%}
{%- if add_generation_prompt %}<assistant>{% endif -%}
"""


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """Return a tokenizer with a template; nothing is downloaded."""
    words = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
    made.chat_template = TEMPLATE
    return made


def first(folder: Path) -> dict[str, Any]:
    """Return the first row."""
    row: dict[str, Any] = load_dataset(str(folder), split="train")[0]
    return row


def test_messages_go_through_a_chat_template(tmp_path: Path, tokenizer: Any) -> None:
    """Arguments are objects there; the tools that were given are JSON, which the trainer reads."""
    folder, _ = run(write(tmp_path / "good.jsonl", *rollouts(2)), "trl", tools=TOOLS)
    row = first(folder)
    assert is_conversational(row)
    text = apply_chat_template({"messages": row["messages"]}, tokenizer, tools=json.loads(row["tools"]))["text"]
    assert text.startswith("<tools>")
    assert "<system>You play.</system><user>run-0 turn 0</user>" in text
    assert text.endswith('<assistant><call>act do=collect {"do": "collect"}</call></assistant>')


def test_prompt_and_completion_go_through_a_chat_template(tmp_path: Path, tokenizer: Any) -> None:
    """The completion is the last reply."""
    value = chat(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    folder, _ = run(write(tmp_path / "good.jsonl", value), "trl", prompt_completion=True)
    row = first(folder)
    assert "messages" not in row
    told = apply_chat_template({"prompt": row["prompt"], "completion": row["completion"]}, tokenizer)
    assert told["prompt"] == "<user>a</user><assistant>b</assistant><user>c</user><assistant>"
    assert told["completion"] == "d</assistant>"


def test_images_find_their_places(tmp_path: Path) -> None:
    """As the collator for vision models puts them in."""
    asked = [
        {"type": "image_url", "image_url": {"url": image("red")}},
        {"type": "text", "text": "before and after"},
        {"type": "image_url", "image_url": {"url": image("blue")}},
    ]
    value = record(
        messages=[{"role": "user", "content": asked}, {"role": "assistant", "content": "", "tool_calls": [CALL]}]
    )
    folder, _ = run(write(tmp_path / "good.jsonl", value), "trl")
    row = first(folder)
    prepared = prepare_multimodal_messages(row["messages"], row["images"])
    parts = prepared[0]["content"]
    assert [part["type"] for part in parts] == ["image", "text", "image"]
    assert [part["image"].getpixel((0, 0)) for part in (parts[0], parts[2])] == [(255, 0, 0), (0, 0, 255)]


def test_sharegpt_is_known(tmp_path: Path) -> None:
    """By the conversion that TRL has for it."""
    folder, _ = run(write(tmp_path / "good.jsonl", chat(("user", "a"), ("assistant", "b"))), "sharegpt")
    row = first(folder)
    assert maybe_convert_to_chatml({"conversations": row["conversations"]}) == {
        "messages": [{"role": "human", "content": "a"}, {"role": "gpt", "content": "b"}]
    }
