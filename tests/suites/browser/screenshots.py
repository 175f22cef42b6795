"""Makes docs/images: the page, light and dark, wide and narrow, while real Crafter episodes are played.

``make screenshots`` runs it; it takes about two minutes.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from playwright.sync_api import expect, sync_playwright

from tests.suites.browser.conftest import FLAGS, chromium
from tests.suites.browser.site import Site

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

IMAGES = Path(__file__).resolve().parents[3] / "docs" / "images"
ROLLOUTS = 60
DESKTOP = {"width": 1440, "height": 1640}
PHONE = {"width": 390, "height": 1300}


def main() -> None:
    """Play, look, and write the pictures."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        site = Site(Path(folder))
        site.traces.unlink()  # the player makes its own
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS, chromium_sandbox=os.geteuid() != 0)
        site.start()
        try:
            _play(site)
            for scheme in ("light", "dark"):
                _picture(browser, site, f"page-{scheme}", DESKTOP, scheme)
                _picture(browser, site, f"phone-{scheme}", PHONE, scheme)
                _picture(browser, site, f"rollout-{scheme}", DESKTOP, scheme, rollout=True)
        finally:
            browser.close()
            site.stop()


def _play(site: Site) -> None:
    """Let the player play, and write what it never does: a line that is none, and a rollout without an outcome."""
    player = [sys.executable, "-m", "streamer.commands.demo.producer", "--rollouts", str(ROLLOUTS), "--pace", "0.3"]
    where = ["--shards", str(site.shards), "--database", str(site.traces)]
    subprocess.run([*player, *where], check=True, stdout=subprocess.DEVNULL)
    site.shard("d1f0c9a2-5a0e-4c07-9d43-0c6f1b2a7e55_2026-01-01_00-00-00.jsonl", b'{"run_id": "d1f0c9a2-5a0e\n')
    site.rollout("7be1d3f8-90c4-4f6b-8a51-2f4a6d0c9b13", None, turns=8)


def _picture(
    browser: Browser, site: Site, name: str, viewport: dict[str, int], scheme: str, *, rollout: bool = False
) -> None:
    context = browser.new_context(viewport=viewport, color_scheme=scheme, reduced_motion="reduce")
    page = context.new_page()
    page.goto(site.url)
    expect(page.locator("#pill")).to_have_text("Live")
    expect(page.locator(".histogram svg").first).to_be_visible()
    _choose_one_with_an_image(page)
    if rollout:
        page.locator(".detail").get_by_role("link").first.click()
        page.locator(".turn summary").nth(2).click()
        expect(page.locator(".turn-body .picture img")).to_be_visible()
    else:
        page.get_by_role("button", name="5 min").click()
        page.mouse.move(0, 0)
    for image in page.locator("main .conversation img").all():
        image.evaluate("image => image.decode()")
    _write(page, name)
    context.close()


def _choose_one_with_an_image(page: Page) -> None:
    older = page.get_by_role("button", name="Older records")
    records = page.locator(".record").filter(has=page.locator("img"))
    while not records.count() and older.is_visible():
        older.click()
        expect(older).to_be_enabled()
    records.nth(2).click()
    expect(page.locator(".detail .picture img")).to_be_visible()
    page.locator(".list-side").evaluate("(list, top) => list.scrollTop = top", arg=0)


def _write(page: Page, name: str) -> None:
    with Image.open(io.BytesIO(page.screenshot())) as picture:
        path = IMAGES / f"{name}.png"
        picture.convert("RGB").save(path, optimize=True)
    sys.stdout.write(f"{path}: {path.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main()
