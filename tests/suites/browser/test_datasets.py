"""A daemon with several datasets: a menu leads from one to the other, and each page shows its own."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from playwright.sync_api import expect

if TYPE_CHECKING:
    from tests.suites.browser.conftest import OpenPage
    from tests.suites.browser.site import Site


def test_a_menu_leads_to_each_dataset(site: Site, open_page: OpenPage) -> None:
    """With its own numbers, records and pictures, and addresses that can be kept."""
    site.configure(
        '[[dataset]]\npath = "good.jsonl"\n[[dataset]]\npath = "best.jsonl"\nqualify.where = "total_reward > 2"\n'
    )
    site.rollout("run-1", 1)
    site.rollout("run-2", 3, image=True)
    page = open_page()
    menu = page.get_by_role("navigation", name="Datasets")
    expect(menu.get_by_role("link")).to_have_text(["good.jsonl", "best.jsonl"])
    expect(menu.locator("[aria-current=page]")).to_have_text("good.jsonl")
    expect(page.locator(".record")).to_have_count(4)
    menu.get_by_role("link", name="best.jsonl").click()
    expect(page).to_have_url(re.compile(r"/datasets/best\.jsonl/$"))
    expect(menu.locator("[aria-current=page]")).to_have_text("best.jsonl")
    expect(page.locator(".record")).to_have_count(2)
    picture = page.locator(".detail .picture img")
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 1
    page.goto(f"{site.url}datasets/best.jsonl/rollouts/run-1")
    expect(page).to_have_url(re.compile(r"/datasets/best\.jsonl/#/rollouts/run-1$"))
    expect(page.get_by_role("heading", level=1)).to_contain_text("run-1")


def test_without_others_there_is_no_menu(site: Site, open_page: OpenPage) -> None:
    """The name of the dataset stands where it stood."""
    site.rollout("run-1")
    page = open_page()
    expect(page.locator("#dataset-name")).to_have_text("good.jsonl")
    expect(page.get_by_role("navigation", name="Datasets")).to_have_count(0)
