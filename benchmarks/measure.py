"""Run a command as a user would, and measure the whole process: wall, CPU, peak memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.results import Measured

ROOT = Path(__file__).parents[1]
PYTHON = (sys.executable, "-m")
STREAMER = (*PYTHON, "streamer")

_LAUNCH = str(Path(__file__).with_name("launch.py"))
_SETTINGS = ("STREAMER_", "SFT_", "TASKAPP_", "TURSO_", "SQLD_", "NOTIFY_", "WATCHDOG_", "PYTHON")


class _Launched(Measured, frozen=True):
    code: int = 0


def environment(**more: str) -> dict[str, str]:
    """Return an environment in which nothing is configured but what ``more`` says."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def measure(command: Sequence[str], log: Path) -> Measured:
    """Run ``command`` with its output in ``log`` and return what it took.

    Raises:
        RuntimeError: it failed; the message ends as the log does.
    """
    os.sync()  # what others left to be written must not be paid for here
    launched = subprocess.run(
        [sys.executable, "-IS", _LAUNCH, str(log), *command], env=environment(), stdout=subprocess.PIPE, check=True
    )
    seen = msgspec.json.decode(launched.stdout, type=_Launched)
    if seen.code:
        raise RuntimeError(f"{' '.join(command)} ended with {seen.code}: {log.read_text()[-2000:]}")
    return Measured(seen.wall, seen.cpu, seen.peak)


def warm(folder: Path) -> None:
    """Read all files of a folder once, so that no contender reads from the disk what another finds in memory."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                while file.read(1 << 20):
                    pass
