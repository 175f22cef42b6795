"""``streamer report``: the numbers, the page, and that what models wrote is text in it."""

from __future__ import annotations

import base64
import json
import os
import random
import re
import stat
import tracemalloc
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from streamer.base.errors import ConfigError, RefusedError, UnavailableError
from streamer.base.lock import DatasetLock, lock_file
from streamer.base.spill_counts import Tally
from streamer.commands.report.cli import report as command
from streamer.commands.report.gather import BestRollouts, Curve, RecordPlace, Rollout, Sample, top
from streamer.commands.report.html import Html, el
from streamer.commands.report.page import page
from streamer.commands.report.report import DatasetReport, report
from streamer.commands.report.samples import CHARACTERS, IMAGES, MESSAGES, read_samples
from streamer.commands.report.summary import summary
from streamer.commands.report.survey import survey
from streamer.core.records.images import Embedded, embedded
from streamer.store.views.snapshot import ledger_of
from tests.helpers.producer import PNG, add_outcome, correct_outcome, dialogue, jsonl, make_traces, settings, work_off

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamer.config import Config

APP = typer.Typer()
APP.command()(command)

NASTY = (
    "</pre></script><script>alert(1)</script><img src=x onerror=alert(2)>\"' onload=x <svg/onload=alert(3)>"
    " ]]> <!-- &amp; javascript:alert(4)"
)
INVISIBLE = "\x00\x1b[2J\u202e"


def record(turn: int = 0, run: str = "run-a", content: object = "state", **metadata: Any) -> dict[str, Any]:
    """Return the value of a dataset line."""
    call = {"id": "c1", "type": "function", "function": {"name": "act", "arguments": '{"do": "collect"}'}}
    messages = [
        {"role": "system", "content": "You play."},
        {"role": "user", "content": content},
        {"role": "assistant", "content": "Go.", "tool_calls": [call]},
    ]
    keys = ("provider", "total_steps", "shard")
    more = {"run_id": run, "turn": turn, "model": "gpt-x", "total_reward": 3, "achievements_count": 2}
    return {
        "messages": messages,
        "metadata": dict.fromkeys(keys) | more | {"has_image": False, "timestamp": None} | metadata,
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the dataset is."""
    return tmp_path / "good.jsonl"


def run(*arguments: object, code: int = 0) -> str:
    """Run the command; return what it printed."""
    result = CliRunner().invoke(APP, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == code
    return result.output


def made(path: Path, **options: Any) -> DatasetReport:
    """Return the report of a dataset whose ledger is where it is by default."""
    return report(path, ledger_of(path), **options)


def html_of(found: DatasetReport, path: Path) -> str:
    """Return the page."""
    return page(found, read_samples(path, found.survey.sample), 0.0)


class Page(HTMLParser):
    """A page as a browser's parser sees it."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """See that elements end in order."""
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note the text."""
        self.text += data

    def handle_comment(self, data: str) -> None:
        """There are none."""
        raise AssertionError(data)

    def attributes(self, name: str) -> list[str]:
        """Return all values of an attribute."""
        return [str(attributes[name]) for _, attributes in self.tags if name in attributes]


TAGS = frozenset({
    "html", "head", "meta", "title", "style", "body", "header", "main", "nav", "section", "article", "h1", "h2", "h3",
    "p", "a", "dl", "dt", "dd", "div", "span", "table", "thead", "tbody", "tr", "th", "td", "ul", "li", "figure",
    "figcaption", "svg", "desc", "rect", "path", "line", "text", "details", "summary", "pre", "code", "img", "em",
    "strong",
})  # fmt: skip


def nasty(turn: int = 0, **metadata: Any) -> dict[str, Any]:
    """Return a record in which everything that a model or a producer can write is hostile."""
    images = [
        PNG,
        "javascript:alert(1)",
        "https://example.org/track.png",
        "data:image/svg+xml;base64," + base64.b64encode(b"<svg onload=alert(1)>").decode(),
        'data:image/png;base64,AAAA" onerror="alert(1)',
        "data:text/html,<script>alert(1)</script>",
    ]
    parts = [{"type": "text", "text": NASTY}, *({"type": "image_url", "image_url": {"url": url}} for url in images)]
    value = record(turn, NASTY + str(turn), parts, model=NASTY, shard=NASTY, achievements=[NASTY], **metadata)
    value["messages"][0]["role"] = NASTY
    value["messages"][2]["tool_calls"][0]["function"] = {"name": NASTY, "arguments": json.dumps({NASTY: NASTY})}
    value["messages"][2]["content"] = NASTY + INVISIBLE
    return value


# -- the page ----------------------------------------------------------------------------------------------


def test_what_models_wrote_is_text_wherever_it_stands(path: Path) -> None:
    """In tables, plots, samples and findings; no element, attribute or comment comes from it."""
    path.write_bytes(jsonl(*(nasty(turn) for turn in range(5)), NASTY, {NASTY: 1}))
    found = Page(html_of(made(path), path))
    assert {tag for tag, _ in found.tags} <= TAGS
    assert NASTY in found.text
    assert r"\x00\x1b[2J\u202e" in found.text
    assert not set(INVISIBLE) & set(found.text) - {"[", "2", "J"}
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]


def test_the_page_asks_for_nothing(path: Path) -> None:
    """Links lead to its own sections, images are in it, and a policy says the same to the browser."""
    path.write_bytes(jsonl(*(nasty(turn) for turn in range(5))))
    found = Page(html_of(made(path), path))
    (policy,) = (a["content"] for tag, a in found.tags if tag == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    assert found.tags[2] == ("meta", {"charset": "utf-8"})
    assert all(src.startswith("data:image/png;base64,") for src in found.attributes("src"))
    assert len(found.attributes("src")) == 5
    ids = found.attributes("id")
    assert len(ids) == len(set(ids))
    assert {href.removeprefix("#") for href in found.attributes("href")} <= set(ids)
    assert "http" not in "".join(found.attributes("style") + found.attributes("href"))
    (style,) = re.findall(r"<style>(.*?)</style>", html_of(made(path), path), re.DOTALL)
    assert "url(" not in style
    assert "@import" not in style


def test_every_plot_has_a_name_and_a_table(path: Path) -> None:
    """For those who cannot see it."""
    path.write_bytes(jsonl(*(record(turn, total_reward=turn) for turn in range(30))))
    found = Page(html_of(made(path), path))
    plots = [attributes for tag, attributes in found.tags if tag == "svg"]
    figures = [tag for tag, _ in found.tags if tag == "figure"]
    assert len(plots) == len(figures) == 5
    assert all(plot["role"] == "img" and plot["aria-label"] for plot in plots)
    assert [tag for tag, _ in found.tags].count("img") == 0
    assert all(attributes.get("alt") for tag, attributes in found.tags if tag == "img")


@given(st.text(), st.text())
def test_an_element_holds_the_text_that_it_was_given(text: str, value: str) -> None:
    """And an attribute its value, but for characters that are shown as escapes."""
    found = Page(el("p", text, title=value))
    plain = re.sub(r"[^\x20-\x7e\n\t]", "", text)
    assert plain in re.sub(r"[^\x20-\x7e\n\t]|\\x..|\\u....", "", found.text) or "\\" in text + found.text
    assert len(found.tags) == 1
    assert list(found.tags[0][1]) == ["title"]


def test_markup_that_is_put_together_as_a_string_is_text_again() -> None:
    """So that what was not built by ``el`` cannot become markup."""
    bold = el("strong", "x")
    assert isinstance(bold, Html)
    assert el("p", bold) == "<p><strong>x</strong></p>"
    assert el("p", bold + "<i>") == "<p>&lt;strong&gt;x&lt;/strong&gt;&lt;i&gt;</p>"


@pytest.mark.parametrize(
    ("key", "link"), [("href", "https://example.org"), ("src", "data:text/html,x"), ("href", "javascript:x")]
)
def test_a_link_out_of_the_page_is_an_error(key: str, link: str) -> None:
    """Of the code: no text can be one."""
    with pytest.raises(ValueError, match=key):
        el("a", **{key: link})


# -- images ------------------------------------------------------------------------------------------------


def image(data: bytes, kind: str = "image/png") -> dict[str, Any]:
    """Return a part with these bytes."""
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{base64.b64encode(data).decode()}"}}


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n...", "image/png"),
        (b"\xff\xd8\xff...", "image/jpeg"),
        (b"GIF89a...", "image/gif"),
        (b"RIFF....WEBP...", "image/webp"),
        (b"BM...", "image/bmp"),
    ],
)
def test_the_bytes_of_an_image_say_what_it_is(data: bytes, kind: str) -> None:
    """Not what it calls itself."""
    url = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    assert embedded(image(data, "text/html"), 1000) == Embedded(url)


@pytest.mark.parametrize(
    ("part", "why"),
    [
        (image(b"<svg onload=alert(1)>", "image/svg+xml"), "no PNG"),
        (image(b"\x89PNG\r\n\x1a\n" + b"x" * 2000), "larger than 1,000 bytes"),
        ({"type": "image_url", "image_url": {"url": "https://example.org/x.png"}}, "elsewhere"),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,%%%"}}, "not base64"),
        ({"type": "image_url"}, "no image data"),
    ],
)
def test_what_is_no_image_or_too_large_is_left_out_with_a_reason(part: dict[str, Any], why: str) -> None:
    """A reader of the page sees why."""
    found = embedded(part, 1000)
    assert found.url == ""
    assert why in found.why


def test_samples_keep_to_their_limits_and_say_what_is_left_out(path: Path) -> None:
    """Of text, messages and images; of a record and of the page."""
    picture = image(b"\x89PNG\r\n\x1a\n" + b"x" * 90)
    long = {"role": "user", "content": [{"type": "text", "text": "x" * 5000}, *[picture] * 6]}
    value = record() | {
        "messages": [long, *[{"role": "user", "content": "y"}] * 30, {"role": "assistant", "content": "z"}]
    }
    path.write_bytes(jsonl(value, value))
    found = made(path)
    first, second = read_samples(path, found.survey.sample, page_bytes=160 * (IMAGES + 1))
    assert first.messages[0].text.left_out == 5000 - CHARACTERS
    assert len(first.messages) == MESSAGES
    assert first.left_out == 32 - MESSAGES
    assert len(first.messages[0].images) == IMAGES
    assert len(first.messages[0].left_out) == 2
    assert len(second.messages[0].images) == 1
    assert second.messages[0].left_out[0] == "an image: the page is full"
    text = Page(page(found, [first, second], 0.0)).text
    assert "3,500 more characters" in text
    assert "22 messages left out" in text
    assert "Left out: an image: the page is full" in text


def test_a_record_that_is_gone_when_it_is_read_again_is_said_so(path: Path) -> None:
    """A dataset can be replaced between the two looks."""
    path.write_bytes(jsonl(record()))
    found = made(path)
    path.write_bytes(b"x" * path.stat().st_size)
    assert "Not shown: the dataset was replaced meanwhile" in Page(html_of(found, path)).text


# -- the numbers -------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Return the configuration of a daemon that has worked off some rollouts, in and out, and broken lines."""
    config = settings(tmp_path)
    (tmp_path / "shards").mkdir()
    make_traces(tmp_path / "traces.db")
    for number, reward in enumerate((2, 0, 5)):
        turns = [dialogue(f"run-{number}", turn, f"{number} {turn}", image=turn > 0) for turn in range(2)]
        lines = jsonl(*turns, *turns[:1]) + (b"no json\n" if number == 2 else b"")
        (tmp_path / "shards" / f"sft_run-{number}.jsonl").write_bytes(lines)
        add_outcome(tmp_path / "traces.db", f"run-{number}", reward, seconds=10)
    (tmp_path / "shards" / "sft_run-9.jsonl").write_bytes(jsonl(dialogue("run-9")))
    work_off(config)
    return config


def test_the_flow_is_that_of_the_ledger_and_adds_up(config: Config) -> None:
    """In the page, in the text and in the JSON; with its reasons, and the condition."""
    found = report(config.dataset.path, config.dataset.ledger)
    assert found.ledger is not None
    counts = found.ledger.counts
    assert counts == {
        "appended": 4, "duplicate": 2, "below_bar": 3, "waiting": 1, "never_scored": 0, "dead_lettered": 1,
    }  # fmt: skip
    assert sum(counts.values()) == found.ledger.read
    assert found.survey.records == counts["appended"]
    text = "\n".join(summary(found))
    assert "read 11 = appended 4 + duplicate 2 + below the bar 3 + waiting 1 + never scored 0 + dead letters 1" in text
    assert "1 not_json" in text
    shown = Page(html_of(found, config.dataset.path))
    assert "11 lines read: appended 4, duplicate 2, below the bar 3, waiting 1" in shown.attributes("aria-label")[1]
    for fact in ("total_reward > 0", "conversation", "1 not_json", str(config.source.shards)):
        assert fact in shown.text
    value = json.loads(run(config.dataset.path, "--json"))
    assert value["ledger"]["counts"] == counts
    assert value["settings"]["where"] == ["total_reward > 0"]


def test_all_conditions_that_were_in_force_are_told(config: Config, tmp_path: Path) -> None:
    """A changed one judges from then on, and what was judged before stays."""
    work_off(settings(tmp_path, where="total_reward > 4"))
    assert report(config.dataset.path, config.dataset.ledger).settings.where == ["total_reward > 0", "total_reward > 4"]


def test_a_rollout_that_was_withdrawn_is_noted(config: Config, tmp_path: Path) -> None:
    """Its records stay in the dataset."""
    correct_outcome(tmp_path / "traces.db", 1, 0)
    work_off(config)
    found = report(config.dataset.path, config.dataset.ledger)
    assert "corrected below the bar later" in Page(html_of(found, config.dataset.path)).text


def test_only_what_is_committed_is_read(config: Config) -> None:
    """A daemon that is in the middle of a batch has written more than that."""
    before = report(config.dataset.path, config.dataset.ledger)
    with config.dataset.path.open("ab") as file:
        file.write(jsonl(record()) + b'{"torn')
    found = report(config.dataset.path, config.dataset.ledger)
    assert found.survey.records == before.survey.records == 4
    assert found.survey.beyond == len(jsonl(record())) + 6
    assert "were not committed yet" in found.notes[0]


def test_a_dataset_that_is_shorter_than_its_ledger_says_is_noted(config: Config) -> None:
    """A report shows what is there."""
    os.truncate(config.dataset.path, len(config.dataset.path.read_bytes().splitlines(keepends=True)[0]))
    found = report(config.dataset.path, config.dataset.ledger)
    assert found.survey.records == 1
    assert "shorter than its ledger says" in found.notes[0]


def test_a_ledger_that_cannot_be_read_is_noted_and_the_rest_goes_on(path: Path) -> None:
    """As is one that is not there."""
    path.write_bytes(jsonl(record()))
    assert "There is no ledger" in made(path).notes[0]
    ledger_of(path).write_bytes(b"no database" * 100)
    found = made(path)
    assert "The ledger could not be read" in found.notes[0]
    assert found.survey.records == 1


def test_the_contents_are_counted(path: Path) -> None:
    """Each record once, each message and call as often as it is there."""
    parts = [{"type": "text", "text": "four"}, {"type": "image_url", "image_url": {"url": PNG}}]
    lines = [
        record(0, achievements={"wood": True, "stone": False}),
        record(1, content=parts, total_reward=None, model="m2", achievements=["wood", "wood", 7]),
        record(0, run="run-b", total_reward=9, final_achievements=["table"]),
    ]
    path.write_bytes(jsonl(*lines))
    found = made(path).survey
    assert (found.lines, found.records, found.rollouts) == (3, 3, 2)
    assert [(one.low, one.records) for one in found.rewards] == [(3, 1), (9, 1)]
    assert found.without_reward == 1
    assert found.achievements.names == {"wood": 2, "table": 1}
    assert found.tools.names == {"act": 3}
    assert found.models.names == {"gpt-x": 2, "m2": 1}
    assert {role: sums.messages for role, sums in found.roles.items()} == {"system": 3, "user": 3, "assistant": 3}
    assert found.roles["user"].characters == len("state" * 2 + "four")
    assert (found.messages.min, found.messages.max) == (3, 3)
    assert (found.with_image, found.images, found.image_characters) == (1, 1, len(PNG))
    assert [(one.run_id, one.reward, one.records, one.line) for one in found.best] == [
        ("run-b", 9, 1, 3),
        ("run-a", 3, 2, 1),
    ]


def test_growth_goes_by_the_time_of_the_records(path: Path) -> None:
    """In the order of time, whatever that of the lines; a gap is a flat piece."""
    times = ["2026-01-01T00:00:10", "2026-01-01T00:00:00", "2026-01-01T01:00:00", None]
    path.write_bytes(jsonl(*(record(turn, timestamp=when) for turn, when in enumerate(times))))
    found = made(path)
    growth = found.survey.growth
    assert growth.by_time
    assert growth.without_time == 1
    assert growth.points[0] == (1767225600.0, 1)
    assert growth.points[-1] == (1767225600.0 + 3600, 3)
    assert [y for _, y in growth.points] == sorted(y for _, y in growth.points)
    assert [y for _, y in growth.points].count(2) > 200
    text = Page(html_of(found, path)).text
    assert "Not in the plot: 1 record without a time." in text


def test_growth_goes_by_rollouts_where_there_are_no_times(path: Path) -> None:
    """And says so."""
    path.write_bytes(jsonl(*(record(turn % 2, f"run-{turn // 2}") for turn in range(6))))
    found = made(path)
    assert not found.survey.growth.by_time
    assert found.survey.growth.points == [(1, 1), (1, 2), (2, 3), (2, 4), (3, 5), (3, 6)]
    assert "in the order of the dataset" in Page(html_of(found, path)).text
    assert "in the order of rollouts" in "\n".join(summary(found))


@pytest.mark.slow
def test_broken_lines_are_counted_and_named(path: Path) -> None:
    """And harm no other."""
    path.write_bytes(b"no json\n" + jsonl(record(), [], {"messages": []}) + b"\xff\n\n" + jsonl(record(1)) + b'{"torn')
    found = made(path)
    assert found.survey.records == 2
    assert found.survey.findings.counts["not_json"] == 2
    assert found.survey.findings.counts["not_utf8"] == 1
    assert found.survey.findings.counts["unterminated"] == 1
    text = Page(html_of(found, path)).text
    assert "not_object" in text
    assert run(path)


def test_a_line_that_is_too_long_is_not_looked_into(path: Path) -> None:
    """Memory is bounded, whatever the line."""
    path.write_bytes(jsonl(record(), record(1, content="x" * 5000), record(2)))
    found = survey(path, longest_line=2000)
    assert (found.lines, found.records) == (3, 2)
    assert found.findings.counts == {"too_long": 1}


values = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9)
)
times = values | st.sampled_from(["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-01-01", 1e11, -1e11])


@pytest.mark.slow
@given(st.lists(st.tuples(values, values, times, values), max_size=30))
def test_whatever_metadata_holds_there_is_a_page(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    """Numbers out of every range, times out of every calendar, values of the wrong kind."""
    path = tmp_path_factory.mktemp("any") / "good.jsonl"
    lines = [
        record(i, total_reward=reward, achievements_count=count, timestamp=when, model=model, run_id=model)
        for i, (reward, count, when, model) in enumerate(rows)
    ]
    path.write_bytes(jsonl(*lines))
    found = made(path)
    assert Page(html_of(found, path)).tags
    assert list(summary(found))
    assert found.survey.records == len(rows)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_dataset(path: Path) -> None:
    """Names, times and rollouts that are all different are kept in a temporary file."""
    with path.open("wb") as file:
        for n in range(20_000):
            file.write(jsonl(record(n, f"run-{n}", "x" * 900, model=f"m-{n}", total_reward=n, timestamp=n * 7)))
    tracemalloc.start()
    try:
        found = made(path).survey
        assert tracemalloc.get_traced_memory()[1] < 12 << 20
    finally:
        tracemalloc.stop()
    assert (found.rollouts, found.models.other_names) == (20_000, 20_000 - len(found.models.names))


# -- parts -------------------------------------------------------------------------------------------------


@given(st.integers(0, 30), st.integers(0, 60), st.integers(0, 5))
def test_a_sample_is_a_part_of_what_there_is_and_the_same_for_the_same_seed(size: int, many: int, seed: int) -> None:
    """In the order of the dataset, none twice."""

    def drawn() -> list[RecordPlace]:
        sample = Sample(size, seed)
        for number in range(many):
            sample.offer(RecordPlace(number * 10, 10, number))
        return sample.places()

    assert drawn() == drawn() == sorted(set(drawn()))
    assert len(drawn()) == min(size, many)


def test_every_place_is_as_likely_as_any_other() -> None:
    """The last one as well as the first."""
    hits = Counter[int]()
    for seed in range(2000):
        sample = Sample(5, seed)
        for number in range(20):
            sample.offer(RecordPlace(number, 1, number))
        hits.update(place.number for place in sample.places())
    assert all(400 < hits[number] < 600 for number in range(20))


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(-3, 3)), max_size=60), st.integers(1, 6))
def test_the_best_rollouts_are_those_of_a_whole_list(rows: Sequence[tuple[int, int]], most: int) -> None:
    """Whatever the order in which their records come."""
    best, rewards, first = BestRollouts(most), dict[int, int](), dict[int, int]()
    with Tally() as tally:
        for number, (run_id, reward) in enumerate(rows):
            key = bytes([run_id])
            tally.add("run", key)
            best.offer(key, Rollout(str(run_id), float(reward), 0, "", number))
            rewards[run_id] = max(reward, rewards.get(run_id, reward))
            first.setdefault(run_id, number)
        found = best.rollouts(tally, "run")
    assert [one.reward for one in found] == sorted(rewards.values(), reverse=True)[:most]
    assert all(one.records == sum(1 for run_id, _ in rows if str(run_id) == one.run_id) for one in found)
    assert len({one.run_id for one in found}) == len(found)


@given(st.integers(1, 3000))
def test_a_curve_is_thinned_out_and_keeps_its_ends(many: int) -> None:
    """In order, with few points."""
    curve = Curve()
    for n in range(many):
        curve.add(float(n), n)
    points = curve.points()
    assert len(points) <= 402
    assert points == sorted(points)
    assert (points[0], points[-1]) == ((0.0, 0), (float(many - 1), many - 1))


@given(st.lists(st.sampled_from("abcdefgh")), st.integers(1, 5))
def test_others_are_what_the_most_frequent_names_leave(names: list[str], most: int) -> None:
    """Together they are all."""
    with Tally() as tally:
        for name in names:
            tally.add("x", name)
        found = top(tally, "x", most)
    assert sum(found.names.values()) + found.others == len(names)
    assert len(found.names) + found.other_names == len(set(names))


# -- the command -------------------------------------------------------------------------------------------


def test_the_page_is_written_whole_and_private(path: Path, tmp_path: Path) -> None:
    """Under another name first, which is gone afterwards."""
    path.write_bytes(jsonl(record()))
    out = tmp_path / "pages" / "report.html"
    assert run(path, "--html", out) == f"report: {out}\n"
    assert out.read_text().startswith("<!doctype html>\n<html")
    assert out.read_text().endswith("</html>\n")
    assert stat.S_IMODE(out.stat().st_mode) == 0o640
    assert os.listdir(out.parent) == ["report.html"]


def test_the_same_dataset_and_seed_give_the_same_samples(path: Path, tmp_path: Path) -> None:
    """Another seed gives others."""
    path.write_bytes(jsonl(*(record(turn, content=f"state {turn}") for turn in range(100))))
    numbers = []
    for seed in (1, 1, 2):
        run(path, "--html", tmp_path / "r.html", "--seed", seed, "--samples", 5)
        numbers.append(re.findall(r"<h3>Line (\d+)</h3>", (tmp_path / "r.html").read_text()))
    assert len(numbers[0]) == 5
    assert numbers[0] == numbers[1] != numbers[2]


def test_a_page_never_takes_the_place_of_a_dataset(config: Config, tmp_path: Path) -> None:
    """Nor of its ledger, its dead letters or its lock, nor of another dataset."""
    path = config.dataset.path
    before = {name: (path.parent / name).read_bytes() for name in os.listdir(path.parent)}
    link = tmp_path / "link.html"
    link.symlink_to(path)
    for own in (path, config.dataset.ledger, path.with_name("good.jsonl.dead.jsonl"), lock_file(path), link):
        with pytest.raises(RefusedError, match="file of the dataset"):
            run(path, "--html", own)
    other = tmp_path / "other.jsonl"
    other.write_bytes(jsonl(record()))
    with pytest.raises(RefusedError, match="dataset of a daemon"):
        run(other, "--html", path)
    assert {name: (path.parent / name).read_bytes() for name in before} == before


def test_what_cannot_be_written_leaves_the_old_page(path: Path, tmp_path: Path) -> None:
    """And says so."""
    path.write_bytes(jsonl(record()))
    (tmp_path / "folder").mkdir()
    with pytest.raises((UnavailableError, RefusedError)):
        run(path, "--html", tmp_path / "folder")
    (tmp_path / "page.html").write_text("old")
    (tmp_path / ".page.html.part").mkdir()
    with pytest.raises(UnavailableError):
        run(path, "--html", tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == "old"


def test_a_dataset_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """A folder or a pipe is none either."""
    os.mkfifo(tmp_path / "pipe")
    for none in (tmp_path / "missing.jsonl", tmp_path, tmp_path / "pipe"):
        with pytest.raises(ConfigError):
            run(none)


def test_it_works_while_a_daemon_holds_the_dataset(config: Config) -> None:
    """Nothing is locked for it."""
    with DatasetLock(lock_file(config.dataset.path)):
        assert "4 records of 2 rollouts" in run(config.dataset.path)


def test_an_empty_dataset_has_a_report(path: Path, tmp_path: Path) -> None:
    """It says that there is nothing yet."""
    path.write_bytes(b"")
    assert "0 records of 0 rollouts" in run(path)
    run(path, "--html", tmp_path / "empty.html")
    assert Page((tmp_path / "empty.html").read_text()).tags


def test_text_and_json_hold_nothing_that_steers_a_terminal(path: Path) -> None:
    """Whatever is in the dataset."""
    random.seed(0)
    hostile = "\x1b[2J\x9b\u202e\r"
    path.write_bytes(jsonl(record(0, hostile, hostile, model=hostile), hostile, {hostile: 1}))
    for options in ((), ("--json",)):
        text = run(path, *options)
        assert not set(hostile) & set(text) - set("[2J")
