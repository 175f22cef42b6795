"""The names of the package: a public class has one name in all of it."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "streamer"


def shared_names(package: Path) -> dict[str, list[str]]:
    """Return the names of public classes that stand in several modules, with these modules."""
    homes = defaultdict[str, list[str]](list)
    for file in sorted(package.rglob("*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(str(file.relative_to(package)))
    return {name: files for name, files in homes.items() if len(files) > 1}


def test_a_public_class_has_a_name_of_its_own() -> None:
    """A reader who searches for it finds one."""
    assert shared_names(PACKAGE) == {}


def test_a_name_of_two_classes_is_noticed(tmp_path: Path) -> None:
    """Private ones may share theirs."""
    (tmp_path / "web").mkdir()
    (tmp_path / "state.py").write_text("class State: ...\nclass _Row: ...\n", encoding="utf-8")
    (tmp_path / "web" / "state.py").write_text("class State: ...\nclass _Row: ...\n", encoding="utf-8")
    assert shared_names(tmp_path) == {"State": ["state.py", "web/state.py"]}
