"""A container that boots a systemd of its own, and a way to run commands in it."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.suites.systemd.prepare import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Self

PATIENCE = 60.0
"""Seconds after which something that should happen has not happened."""

_NOT_NEEDED = ("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer")
_SUDO = '#!/bin/sh\nexec "$@"\n'
_PIP = "[global]\nno-index = true\nfind-links = /wheels\ndisable-pip-version-check = true\n"
_UV = 'no-index = true\nfind-links = ["/wheels"]\noffline = true\npython-downloads = "never"\n'


class Container:
    """A root folder of its own with a systemd in it; as a context manager it is up.

    Args:
        base: the root folder to begin with; it is copied.
        root: where to copy it to; what the console said is beside it, as `.log`.
        wheels: what pip and uv find in it, as `/wheels`.
        previous: the same, as `/previous`.
    """

    def __init__(self, base: Path, root: Path, wheels: Path, previous: Path) -> None:
        self.root = root
        self._shown = {"/wheels": wheels, "/previous": previous}
        subprocess.run(["rm", "-rf", root], check=True)
        subprocess.run(["cp", "-a", "--reflink=auto", base, root], check=True)
        self._lay_out()

    def _lay_out(self) -> None:
        for unit in _NOT_NEEDED:
            (self.root / "etc/systemd/system" / unit).symlink_to("/dev/null")
        self.write("/usr/local/bin/sudo", _SUDO, 0o755)
        self.write("/etc/pip.conf", _PIP)
        self.write("/etc/uv/uv.toml", _UV)
        # What the tests do would be reported far less often than it happens.
        self.write("/etc/systemd/journald.conf.d/tests.conf", "[Journal]\nStorage=persistent\nSyncIntervalSec=1s\n")
        checkout = self.path("/root/checkout")
        checkout.mkdir(parents=True)
        shutil.copytree(CHECKOUT / "streamer", checkout / "streamer", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(CHECKOUT / name, checkout / name)

    def __enter__(self) -> Self:
        binds = [f"--bind-ro={there}:{here}" for here, there in self._shown.items()]
        command = [
            "setpriv", "--pdeathsig=TERM",  # it goes with us, however we end
            "systemd-nspawn", "--quiet", "--boot", f"--directory={self.root}", "--machine=streamer-test",
            "--register=no", "--keep-unit", "--private-network", "--kill-signal=SIGRTMIN+3", *binds,
        ]  # fmt: skip
        with self.root.with_suffix(".log").open("wb") as log:
            self._nspawn = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        until(self._is_up, "systemd in the container is up")
        return self

    def __exit__(self, *_: object) -> None:
        # What is in it stays to be looked at, until the next run. It is made anew then, so it needs no clean end.
        self.call("systemctl", "poweroff", "--force", "--force")
        self._nspawn.wait(timeout=PATIENCE)

    def _is_up(self) -> bool:
        assert self._nspawn.poll() is None, self.root.with_suffix(".log").read_text()
        pids = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
        if not pids:
            return False
        self._pid = pids[0]
        return self.call("systemctl", "is-system-running").stdout.strip() in ("running", "degraded")

    def path(self, inside: str) -> Path:
        """Return where a path of the container lies on the host."""
        return self.root / inside.lstrip("/")

    def write(self, inside: str, text: str, mode: int = 0o644) -> None:
        """Write a file in the container."""
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def call(
        self, *command: str, user: str = "", folder: str = "/", environ: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the container, as root or as another user, and return what it said."""
        variables = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
        assignments = [f"{key}={value}" for key, value in (variables | dict(environ or {})).items()]
        become = ["runuser", "-u", user, "--"] if user else []
        return subprocess.run(
            [
                "nsenter", f"--target={self._pid}", "--all", "--root", f"--wdns={folder}",
                *become, "env", "-i", *assignments, *command,
            ],
            check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=3 * PATIENCE,
        )  # fmt: skip

    def run(self, *command: str) -> str:
        """Run a command in the container that has to succeed, and return what it printed."""
        done = self.call(*command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout


def until(condition: Callable[[], object], what: str) -> None:
    """Return as soon as a condition holds; fail if that takes too long."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"it did not come to that: {what}"
        time.sleep(0.05)
