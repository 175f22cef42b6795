"""Rows of the table messages become records, whatever producers and models wrote."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.core.records.dataset_line import encode_line
from streamer.core.records.key import DedupBy, record_key
from streamer.core.records.layouts import MalformedError, read
from streamer.core.records.model import Outcome, SourceRecord
from streamer.core.records.schema import check_line
from streamer.core.records.trace_calls import Call, read_call
from streamer.core.records.trace_messages import Decision, Decisions, Row, from_completion
from tests.helpers import producer
from tests.helpers.traces import SYSTEM, call_records, decision, payload, tool_reply

OUTCOME = Outcome(1, "run", 1, 1, 8, "", None, qualifies=True, rule="")
LONG = json.dumps([{"tool_name": "say", "arguments": {"text": "x" * 5000}}])
CUT = LONG[:4000] + "…"


def decisions(
    rows: list[Row], calls: list[Call] | None = None, page: int = 1000, limit: int = 1 << 20
) -> list[Decision]:
    """Return the decisions of rows that come in pages."""
    grouped = Decisions("run", max_characters=limit)
    found: list[Decision] = []
    for start in range(0, len(rows), page):
        found += grouped.feed(rows[start : start + page], calls or ())
    return [*found, *grouped.finish()]


def records(rows: list[Row], calls: list[Call] | None = None) -> list[SourceRecord]:
    """Return the records of rows; none of them may be unusable."""
    found = [one.found for one in decisions(rows, calls)]
    assert all(isinstance(one, SourceRecord) for one in found), found
    return [one for one in found if isinstance(one, SourceRecord)]


def only(rows: list[Row], calls: list[Call] | None = None) -> SourceRecord:
    """Return the one record of rows."""
    [record] = records(rows, calls)
    return record


def fault(rows: list[Row]) -> str:
    """Return the reason why the one decision of rows cannot be taken."""
    [one] = decisions(rows)
    assert isinstance(one.found, MalformedError)
    return one.found.reason


def replied(*rows: tuple[str, str]) -> list[Row]:
    """Return a decision whose user row is followed by rows of (type, content)."""
    asked = decision(0)[:2]
    return [*asked, *(Row(10 + i, 1, kind, content) for i, (kind, content) in enumerate(rows))]


def test_a_decision_is_one_record_with_the_system_prompt_and_tool_calls() -> None:
    """What the task app wrote of a decision is a chat as trainers take it, with the shard's keys."""
    record = only(decision(3, "at turn 3"))
    assert record.messages == [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": "at turn 3"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": "call_0",
                    "type": "function",
                    "function": {"name": "interact_many", "arguments": '{"actions": ["do"]}'},
                }
            ],
        },
    ]
    assert (record.session, record.turn, record.timestamp) == ("run", 3, "2026-01-01T00:00:03")
    line = encode_line(record, OUTCOME, "traces.db")
    assert check_line(line).findings == []
    assert json.loads(line)["metadata"]["assistant_has_image"] is False


@pytest.mark.parametrize("image", [False, True])
def test_a_record_has_the_key_of_its_shard_line(image: bool) -> None:  # noqa: FBT001 - a parameter
    """The same decision from the database and from a shard is one record to the default dedup."""
    line = producer.dialogue("run", 0, "state", image=image)
    line["assistant"]["content"] = "Plan: do"
    asked = line["dialogue"]
    rows = [
        Row(1, 1, "system", json.dumps({"role": "system", "text": "", "content": asked[0]["content"]}), None),
        Row(2, 1, "user", json.dumps({"role": "user", "text": "state", "content": asked[1]["content"]}), None),
        Row(3, 1, "assistant", tool_reply("move_left", "do"), '{"is_tool_call": true}'),
    ]
    call = read_call(1, "gpt-4o-mini", "custom", 1.0, call_records("Plan: do", "move_left", "do"))
    record, shard = only(rows, [call]), read(json.dumps(line).encode(), "run.jsonl")
    keys = [record_key(one.conversation, DedupBy.CONVERSATION, (None, None, None)) for one in (record, shard)]
    assert keys[0] == keys[1]
    assert (record.model, record.provider, record.has_image) == (shard.model, shard.provider, shard.has_image)


def test_images_are_kept() -> None:
    """A user content of parts is taken as the parts that it is."""
    record = only(decision(0, image=True))
    assert record.has_image
    assert record.messages[1]["content"][0]["image_url"]["url"] == producer.PNG


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (CUT, "reply_truncated"),
        ('[{"tool_name": "x", "arguments": {"a": "b…', "reply_truncated"),
        ("", "reply_missing"),
        ("[]", "reply_missing"),
        ("[{'tool_name': 'x'}]", "bad_message"),
        ('{"arguments": {}}', "bad_message"),
        ('[{"arguments": {}}]', "bad_message"),
        ("[" * 200 + "]" * 200, "too_deep"),
        ("[" * 10_000 + "]" * 10_000, "too_deep"),
    ],
)
def test_a_reply_that_is_cut_or_empty_or_garbled_is_a_dead_letter(reply: str, reason: str) -> None:
    """No placeholder ever stands for a reply that the database does not have."""
    assert fault(decision(0, reply=reply)) == reason


def test_a_long_plain_reply_that_was_cut_is_a_dead_letter() -> None:
    """The producer's limit is noticed without the mark of a tool call, too."""
    assert fault(replied(("assistant", "x" * 4000 + "…"))) == "reply_truncated"
    assert only(replied(("assistant", "I wonder…"))).messages[-1]["content"] == "I wonder…"


def test_a_decision_without_a_reply_row_is_a_dead_letter() -> None:
    """A rollout that ended after the prompt has nothing to learn from, and says so."""
    [first, last] = decisions([*decision(0), *decision(1, first=4)[:2]])
    assert isinstance(first.found, SourceRecord)
    assert isinstance(last.found, MalformedError)
    assert (last.found.reason, last.turn, last.first, last.last) == ("reply_missing", 1, 4, 5)


def test_a_reply_without_a_prompt_is_a_dead_letter() -> None:
    """A reply alone is no conversation."""
    assert fault(decision(0)[2:]) == "no_conversation"


def test_an_unknown_type_of_row_is_a_dead_letter() -> None:
    """What is not understood is not left out silently."""
    assert fault(replied(("telepathy", "hm"), ("assistant", "yes"))) == "unknown_role"


def test_a_session_that_was_run_twice_has_both_runs() -> None:
    """The second run's rows stand in the same timesteps; each reply stays with its own prompt."""
    rows = [*decision(0, "a0"), *decision(1, "a1", first=4), *decision(0, "b0", first=7), *decision(1, "b1", first=10)]
    assert [(r.messages[1]["content"], r.turn) for r in records(rows)] == [("a0", 0), ("a1", 1), ("b0", 0), ("b1", 1)]
    twice = [*decision(0, "a"), *decision(0, "b", first=4)]
    assert [r.messages[1]["content"] for r in records(twice)] == ["a", "b"]


def test_what_was_said_is_taken_from_the_call_that_made_the_same_tool_calls() -> None:
    """Of several calls in one timestep the one before the reply counts; if that cannot be told, none does."""
    rows = decision(0)
    assert rows[2].time is not None
    early, late, other = (
        read_call(1, "m", "p", rows[2].time + after, call_records(text, action))
        for after, text, action in ((-9.0, "early", "do"), (-1.0, "late", "do"), (-0.5, "other", "sleep"))
    )
    assert only(rows, [early, late, other]).messages[-1]["content"] == "late"
    assert only(rows, [other]).messages[-1]["content"] == ""
    unclear = [Call(1, "m", "p", None, call.text, call.tools) for call in (early, late)]
    assert only(rows, unclear).messages[-1]["content"] == ""


def test_a_whole_response_is_not_what_the_model_said() -> None:
    """Where a model only called tools, the producer puts the response's JSON in the place of its text."""
    response = json.dumps({"id": "x", "choices": [{"message": {"content": None}}]})
    for text in (response, response[:40] + "…", None):
        call = read_call(1, "gpt", "p", None, call_records(text, "do"))
        record = only(decision(0), [call])
        assert (record.messages[-1]["content"], record.model) == ("", "gpt")


@pytest.mark.parametrize("broken", [None, "", "{", "[]", "[1]", '[{"output_text": 3}]', "[" * 9999, "{}"])
def test_a_call_record_that_cannot_be_read_says_nothing(broken: str | None) -> None:
    """The model's name is still taken."""
    call = read_call(1, "gpt", None, None, broken)
    assert (call.text, call.model) == ("", "gpt")


def test_tool_results_are_messages_of_tools() -> None:
    """A result answers the call that it names, else the first without an answer."""
    calls = json.dumps([{"id": "a", "tool_name": "f"}, {"id": "b", "tool_name": "g", "arguments": "{}"}])
    rows = replied(
        ("assistant", calls),
        ("tool_result", json.dumps({"tool_call_id": "b", "content": "of g"})),
        ("tool_result", "of f"),
        ("assistant", "done"),
    )
    messages = only(rows).messages
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "tool", "tool", "assistant"]
    assert [(m["tool_call_id"], m["content"]) for m in messages[3:5]] == [("call_1", "of g"), ("call_0", "of f")]
    assert fault(replied(("tool_result", "of nothing"), ("assistant", "x"))) == "bad_message"


def test_text_and_tool_use_rows_are_one_reply() -> None:
    """A producer that writes both apart meant one message."""
    rows = replied(("assistant", "I go."), ("tool_use", json.dumps({"name": "go", "input": {"to": "x"}})))
    assert only(rows).messages[-1] == {
        "role": "assistant",
        "content": "I go.",
        "tool_calls": [{"id": "call_0", "type": "function", "function": {"name": "go", "arguments": '{"to": "x"}'}}],
    }


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("plain", "plain"),
        ("42", "42"),
        ('{"a": 1}', '{"a": 1}'),
        ('"quoted"', '"quoted"'),
        ('{"role": "user", "text": "t"}', "t"),
        ('{"role": "user", "text": "t", "content": null}', "t"),
        ('{"role": "user", "payload": {"content": "p"}}', "p"),
        ('[{"type": "text", "text": "x"}]', [{"type": "text", "text": "x"}]),
    ],
)
def test_prompts_of_other_producers(content: str, expected: object) -> None:
    """A prompt that the task app did not wrap is taken as it stands."""
    assert only([Row(1, 1, "policy_user_prompt", content), Row(2, 1, "assistant", "ok")]).messages[0] == {
        "role": "user",
        "content": expected,
    }


def test_a_system_prompt_of_the_session_stands_in_every_decision() -> None:
    """It was said once, before the first timestep."""
    rows = [Row(1, None, "system", "Be brief."), Row(2, 1, "user", "a"), Row(3, 1, "assistant", "b")]
    rows += [Row(4, 2, "user", "c"), Row(5, 2, "assistant", "d")]
    assert [[m["content"] for m in r.messages] for r in records(rows)] == [
        ["Be brief.", "a", "b"],
        ["Be brief.", "c", "d"],
    ]


def test_a_decision_that_is_too_long_is_dropped_while_it_is_read() -> None:
    """One endless timestep cannot fill the memory, and the next decision is as it should be."""
    grouped = Decisions("run", max_characters=1000)
    rows = [Row(i, 1, "user", "x" * 300) for i in range(1, 200)]
    assert list(grouped.feed(rows)) == []
    assert sum(len(read.row.content or "") for read in grouped._rows) == 0
    [long, good] = [*grouped.feed([*decision(1, first=200)]), *grouped.finish()]
    assert isinstance(long.found, MalformedError)
    assert (long.found.reason, long.first, long.last) == ("too_long", 1, 199)
    assert isinstance(good.found, SourceRecord)


@given(page=st.integers(1, 12), turns=st.integers(1, 6))
def test_pages_make_no_difference(page: int, turns: int) -> None:
    """Wherever a page ends, the decisions are the same."""
    rows = [row for turn in range(turns) for row in decision(turn, f"t{turn}", first=3 * turn + 1)]
    calls = [read_call(t + 1, "gpt", "p", None, call_records(f"say {t}", "do")) for t in range(turns)]
    whole, paged = decisions(rows, calls), decisions(rows, calls, page=page)
    assert whole == paged
    assert len(whole) == turns


_TYPES = st.sampled_from(["system", "user", "assistant", "tool_use", "tool_result", "policy_user_prompt", "x"])
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "text", "tool_name", "arguments", "tool_calls", "type", "id", "name"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@pytest.mark.slow
@given(
    st.lists(
        st.tuples(
            st.none() | st.integers(1, 3), _TYPES, _JSON.map(json.dumps) | st.text(max_size=20), st.text(max_size=9)
        ),
        max_size=8,
    )
)
def test_whatever_rows_hold_they_give_lines_that_are_fine_or_dead_letters(raw: list[tuple[Any, ...]]) -> None:
    """Hostile rows raise nothing, and every record is a line without a problem."""
    rows = [Row(i, step, kind, content, metadata) for i, (step, kind, content, metadata) in enumerate(raw, 1)]
    for one in decisions(rows):
        if isinstance(one.found, SourceRecord):
            line = encode_line(one.found, OUTCOME, "traces.db")
            problems = [f for f in check_line(line).findings if not f.kind.is_warning]
            assert problems == []


def test_prompt_and_completion_serve_where_there_are_no_messages() -> None:
    """The database of `synth-ai eval` has them in the metadata of the session."""
    record = from_completion("run", {"prompt": "2+2?", "completion": "4", "model": "gpt"})
    assert record.messages == [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
    assert (record.model, record.turn) == ("gpt", None)
    for metadata, reason in (
        ({"prompt": "2+2?"}, "reply_missing"),
        ({"prompt": "2+2?", "completion": ""}, "reply_missing"),
        ({}, "no_conversation"),
        ({"prompt": 3, "completion": "x"}, "bad_message"),
    ):
        with pytest.raises(MalformedError) as raised:
            from_completion("run", metadata)
        assert raised.value.reason == reason


@pytest.mark.parametrize("time", [float("nan"), float("inf"), 1e300, None])
def test_a_time_that_is_none_is_none(time: float | None) -> None:
    """A record without a usable time has no timestamp, and is a record all the same."""
    rows = [Row(r.id, r.timestep, r.type, r.content, r.metadata, time) for r in decision(0)]
    assert only(rows).timestamp is None


@pytest.mark.parametrize(
    ("metadata", "turn"), [('{"step_id": "decision_5"}', 5), ("[" * 999, None), ('{"turn": true}', None)]
)
def test_the_turn_is_what_the_metadata_says(metadata: str, turn: int | None) -> None:
    """Metadata that cannot be read is no reason to lose a record."""
    rows = [Row(1, 1, "user", payload("user", "a"), metadata), Row(2, 1, "assistant", "b", metadata)]
    assert only(rows).turn == turn
