"""Processes, seen from a test that started them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path


def mentioning(folder: Path) -> list[int]:
    """Return the processes that have the folder in their command line."""
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and _mentions(path, folder)]


def _mentions(process: Path, folder: Path) -> bool:
    try:
        return os.fsencode(folder) in (process / "cmdline").read_bytes()
    except OSError:
        return False


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, up to 20 seconds."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
