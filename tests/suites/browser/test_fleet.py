"""The ends of a fleet: a collector sees what writers hold, a writer of whom it heard. No server is needed for that."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.helpers.fleet_ends import COLLECTOR, WRITER, as_collector, as_writer, page_of
from tests.suites.browser.site import Site
from tests.suites.browser.test_accessibility import LONG, violations
from tests.web.test_fleet import UNREACHABLE, End

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Page

    from streamer.base.events import FailureBegan
    from tests.suites.browser.conftest import OpenPage

HOSTILE = "<img src=x onerror=alert(1)>\x1b[2J\u202egpj.exe"


class Ends(Site):
    """A place whose page is that of an end of a fleet, over a ledger that was prepared."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        place = folder / "host"
        place.mkdir()
        self.end = End(place)
        self.trouble: FailureBegan | None = None
        self._served = ExitStack()

    def start(self) -> None:
        """Serve the page."""
        self._served.enter_context(page_of(self.end.config, self.trouble, self.port))

    def stop(self, *_how: object) -> None:
        """End it."""
        self._served.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Ends]:
    """Return a host that is to become an end of a fleet."""
    found = Ends(tmp_path)
    yield found
    found.stop()


def section(page: Page) -> str:
    """Return all that the section says."""
    found = page.get_by_role("region", name="Fleet", exact=True)
    expect(found).to_be_visible()
    said: str = found.inner_text()
    return said


def test_elsewhere_there_is_no_such_section(site: Ends, open_page: OpenPage) -> None:
    """A daemon of one machine knows of no fleet."""
    site.end.become("")
    page = open_page()
    expect(page.locator("#pill")).to_have_text("Live")
    expect(page.get_by_role("region", name="Fleet", exact=True)).to_have_count(0)


def test_a_collector_sees_how_much_of_it_writers_hold(site: Ends, open_page: OpenPage) -> None:
    """In a sentence and in numbers; and that the link does not work, which is a trouble as well."""
    line = site.end.dataset.read_bytes().index(b"\n") + 1
    as_collector(site.end.ledger, {}, line, [])
    site.end.become(COLLECTOR)
    site.trouble = UNREACHABLE
    page = open_page()
    said = section(page)
    assert "collector host-1.ab of crafter" in said
    assert "Writers hold 0 of 5 records; 5 records wait." in said
    assert "cannot reach the fleet" in said
    expect(page.locator("#notices")).to_contain_text("Cannot reach the fleet")


def test_a_writer_sees_of_whom_it_heard_and_who_is_silent(site: Ends, open_page: OpenPage) -> None:
    """Names come from other machines: they are text, and what cannot be seen is made visible. The table has a name."""
    as_writer(site.end.ledger, {"eval-1.ab": (7, 3600), "eval-2.cd": (8, 5), HOSTILE: (1, 60)})
    site.end.become(WRITER)
    page = open_page()
    said = section(page)
    assert "writer host-1.cd of crafter" in said
    assert "Writes 3 buckets: 0-1,3." in said
    hosts = page.get_by_role("region", name="Collectors", exact=True)
    expect(hosts.get_by_role("rowheader")).to_have_text(
        ["eval-2.cd", "<img src=x onerror=alert(1)>[ESC][2J[U+202E]gpj.exe", "eval-1.ab"]
    )
    expect(hosts.get_by_role("row").last).to_contain_text("silent for 1 h")
    expect(page.locator(".sources")).to_contain_text("Takes the records of the fleet's dataset crafter")
    hosts.focus()
    expect(hosts).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1440])
@pytest.mark.parametrize("text", [COLLECTOR, WRITER], ids=["collector", "writer"])
def test_the_section_can_be_used_by_everyone(
    site: Ends, open_page: OpenPage, text: str, width: int, scheme: str
) -> None:
    """axe-core finds nothing, light and dark; nothing is wider than a phone, whatever hosts are called."""
    if text == WRITER:
        as_writer(site.end.ledger, {f"{number}{LONG}.ab": (1, 100.0 * number) for number in range(60)})
    site.end.become(text)
    page = open_page(color_scheme=scheme, viewport={"width": width, "height": 800})
    assert section(page)
    expect(page.locator("#pill")).to_have_text("Live")
    expect(page.get_by_text("Loading…")).to_have_count(0)
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
