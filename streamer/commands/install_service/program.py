"""The command that a unit starts: the one of the environment that this interpreter runs in.

In a virtual environment, and in those that pipx and uv make for a tool, that is ``bin/streamer`` beside the
interpreter. It stays there when the tool is upgraded, as the interpreter's own name does.
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
"""Where the system service sees nothing but what its access.conf shows."""

_OP = "find the command for the unit"


def installed() -> Path:
    """Return the command ``streamer`` of this environment.

    Raises:
        ConfigError: there is none, or it would be gone soon.
    """
    command = Path(sysconfig.get_path("scripts"), "streamer")
    if not os.access(command, os.X_OK):
        raise ConfigError(_OP, str(command), "it is not there", "install streamer with uv, with pipx, or in a venv")
    if {"cache", ".cache"} & set(command.parts):
        hint = "install it to stay: uv tool install, or pipx install"
        raise ConfigError(_OP, str(command), "it is in a cache, which may be cleared", hint)
    return command


def check_for_all(command: Path) -> None:
    """See that the user of the system service can start the command.

    Raises:
        ConfigError: its files are hidden from that user.
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
    """Return the first part of a path that is not open to everyone."""
    for part in reversed((path, *path.parents)):
        mode = os.stat(part).st_mode
        if not mode & (stat.S_IXOTH if stat.S_ISDIR(mode) else stat.S_IROTH):
            return part
    return None
