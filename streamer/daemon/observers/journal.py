"""Entries for the journal with structured fields, in its native protocol: one datagram for each entry.

See https://systemd.io/JOURNAL_NATIVE_PROTOCOL/. An entry may hold a field several times, so that each
rollout of a batch finds it.
"""

from __future__ import annotations

import re
import select
import socket
from collections.abc import Mapping
from pathlib import Path

SOCKET = Path("/run/systemd/journal/socket")

Field = str | int | float | None | list[str]

_PATIENCE_MS = 100
_NO_NAME = re.compile(r"[^A-Z0-9_]")


class Journal:
    """Sends entries; the journal has a moment to take each one, then the entry is lost.

    Args:
        path: Socket of the journal.
    """

    def __init__(self, path: Path = SOCKET) -> None:
        self._path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(0)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLOUT)

    def send(self, message: str, priority: int, fields: Mapping[str, Field], *, patient: bool) -> bool:
        """Send one entry; return whether the journal took it.

        Args:
            message: One line of text.
            priority: 0 (emergency) to 7 (debug), as in syslog(3).
            fields: Further fields by name, each on one line; None leaves a field out.
            patient: Wait a moment for a busy journal.
        """
        entry = _entry({"MESSAGE": message, "PRIORITY": priority, **fields})
        return self._send(entry) or (patient and self._has_room() and self._send(entry))

    def _send(self, entry: bytes) -> bool:
        try:
            self._socket.sendto(entry, self._path)
        except OSError:
            return False
        return True

    def _has_room(self) -> bool:
        try:
            self._socket.connect(self._path)  # the kernel reports room only for a connected socket
        except OSError:
            return False
        return bool(self._poll.poll(_PATIENCE_MS))


def _entry(fields: Mapping[str, Field]) -> bytes:
    lines: list[str] = []
    for name, value in fields.items():
        values = value if isinstance(value, list) else [] if value is None else [value]
        lines += [f"{_NO_NAME.sub('_', name.upper())}={text}\n" for text in values]
    return "".join(lines).encode("utf-8", "backslashreplace")
