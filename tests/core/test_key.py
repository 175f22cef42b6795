"""Equal conversations have equal keys, however they were written down; different ones have different keys."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from streamer.core.records.conversation import from_dialogue, from_messages, of_messages
from streamer.core.records.dataset_line import encode_line, line_key
from streamer.core.records.key import KEY_BYTES, DedupBy, record_key
from streamer.core.records.layouts import MalformedError, read
from streamer.core.records.model import Outcome
from tests.helpers.producer import PNG, call, dialogue, iso, jsonl, messages

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamer.core.records.model import SourceRecord

OUTCOME = Outcome(1, "run-a", 3, 1, 8, "2026-01-01", None, qualifies=True, rule="r")
SHARD = "sft_run-a.jsonl"
NOBODY = (None, None, None)
DEEPEST = 1100
"""More brackets than a line can hold that is taken."""

texts = st.text(max_size=12)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | texts
values = st.recursive(
    scalars | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
parts = st.fixed_dictionaries({"type": st.just("text"), "text": texts}) | st.fixed_dictionaries(
    {"type": st.just("image_url"), "image_url": st.fixed_dictionaries({"url": st.just(PNG) | texts})}
)
calls = st.builds(lambda name, arguments: call(name, **arguments), texts, st.dictionaries(texts, values, max_size=3))
asked = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "tool", "developer"]), "content": texts | st.lists(parts, max_size=3)}
)
replies = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": texts | st.lists(parts, max_size=2)},
    optional={"tool_calls": st.lists(calls, max_size=2), "name": texts, "refusal": st.none() | texts},
)
talks = st.builds(lambda some, last: [*some, last], st.lists(asked | replies, min_size=1, max_size=4), replies)
"""Conversations that end with a reply."""


def taken(value: Any, shard: str = SHARD) -> SourceRecord:
    """Return the record of a line's value."""
    return read(jsonl(value).rstrip(b"\n"), shard)


def key(value: Any, by: DedupBy = DedupBy.CONVERSATION) -> bytes:
    """Return the key of a line's value."""
    record = taken(value)
    return record_key(record.conversation, by, (record.session, record.turn, record.timestamp))


def as_dialogue(talk: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a conversation in the layout of the task app."""
    reply = {name: item for name, item in talk[-1].items() if name != "role"}
    return {"run_id": "run-a", "dialogue": talk[:-1], "assistant": reply | {"has_image": False}}


def shuffled(value: Any, draw: Callable[[Any], Any]) -> Any:
    """Return a JSON value with the keys of every object in another order."""
    if isinstance(value, dict):
        return {name: shuffled(value[name], draw) for name in draw(st.permutations(list(value)))}
    return [shuffled(item, draw) for item in value] if isinstance(value, list) else value


def renamed(talk: list[dict[str, Any]], ids: dict[str, str]) -> list[dict[str, Any]]:
    """Return a conversation whose tool calls have other ids."""
    text = json.dumps(talk)
    for old, new in ids.items():
        text = text.replace(f'"{old}"', f'"{new}"')
    again: list[dict[str, Any]] = json.loads(text)
    return again


@pytest.mark.slow
@given(talks, st.data())
def test_a_key_is_independent_of_white_space_and_of_the_order_of_keys(
    talk: list[dict[str, Any]], data: st.DataObject
) -> None:
    """Two writers of JSON need not agree."""
    compact = json.dumps(shuffled({"messages": talk}, data.draw), separators=(",", ":"), ensure_ascii=True)
    wide = json.dumps({"messages": talk}, indent=data.draw(st.integers(0, 3)), ensure_ascii=False)
    first, second = (read(text.encode(), SHARD) for text in (compact, wide.replace("\n", " \t")))
    assert record_key(first.conversation, DedupBy.CONVERSATION, NOBODY) == record_key(
        second.conversation, DedupBy.CONVERSATION, NOBODY
    )


@given(talks)
def test_a_key_is_independent_of_the_layout(talk: list[dict[str, Any]]) -> None:
    """The same turn in a shard of either layout is the same record."""
    assert key({"messages": talk}) == key(as_dialogue(talk))


@pytest.mark.slow
@given(talks, values, texts)
def test_a_key_is_independent_of_metadata(talk: list[dict[str, Any]], turn: Any, model: str) -> None:
    """Run, turn, model, time and reward do not make another conversation."""
    metadata = {"run_id": "other", "turn": turn, "reward": 5}
    assert key({"messages": talk}) == key({"messages": talk, "model": model, "timestamp": 7, "metadata": metadata})


@given(talks)
def test_the_key_of_a_dataset_line_is_the_key_of_its_source(talk: list[dict[str, Any]]) -> None:
    """So a line that no ledger knows can be recognised, by each meaning of the key."""
    record = taken({"run_id": "run-a", "turn": 3, "timestamp": iso(1), "messages": talk})
    line = encode_line(record, OUTCOME, SHARD)
    for by in DedupBy:
        assert line_key(line, by) == record_key(
            record.conversation, by, (record.session, record.turn, record.timestamp)
        )


@given(talks, scalars | values, texts | values)
def test_a_dataset_line_holds_the_very_conversation(talk: list[dict[str, Any]], turn: Any, more: Any) -> None:
    """Decoded, every text is equal to the source's; the line is one line for every reader."""
    record = taken({"messages": talk, "turn": turn, "metadata": {"more": more}})
    line = encode_line(record, OUTCOME, SHARD)
    value = json.loads(line)
    assert value["messages"] == [
        {name: item for name, item in message.items() if name != "tool_calls" or item is not None} for message in talk
    ]
    assert (value["metadata"]["turn"], value["metadata"]["more"]) == (turn, more)
    assert line.endswith(b"\n")
    assert len(line.decode().splitlines()) == 1


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**25 + 1, 123456789012345678901234567890])
def test_long_whole_numbers_stay_what_they_are(number: int) -> None:
    """Where a program wrote a number of more than 64 bits, it meant all its digits."""
    record = taken(messages("run-a", turn=0) | {"metadata": {"seed": number}})
    assert json.loads(encode_line(record, OUTCOME, SHARD))["metadata"]["seed"] == number


def test_every_dataset_line_has_the_same_metadata_keys() -> None:
    """No column comes and goes, whatever the source said or kept back."""
    lines = [encode_line(taken(value), OUTCOME, SHARD) for value in (dialogue("a"), {"messages": [REPLY]})]
    bare = json.loads(lines[1])["metadata"]
    assert set(bare) == {
        "run_id", "turn", "model", "provider", "total_reward", "achievements_count", "total_steps", "has_image",
        "timestamp", "shard",
    }  # fmt: skip
    assert set(bare) <= set(json.loads(lines[0])["metadata"])


def test_the_source_cannot_pass_off_a_reward_of_its_own() -> None:
    """Metadata of the record gives way to what the join found."""
    value = messages("run-a") | {"metadata": {"run_id": "run-a", "total_reward": 99, "shard": "x", "kept": 1}}
    metadata = json.loads(encode_line(taken(value), OUTCOME, SHARD))["metadata"]
    assert (metadata["total_reward"], metadata["shard"], metadata["kept"]) == (3, SHARD, 1)


REPLY = {"role": "assistant", "content": "a"}


def spots(value: Any, where: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the places of all texts of a conversation that a trainer could read."""
    if isinstance(value, str):
        return [where]
    if isinstance(value, dict):
        pairs = [pair for pair in value.items() if pair[0] not in ("id", "role", "type", "arguments")]
    else:
        pairs = list(enumerate(value)) if isinstance(value, list) else []
    return [spot for name, item in pairs for spot in spots(item, (*where, name))]


def changed(value: Any, where: tuple[Any, ...], other: Any) -> Any:
    """Return a copy of a JSON value with another value at one place."""
    if not where:
        return other
    again = dict(value) if isinstance(value, dict) else list(value)
    again[where[0]] = changed(value[where[0]], where[1:], other)
    return again


@pytest.mark.slow
@given(talks, st.data())
def test_a_key_differs_when_any_text_differs(talk: list[dict[str, Any]], data: st.DataObject) -> None:
    """Content, parts, names of functions, image data: one character is enough."""
    where = data.draw(st.sampled_from(spots(talk) or [()]))
    assume(where)
    old = talk
    for step in where:
        old = old[step]
    other = data.draw(texts.filter(old.__ne__))
    assert key({"messages": talk}) != key({"messages": changed(talk, where, other)})


@given(st.dictionaries(texts, values, max_size=3), st.dictionaries(texts, values, max_size=3))
def test_a_key_differs_when_arguments_differ(one: dict[str, Any], two: dict[str, Any]) -> None:
    """As JSON: their white space and the order of their keys do not count."""
    calls = [call("act", **one), call("act", **two), call("act", **one)]
    function = calls[2]["function"]
    function["arguments"] = json.dumps(json.loads(function["arguments"]), indent=2)
    first, second, third = (key({"messages": [REPLY | {"tool_calls": [made]}]}) for made in calls)
    same = json.dumps(one or [], sort_keys=True) == json.dumps(two or [], sort_keys=True)
    assert (first == second) is same
    assert first == third


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"content": "ab"}, {"content": "a b"}),
        ({"content": "\u00e9"}, {"content": "e\u0301"}),
        ({"content": "5"}, {"content": [{"type": "text", "text": "5"}]}),
        ({"content": "a", "name": "x"}, {"content": "a"}),
        ({"content": "a", "tool_calls": [call("f", a=1), call("g", a=1)]},
         {"content": "a", "tool_calls": [call("g", a=1), call("f", a=1)]}),
        ({"content": "a", "tool_calls": [call("f", a=1)]}, {"content": "a", "tool_calls": [call("f", a="1")]}),
        ({"content": "a", "tool_calls": [call("f", a=1)]}, {"content": "a", "tool_calls": [call("f", a=1.5)]}),
    ],
)  # fmt: skip
def test_these_are_different_conversations(one: dict[str, Any], two: dict[str, Any]) -> None:
    """Near is not equal."""
    assert key({"messages": [REPLY | one]}) != key({"messages": [REPLY | two]})


def test_arguments_that_are_no_json_are_not_taken_for_json() -> None:
    """A bare word and the same word in quotes are two texts."""
    bare, quoted = call("act"), call("act")
    bare["function"]["arguments"], quoted["function"]["arguments"] = "north", '"north"'
    one, two = ({"messages": [REPLY | {"tool_calls": [made]}]} for made in (bare, quoted))
    assert key(one) != key(two)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"content": None, "tool_calls": [call()]}, {"content": "", "tool_calls": [call()]}),
        ({"tool_calls": [call()]}, {"content": "", "tool_calls": [call()]}),
        ({"content": "a", "tool_calls": []}, {"content": "a"}),
        ({"content": "a", "refusal": None}, {"content": "a"}),
        ({"content": "a", "tool_calls": [call() | {"index": 0}]}, {"content": "a", "tool_calls": [call()]}),
        ({"content": "a", "tool_calls": [{"function": call()["function"]}]}, {"content": "a", "tool_calls": [call()]}),
    ],
)
def test_these_are_the_same_conversation(one: dict[str, Any], two: dict[str, Any]) -> None:
    """Nothing and null, and what is drawn at random, do not count."""
    assert key({"messages": [one | {"role": "assistant"}]}) == key({"messages": [two | {"role": "assistant"}]})


def places(value: Any, where: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the places of all values within a JSON value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [where, *(place for name, item in pairs for place in places(item, (*where, name)))]


@given(st.sampled_from([dialogue, messages]), values, st.data())
def test_a_line_with_anything_in_any_place_is_malformed_or_comes_back(
    make: Callable[..., Any], odd: Any, data: st.DataObject
) -> None:
    """Whatever is accepted can be encoded, and is recognised by its key afterwards."""
    value = make("run-a", 0, image=True)
    where = data.draw(st.sampled_from(places(value)))
    with suppress(MalformedError):
        record = taken(changed(value, where, odd))
        line = encode_line(record, OUTCOME, SHARD)
        assert json.loads(line)["messages"] == record.messages
        for by in DedupBy:
            assert line_key(line, by) == record_key(
                record.conversation, by, (record.session, record.turn, record.timestamp)
            )


def heard(first: str, second: str, answers: tuple[str, str]) -> list[dict[str, Any]]:
    """Return a conversation in which two calls with these ids are answered, in this order."""
    made = [call() | {"id": first}, call() | {"id": second}]
    tools = [{"role": "tool", "tool_call_id": answers[0], "content": "wood"},
             {"role": "tool", "tool_call_id": answers[1], "content": "stone"}]  # fmt: skip
    return [{"role": "assistant", "content": "", "tool_calls": made}, *tools, REPLY]


def test_a_key_is_independent_of_the_ids_of_tool_calls() -> None:
    """But not of which call an answer belongs to."""
    talk = heard("c1", "c2", ("c1", "c2"))
    assert key({"messages": talk}) == key({"messages": renamed(talk, {"c1": "x", "c2": "y"})})
    assert key({"messages": talk}) != key({"messages": heard("c1", "c2", ("c2", "c1"))})


@given(talks, st.data())
def test_a_key_is_independent_of_any_ids(talk: list[dict[str, Any]], data: st.DataObject) -> None:
    """However many calls there are, with new ids for all of them the conversation is the same."""
    ids = [made["id"] for message in talk for made in message.get("tool_calls", ())]
    new = data.draw(st.permutations([f"new-{i}" for i in range(len(ids))]))
    assert key({"messages": talk}) == key({"messages": renamed(talk, dict(zip(ids, new, strict=True)))})


def test_an_id_that_comes_again_does_not_make_two_answers_alike() -> None:
    """Some servers count from zero in every reply."""
    before = [{"role": "assistant", "content": "", "tool_calls": [call() | {"id": "c1"}]}]
    before.append({"role": "tool", "tool_call_id": "c1", "content": "ok"})
    one, two = (before + heard("c1", "c2", answers) for answers in (("c1", "c2"), ("c2", "c1")))
    assert key({"messages": one}) != key({"messages": two})


@given(talks, replies)
def test_by_prompt_only_what_stands_before_the_last_reply_counts(
    talk: list[dict[str, Any]], reply: dict[str, Any]
) -> None:
    """One reply for each prompt."""
    one, two = {"messages": talk}, {"messages": [*talk[:-1], reply]}
    assert key(one, DedupBy.PROMPT) == key(two, DedupBy.PROMPT)
    three = {"messages": [{"role": "user", "content": "more"}, *talk]}
    assert key(one, DedupBy.PROMPT) != key(three, DedupBy.PROMPT)


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 1) | st.none(), st.none() | st.just(iso(1))),
             min_size=2, max_size=2)
)  # fmt: skip
def test_without_dedup_a_record_is_kept_once(identities: list[tuple[Any, Any, Any]]) -> None:
    """Run, turn and time tell one record from another with the same words."""
    one, two = (
        key({"run_id": run, "turn": turn, "timestamp": time, "messages": [REPLY]}, DedupBy.NONE)
        for run, turn, time in identities
    )
    assert (one == two) is (identities[0] == identities[1])


def test_keys_are_short_and_stay_as_they_are() -> None:
    """Every ledger holds them: with another key, ``KEY_VERSION`` must change."""
    value = {"messages": [{"role": "user", "content": "u"}, REPLY]}
    found = key(value)
    assert len(found) == KEY_BYTES
    assert found.hex() == "e591ab0b25fb34f102b52ab85ecc3d36"


@given(talks)
def test_the_short_way_to_a_conversation_leads_where_the_long_one_does(talk: list[dict[str, Any]]) -> None:
    """Whatever it takes at all: the same messages, the same canonical form, the same prompt."""
    short = from_messages(jsonl(talk).rstrip(b"\n"))
    if short is not None:
        long = of_messages(talk)
        assert short.messages == long.messages == talk
        assert (short.canonical, short.prompt, short.has_image) == (long.canonical, long.prompt, long.has_image)


def test_the_short_way_takes_what_producers_write() -> None:
    """Both layouts, with images and with tool calls: nothing that is usual takes the long way."""
    shot = {"type": "image_url", "image_url": {"url": PNG}}
    user = {"role": "user", "content": [{"type": "text", "text": "look"}, shot]}
    reply = REPLY | {"content": None, "tool_calls": [call("act", at=[1, 2], also={"b": 1, "a": 2})]}
    talk: list[dict[str, Any]] = [{"role": "system", "content": "s"}, user, reply]
    found = from_messages(json.dumps(talk).encode())
    assert found is not None
    assert found.has_image
    assert found.canonical == of_messages(talk).canonical
    layout = as_dialogue(talk)
    again = from_dialogue(*(json.dumps(layout[key]).encode() for key in ("dialogue", "assistant")))
    assert again == found


def beneath(frames: int, work: Callable[[], Any]) -> Any:
    """Do some work that many frames further down the stack."""
    return beneath(frames - 1, work) if frames else work()


DEEP_SPOTS = {
    "in a message": '"messages": [{"role": "assistant", "content": "a", "x": %s}]',
    "in metadata": '"messages": [{"role": "assistant", "content": "a"}], "metadata": {"x": %s}',
    "in arguments": '"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": %s}}]}]',
    "in a text": '"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "%s"}}]}]',
}


@pytest.mark.parametrize("line", DEEP_SPOTS.values(), ids=DEEP_SPOTS.keys())
def test_a_key_is_the_same_wherever_it_is_computed(line: str) -> None:
    """What a worker thread took, a recovery has to recognise: at any depth of the call stack."""
    wrong = []
    for depth in range(1, DEEPEST, 3):
        record = shallow(("{" + line % ("[" * depth + "]" * depth) + "}").encode())
        if record is not None:
            expected = record_key(record.conversation, DedupBy.CONVERSATION, NOBODY)
            if beneath(100, partial(key_or_none, encode_line(record, OUTCOME, SHARD))) != expected:
                wrong.append(depth)
    assert wrong == []


def shallow(data: bytes) -> SourceRecord | None:
    """Return the record of a line, None if that is nested too deeply."""
    with suppress(MalformedError):
        return read(data, SHARD)
    return None


def key_or_none(line: bytes) -> bytes | None:
    """Return the key of a dataset line, None if the line is not recognised as one."""
    with suppress(ValueError):
        return line_key(line, DedupBy.CONVERSATION)
    return None
