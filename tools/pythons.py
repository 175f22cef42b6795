"""Print each Python that works here and that streamer supports, as VERSION PATH, one for each minor version.

Looks on PATH and among the versions that pyenv manages. A shim that fails is no Python.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

OLDEST = (3, 11)
_ASK = "import sys; print('%d.%d' % sys.version_info[:2], sys.version_info.releaselevel)"


def candidates() -> Iterator[str]:
    """Yield paths where a Python may be."""
    for minor in range(OLDEST[1], OLDEST[1] + 10):
        yield from filter(None, [shutil.which(f"python{OLDEST[0]}.{minor}")])
    versions = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    yield from map(str, sorted(versions.glob("3.*/bin/python3")))


def version(python: str) -> str | None:
    """Return the minor version of a released Python ("3.12"), or None if ``python`` does not run."""
    try:
        done = subprocess.run([python, "-c", _ASK], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    said = re.fullmatch(r"(3\.\d+) final\n", done.stdout)
    return said[1] if said else None


def pythons() -> dict[str, str]:
    """Return the path of one Python for each minor version."""
    found: dict[str, str] = {}
    for path in candidates():
        if name := version(path):
            found.setdefault(name, path)
    return {name: found[name] for name in sorted(found, key=lambda name: int(name.split(".")[1])) if _is_new(name)}


def _is_new(name: str) -> bool:
    return tuple(map(int, name.split("."))) >= OLDEST


if __name__ == "__main__":
    sys.stdout.writelines(f"{name} {path}\n" for name, path in pythons().items())
