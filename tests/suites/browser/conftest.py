"""A daemon and a browser for each test, and what must never happen on the page, whatever a test does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.suites.browser.site import PATIENCE, Site

FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

OpenPage = Callable[..., Page]


class Watch:
    """What pages complained about, and whom they asked."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._errors: list[str] = []
        self._asked: list[str] = []
        self._forgiven: tuple[str, ...] = ()

    def over(self, page: Page) -> None:
        """Look at a page from now on."""
        page.on(
            "console",
            lambda message: (
                self._errors.append(f"{message.type}: {message.text}") if message.type in ("error", "warning") else None
            ),
        )
        page.on("pageerror", lambda error: self._errors.append(f"uncaught: {error}"))
        page.on("dialog", lambda dialog: self._errors.append(f"dialog: {dialog.message}"))
        page.context.on("request", lambda request: self._asked.append(request.url))

    def forgive(self, *texts: str) -> None:
        """Let errors pass that hold one of these texts: the browser's own, when the daemon is away or says 404."""
        self._forgiven += texts

    def check(self) -> None:
        """Fail if there was an error, or a request to anyone but the daemon."""
        assert [one for one in self._errors if not any(text in one for text in self._forgiven)] == []
        assert [one for one in self._asked if not one.startswith(self._site.url)] == []


def chromium() -> str:
    """Return where the browser is."""
    found = os.environ.get("STREAMER_CHROMIUM") or shutil.which("chromium")
    assert found, "no chromium: `sudo apt-get install chromium`, or name one in STREAMER_CHROMIUM"
    return found


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Return a browser. Every page of a test has a profile of its own."""
    expect.set_options(timeout=PATIENCE * 1000)
    with sync_playwright() as playwright:
        # As root, as in most containers, there is no sandbox.
        found = playwright.chromium.launch(executable_path=chromium(), args=FLAGS, chromium_sandbox=os.geteuid() != 0)
        yield found
        found.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Return a folder with a daemon that has not been started yet."""
    found = Site(tmp_path)
    yield found
    found.stop()


@pytest.fixture
def watch(site: Site) -> Iterator[Watch]:
    """Return what watches all pages of a test; in the end nothing may have gone wrong on any."""
    found = Watch(site)
    yield found
    found.check()


@pytest.fixture
def open_page(browser: Browser, site: Site, watch: Watch) -> Iterator[OpenPage]:
    """Return a function that starts the daemon if need be, and opens a page on it.

    Its arguments: ``at``, the address within the page; others as ``Browser.new_context`` takes them.
    """
    contexts = []
    started = False

    def opened(at: str = "#/", **more: Any) -> Page:
        nonlocal started
        if not started:
            site.start()
            started = True
        context = browser.new_context(**({"viewport": {"width": 1440, "height": 900}} | more))
        contexts.append(context)
        context.set_default_timeout(PATIENCE * 1000)
        page = context.new_page()
        watch.over(page)
        page.goto(site.url + at)
        return page

    yield opened
    for context in contexts:
        context.close()
