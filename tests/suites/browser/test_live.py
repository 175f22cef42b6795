"""The page lives: it grows, is paused, loses its daemon and finds it again; and its numbers are those of status."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.helpers.producer import dialogue, jsonl

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

    from tests.suites.browser.conftest import OpenPage, Watch
    from tests.suites.browser.site import Site

STATES = ("appended", "duplicate", "below_bar", "waiting", "never_scored", "dead_lettered")
AWAY = ("net::ERR_CONNECTION_REFUSED", "net::ERR_INCOMPLETE_CHUNKED_ENCODING", "net::ERR_CONNECTION_RESET")
"""What a browser says of a daemon that has gone."""


def tile(page: Page, name: str) -> Locator:
    """Return the number of one tile."""
    return page.locator(".tile").filter(has=page.get_by_text(name, exact=True)).locator(".number")


def count(page: Page, state: str) -> Locator:
    """Return the count of one state in the picture of the flow."""
    return page.locator(f".fate.state-{state} .count")


def test_a_page_of_an_empty_dataset_says_what_it_waits_for(open_page: OpenPage) -> None:
    """Before the first shard there is no error and no empty frame, but words."""
    page = open_page()
    expect(page.locator("#pill")).to_have_text("Waiting for shards")
    expect(page.get_by_text("No record yet. Shards are written when a rollout ends")).to_be_visible()
    expect(page.get_by_text("No outcome yet.").first).to_be_visible()
    expect(tile(page, "Records")).to_have_text("0")


def test_the_page_grows_while_a_producer_writes(site: Site, open_page: OpenPage) -> None:
    """Counts, list and conversation follow what is written, without a reload."""
    page = open_page()
    for done in range(1, 4):
        site.rollout(f"run-{done}", image=True)
        expect(tile(page, "Records")).to_have_text(str(2 * done))
        expect(tile(page, "Rollouts")).to_have_text(str(done))
    expect(page.locator("#pill")).to_have_text("Live")
    expect(page.locator(".record")).to_have_count(6)
    expect(page.locator(".record").first).to_contain_text("run-3")
    expect(page.locator("#growth-summary")).to_contain_text("6 records more")
    picture = page.locator(".detail .picture img")
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 1


def test_a_chosen_record_stays_while_others_come(site: Site, open_page: OpenPage) -> None:
    """Who reads a conversation is not interrupted by the next one."""
    site.rollout("run-1")
    page = open_page()
    page.locator(".record").filter(has_text="turn 0").click()
    expect(page.get_by_role("button", name="Follow the newest")).to_have_attribute("aria-pressed", "false")
    site.rollout("run-2")
    expect(page.locator(".record")).to_have_count(4)
    expect(page.locator(".detail")).to_contain_text("run-1, state 0")
    page.get_by_role("button", name="Follow the newest").click()
    expect(page.locator(".detail")).to_contain_text("run-2, state 1")


@pytest.mark.parametrize(
    ("how", "says"), [(signal.SIGTERM, "Daemon stopped"), (signal.SIGKILL, "Reconnecting")], ids=["stopped", "killed"]
)
def test_the_page_catches_up_after_the_daemon_was_away(
    site: Site, open_page: OpenPage, watch: Watch, how: signal.Signals, says: str
) -> None:
    """It says that the daemon is away, goes on by itself when it is back, and misses nothing of the time between."""
    watch.forgive(*AWAY)
    site.rollout("run-1")
    page = open_page()
    expect(tile(page, "Records")).to_have_text("2")
    site.stop(how)
    expect(page.locator("#pill")).to_have_text(says)
    expect(page.locator(".notice")).to_contain_text("by itself")
    expect(page.locator("#announcer")).to_contain_text(says)
    expect(tile(page, "Records")).to_have_text("2")
    site.rollout("run-2")
    site.start()
    expect(page.locator("#pill")).to_have_text("Live")
    expect(tile(page, "Records")).to_have_text("4")
    expect(page.locator(".record")).to_have_count(4)
    expect(page.locator("#growth-summary")).to_contain_text("4 records more")
    expect(page.locator(".notice")).to_have_count(0)


def test_the_past_is_there_after_a_restart_and_a_reload(site: Site, open_page: OpenPage, watch: Watch) -> None:
    """Growth is kept by the daemon, not by the page."""
    watch.forgive(*AWAY)
    site.rollout("run-1")
    page = open_page()
    expect(tile(page, "Records")).to_have_text("2")
    site.stop()
    site.start()
    other = open_page()
    expect(other.locator("#growth-summary")).to_contain_text("2 records more")
    page.close()


def test_numbers_add_up_and_are_those_of_status(site: Site, open_page: OpenPage) -> None:
    """Each count on the page is the one that `streamer status --json` gives."""
    site.rollout("run-good", 3, turns=3, text="the same")
    site.rollout("run-copy", 2, turns=2, text="the same")
    site.rollout("run-poor", 0, turns=4)
    site.rollout("run-late", None, turns=5)
    site.shard("run-bad_2026-01-01_00-00-00.jsonl", b'{"broken\n{"also": \n')
    page = open_page()
    site.reads(16)
    found = site.status()
    expect(page.locator(".source .count")).to_have_text("16")
    for state in STATES:
        expect(count(page, state)).to_have_text(str(found["accounting"][state]))
    shown = [int(count(page, state).inner_text()) for state in STATES]
    assert shown == [3, 2, 4, 5, 0, 2]
    expect(page.locator("#flow-sum")).to_have_text("3 + 2 + 4 + 5 + 0 + 2 = 16: every line is accounted for.")
    expect(tile(page, "Records")).to_have_text(str(found["dataset_lines"]))
    expect(page.get_by_role("heading", name="Waiting for their outcome: 1 rollout")).to_be_visible()
    expect(page.locator(".waiting")).to_contain_text("run-late")


def test_outcomes_are_drawn_with_the_bar_and_by_model(site: Site, open_page: OpenPage) -> None:
    """The distribution has each rollout once, on its side of the bar."""
    for reward, rollouts in ((0, 3), (1, 2), (4, 1)):
        for i in range(rollouts):
            site.rollout(f"run-{reward}-{i}", reward)
    page = open_page()
    rows = page.locator(".histogram").first.locator("tbody tr")
    expect(rows).to_have_text([re.compile(r"^0\s*0\s*3$"), re.compile(r"^1\s*2\s*0$"), re.compile(r"^4\s*1\s*0$")])
    expect(page.locator(".condition")).to_have_text("total_reward > 0")
    expect(page.locator(".bar-label")).to_have_text("> 0")
    expect(page.locator(".models tbody tr").filter(has_text="gpt-4o-mini")).to_contain_text("50 %")
    page.get_by_role("button", name="gpt-4o-mini").press("Enter")
    expect(page.get_by_role("button", name="gpt-4o-mini")).to_be_focused()
    expect(rows).to_have_count(3)


def test_growth_is_zoomed_with_the_mouse_and_with_keys(site: Site, open_page: OpenPage) -> None:
    """A dragged range is shown, and so is what keys ask for; 0 leads back to the newest."""
    site.rollout("run-1")
    page = open_page()
    summary = page.locator("#growth-summary")
    expect(summary).to_contain_text("2 records more")
    hour = page.get_by_role("button", name="1 h", exact=True)
    expect(hour).to_have_attribute("aria-pressed", "true")
    plot = page.locator(".plot-total .u-over")
    box = plot.bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 40, steps=4)
    page.mouse.up()
    expect(hour).to_have_attribute("aria-pressed", "false")
    plots = page.locator(".plots")
    plots.press("0")
    expect(hour).to_have_attribute("aria-pressed", "true")
    plots.press("ArrowLeft")
    expect(hour).to_have_attribute("aria-pressed", "false")
    plots.press("Escape")
    expect(summary).to_contain_text("2 records more")


def test_a_paused_page_stands_still_and_then_catches_up(site: Site, open_page: OpenPage) -> None:
    """Pause holds every number; going on shows what came meanwhile."""
    site.rollout("run-1")
    page = open_page()
    expect(tile(page, "Records")).to_have_text("2")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#pill")).to_have_text("Paused")
    site.rollout("run-2")
    site.reads(4)
    other = open_page()
    expect(tile(other, "Records")).to_have_text("4")
    expect(tile(page, "Records")).to_have_text("2")
    page.get_by_role("button", name="Pause").click()
    expect(tile(page, "Records")).to_have_text("4")


def test_a_page_that_nobody_sees_asks_for_nothing(site: Site, open_page: OpenPage) -> None:
    """In a hidden tab the connection is closed; seen again, the page is up to date."""
    page = open_page()
    expect(tile(page, "Records")).to_have_text("0")
    hide = "yes => { Object.defineProperty(document, 'hidden', {value: yes, configurable: true});"
    hide += " document.dispatchEvent(new Event('visibilitychange')) }"
    with page.expect_event("requestfailed", lambda request: request.url.endswith("/api/events")):
        page.evaluate(hide, arg=True)
    site.rollout("run-1")
    site.reads(2)
    expect(tile(page, "Records")).to_have_text("0")
    page.evaluate(hide, arg=False)
    expect(tile(page, "Records")).to_have_text("2")


def test_a_flood_of_records_leaves_the_page_small_and_calm(site: Site, open_page: OpenPage) -> None:
    """Ten thousand records in a burst: the list stays bounded, known entries stay, screen readers are left in peace."""
    site.rollout("run-1")
    page = open_page()
    expect(page.locator("#announcer")).to_have_text("Connected to the daemon.")
    expect(page.locator(".record")).to_have_count(2)
    page.evaluate(
        "() => { window.said = 0; new MutationObserver(() => { window.said += 1 })"
        ".observe(document.getElementById('announcer'), {childList: true, characterData: true, subtree: true}) }"
    )
    for shard in range(10):
        run = f"flood-{shard}"
        site.rollout(run, turns=0)
        values = (dialogue(run, turn, f"{run}, state {turn}") for turn in range(1000))
        site.shard(f"{run}_2026-01-01_00-00-00.jsonl", jsonl(*values))
    expect(tile(page, "Records")).to_have_text("10,002")
    expect(page.locator(".record")).to_have_count(20)
    expect(page.locator(".record").first).to_contain_text("turn 999")
    assert page.evaluate("document.querySelectorAll('*').length") < 1500
    assert page.evaluate("window.said") == 0
