"""Finds the ``streamer`` command that a unit starts: the one beside this interpreter.

In a virtual environment, also one of pipx or uv, that is ``bin/streamer``. Its path stays the same when the tool is
upgraded, as the path of the interpreter does.
"""

from __future__ import annotations

import os
import stat
import sys
import sysconfig
from pathlib import Path

import streamer
from streamer.base.errors import ConfigError

HIDDEN = tuple(map(Path, ("/home", "/root", "/run/user", "/srv", "/mnt", "/media", "/tmp", "/var/tmp")))  # noqa: S108
"""Folders that are hidden from the system service, but for the paths in its access.conf."""

_OP = "find the command for the unit"


def installed() -> Path:
    """Return the command ``streamer`` of this environment.

    Raises:
        ConfigError: there is none, or it is in a cache.
    """
    command = Path(sysconfig.get_path("scripts"), "streamer")
    if not os.access(command, os.X_OK):
        raise ConfigError(_OP, str(command), "it is not there", "install streamer with uv, with pipx, or in a venv")
    if {"cache", ".cache"} & set(command.parts):
        hint = "install it to stay: uv tool install, or pipx install"
        raise ConfigError(_OP, str(command), "it is in a cache, which may be cleared", hint)
    return command


def check_for_all(command: Path) -> None:
    """Check that the user of the system service can start the command.

    Raises:
        ConfigError: that user cannot read its files.
    """
    package = Path(streamer.__file__).parent
    for path in (command, Path(sys.executable), Path(os.path.realpath(sys.executable)), package):
        hidden = next((root for root in HIDDEN if root in path.parents), None) or _closed(path)
        if hidden is not None:
            raise ConfigError(
                _OP,
                str(path),
                f"the service runs as the user streamer, who cannot read below {hidden}",
                "install it where all can read: sudo python3 -m venv /opt/streamer, and there"
                " sudo /opt/streamer/bin/pip install '.[images]'",
            )


def _closed(path: Path) -> Path | None:
    """Return the first parent of a path (or the path) that not everyone may read; None if there is none."""
    for part in reversed((path, *path.parents)):
        mode = os.stat(part).st_mode
        if not mode & (stat.S_IXOTH if stat.S_ISDIR(mode) else stat.S_IROTH):
            return part
    return None
