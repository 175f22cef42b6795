"""One line of a shard becomes a record, or says in one word why it cannot."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamer.base.files import path_text
from streamer.core.records.layouts import MalformedError, read, session_of_name, time_us
from tests.helpers.producer import DEEP, EPOCH, GOOD, PNG, call, conversation, dialogue, iso, jsonl, messages, put

SHARD = "run-a_2026-01-01_00-00-00.jsonl"

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
"""Any JSON value."""

keys = st.sampled_from(["run_id", "turn", "model", "timestamp", "messages", "dialogue", "assistant", "metadata", "x"])
odd_messages = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.sampled_from(["user", "assistant", "tool", "nobody"]) | anything,
            "content": st.text() | st.lists(st.fixed_dictionaries({"type": st.text()}) | anything) | anything,
            "tool_calls": st.lists(st.fixed_dictionaries({"function": anything})) | anything,
            "tool_call_id": anything,
        },
    )
    | anything,
    max_size=3,
)
odd_lines = st.dictionaries(keys, anything | odd_messages, max_size=6)
"""JSON objects that are lines in part: the right keys, anything behind them."""


def parsed(value: Any) -> Any:
    """Return the record of a line's value."""
    return read(jsonl(value).rstrip(b"\n"), SHARD)


def reason(data: bytes) -> str:
    """Return why a line cannot be taken."""
    with pytest.raises(MalformedError) as caught:
        read(data, SHARD)
    assert caught.value.detail
    return caught.value.reason


@pytest.mark.parametrize("image", [False, True])
@pytest.mark.parametrize("make", [dialogue, messages])
def test_both_layouts_give_the_conversation_as_it_was_written(make: Any, image: bool) -> None:  # noqa: FBT001
    """System, user and reply, with tool calls and image parts."""
    value = make("run-a", 3, "st\u00e4te \u2028", image=image)
    record = parsed(value)
    assert record.messages == conversation(value)
    assert (record.session, record.turn, record.model) == ("run-a", 3, "gpt-4o-mini")
    assert record.has_image is image
    assert record.metadata == value["metadata"]
    if image:
        assert record.messages[1]["content"][1]["image_url"]["url"] == PNG


def test_a_dialogue_line_ends_with_its_reply() -> None:
    """What only the shard says of the reply stays out of the message."""
    reply = {"content": "go", "content_text": "go", "tool_calls": [], "has_image": False, "refusal": None}
    assert parsed(dialogue("run-a", assistant=reply)).messages[-1] == {
        "role": "assistant", "content": "go", "refusal": None,
    }  # fmt: skip


def test_the_text_of_a_reply_stands_in_for_its_content() -> None:
    """Some replies have only ``content_text``."""
    assert parsed(dialogue("run-a", assistant={"content_text": "go"})).messages[-1]["content"] == "go"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [({"a": [1, None]}, '{"a":[1,null]}'), (None, "{}"), ("{ }", "{ }"), ([], "[]"), ("not JSON", "not JSON")],
)
def test_arguments_of_a_tool_call_become_a_string(arguments: Any, text: str) -> None:
    """A string is taken as it is."""
    value = messages("run-a")
    value["messages"][-1]["tool_calls"] = [{"id": "c", "function": {"name": "act", "arguments": arguments}}, call()]
    first, second = parsed(value).messages[-1]["tool_calls"]
    assert first == {"id": "c", "function": {"name": "act", "arguments": text}}
    assert second == value["messages"][-1]["tool_calls"][1]


def test_a_turn_may_call_a_tool_and_hear_its_answer() -> None:
    """All roles of the chat format are taken, and content of the reply may be null beside a call."""
    talk = [
        {"role": "developer", "content": "d"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": None, "tool_calls": [call()]},
        {"role": "tool", "tool_call_id": "c", "content": "t"},
        {"role": "function", "name": "f", "content": "f"},
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
    ]
    assert parsed({"messages": talk}).messages == talk


@pytest.mark.parametrize(
    ("more", "session"),
    [
        ({"run_id": "one", "metadata": {"run_id": "two"}}, "one"),
        ({"run_id": None, "metadata": {"run_id": "two", "session_id": "three"}}, "two"),
        ({"run_id": "", "metadata": {"run_id": "", "session_id": "three"}}, "three"),
        ({"run_id": 17}, "17"),
        ({"run_id": -(2**63)}, str(-(2**63))),
        ({"metadata": {}}, "run-a"),
        ({"metadata": None}, "run-a"),
    ],
)
def test_the_session_is_the_first_that_a_record_names(more: dict[str, Any], session: str) -> None:
    """``run_id``, ``metadata.run_id``, ``metadata.session_id``, the shard's name."""
    value = messages("x")
    value.pop("metadata")
    assert parsed(value | more).session == session


@pytest.mark.parametrize(
    ("shard", "session"),
    [
        ("sft_run_1.jsonl", "run_1"),
        ("sft_eval-1_2026-01-01_00-00-00.jsonl", "eval-1_2026-01-01_00-00-00"),
        ("eval_7_2026-01-01_00-00-00.jsonl", "eval_7"),
        ("team/a/eval-7_2026-01-01_00-00-00.jsonl", "eval-7"),
        ("plain.jsonl", "plain"),
        ("_2026-01-01_00-00-00.jsonl", "_2026-01-01_00-00-00"),
        ("sft_\udcff.jsonl", "\\xff"),
        ("other.ndjson", "other.ndjson"),
    ],
)
def test_the_name_of_a_shard_carries_its_session(shard: str, session: str) -> None:
    """``sft_<id>`` or ``<id>_<time>``, in whatever folder, decodable or not."""
    assert session_of_name(path_text(shard)) == session


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("2026-01-01T00:00:01.500000", 1.5),
        ("2026-01-01 02:00:00+02:00", 0),
        ("2026-01-01T00:00:00Z", 0),
        (EPOCH.timestamp() + 0.25, 0.25),
        (int(EPOCH.timestamp()), 0),
    ],
)
def test_times_are_utc_unless_they_say_otherwise(value: Any, seconds: float) -> None:
    """ISO texts, and seconds since 1970."""
    assert time_us(value) == round((EPOCH.timestamp() + seconds) * 1e6)


@pytest.mark.parametrize("value", [None, True, "", "soon", 1e300, -(10**400), [], {}, "2026-13-01", float("inf")])
def test_what_is_no_time_is_none(value: Any) -> None:
    """A record without a time is joined as such."""
    assert time_us(value) is None


@given(st.datetimes(timezones=st.timezones() | st.none()))
def test_time_is_exact_to_the_microsecond(when: datetime) -> None:
    """No float comes between, in any year and any zone."""
    since = (when if when.tzinfo else when.replace(tzinfo=UTC)) - datetime(1970, 1, 1, tzinfo=UTC)
    assert time_us(when.isoformat()) == since // timedelta(microseconds=1)


def test_the_record_carries_its_time() -> None:
    """At the top of the line, or in its metadata."""
    assert parsed(dialogue("run-a", seconds=2)).time_us == time_us(iso(2))
    value = messages("run-a")
    value["metadata"]["timestamp"] = iso(3)
    assert parsed(value).time_us == time_us(iso(3))
    assert parsed(messages("run-a")).time_us is None


USER = {"role": "user", "content": "u"}
REPLY = {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"nonsense", "not_json"),
        (b'{"run_id": "run-a"', "not_json"),
        (GOOD + b"{}", "not_json"),
        (GOOD + b"\r\r,", "not_json"),
        (b"\xef\xbb\xbf" + GOOD, "not_json"),
        (put("turn", b"NaN"), "not_json"),
        (put("x", b"NaN"), "not_json"),
        (put("turn", b"-Infinity"), "not_json"),
        (put("turn", b"1e999"), "not_json"),
        (put("turn", b"9" * 5000), "not_json"),
        (put("turn", b'"\\ud800"'), "not_json"),
        (put("metadata", b'{"a": "\\udc00\\ud800"}'), "not_json"),
        (put("metadata", b'{"\\ud800": 1}'), "not_json"),
        (b"[1]", "not_object"),
        (b'"text"', "not_object"),
        (b"null", "not_object"),
        (b"\0" * 512, "nul_bytes"),
        (GOOD + b"\0", "nul_bytes"),
        (put("x", b'"\0"'), "nul_bytes"),
        (GOOD.replace(b"state", b"st\xffte"), "invalid_utf8"),
        (GOOD.replace(b"state", b"\xed\xa0\x80"), "invalid_utf8"),
        (put("x", b'"\xff"'), "invalid_utf8"),
        (put("x", b'{"\xc3": 1}'), "invalid_utf8"),
        (put("\\u00e9", b"1").replace(b"\\u00e9", b"\xe9"), "invalid_utf8"),
        (put("turn", DEEP), "too_deep"),
        (put("x", DEEP), "too_deep"),
        (put("metadata", b'{"a": %s}' % DEEP), "too_deep"),
        (DEEP, "not_object"),
        (b"{}", "no_conversation"),
        (jsonl({"messages": []}), "no_conversation"),
        (jsonl({"messages": "hi"}), "no_conversation"),
        (jsonl({"dialogue": {}, "assistant": REPLY}), "no_conversation"),
        (jsonl({"messages": [USER]}), "no_reply"),
        (jsonl({"messages": [USER, {"role": "assistant", "content": None}]}), "no_reply"),
        (jsonl({"messages": [USER, {"role": "assistant", "tool_calls": []}]}), "no_reply"),
        (jsonl({"dialogue": [USER]}), "no_reply"),
        (jsonl({"dialogue": [USER], "assistant": {}}), "no_reply"),
        (jsonl({"dialogue": [USER], "assistant": "hi"}), "bad_message"),
        (jsonl({"messages": [None, REPLY]}), "bad_message"),
        (jsonl({"messages": [{"role": "user"}, REPLY]}), "bad_message"),
        (jsonl({"messages": [{"role": "user", "content": 7}, REPLY]}), "bad_message"),
        (jsonl({"messages": [{"role": "user", "content": ["x"]}, REPLY]}), "bad_message"),
        (jsonl({"messages": [{"role": "user", "content": [{"type": 1}]}, REPLY]}), "bad_message"),
        (jsonl({"messages": [USER, REPLY | {"tool_calls": {}}]}), "bad_message"),
        (jsonl({"messages": [USER, REPLY | {"tool_calls": [{}]}]}), "bad_message"),
        (jsonl({"messages": [USER, REPLY | {"tool_calls": [{"function": {"name": 1}}]}]}), "bad_message"),
        (jsonl({"messages": [USER | {"role": "robot"}, REPLY]}), "unknown_role"),
        (jsonl({"messages": [USER | {"role": []}, REPLY]}), "unknown_role"),
        (jsonl({"messages": [{"content": "u"}, REPLY]}), "unknown_role"),
        (jsonl({"messages": [USER, REPLY], "run_id": True}), "bad_metadata"),
        (jsonl({"messages": [USER, REPLY], "run_id": {"a": 1}}), "bad_metadata"),
        (jsonl({"messages": [USER, REPLY], "metadata": [1]}), "bad_metadata"),
    ],
)
def test_a_line_that_cannot_be_taken_says_why(data: bytes, why: str) -> None:
    """Each kind of damage has its own counted reason, also in keys that are skipped."""
    assert reason(data.rstrip(b"\n")) == why


def test_a_long_number_that_no_one_reads_is_no_damage() -> None:
    """JSON sets no limit."""
    assert read(put("x", b"9" * 5000), SHARD).session == "run-a"


@given(st.binary())
@example(b"")
@example(b"\xff\xfe{}")
@example(b"{" * sys.getrecursionlimit() * 2)
def test_any_bytes_are_a_record_or_malformed(data: bytes) -> None:
    """Nothing else is ever raised."""
    with suppress(MalformedError):
        assert read(data, SHARD).messages


@pytest.mark.slow
@given(odd_lines)
def test_any_json_is_a_record_or_malformed(value: dict[str, Any]) -> None:
    """Right keys with wrong values, at every depth; what is accepted can be encoded again."""
    with suppress(MalformedError):
        record = parsed(value)
        assert any(message["role"] == "assistant" for message in record.messages)
        assert msgspec.json.decode(msgspec.json.encode(record.messages)) == record.messages


@given(st.data(), st.sampled_from([dialogue, messages]))
def test_a_line_cut_anywhere_is_malformed(data: st.DataObject, make: Any) -> None:
    """A torn line never passes for a shorter one."""
    line = jsonl(make("run-a", text="st\u00e4te", image=True)).rstrip(b"\n")
    stop = data.draw(st.integers(0, len(line) - 1))
    assert reason(line[:stop]) in ("not_json", "invalid_utf8")


@given(st.text(), st.lists(st.tuples(st.text(min_size=1), anything), max_size=3))
def test_texts_and_metadata_arrive_as_they_were_written(text: str, extra: list[tuple[str, Any]]) -> None:
    """Whatever characters they hold."""
    value = messages("run-a", text=text)
    value["metadata"] |= {key: item for key, item in extra if key not in ("run_id", "turn", "session_id", "timestamp")}
    record = parsed(value)
    assert record.messages[1]["content"] == text
    assert record.metadata == json.loads(jsonl(value))["metadata"]
