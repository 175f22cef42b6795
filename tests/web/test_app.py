"""What the page is told of a dataset, by the real daemon over HTTP."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers.place import until
from tests.helpers.producer import add_outcome, dialogue, jsonl, make_traces
from tests.helpers.traces import add_session, make_conversations
from tests.helpers.web import Site, flow, got, refused

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Return a place with every fate: two good rollouts, a copy, a bad one, one that waits, a dead letter."""
    site = Site(tmp_path_factory.mktemp("page"))
    make_traces(site.traces)
    for session, reward in (("good-1", 3), ("good-2", 2), ("copy", 3), ("bad", 0)):
        add_outcome(site.traces, session, reward, 10)
    site.shard("good-1.jsonl", *(dialogue("good-1", turn, f"state {turn}", image=turn == 1) for turn in range(3)))
    site.shard("good-2.jsonl", dialogue("good-2", 0, "other", model="gpt-5-nano"))
    site.shard("bad.jsonl", dialogue("bad", 0, "b"), dialogue("bad", 1, "c"))
    site.shard("waits.jsonl", dialogue("waits", 0, "w"))
    site.shard("dead.jsonl", "nonsense")
    with closing(sqlite3.connect(site.traces)) as db, db:
        db.execute(
            "CREATE TABLE event_rewards (id INTEGER PRIMARY KEY, event_id INTEGER, session_id VARCHAR, message_id"
            ' INTEGER, turn_number INTEGER, reward_value FLOAT, reward_type VARCHAR, "key" VARCHAR, annotation TEXT,'
            " source VARCHAR, created_at DATETIME)"
        )
        db.execute(
            "INSERT INTO event_rewards VALUES (1, 1, 'good-1', NULL, 1, 1.0, 'achievement_delta', NULL,"
            " '{\"achievements\":[\"collect_wood\"]}', 'environment', '2026-01-01')"
        )
    return site


@pytest.fixture(scope="module")
def client(site: Site) -> Iterator[httpx.Client]:
    """Return a client of a daemon that has read all of it, then a copy of what it has."""
    with site.served() as client:
        until(lambda: got(client, "/api/state")["flow"]["read"] == 8)
        first = site.shards.joinpath("good-1.jsonl").read_bytes().splitlines(keepends=True)[0]
        (site.shards / "copy.jsonl").write_bytes(first.replace(b"good-1", b"copy"))
        until(lambda: got(client, "/api/state")["flow"]["read"] == 9)
        yield client


@pytest.mark.slow
def test_the_state_adds_up(client: httpx.Client, site: Site) -> None:
    """The counts are those of ``streamer status``, by reason too."""
    state = got(client, "/api/state")
    assert flow(state) == {
        "appended": 4, "duplicate": 1, "below_bar": 2, "waiting": 1, "never_scored": 0, "dead_lettered": 1,
    }  # fmt: skip
    assert state["flow"]["states"][2]["reasons"] == {"where": 2}
    assert state["flow"]["states"][5]["reasons"] == {"not_object": 1}
    assert (state["dataset"]["records"], state["dataset"]["bytes"]) == (4, site.dataset.stat().st_size)
    assert state["dataset"]["name"] == "good.jsonl"
    assert state["rate"] == {"seconds": 60, "lines": 9, "records": 4}
    until(lambda: got(client, "/api/state")["dataset"]["rollouts"] == 2)
    until(lambda: got(client, "/api/state")["sources"]["shards"] == 6)
    until(lambda: got(client, "/api/state")["outcomes"] == {"rows": 4, "withdrawn": 0})


def test_the_state_says_what_waits_and_why_not_all_is_taken(client: httpx.Client) -> None:
    """The rollout without an outcome, the condition and its bar, no trouble, the newest latencies."""
    state = got(client, "/api/state")
    assert state["waiting"]["rollouts"] == 1
    assert state["waiting"]["oldest_since"] <= state["at"]
    until(lambda: [each["session"] for each in got(client, "/api/state")["waiting"]["oldest"]] == ["waits"])
    assert state["condition"] == {
        "where": "total_reward > 0",
        "bars": [{"column": "total_reward", "op": ">", "value": 0.0}],
    }
    assert state["troubles"] == []
    assert state["trace_database"]["state"] == "ok"
    assert state["latency"]["count"] >= 2
    assert state["latency"]["median"] <= state["latency"]["p99"]


@pytest.mark.slow
def test_lag_is_what_lies_in_the_folder_unread(client: httpx.Client, site: Site) -> None:
    """A line without its end is not read."""
    torn = site.shards / "torn.jsonl"
    torn.write_bytes(b'{"messages": [')
    until(lambda: got(client, "/api/state")["lag"] == {"bytes": 14, "shards": 1})
    torn.unlink()
    until(lambda: got(client, "/api/state")["lag"] == {"bytes": 0, "shards": 0})


def test_records_come_newest_first_and_page_by_page(client: httpx.Client, site: Site) -> None:
    """Each of the dataset once, by its offset."""
    lines = site.dataset.read_bytes().splitlines(keepends=True)
    offsets = [sum(map(len, lines[:i])) for i in range(len(lines))]
    found: list[int] = []
    query: dict[str, Any] = {"limit": 3}
    while True:
        page = got(client, "/api/records", **query)
        found += [record["offset"] for record in page["records"]]
        if page["next"] is None:
            break
        query["before"] = page["next"]
    assert found == offsets[::-1]


def test_a_record_is_a_conversation(client: httpx.Client, site: Site) -> None:
    """Roles, texts, the image as a reference, the tool call, and what is known of it."""
    page = got(client, "/api/records")
    (record,) = [each for each in page["records"] if each["turn"] == 1]
    assert [message["role"] for message in record["messages"]] == ["system", "user", "assistant"]
    text, image = record["messages"][1]["parts"]
    assert text == {"type": "text", "text": "state 1", "length": 7, "cut": False}
    assert image["type"] == "image"
    assert image["media"] == "image/png"
    (call,) = record["messages"][2]["tool_calls"]
    assert (call["name"], call["arguments"]) == ("interact_many", '{"actions": ["move_left", "do"]}')
    assert (record["session"], record["reward"], record["model"]) == ("good-1", 3, "gpt-4o-mini")
    assert record["whole"] is False
    whole = got(client, f"/api/records/{record['offset']}")
    assert whole == record | {"whole": True}
    shown = client.get(image["src"])
    assert (shown.status_code, shown.headers["content-type"]) == (200, "image/png")
    assert shown.content.startswith(b"\x89PNG")
    assert b"data:image/png;base64," in site.dataset.read_bytes()


def test_a_search_finds_rollouts_by_the_beginning_of_their_id(client: httpx.Client) -> None:
    """Those with lines, those with an outcome alone, and none for anything else."""
    found = got(client, "/api/rollouts", prefix="good-")
    assert [each["session"] for each in found["sessions"]] == ["good-1", "good-2"]
    assert found["sessions"][0] == {"session": "good-1", "lines": 3, "states": {"appended": 3}}
    assert got(client, "/api/rollouts", prefix="")["sessions"][0]["session"] == "bad"
    assert got(client, "/api/rollouts", prefix="good_")["sessions"] == []
    assert got(client, "/api/rollouts", prefix="%")["sessions"] == []


def test_a_rollout_is_told_turn_by_turn(client: httpx.Client) -> None:
    """Its outcome, its event rewards, and for each line where it is in the dataset."""
    seen = got(client, "/api/rollouts/good-1")
    assert [(row["total_reward"], row["qualifies"]) for row in seen["outcomes"]] == [(3, True)]
    assert [(turn["turn"], turn["state"]) for turn in seen["turns"]] == [(turn, "appended") for turn in range(3)]
    assert seen["more_turns"] == 0
    for turn in seen["turns"]:
        record = got(client, turn["src"])
        assert (record["session"], record["turn"], record["offset"]) == ("good-1", turn["turn"], turn["offset"])
        assert turn["preview"]["tool_calls"][0]["name"] == "interact_many"
    (event,) = seen["events"]
    assert (event["turn"], event["value"], event["type"]) == (1, 1.0, "achievement_delta")
    assert got(client, "/api/rollouts", session="good-1") == seen


@pytest.mark.parametrize(
    ("session", "state", "words"),
    [
        ("bad", "below_bar", "did not meet: total_reward > 0"),
        ("copy", "duplicate", "the dataset holds an equal record"),
        ("waits", "waiting", "has no row of its session yet"),
    ],
)
def test_the_page_says_why_a_rollout_is_not_in_the_dataset(
    client: httpx.Client, session: str, state: str, words: str
) -> None:
    """In the words of ``streamer explain``, and its conversation can be read all the same."""
    seen = got(client, f"/api/rollouts/{session}")
    assert {turn["state"] for turn in seen["turns"]} == {state}
    assert words in seen["turns"][0]["because"]
    assert words in seen["reasons"][0]["because"]
    record = got(client, seen["turns"][0]["src"])
    assert (record["session"], record["offset"]) == (session, None)
    assert record["messages"][0]["role"] == "system"


def test_a_duplicate_says_what_it_equals(client: httpx.Client) -> None:
    """The place in the dataset of the record that came first."""
    (turn,) = got(client, "/api/rollouts/copy")["turns"]
    first = got(client, "/api/rollouts/good-1")["turns"][0]
    assert turn["offset"] == first["offset"]


def test_a_shard_and_a_line_of_it_are_explained_too(client: httpx.Client) -> None:
    """A dead letter has no session of its own."""
    seen = got(client, "/api/rollouts", session="dead.jsonl")
    assert [(turn["state"], turn["reason"]) for turn in seen["turns"]] == [("dead_lettered", "not_object")]
    assert seen["turns"][0]["src"] is None
    line = got(client, "/api/rollouts", session="good-1.jsonl:2")
    assert [turn["turn"] for turn in line["turns"]] == [1]
    assert line["more_turns"] == 0


def test_examples_of_each_state(client: httpx.Client) -> None:
    """As many lines as the flow counts, by reason if wanted; and only of states that there are."""
    for state, lines in flow(got(client, "/api/state")).items():
        found = got(client, "/api/examples", state=state)
        assert found["complete"]
        assert sum(each["lines"] for each in found["examples"]) == lines
        assert all(each["state"] == state and each["because"] for each in found["examples"])
    where = got(client, "/api/examples", state="below_bar", reason="where")["examples"]
    assert sum(each["lines"] for each in where) == 2
    assert got(client, "/api/examples", state="below_bar", reason="models")["examples"] == []
    assert "below_bar" in refused(client, "/api/examples?state=lost", 400)


def test_distributions_are_split_by_the_bar_and_by_model(client: httpx.Client) -> None:
    """All outcomes; models as the lines of their rollouts name them."""
    until(lambda: got(client, "/api/distributions")["models_unknown"] == 0)
    seen = got(client, "/api/distributions")
    assert [(each["low"], each["qualifies"], each["below"]) for each in seen["reward"]["bins"]] == [
        (0, 0, 1), (2, 1, 0), (3, 2, 0),
    ]  # fmt: skip
    assert seen["rollouts"] == 4
    assert {each["model"]: each["rollouts"] for each in seen["models"]} == {"gpt-4o-mini": 3, "gpt-5-nano": 1}
    assert sum(each["below"] + each["qualifies"] for each in seen["achievements"]["bins"]) == 4
    assert seen["bars"] == got(client, "/api/state")["condition"]["bars"]


def test_history_ends_with_now(client: httpx.Client, site: Site) -> None:
    """Columns of one length, in order of time, from nothing to what is there."""
    seen = got(client, "/api/history")
    assert len({len(column) for column in seen.values()}) == 1
    assert seen["at"] == sorted(seen["at"])
    assert (seen["records"][0], seen["records"][-1]) == (0, 4)
    assert seen["bytes"][-1] == site.dataset.stat().st_size
    assert got(client, "/api/history", since=seen["at"][-1] + 60)["records"] == [4]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/records/1", 404),
        ("/api/records/999999999", 404),
        ("/api/records/-1", 404),
        ("/api/records/abc", 404),
        ("/api/records/" + "9" * 5000, 404),
        ("/api/records/%D9%A3", 404),
        ("/api/records/0/images/0", 404),
        ("/api/records?before=1", 404),
        ("/api/records?before=-1", 400),
        ("/api/records?limit=0", 400),
        ("/api/records?limit=51", 400),
        ("/api/records?limit=many", 400),
        ("/api/history?since=nan", 400),
        ("/api/history?since=yesterday", 400),
        ("/api/rollouts/stranger", 404),
        ("/api/rollouts?session=", 400),
        ("/api/rollouts?session=" + "x" * 4097, 400),
        ("/api/lines/1/99", 404),
        ("/api/lines/99/1", 404),
        ("/api/lines/x/1", 404),
        ("/api/lines/1/1/images/7", 404),
        ("/api/examples", 400),
        ("/api/nothing", 404),
        ("/static/nothing.js", 404),
        ("/static/%2e%2e/app.py", 404),
        ("/static/..%2f..%2fapp.py", 404),
        ("/static//etc/passwd", 404),
    ],
)
def test_what_is_not_there_is_refused_in_words(client: httpx.Client, path: str, status: int) -> None:
    """And never with a fault of ours."""
    refused(client, path, status)


def test_offsets_are_checked_against_the_file(client: httpx.Client, site: Site) -> None:
    """Every byte but the first of a line is refused, so that no part of a record is taken for one."""
    line = site.dataset.read_bytes().splitlines(keepends=True)[0]
    for offset in (1, len(line) // 2, len(line) - 1):
        refused(client, f"/api/records/{offset}", 404)
    assert got(client, f"/api/records/{len(line)}")["offset"] == len(line)
    refused(client, f"/api/records/{site.dataset.stat().st_size}", 404)


def test_the_page_itself_is_served(client: httpx.Client) -> None:
    """Markup at every address that can be kept; scripts and styles with the types that `nosniff` asks for."""
    index = client.get("/")
    assert (index.status_code, index.headers["content-type"]) == (200, "text/html; charset=utf-8")
    for address in ("/rollouts/good-1", "/records/0"):
        assert client.get(address).content == index.content
    script = client.get("/static/app.js")
    assert script.headers["content-type"].startswith("text/javascript")
    again = client.get("/static/app.js", headers={"If-None-Match": script.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_nothing_of_it_ended_in_a_fault(client: httpx.Client, site: Site) -> None:
    """Whatever the tests before have asked."""
    got(client, "/api/state")
    assert site.events("page_fault") == []


@pytest.mark.slow
def test_lines_that_cannot_be_read_any_more_say_so(tmp_path: Path) -> None:
    """A shard that is gone, and one that was overwritten; the records of it are still in the dataset."""
    site = Site(tmp_path)
    make_traces(site.traces)
    add_outcome(site.traces, "good", 3, 10)
    add_outcome(site.traces, "bad", 0, 10)
    shard = site.shard("a.jsonl", dialogue("good", 0, "a"), dialogue("bad", 0, "b"))
    with site.served() as client:
        until(lambda: got(client, "/api/state")["flow"]["read"] == 2)
        shard.unlink()
        (turn,) = got(client, "/api/rollouts/bad")["turns"]
        assert (turn["state"], turn["src"], turn["preview"]) == ("below_bar", None, None)
        assert "cannot be read any more" in refused(client, f"/api/lines/{turn['shard_id']}/{turn['line']}", 404)
        shard.write_bytes(jsonl(dialogue("new", 0, "n" * 4000), dialogue("new", 1, "n" * 4000)))
        until(lambda: got(client, "/api/state")["flow"]["read"] == 4)
        assert [turn["src"] for turn in got(client, "/api/rollouts/bad")["turns"]] == [None]
        assert got(client, "/api/records")["records"][0]["session"] == "good"


@pytest.mark.slow
def test_a_rollout_of_the_trace_database_has_its_conversations_too(tmp_path: Path) -> None:
    """They are in the dataset, and nowhere else that can be read; one that does not qualify says why it is not."""
    site = Site(tmp_path)
    site.configure(source='conversations = "database"')
    make_conversations(site.traces)
    add_session(site.traces, "good", [3], turns=3)
    add_session(site.traces, "good-too", [3], turns=2)
    add_session(site.traces, "bad", [0], turns=2)
    with site.served() as client:
        until(lambda: got(client, "/api/state")["dataset"]["records"] == 5)
        turns = got(client, "/api/rollouts/good")["turns"]
        assert [turn["turn"] for turn in turns] == [0, 1, 2]
        assert [got(client, turn["src"])["session"] for turn in turns] == ["good"] * 3
        bad = got(client, "/api/rollouts/bad")
        assert bad["turns"] == []
        assert "none of its outcome rows qualifies" in bad["note"]
