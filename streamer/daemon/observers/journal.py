"""Entries for the journal with fields of their own, in its native protocol: one datagram an entry.

See https://systemd.io/JOURNAL_NATIVE_PROTOCOL/. A field may stand in an entry several times, which is how one batch
can be found by each of its rollouts.
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
    """Sends entries; what the journal does not take is lost, and never waited for longer than a moment.

    Args:
        path: the journal's socket.
    """

    def __init__(self, path: Path = SOCKET) -> None:
        self._path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(0)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLOUT)

    def send(self, message: str, priority: int, fields: Mapping[str, Field], *, patient: bool) -> bool:
        """Send one entry; say whether the journal took it.

        Args:
            message: one line of text.
            priority: 0 (emergency) to 7 (debug), as in syslog(3).
            fields: further fields by name, on one line each; those that are None are left out.
            patient: whether a journal that is busy gets a moment.
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
            self._socket.connect(self._path)  # only of a socket that is connected the kernel says when there is room
        except OSError:
            return False
        return bool(self._poll.poll(_PATIENCE_MS))


def _entry(fields: Mapping[str, Field]) -> bytes:
    lines: list[str] = []
    for name, value in fields.items():
        values = value if isinstance(value, list) else [] if value is None else [value]
        lines += [f"{_NO_NAME.sub('_', name.upper())}={text}\n" for text in values]
    return "".join(lines).encode("utf-8", "backslashreplace")
