"""Why is this rollout not in the dataset? A person who never read a word about streamer finds out from the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.helpers.producer import jsonl, messages

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.suites.browser.conftest import OpenPage, Watch
    from tests.suites.browser.site import Site


def produce(site: Site) -> None:
    """Write one rollout for each way to stay out, and one that is in; return when the daemon has read all of it."""
    site.rollout("run-good", 3, text="the same")
    site.reads(2)  # so that its copy is the copy
    site.rollout("run-poor", 0)
    site.rollout("run-late", None)
    site.rollout("run-copy", 2, text="the same")
    site.shard("run-broken_2026-01-01_00-00-00.jsonl", b'{"messages": [{"role": "user\n')
    site.reads(9)


def find(page: Page, text: str) -> None:
    """Search as a person does."""
    page.get_by_role("searchbox", name="Find a rollout").fill(text)
    page.get_by_role("searchbox", name="Find a rollout").press("Enter")


@pytest.mark.parametrize(
    ("run", "verdict", "because"),
    [
        ("run-poor", "Not in the dataset: 2 lines below the bar", "total_reward 0) did not meet: total_reward > 0"),
        ("run-late", "Not in the dataset: 2 lines waiting", "has no row of its session yet"),
        ("run-copy", "Not in the dataset: 2 lines duplicate", "the dataset holds an equal record"),
        ("run-broken_2026-01-01_00-00-00.jsonl", "Not in the dataset: 1 line dead letter", "cannot be taken: not_json"),
        ("run-good", "In the dataset: all 2 records", "met the condition"),
    ],
    ids=["below the bar", "waiting", "duplicate", "dead letter", "in"],
)
def test_search_says_why_a_rollout_is_in_or_out(
    site: Site, open_page: OpenPage, run: str, verdict: str, because: str
) -> None:
    """The answer is a sentence, under the name that was asked for."""
    page = open_page()
    produce(site)
    find(page, run)
    expect(page.get_by_role("heading", level=1)).to_have_text(run)
    expect(page.locator(".verdict h2")).to_have_text(verdict)
    expect(page.locator(".verdict")).to_contain_text(because)


def test_a_rollout_that_nobody_knows_is_said_to_be_unknown(site: Site, open_page: OpenPage, watch: Watch) -> None:
    """It says so, and what may be the matter; when it comes, the page shows it."""
    watch.forgive("404")
    page = open_page()
    find(page, "run-new")
    expect(page.locator(".verdict h2")).to_have_text("Nothing is known of it")
    site.rollout("run-new", 1)
    expect(page.locator(".verdict h2")).to_have_text("In the dataset: all 2 records")


def test_a_dead_letter_is_found_by_the_run_id_in_its_name(site: Site, open_page: OpenPage) -> None:
    """Who knows only the run id finds the shard that could not be read, too."""
    page = open_page()
    produce(site)
    find(page, "run-broken")
    expect(page.locator("main")).to_contain_text("dead letter")
    expect(page.locator("main")).to_contain_text("run-broken_2026-01-01_00-00-00.jsonl")


def test_a_rollout_shows_its_turns_in_order_with_its_rewards(site: Site, open_page: OpenPage) -> None:
    """Turn by turn: what was said, also where it is not in the dataset, and what became of it."""
    site.rollout("run-poor", 0, turns=3, image=True)
    page = open_page("#/rollouts/run-poor")
    turns = page.locator(".turn summary")
    expect(turns).to_have_count(3)
    for i in range(3):
        expect(turns.nth(i)).to_contain_text(f"turn {i}")
        expect(turns.nth(i)).to_contain_text("below the bar")
    turns.nth(1).press("Enter")
    expect(page.locator(".turn-body").nth(1)).to_contain_text("run-poor, state 1")
    expect(page.locator(".turn-body").nth(1).locator(".picture img")).to_be_visible()


def test_a_duplicate_leads_to_the_record_that_it_equals(site: Site, open_page: OpenPage) -> None:
    """From what stayed out to what is in its place."""
    page = open_page()
    produce(site)
    page.goto(f"{site.url}#/rollouts/run-copy")
    page.locator(".turn summary").first.click()
    page.get_by_role("link", name="The record that it equals").click()
    expect(page.locator(".record-card")).to_contain_text("run-good")


def test_states_list_examples_with_reasons_that_can_be_chosen(site: Site, open_page: OpenPage) -> None:
    """A click on a count leads to lines in that state, each with its reason."""
    site.shard("a.jsonl", b"{broken\n" + jsonl({"run_id": "run-a"}, messages("run-a", role="x")))
    page = open_page()
    link = page.get_by_role("link", name="dead letters")
    expect(link).to_contain_text("2")
    link.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Lines: dead letters")
    expect(page.locator(".example")).to_have_count(2)
    page.get_by_role("button", name="no conversation").click()
    expect(page.locator(".example")).to_have_count(1)
    expect(page.locator(".example")).to_contain_text("no_conversation")


def test_an_example_s_reason_is_reached_with_keys_alone(site: Site, open_page: OpenPage) -> None:
    """From the top of the page: Tab and Enter are enough, and the focus can always be seen."""
    page = open_page()
    produce(site)
    expect(page.locator(".fate.state-below_bar .count")).to_have_text("2")
    tab_to(page, "below the bar")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    expect(page.locator(".example")).to_contain_text("did not meet: total_reward > 0")
    tab_to(page, "run-poor")
    page.keyboard.press("Enter")
    expect(page.locator(".verdict h2")).to_have_text("Not in the dataset: 2 lines below the bar")
    tab_to(page, "turn 0")
    page.keyboard.press("Enter")
    expect(page.locator(".turn-body").first).to_contain_text("run-poor, state 0")


def tab_to(page: Page, text: str) -> None:
    """Press Tab until what has the focus begins with a text, and see that the focus is visible each time."""
    for _ in range(60):
        page.keyboard.press("Tab")
        focused = page.evaluate(
            "() => { const one = document.activeElement; const style = getComputedStyle(one);"
            " return [one.textContent.trim(), style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2] }"
        )
        assert focused[1], f"the focus on {focused[0][:60]!r} cannot be seen"
        if focused[0].startswith(text):
            return
    raise AssertionError(f"{text!r} is not reached with Tab")
