"""The files of the page, as they lie there: nothing in them can make markup of text, or ask anyone but the daemon."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import streamer

STATIC = Path(streamer.__file__).parent / "web" / "static"
VENDOR = STATIC / "vendor"
OWN = sorted(path for path in STATIC.rglob("*") if path.is_file() and VENDOR not in path.parents)
FORBIDDEN = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|setHTML|document\.write|DOMParser|createContextualFragment|srcdoc"
    r"|\beval\s*\(|new Function|setAttribute\(\s*[\"']style|cssText|localStorage|sessionStorage|document\.cookie"
)
"""What makes markup or code of a text, or what a page without a store of its own has no need of."""


class _Page(HTMLParser):
    """Collects what a strict Content-Security-Policy would refuse."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: list[str] = []
        self._tag = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tag = tag
        self.refused += [f"{tag} {name}" for name, _ in attrs if name.startswith("on") or name == "style"]
        self.refused += ["style"] if tag == "style" else []

    def handle_endtag(self, _tag: str) -> None:
        self._tag = ""

    def handle_data(self, data: str) -> None:
        if self._tag == "script" and data.strip():
            self.refused.append("script in the page")


@pytest.mark.parametrize("path", [path for path in OWN if path.suffix == ".js"], ids=lambda path: path.name)
def test_no_script_makes_markup_of_text(path: Path) -> None:
    """Elements are made by DOM calls alone, and text becomes text nodes."""
    assert FORBIDDEN.findall(path.read_text()) == []


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_no_file_names_another_place(path: Path) -> None:
    """Nothing is loaded from, or linked to, anywhere else."""
    names = re.findall(r"https?://[^\s\"')]+", path.read_text())
    assert [name for name in names if name != "http://www.w3.org/2000/svg"] == []


def test_the_page_has_no_script_style_or_handler_in_it() -> None:
    """So that the policy can be strict."""
    page = _Page()
    page.feed((STATIC / "index.html").read_text())
    assert page.refused == []


def test_every_module_that_is_imported_is_there() -> None:
    """There is no build step that would notice."""
    for path in OWN:
        if path.suffix == ".js":
            for name in re.findall(r"from \"(\./[^\"]+)\"", path.read_text()):
                assert (path.parent / name).is_file(), f"{path.name} imports {name}"


@pytest.mark.parametrize("folder", [path for path in VENDOR.iterdir() if path.is_dir()], ids=lambda path: path.name)
def test_what_is_vendored_says_version_source_and_licence(folder: Path) -> None:
    """Who updates it knows what it is and where it came from."""
    version = (folder / "VERSION").read_text()
    assert re.search(r"\d+\.\d+\.\d+", version)
    assert "https://" in version
    assert "Permission is hereby granted" in (folder / "LICENSE").read_text()
