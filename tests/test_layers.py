"""The layers of the package: imports point down only, and ``streamer/core`` is pure."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parents[1] / "streamer"

MOST_ENTRIES = 12
NOT_COUNTED = {"py.typed"}

LAYERS = [["commands"], ["web"], ["daemon"], ["fleet"], ["sources", "reader", "config"], ["store"], ["core"], ["base"]]
"""From top to bottom. Packages that share a layer do not import each other, except for ``BESIDE``."""

BESIDE = {("sources", "config")}

INSIDE = {
    "store": [["views"], ["curation"], ["dataset"], ["ledger"], ["parts"]],
    "core": [["verdicts"], ["records"]],
}
"""The layers within a package."""

PURE = {
    *("__future__", "array", "base64", "collections", "contextlib", "datetime", "enum", "functools", "io", "itertools"),
    *("json", "math", "operator", "re", "struct", "types", "typing", "unicodedata", "warnings", "zlib"),
    *("PIL", "blake3", "msgspec", "rensa"),
}
"""Modules that the core may import: none of them does I/O or reads a clock in the ways that are left to it."""

IMPURE = {
    *("__import__", "eval", "exec", "input", "open", "print"),
    *("io.open", "date.today", "datetime.now", "datetime.today", "datetime.utcnow"),
}
"""Functions that the core may not call, although it may have their modules."""


class Import(NamedTuple):
    """One import: the file and line that it stands in, and the full name of a module or of something in it."""

    file: Path
    line: int
    name: str


def imports(file: Path, package: Path) -> Iterator[Import]:
    """Yield every import of a file, also those within functions and under ``TYPE_CHECKING``."""
    home = [package.name, *file.relative_to(package).parent.parts]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (Import(file, node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = home[: len(home) + 1 - node.level] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            yield from (Import(file, node.lineno, f"{base}.{alias.name}") for alias in node.names)


def arrow(source: list[str], target: list[str]) -> str | None:
    """Return the arrow from one module to another if it does not point down; both without the name of the package."""
    if source[0] != target[0]:
        if (source[0], target[0]) in BESIDE or _level(source[0], LAYERS) < _level(target[0], LAYERS):
            return None
        return f"{source[0]} -> {target[0]}"
    layers = INSIDE.get(source[0])
    if layers is None or len(source) < 3 or len(target) < 2 or source[1] == target[1]:
        return None
    if _level(source[1], layers) < _level(target[1], layers):
        return None
    return f"{source[0]}.{source[1]} -> {target[0]}.{target[1]}"


def _level(name: str, layers: list[list[str]]) -> int:
    return next(level for level, names in enumerate(layers) if name in names)


def wrong_arrows(package: Path) -> list[str]:
    """Return one sentence for every import within a package that does not point down."""
    found = []
    for file in sorted(package.rglob("*.py")):
        source = [*file.relative_to(package).with_suffix("").parts]
        if len(source) == 1:  # the public API and the command stand above all layers
            continue
        for _, line, name in imports(file, package):
            root, *target = name.split(".")
            if root == package.name and target and (package / target[0]).is_dir():
                wrong = arrow(source, target)
                found += [f"{wrong}: {file.relative_to(package.parent)}:{line} imports {name}"] if wrong else []
    return found


def impurities(package: Path) -> list[str]:
    """Return one sentence for everything by which the core, or what it imports, could do I/O or read a clock."""
    found, seen, files = [], set[Path](), sorted((package / "core").rglob("*.py"))
    while files:
        file = files.pop()
        if file in seen:
            continue
        seen.add(file)
        where = file.relative_to(package.parent)
        for _, line, name in imports(file, package):
            root, *rest = name.split(".")
            if root != package.name:
                pure = root in PURE and name not in IMPURE
                found += [] if pure else [f"{where}:{line} imports {name}"]
            else:
                modules = (package.joinpath(*rest[:stop]) for stop in range(1, len(rest) + 1))
                files += [module.with_suffix(".py") for module in modules if module.with_suffix(".py").is_file()]
        found += [f"{where}:{line} uses {name}" for line, name in _impure_uses(file)]
    return found


def _impure_uses(file: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name | ast.Attribute):
            name = ast.unparse(node)
            if ".".join(name.split(".")[-2:]) in IMPURE:
                yield node.lineno, name


def make(folder: Path, files: dict[str, str]) -> Path:
    """Make a package named ``streamer`` with these files."""
    for name, text in files.items():
        file = folder / "streamer" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return folder / "streamer"


def _entries(folder: Path) -> set[str]:
    """Return what a folder holds. A folder without modules is what Python left behind of one that moved."""
    return {path.name for path in folder.iterdir() if path.is_file() or any(path.glob("**/*.py"))} - NOT_COUNTED


def test_a_newcomer_meets_few_entries() -> None:
    """At most 12, and each package has its layer."""
    entries = _entries(PACKAGE)
    assert len(entries) <= MOST_ENTRIES
    assert entries == {name for names in LAYERS for name in names} | {"__init__.py", "__main__.py"}
    for package, layers in INSIDE.items():
        inside = _entries(PACKAGE / package) - {"__init__.py"}
        assert inside == {name for names in layers for name in names}


def test_imports_point_down() -> None:
    """A package imports only from those below it."""
    assert wrong_arrows(PACKAGE) == []


def test_the_core_is_pure() -> None:
    """Neither the core nor a module it imports does I/O, reads a clock or knows file names (``os``)."""
    assert impurities(PACKAGE) == []


def test_helpers_of_the_tests_do_not_use_the_simulation_kit() -> None:
    """Tests must make their own shards, so that no fault of the kit hides a fault of the daemon."""
    helpers = Path(__file__).parent / "helpers"
    found = [one for file in helpers.rglob("*.py") for one in imports(file, helpers)]
    assert found
    assert [one for one in found if one.name.startswith("streamer.commands.simulation")] == []


UP = "from streamer.daemon.pipeline import Pipeline"


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("core/verdicts/judge.py", UP, "core -> daemon"),
        ("core/verdicts/judge.py", f"def judge() -> None:\n    {UP}\n", "core -> daemon"),
        ("core/verdicts/judge.py", f"if TYPE_CHECKING:\n    {UP}\n", "core -> daemon"),
        ("core/verdicts/judge.py", "import streamer.daemon.pipeline", "core -> daemon"),
        ("core/verdicts/judge.py", "from streamer import daemon", "core -> daemon"),
        ("core/verdicts/judge.py", "from ...daemon import pipeline", "core -> daemon"),
        ("core/records/model.py", "from streamer.core.verdicts import judge", "core.records -> core.verdicts"),
        ("store/parts/parts.py", "from streamer.store.views.explain import explain", "store.parts -> store.views"),
        ("config/tables.py", "from streamer.sources import shards", "config -> sources"),
        ("reader/tail.py", "from streamer.config import Config", "reader -> config"),
    ],
)
def test_a_wrong_arrow_is_named(tmp_path: Path, file: str, text: str, expected: str) -> None:
    """However the import is written."""
    names = [name for names in LAYERS for name in names]
    package = make(tmp_path, {f"{name}/__init__.py": "" for name in names} | {file: text})
    (found,) = wrong_arrows(package)
    assert found.startswith(f"{expected}: streamer/{file}:")


def test_arrows_that_point_down_are_fine(tmp_path: Path) -> None:
    """And the only one between neighbours."""
    files = {
        "commands/run.py": UP,
        "daemon/pipeline.py": "from streamer.core.verdicts import judge",
        "sources/shards.py": "from streamer.config import Config",
        "config/__init__.py": "from streamer import __version__",
        "core/verdicts/judge.py": "from streamer.core.records.model import Line",
        "__init__.py": "from streamer.daemon import pipeline",
    }
    assert wrong_arrows(make(tmp_path, files)) == []


@pytest.mark.parametrize(
    "text",
    [
        *("import time", "import sqlite3", "from pathlib import Path", "import os", "from os import fsencode"),
        *("open('x')", "datetime.now()", "from io import open"),
        "from streamer.base.files import Files",
    ],
)
def test_an_impure_core_is_noticed(tmp_path: Path, text: str) -> None:
    """By a module, a function, a method, or a module that it imports."""
    package = make(tmp_path, {"core/records/model.py": text, "base/files.py": "import pathlib"})
    assert len(impurities(package)) == 1
