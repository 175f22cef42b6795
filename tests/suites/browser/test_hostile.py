"""What models wrote stays text, on every view: no markup, no script, no link, no request, no hidden character."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from playwright.sync_api import expect

from tests.helpers.producer import PNG, add_outcome, call, jsonl

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.suites.browser.conftest import OpenPage, Watch
    from tests.suites.browser.site import Site

SCRIPT = "<script>window.hacked = 1</script>"
IMAGE = "<img src=x onerror='window.hacked = 2'>"
LINK = "[click](javascript:window.hacked=3) <a href='javascript:window.hacked=4'>here</a> https://elsewhere.example/"
UNSEEN = (
    "\x1b[31mred\x1b]8;;https://elsewhere.example\x07 \u202etxt.exe\u202c \u2066x\u2069 \u200bzero\ufeff \x00\x9b2J"
)
RUN = f"{SCRIPT}{IMAGE}\u202e"


def data_url(media: str, content: bytes) -> str:
    """Return a data URL."""
    return f"data:{media};base64,{base64.b64encode(content).decode()}"


NO_IMAGES = (
    "javascript:window.hacked=5",
    "https://elsewhere.example/pixel.png",
    "//elsewhere.example/pixel.png",
    "/api/state",
    data_url("text/html", SCRIPT.encode()),
    data_url("image/svg+xml", b'<svg xmlns="http://www.w3.org/2000/svg" onload="window.hacked=6"><script/></svg>'),
    data_url("image/png", SCRIPT.encode()),
    "data:image/png;base64,@@@@",
    "data:image/svg+xml,<svg onload='window.hacked=7'/>",
)


def hostile(run: str, turn: int = 0) -> dict[str, object]:
    """Return a line that tries all of it."""
    parts: list[dict[str, object]] = [{"type": "text", "text": f"{turn} {SCRIPT} {IMAGE} {LINK} {UNSEEN}"}]
    parts += [{"type": "image_url", "image_url": {"url": url}} for url in (*NO_IMAGES, PNG)]
    reply = {"role": "assistant", "content": IMAGE, "tool_calls": [call(SCRIPT, note=IMAGE, more=UNSEEN)]}
    metadata = {"run_id": run, "turn": turn, "model": IMAGE, "provider": SCRIPT, IMAGE: SCRIPT}
    return {
        "messages": [{"role": "system", "content": IMAGE}, {"role": "user", "content": parts}, reply],
        "metadata": metadata,
    }


def check(page: Page) -> None:
    """See that nothing of it is anything but text."""
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("document.scripts.length") == 1
    assert page.evaluate("[...document.querySelectorAll('a')].every(a => a.getAttribute('href').startsWith('#'))")
    sources = page.evaluate("[...document.images].map(image => image.getAttribute('src'))")
    assert [source for source in sources if not source.startswith(("/api/records/", "/api/lines/"))] == []
    names = page.evaluate("[...document.querySelectorAll('*')].flatMap(one => one.getAttributeNames())")
    assert [name for name in names if name.startswith("on")] == []
    assert page.evaluate("document.querySelectorAll('iframe, object, embed, base, form[action]').length") == 0
    text = page.evaluate("document.body.textContent")
    assert not {"\x1b", "\x9b", "\x00", "\u202e", "\u2066", "\u200b", "\ufeff"} & set(text)


def test_hostile_content_is_text_on_every_view(site: Site, open_page: OpenPage) -> None:
    """A record that tries to be markup, script, link or request is shown as what it is: text."""
    add_outcome(site.traces, RUN, 1)
    site.shard("hostile.jsonl", jsonl(hostile(RUN), hostile(RUN, 1)))
    page = open_page()
    detail = page.locator(".detail")
    expect(detail).to_contain_text(SCRIPT)
    expect(detail).to_contain_text(IMAGE)
    expect(detail).to_contain_text("https://elsewhere.example/pixel.png")
    expect(detail.locator(".unseen").filter(has_text="U+202E").first).to_be_visible()
    expect(detail.locator(".unseen").filter(has_text="ESC").first).to_be_visible()
    expect(detail.locator(".picture img")).to_have_count(1)
    check(page)

    detail.get_by_role("link").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(SCRIPT)
    expect(page.locator(".verdict")).to_contain_text("In the dataset: all 2 records")
    for turn in page.locator(".turn summary").all():
        turn.click()
    expect(page.locator(".turn-body .conversation")).to_have_count(2)
    expect(page.locator(".turn-body .unshown")).to_have_count(2 * len(NO_IMAGES))
    check(page)

    for at in ("#/states/appended", "#/records/0", "#/lines/1/1", f"#/search/{quote('<')}"):
        page.goto(site.url + at)
        expect(page.locator("#pill")).to_have_text("Live")
        expect(page.locator("main")).to_contain_text("<script>")
        check(page)


@pytest.mark.parametrize(
    "run", [".", "..", "../../api/state", "a/b?c#d%2e", "%00", "javascript:alert(1)", "//elsewhere.example"]
)
def test_a_run_id_can_be_any_text(site: Site, open_page: OpenPage, run: str) -> None:
    """An id that looks like a path, an address or an escape is found, and leads nowhere else."""
    add_outcome(site.traces, run, 1)
    site.shard("any.jsonl", jsonl(hostile(run)))
    page = open_page()
    page.locator(".detail").get_by_role("link").first.click()
    expect(page.locator(".verdict")).to_contain_text("In the dataset: its one record")
    page.get_by_role("link", name="streamer, overview").click()
    expect(page.locator(".verdict")).to_have_count(0)
    page.get_by_role("searchbox").fill(run)
    page.get_by_role("searchbox").press("Enter")
    expect(page.locator(".verdict")).to_contain_text("In the dataset: its one record")
    expect(page).to_have_url(re.compile(f"^{re.escape(site.url)}#/rollouts/"))


def test_a_search_for_markup_shows_it_as_text(open_page: OpenPage, watch: Watch) -> None:
    """What a person types is text, too."""
    watch.forgive("404")
    page = open_page()
    page.get_by_role("searchbox").fill(IMAGE)
    page.get_by_role("button", name="Find").click()
    expect(page.locator(".verdict")).to_contain_text("Nothing is known of it")
    expect(page.get_by_role("heading", level=1)).to_contain_text(IMAGE)
    check(page)


def test_five_megabytes_of_text_are_shown_in_pieces(site: Site, open_page: OpenPage) -> None:
    """A very long text neither fills the page nor stops it; the rest comes when it is asked for."""
    long = hostile("run-long")
    text = "long " * (1 << 20) + SCRIPT
    long["messages"] = [{"role": "user", "content": text}, {"role": "assistant", "content": "done"}]
    add_outcome(site.traces, "run-long", 1)
    site.shard("run-long.jsonl", jsonl(long))
    page = open_page()
    expect(page.locator(".detail")).to_contain_text("long long")
    length = "document.body.textContent.length"
    assert page.evaluate(length) < 20_000
    page.get_by_role("button", name="Show the whole record").click()
    more = page.get_by_role("button", name="Show 100,000 of").first
    expect(more).to_be_visible()
    assert page.evaluate(length) < 30_000
    more.click()
    expect(page.get_by_role("button", name="Show 100,000 of 5,1").first).to_be_visible()
    assert 100_000 < page.evaluate(length) < 150_000
    check(page)
