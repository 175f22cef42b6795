"""What the tests need: ``python -m tests.suites.systemd.prepare FOLDER`` makes a root folder and wheels, once.

The root folder is a minimal Debian (or what the host is) with systemd. It comes from the mirror that apt is configured
with. The wheels are those of this checkout, of the last version with other keys (as far as the history knows it), and
of all that they need, for the interpreter in the root folder.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from blake3 import blake3

CHECKOUT = Path(__file__).resolve().parents[3]
TOOLS = {"debootstrap": "debootstrap", "systemd-nspawn": "systemd-container"}
"""Commands, and the packages that have them."""

PACKAGES = "systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,polkitd,python3,python3-venv"
DEFAULT = ("http://deb.debian.org/debian", "bookworm")
EXTRAS = ("uv", "pipx", "hatchling")
"""Beside streamer's own needs: what installs it."""


def main(folder: Path) -> None:
    """Make what is not there yet."""
    reason = why_not()
    if reason:
        print(f"skipped: {reason}")  # noqa: T201
        return
    folder.mkdir(parents=True, exist_ok=True)
    install_tools()
    make_base(folder / "base")
    make_wheels(folder / "wheels", folder / "base")
    make_previous(folder / "previous")


def why_not() -> str:
    """Return why no container can be made here, or nothing."""
    if os.geteuid() != 0:
        return "booting a systemd in a container needs root"
    if shutil.which("apt-get") is None:
        return "the root folder is made with debootstrap, from the mirror of apt, which is not here"
    return ""


def install_tools() -> None:
    """Install the commands that are missing."""
    missing = [package for command, package in TOOLS.items() if shutil.which(command) is None]
    if missing:
        run("apt-get", "update", "-qq")
        run("apt-get", "install", "-qq", "-y", "--no-install-recommends", *missing)


def make_base(base: Path) -> None:
    """Make the root folder that each run copies."""
    mirror, suite = mirror_of_apt()
    made_with = base.with_name("base.made-with")
    if made_with.exists() and made_with.read_text() == f"{suite} {PACKAGES}":
        return
    new = base.with_name("base.new")
    for old in (new, base):
        shutil.rmtree(old, ignore_errors=True)
    run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", suite, str(new), mirror)
    (new / "etc/machine-id").write_text("")  # each boot is another machine
    shutil.rmtree(new / "var/cache/apt/archives", ignore_errors=True)
    new.rename(base)
    made_with.write_text(f"{suite} {PACKAGES}")


def mirror_of_apt() -> tuple[str, str]:
    """Return (URL, suite) of the host's own release, as apt is configured."""
    suite = platform.freedesktop_os_release().get("VERSION_CODENAME")
    listed = run("apt-get", "indextargets", "--format", "$(SITE) $(RELEASE)", "Created-By: Packages")
    found = [line.split() for line in listed.splitlines()]
    return next(((site, release) for site, release in found if release == suite), DEFAULT)


def make_wheels(wheels: Path, base: Path) -> None:
    """Build this checkout, and download what it needs."""
    wheels.mkdir(exist_ok=True)
    for old in wheels.glob("streamer-*.whl"):
        old.unlink()
    wheel = build(CHECKOUT, wheels)
    needs = blake3((CHECKOUT / "pyproject.toml").read_bytes()).hexdigest(8)
    downloaded = wheels / f"downloaded-{needs}"
    if downloaded.exists():
        return
    version = os.path.basename(os.path.realpath(base / "usr/bin/python3")).removeprefix("python")
    platforms = [f"--platform=manylinux_{tag}_{platform.machine()}" for tag in ("2_17", "2_28", "2_34")]
    chosen = ["--only-binary=:all:", f"--python-version={version}", "--implementation=cp", *platforms]
    pip("download", *chosen, f"--dest={wheels}", f"{wheel}[images]", *EXTRAS)
    downloaded.touch()


def make_previous(folder: Path) -> None:
    """Build the last version whose ledgers have other keys, if the history is there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    found = run("git", "-C", str(CHECKOUT), "log", "-1", "--format=%P", "-SKEY_VERSION = 2", "--", "streamer")
    if not found.strip():
        return
    with tempfile.TemporaryDirectory() as checkout:
        archive = Path(checkout, "archive.tar")
        run("git", "-C", str(CHECKOUT), "archive", f"--output={archive}", found.split()[0])
        run("tar", "-xf", str(archive), "-C", checkout)
        build(Path(checkout), folder)


def build(checkout: Path, into: Path) -> Path:
    """Build a wheel."""
    pip("wheel", "--no-deps", f"--wheel-dir={into}", str(checkout))
    (wheel,) = into.glob("streamer-*.whl")
    return wheel


def pip(*arguments: str) -> None:
    """Run pip."""
    run(sys.executable, "-m", "pip", "--quiet", *arguments)


def run(*command: str) -> str:
    """Run a command; what it says on stderr is for people."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]))
