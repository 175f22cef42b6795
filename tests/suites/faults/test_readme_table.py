"""What README says is survived, and which tests it names as proof."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
HEAD = "proved by"
"""What stands above the last column of the table."""

_NODE = re.compile(r"(test_\w+\.py)::(test_\w+)")


def rows(text: str) -> list[list[str]]:
    """Return the cells of each row of the table whose last column is headed ``HEAD``."""
    found: list[list[str]] = []
    inside = False
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
        if not line.startswith("|"):
            inside = False
        elif cells[-1] == HEAD:
            inside = True
        elif inside and not set(line) <= set("|-: "):
            found.append(cells)
    return found


def unproved(text: str) -> list[str]:
    """Return what is wrong with the last column: rows that name no test, and names that are none."""
    wrong = []
    for happens, *_, proof in rows(text):
        named = re.findall(r"`([^`]*)`", proof)
        wrong += [happens] * (not named)
        wrong += [name for name in named if not _exists(name)]
    return wrong


def _exists(node: str) -> bool:
    match = _NODE.fullmatch(node)
    if match is None:
        return False
    return any(match[2] in _tests_of(file) for file in (ROOT / "tests").rglob(match[1]))


def _tests_of(file: Path) -> set[str]:
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_row_of_the_table_in_readme_names_tests_that_exist() -> None:
    """What is not proved is not said to be survived."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert rows(readme)
    assert not unproved(readme)


def test_a_table_that_names_no_test_or_one_that_does_not_exist_is_noticed() -> None:
    """Else it would prove nothing."""
    here = "test_readme_table.py"
    good = f"`{here}::test_a_table_that_names_no_test_or_one_that_does_not_exist_is_noticed`"
    table = f"""
| what happens | what you see | {HEAD} |
|---|---|---|
| good | this \\| that | {good}, {good} |
| none | | |
| gone | | {good} `{here}::test_gone` |
| no file | | `test_gone.py::test_a` |
| no path | | `test_a` |

| another table | `test_b` |
"""
    assert unproved(table) == ["none", f"{here}::test_gone", "test_gone.py::test_a", "test_a"]
