"""Print the requirements in pyproject.toml: of the project and of the extras named, for `pip install -r /dev/stdin`."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"


def requirements(project: dict[str, Any], extras: Iterable[str]) -> Iterator[str]:
    """Yield the project's requirements and those of its extras. ``streamer[fleet]`` in an extra stands for another."""
    yield from project["dependencies"]
    pending = list(extras)
    while pending:
        for requirement in project["optional-dependencies"][pending.pop()]:
            own = re.fullmatch(rf"{project['name']}\[([^]]+)\]", requirement)
            if own:
                pending += own[1].split(",")
            else:
                yield requirement


if __name__ == "__main__":
    with PYPROJECT.open("rb") as file:
        sys.stdout.writelines(f"{line}\n" for line in requirements(tomllib.load(file)["project"], sys.argv[1:]))
