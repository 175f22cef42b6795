"""The examples of docs/python.md, run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.exports import rollouts, write

EXAMPLES = re.findall(
    r"^```python\n(.*?)^```$", (Path(__file__).parents[3] / "docs" / "python.md").read_text(), re.DOTALL | re.MULTILINE
)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_runs_in_a_folder_with_a_dataset(tmp_path: Path, example: str) -> None:
    """In a process of its own, without a warning on its error stream."""
    write(tmp_path / "good.jsonl", *rollouts(10))
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_there_are_examples() -> None:
    """All of them are found."""
    assert len(EXAMPLES) == 7
