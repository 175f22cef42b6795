"""What models write is hostile: to the page it is text, and never more."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import TYPE_CHECKING, Any

import pytest

from streamer.web.comparisons import ColumnComparison, comparisons
from streamer.web.distributions import histogram
from streamer.web.pictures import media_type
from tests.helpers.place import until
from tests.helpers.producer import PNG, add_outcome, conversation, dialogue, jsonl, make_traces
from tests.helpers.web import Site, got, refused

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx


MARKUP = "<script>alert(1)</script><img src=x onerror=alert(1)><a href='javascript:alert(1)'>\x1b[2J\u202e\u2028"
HTML = b"<html><script>alert(1)</script></html>"


def data_url(data: bytes, media: str = "image/png") -> str:
    """Return bytes as a data URL that says what it likes."""
    return f"data:{media};base64,{b64encode(data).decode()}"


SHOWN = {
    "image/png": PNG,
    "image/gif": data_url(b"GIF89a" + bytes(20), "text/html"),
    "image/jpeg": data_url(b"\xff\xd8\xff\xe0" + bytes(20)),
    "image/webp": data_url(b"RIFF\x04\x00\x00\x00WEBPVP8 "),
}
REFUSED = {
    "html": data_url(HTML),
    "svg": data_url(b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "image/svg+xml"),
    "pdf": data_url(b"%PDF-1.7"),
    "short": data_url(b"\x89PNG"),
    "empty": "data:image/png;base64,",
    "broken": "data:image/png;base64,iVBORw0KGgo*AAAA",
    "plain": "data:text/html,<script>alert(1)</script>",
    "file": "file:///etc/passwd",
    "script": "javascript:alert(1)",
    "nothing": "",
}


def seen(parts: list[dict[str, Any]], turn: int) -> dict[str, Any]:
    """Return a record whose user says these parts."""
    value = dialogue("good", turn)
    value["dialogue"][1]["content"] = parts
    return value


def image(url: str) -> dict[str, Any]:
    """Return a part with an image."""
    return {"type": "image_url", "image_url": {"url": url}}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Return a place in which models have written the worst."""
    site = Site(tmp_path_factory.mktemp("hostile"))
    make_traces(site.traces)
    add_outcome(site.traces, "good", 3, 10)
    add_outcome(site.traces, MARKUP, 3, 10)
    worst = dialogue("good", 0, MARKUP, model=MARKUP)
    worst["assistant"]["content"] = MARKUP
    worst["assistant"]["tool_calls"][0]["function"] = {"name": MARKUP, "arguments": "{not json " + MARKUP}
    worst["metadata"][MARKUP] = {"deep": [MARKUP]}
    long = dialogue("good", 1, "x" * 5_000_000)
    images = seen([image(url) for url in (*SHOWN.values(), *REFUSED.values(), "https://evil.example/x.png")], 2)
    many = seen([{"type": "text", "text": f"part {i}"} for i in range(500)], 3)
    site.shard("a.jsonl", worst, long, images, many, dialogue(MARKUP, 4, "named badly"))
    return site


@pytest.fixture(scope="module")
def client(site: Site) -> Iterator[httpx.Client]:
    """Return a client of a daemon that has taken all of it."""
    with site.served() as client:
        until(lambda: got(client, "/api/state")["dataset"]["records"] == 5)
        yield client


def record(client: httpx.Client, turn: int) -> dict[str, Any]:
    """Return the record of a turn as the list has it."""
    (found,) = [each for each in got(client, "/api/records")["records"] if each["turn"] == turn]
    shown: dict[str, Any] = found
    return shown


@pytest.mark.slow
def test_markup_stays_text(client: httpx.Client) -> None:
    """Character by character, in JSON that no browser takes for a page."""
    found = record(client, 0)
    assert found["messages"][1]["parts"] == [{"type": "text", "text": MARKUP, "length": len(MARKUP), "cut": False}]
    (call,) = found["messages"][2]["tool_calls"]
    assert (call["name"], call["arguments"]) == (MARKUP, "{not json " + MARKUP)
    assert found["model"] == MARKUP
    assert client.get("/api/records").headers["content-type"] == "application/json"


@pytest.mark.slow
def test_an_id_that_is_markup_is_found_by_itself(client: httpx.Client) -> None:
    """As a parameter, and in the path."""
    (found,) = got(client, "/api/rollouts", prefix=MARKUP[:8])["sessions"]
    assert found["session"] == MARKUP
    assert got(client, "/api/rollouts", session=MARKUP)["turns"][0]["state"] == "appended"


@pytest.mark.slow
def test_five_megabytes_of_text_are_cut_in_a_list_and_whole_on_demand(client: httpx.Client) -> None:
    """With the length of the whole in both."""
    found = record(client, 1)
    (part,) = found["messages"][1]["parts"]
    assert (part["length"], part["cut"], len(part["text"])) == (5_000_000, True, 2_000)
    assert len(json.dumps(found)) < 20_000
    (whole,) = got(client, f"/api/records/{found['offset']}")["messages"][1]["parts"]
    assert whole["text"] == "x" * 5_000_000
    turns = got(client, "/api/rollouts/good")["turns"]
    assert len(json.dumps(turns)) < 50_000


@pytest.mark.slow
def test_images_are_what_their_bytes_say(client: httpx.Client) -> None:
    """Four kinds are shown, whatever their URL calls them; nothing else has an address, and none is fetched."""
    parts = record(client, 2)["messages"][1]["parts"]
    assert [part["type"] for part in parts] == (
        ["image"] * len(SHOWN) + ["refused_image"] * len(REFUSED) + ["remote_image"]
    )
    for media, part in zip(SHOWN, parts, strict=False):
        answer = client.get(part["src"])
        assert (answer.status_code, part["media"], answer.headers["content-type"]) == (200, media, media)
    for number, part in enumerate(parts[len(SHOWN) :], len(SHOWN)):
        assert part.get("why") or part["url"] == "https://evil.example/x.png"
        refused(client, f"/api/records/{record(client, 2)['offset']}/images/{number}", 415)
    refused(client, f"/api/records/{record(client, 2)['offset']}/images/{len(parts)}", 404)


@pytest.mark.slow
def test_a_message_of_many_parts_is_cut_in_a_list(client: httpx.Client) -> None:
    """And whole on demand."""
    found = record(client, 3)
    assert len(found["messages"][1]["parts"]) == 100
    assert len(got(client, f"/api/records/{found['offset']}")["messages"][1]["parts"]) == 500


@pytest.mark.slow
def test_lines_of_other_people_are_shown_as_far_as_they_can_be(tmp_path: Path) -> None:
    """Whatever someone has put into the dataset's place: no fault, and the records around it are there."""
    site = Site(tmp_path)
    make_traces(site.traces)
    add_outcome(site.traces, "good", 3, 10)
    site.shard("a.jsonl", dialogue("good", 0, "a"))
    strange = [
        b"nonsense\n",
        b"[]\n",
        b"\n",
        b'{"messages": 1, "metadata": []}\n',
        b'{"messages": [1, {"role": 5, "content": 7, "tool_calls": [1, {"function": {"arguments": {"a": 1}}}]}]}\n',
        b'{"messages": [{"role": "user", "content": [1, null, {"type": 7}, {"type": "image_url"}]}]}\n',
        b'{"messages": [], "metadata": {"total_reward": 1e999, "turn": [1], "run_id": {"a": 1}}}\n',
        b'{"messages": [{"content": "\\ud800"}]}\n',
        b"\xff\xfe\n",
        b"[" * 100_000 + b"]" * 100_000 + b"\n",
        b'{"a":' * 5_000 + b"1" + b"}" * 5_000 + b"\n",
        b'{"messages": [{"role": "user", "content": "' + b"y" * (9 << 20) + b'"}]}\n',
    ]
    with site.served() as client:
        until(lambda: got(client, "/api/state")["dataset"]["records"] == 1)
        ours = site.dataset.read_bytes()
        site.dataset.write_bytes(b"".join(strange) + ours)
        offsets: list[int] = []
        before = None
        while True:
            page = got(client, "/api/records", limit=5, **({} if before is None else {"before": before}))
            offsets += [each["offset"] for each in page["records"]]
            before = page["next"]
            if before is None:
                break
        assert offsets == [sum(map(len, strange[:i])) for i in range(len(strange), -1, -1)]
        for offset in offsets:
            assert client.get(f"/api/records/{offset}").status_code in (200, 404)
            assert client.get(f"/api/records/{offset}/images/0").status_code in (404, 415)
        assert got(client, f"/api/records/{offsets[0]}")["session"] == "good"
        assert len(got(client, f"/api/records/{offsets[1]}")["messages"][0]["parts"][0]["text"]) == 9 << 20
        assert site.events("page_fault") == []


@pytest.mark.slow
def test_a_record_that_is_too_long_for_the_page_says_so(tmp_path: Path) -> None:
    """It is listed by its length, and refused in words."""
    site = Site(tmp_path)
    with site.served() as client:
        site.dataset.write_bytes(jsonl({"messages": []}) + b'{"a": "' + b"z" * (33 << 20) + b'"}\n')
        until(lambda: len(got(client, "/api/records")["records"]) == 2)
        long, _ = got(client, "/api/records")["records"]
        assert long == {"offset": 17, "bytes": (33 << 20) + 10, "too_long": True}
        assert "longer than" in refused(client, "/api/records/17", 413)


@pytest.mark.slow
def test_a_shard_whose_name_cannot_be_decoded_is_shown(tmp_path: Path) -> None:
    """Its bytes have no text of their own."""
    site = Site(tmp_path)
    make_traces(site.traces)
    add_outcome(site.traces, "\\xff", 3, 10)
    with open(bytes(site.shards) + b"/sft_\xff.jsonl", "wb") as file:
        file.write(jsonl({"messages": conversation(dialogue("x"))}, "nonsense"))
    with site.served() as client:
        until(lambda: got(client, "/api/state")["flow"]["read"] == 2)
        assert got(client, "/api/examples", state="dead_lettered")["examples"][0]["lines"] == 1
        (session,) = got(client, "/api/rollouts", prefix="\\xff")["sessions"]
        assert got(client, "/api/rollouts", session=session["session"])["turns"][0]["preview"]
        assert site.events("page_fault") == []


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("total_reward > 0", [ColumnComparison("total_reward", ">", 0)]),
        ("TOTAL_REWARD>=2.5 AND\nachievements_count == 3", [
            ColumnComparison("total_reward", ">=", 2.5), ColumnComparison("achievements_count", "=", 3)]),
        ("outcome_rewards.total_reward <= -1", [ColumnComparison("total_reward", "<=", -1)]),
        ("total_reward > 0 or achievements_count > 1", []),
        ("total_reward > achievements_count", []),
        ("total_reward > 0 and json_extract(reward_metadata, '$.env_seed') < 1000", []),
        ("not total_reward > 0", []),
        ("1", []),
    ],
)  # fmt: skip
def test_a_bar_is_drawn_where_the_condition_is_nothing_else(where: str, found: list[ColumnComparison]) -> None:
    """A condition is free SQL; what is not understood whole has no bar."""
    assert comparisons(where) == found


def test_values_that_are_many_are_put_into_bins() -> None:
    """Each counted once; texts, nothing and what is no number in none."""
    few = histogram([(1, 1, 2), (1.0, 0, 3), ("1", 1, 9), (None, 1, 9), (float("inf"), 1, 9)])
    assert [(each.low, each.high, each.qualifies, each.below) for each in few.bins] == [(1, 1, 2, 3)]
    many = histogram([(value / 7, value % 2, 1) for value in range(1000)])
    assert len(many.bins) == 40
    assert sum(each.qualifies for each in many.bins) == sum(each.below for each in many.bins) == 500
    assert many.bins[0].low == 0
    assert many.bins[-1].high == pytest.approx(999 / 7)


def test_a_beginning_alone_is_no_image() -> None:
    """Nor is a text that has the name of one in it."""
    for data in (b"", b"\x89PNG", b"RIFF\x00\x00\x00\x00WAVE", b" GIF89a", b"<!-- \x89PNG\r\n\x1a\n -->", HTML):
        assert media_type(data) is None
