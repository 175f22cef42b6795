"""Every view, light and dark, wide and narrow: axe-core finds nothing, and nothing is wider than the screen."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from tests.helpers.producer import jsonl, messages
from tests.suites.browser.test_live import AWAY
from tests.suites.browser.test_reasons import produce

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.suites.browser.conftest import OpenPage, Watch
    from tests.suites.browser.site import Site

VIEWS = {
    "overview": "#/",
    "states": "#/states/below_bar",
    "dead letters": "#/states/dead_lettered",
    "rollout": "#/rollouts/run-good",
    "rollout that is out": "#/rollouts/run-late",
    "unknown rollout": "#/rollouts/nobody",
    "record": "#/records/0",
    "line": "#/lines/1/1",
    "search": "#/search/run-",
}
LONG = "w" * 300
"""A word that no line of a phone has room for."""


def violations(page: Page) -> list[str]:
    """Return what axe-core has to say against the page as it is now."""
    try:
        axe = Path(os.environ["STREAMER_AXE"])
    except KeyError:
        raise RuntimeError("STREAMER_AXE does not name axe.min.js: run `make test-browser`") from None
    page.evaluate(axe.read_text())
    found: dict[str, Any] = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [f"{one['id']}: {one['help']}: {node['html'][:200]}" for one in found["violations"] for node in one["nodes"]]


def settled(page: Page) -> None:
    """Return when the view shows what it has to show."""
    expect(page.locator("#pill")).to_have_text("Live")
    expect(page.locator("h1")).to_have_count(1)
    expect(page.get_by_text("Looking")).to_have_count(0)
    expect(page.get_by_text("Loading…")).to_have_count(0)
    expect(page.locator("[aria-busy]")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_any_view(site: Site, open_page: OpenPage, watch: Watch, scheme: str) -> None:
    """Names, roles, contrast, order of headings, and what else can be checked by a program."""
    watch.forgive("404")
    page = open_page(color_scheme=scheme)
    produce(site)
    found = {}
    for name, at in VIEWS.items():
        page.goto(site.url + at)
        settled(page)
        for turn in page.locator(".turn summary").all():
            turn.click()
        found[name] = violations(page)
    assert found == {name: [] for name in VIEWS}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_while_nothing_is_there_and_while_the_daemon_is_away(
    site: Site, open_page: OpenPage, watch: Watch, scheme: str
) -> None:
    """Empty, and stopped."""
    watch.forgive(*AWAY)
    page = open_page(color_scheme=scheme)
    expect(page.locator("#pill")).to_have_text("Waiting for shards")
    assert violations(page) == []
    site.stop()
    expect(page.locator("#pill")).to_have_text("Daemon stopped")
    assert violations(page) == []


@pytest.mark.parametrize("width", [320, 390, 768])
def test_no_view_is_wider_than_the_screen(site: Site, open_page: OpenPage, watch: Watch, width: int) -> None:
    """On a phone one scrolls down, never sideways, whatever ids and texts there are."""
    watch.forgive("404")
    page = open_page(viewport={"width": width, "height": 800})
    produce(site)
    site.rollout(f"run-{LONG[:150]}", 5, text=LONG)
    site.shard("wide.jsonl", jsonl(messages(f"run-{LONG}", text=LONG)))
    site.reads(12)
    for name, at in {**VIEWS, "wide": f"#/rollouts/run-{LONG[:150]}", "wide waiting": f"#/rollouts/run-{LONG}"}.items():
        page.goto(site.url + at)
        settled(page)
        for turn in page.locator(".turn summary").all():
            turn.click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name


def test_colours_are_switched_by_hand(open_page: OpenPage) -> None:
    """As the system says, then light, then dark, and back; nothing is stored."""
    page = open_page(color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    switch = page.get_by_role("button", name="Colours")
    dark = page.evaluate(ground)
    switch.click()
    light = page.evaluate(ground)
    assert light != dark
    switch.click()
    assert page.evaluate(ground) == dark
    switch.click()
    expect(switch).to_have_accessible_name("Colours: as the system. Switch.")
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]


def test_nothing_moves_for_those_who_asked_for_rest(site: Site, open_page: OpenPage) -> None:
    """With reduced motion no animation runs, and the newest record is followed on request only."""
    site.rollout("run-1")
    page = open_page(reduced_motion="reduce")
    expect(page.locator(".detail")).to_contain_text("run-1")
    expect(page.get_by_role("button", name="Follow the newest")).to_have_attribute("aria-pressed", "false")
    assert page.evaluate("document.getAnimations().length") == 0
