"""From lines and outcomes to verdicts: each line gets exactly one, and the sums are right."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.core.records.dataset_line import line_key
from streamer.core.records.key import DedupBy
from streamer.core.records.layouts import Envelope, time_us
from streamer.core.records.model import Line, Outcome, Span, State
from streamer.core.verdicts.join import JoinRule
from streamer.core.verdicts.judge import Item, Rules, count, judge, parse, sessions, settle
from streamer.core.verdicts.qualify import RecordRules
from streamer.core.verdicts.reasons import AFTER_LAST_OUTCOME, RULE_CHANGED
from tests.helpers.producer import DEEP, EPOCH, GOOD, conversation, dialogue, iso, jsonl, messages, put

RULES = Rules("now", JoinRule.AS_OF, RecordRules(), DedupBy.CONVERSATION)
MAX_LINE = 30_000


def outcome(session: str, *, qualifies: bool = True, seconds: float = 10.0, rule: str = "now") -> Outcome:
    """Return an outcome that the ledger knows under number 5."""
    return Outcome(1, session, 3, 1, 8, "x", time_us(iso(seconds)), qualifies, rule, ref=5)


def lines(*texts: bytes, shard: str = "s.jsonl", start: int = 0) -> list[Line]:
    """Return lines as a shard gives them."""
    found = []
    for number, text in enumerate(texts, 1):
        data = text if len(text) <= MAX_LINE else None
        found.append(Line(shard, number, start, start + len(text) + 1, data, text[:200]))
        start += len(text) + 1
    return found


def items(*texts: bytes, shard_id: int = 1, since: float = 7.0) -> list[Item]:
    """Return parsed lines, blank ones left out."""
    parsed = (parse(line, shard_id, since, MAX_LINE) for line in lines(*texts))
    return [item for item in parsed if item is not None]


def text(value: Any) -> bytes:
    """Return a line's value without the newline."""
    return jsonl(value).rstrip(b"\n")


def settled(
    batch: list[Item], outcomes: dict[str, list[Outcome]], known: dict[bytes, bool] | None = None, length: int = 0
) -> Any:
    """Return what a batch comes to."""
    return settle(judge(batch, outcomes, RULES), known or {}, length)


@pytest.mark.parametrize("blank", [b"", b" ", b"\t\r", b"\x0b\x0c"])
def test_a_blank_line_is_no_line(blank: bytes) -> None:
    """Some writers end their file with one."""
    assert items(blank) == []


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (b"nonsense", "not_json"),
        (b"[]", "not_object"),
        (b"{}", "no_conversation"),
        (GOOD.replace(b'"user"', b'"robot"'), "unknown_role"),
        (b"\0" * 100, "nul_bytes"),
        (GOOD.replace(b"state", b"\xff"), "invalid_utf8"),
        (put("dialogue_text", b'"\xff"'), "invalid_utf8"),
        (put("turn", b"NaN"), "not_json"),
        (put("turn", b"9" * 5000), "not_json"),
        (put("turn", DEEP), "too_deep"),
        (put("dialogue_text", DEEP), "too_deep"),
        (put("x", b'"\\ud800"'), "not_json"),
        (put("metadata", b'{"x": "\\ud800"}'), "not_json"),
        (b"x" * 30_001, "too_long"),
    ],
)
def test_a_bad_line_is_one_dead_letter_and_stops_no_other(bad: bytes, why: str) -> None:
    """It says where it stood, why, and how it began; its neighbours go their way."""
    good = text(dialogue("run-a"))
    result = settled(items(good, bad, good), {"run-a": [outcome("run-a")]})
    letters = [json.loads(line) for line in result.dead_letters.splitlines()]
    assert [(letter["reason"], letter["line"], letter["offset"], letter["bytes"]) for letter in letters] == [
        (why, 2, len(good) + 1, len(bad))
    ]
    assert letters[0]["head"] == bad[:200].decode("utf-8", "backslashreplace")
    assert [(span.state, span.reason) for span in result.spans] == [
        (State.ACCEPTED, ""), (State.DEAD_LETTERED, why), (State.DUPLICATE, ""),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("outcomes", "state", "reason"),
    [
        ([], State.WAITING, ""),
        ([outcome("run-a", seconds=-1)], State.WAITING, AFTER_LAST_OUTCOME),
        ([outcome("run-a", rule="before")], State.WAITING, RULE_CHANGED),
        ([outcome("run-a", qualifies=False)], State.REJECTED, "where"),
        ([outcome("run-a")], State.ACCEPTED, ""),
        ([outcome("run-a", seconds=-1), outcome("run-a", qualifies=False)], State.REJECTED, "where"),
    ],
)
def test_the_outcome_decides(outcomes: list[Outcome], state: State, reason: str) -> None:
    """Or is waited for, with a reason."""
    result = settled(items(text(dialogue("run-a"))), {"run-a": outcomes})
    span = result.spans[0]
    assert (span.state, span.reason) == (state, reason)
    assert span.outcome == (5 if state in (State.REJECTED, State.ACCEPTED) else None)
    assert bool(result.dataset) == (state is State.ACCEPTED)


def test_a_span_remembers_what_is_needed_to_judge_its_lines_again() -> None:
    """Its place, its session, the times of its records, and since when it waits."""
    batch = items(*(text(dialogue("run-a", turn, seconds=turn)) for turn in (2, 0, 1)), shard_id=4)
    (span,) = settled(batch, {}).spans
    assert span == Span(
        shard_id=4, start=0, stop=batch[-1].line.stop, line=1, lines=3, session="run-a", state=State.WAITING,
        first_us=round(EPOCH.timestamp() * 1e6), last_us=round((EPOCH.timestamp() + 2) * 1e6), since=7.0,
    )  # fmt: skip


def test_of_equal_lines_in_one_batch_the_first_is_taken() -> None:
    """Random ids of tool calls do not make them different."""
    one, two = text(dialogue("run-a")), text(dialogue("run-a"))
    assert one != two
    result = settled(items(one, two), {"run-a": [outcome("run-a")]})
    assert [span.state for span in result.spans] == [State.ACCEPTED, State.DUPLICATE]
    assert result.dataset.count(b"\n") == 1


def test_a_line_that_the_dataset_holds_is_a_duplicate() -> None:
    """Nothing is written, and nothing new is remembered."""
    batch = items(text(dialogue("run-a")))
    ((key, _),) = settled(batch, {"run-a": [outcome("run-a")]}).appended
    again = settled(batch, {"run-a": [outcome("run-a")]}, {key: True})
    assert (again.dataset, again.appended, again.claimed) == (b"", [], [])
    assert [span.state for span in again.spans] == [State.DUPLICATE]


def test_a_line_that_was_adopted_is_claimed_by_the_line_it_came_from() -> None:
    """Once: it counts as appended and is not written again; its equals are duplicates."""
    batch = items(text(dialogue("run-a")), text(dialogue("run-a")))
    ((key, _),) = settled(batch, {"run-a": [outcome("run-a")]}).appended
    again = settled(batch, {"run-a": [outcome("run-a")]}, {key: False})
    assert (again.dataset, again.appended, again.claimed) == (b"", [], [key])
    assert [span.state for span in again.spans] == [State.ACCEPTED, State.DUPLICATE]


def test_the_sessions_of_a_batch_are_those_of_its_records() -> None:
    """A shard may mix them; bad lines have none."""
    nameless = {"messages": [{"role": "assistant", "content": ""}]}
    batch = items(text(dialogue("a")), b"bad", text(messages("b")), text(nameless))
    assert sessions(batch) == {"a", "b", "s"}


kinds = st.lists(
    st.tuples(st.sampled_from(["good", "bad", "blank"]), st.sampled_from("abc"), st.integers(0, 2), st.booleans()),
    max_size=12,
)
OUTCOMES = {"a": [outcome("a")], "b": [outcome("b", qualifies=False)]}


def made(kind: str, session: str, turn: int, timed: bool) -> bytes:  # noqa: FBT001
    """Return one line of some kind."""
    if kind == "good":
        return text(dialogue(session, turn, f"turn {turn}", seconds=turn if timed else None))
    return b"{" if kind == "bad" else b" "


@given(kinds, st.integers(0, 10**9))
def test_spans_partition_the_lines_and_the_counts_add_up(batch: list[tuple[str, str, int, bool]], length: int) -> None:
    """Every line that is not blank is in exactly one span, in order, and in exactly one count."""
    texts = [made(*one) for one in batch]
    parsed = items(*texts)
    result = settled(parsed, OUTCOMES, length=length)
    covered = [(line.start, line.stop) for line in (item.line for item in parsed)]
    assert sum(span.lines for span in result.spans) == sum(count(result.spans).values()) == len(parsed)
    for span in result.spans:
        mine, covered = covered[: span.lines], covered[span.lines :]
        assert (span.start, span.stop) == (mine[0][0], mine[-1][1])
        assert all(one[1] == two[0] for one, two in pairwise(mine))
    assert covered == []
    counts = count(result.spans)
    assert counts[State.ACCEPTED] == result.dataset.count(b"\n") == len(result.appended)
    assert counts[State.DEAD_LETTERED] == result.dead_letters.count(b"\n") == sum(one[0] == "bad" for one in batch)
    assert counts[State.WAITING] == sum(one[:2] == ("good", "c") for one in batch)
    assert counts[State.REJECTED] == sum(one[:2] == ("good", "b") for one in batch)
    assert counts[State.ACCEPTED] == len({one[2] for one in batch if one[:2] == ("good", "a")})


@given(kinds, st.integers(0, 10**9))
def test_every_key_is_remembered_with_the_offset_of_its_line(
    batch: list[tuple[str, str, int, bool]], length: int
) -> None:
    """The offset is in the dataset, where the line begins."""
    result = settled(items(*(made(*one) for one in batch)), OUTCOMES, length=length)
    for key, offset in result.appended:
        line = result.dataset[offset - length :].split(b"\n", 1)[0]
        assert line_key(line, DedupBy.CONVERSATION) == key


@given(kinds)
def test_a_batch_judged_in_two_parts_comes_to_the_same(batch: list[tuple[str, str, int, bool]]) -> None:
    """Where a batch ends changes nothing but the number of spans."""
    parsed = items(*(made(*one) for one in batch))
    whole = settled(parsed, OUTCOMES)
    middle = len(parsed) // 2
    first = settled(parsed[:middle], OUTCOMES)
    known = dict.fromkeys((key for key, _ in first.appended), True)
    second = settled(parsed[middle:], OUTCOMES, known, len(first.dataset))
    assert first.dataset + second.dataset == whole.dataset
    assert first.dead_letters + second.dead_letters == whole.dead_letters
    assert [*first.appended, *second.appended] == whole.appended
    sums = [count(part.spans) for part in (first, second)]
    assert {state: sums[0][state] + sums[1][state] for state in State} == count(whole.spans)


def test_the_dataset_line_of_a_record_is_its_conversation_with_the_outcome() -> None:
    """Messages as they were, and what the join found."""
    value = dialogue("run-a", 4, "st\u00e4te", image=True)
    (line,) = settled(items(text(value)), {"run-a": [outcome("run-a")]}).dataset.splitlines()
    found = json.loads(line)
    assert found["messages"] == conversation(value)
    assert found["metadata"] == {
        "user_has_image": True, "assistant_has_image": False, "has_image": True, "run_id": "run-a", "turn": 4,
        "model": "gpt-4o-mini", "provider": "custom", "total_reward": 3, "achievements_count": 1, "total_steps": 8,
        "timestamp": iso(0), "shard": "s.jsonl",
    }  # fmt: skip


def test_an_accepted_line_is_a_record() -> None:
    """Anything else is a reason."""
    contents = [item.content for item in items(text(dialogue("a")), b"{")]
    assert isinstance(contents[0], Envelope)
    assert not isinstance(contents[1], Envelope)
