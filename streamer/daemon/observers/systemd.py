"""The ``sd_notify`` protocol of systemd, one datagram for each message (see sd_notify(3))."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING

from streamer.base.text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

_US = 1_000_000


class Notifier:
    """Informs the service manager about the daemon's state; does nothing without ``NOTIFY_SOCKET``.

    No method raises or waits: a manager that is gone or stuck must not disturb the daemon.

    Args:
        environ: Environment of the process, for ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID``.

    ``watchdog_interval`` is the time in seconds between two calls of :meth:`watchdog`, half of the manager's timeout;
    None without a watchdog.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self.watchdog_interval = _watchdog_interval(environ)

    def ready(self, status: str) -> None:
        """Report that start-up or a reload has ended."""
        self._send("READY=1", _status(status))

    def status(self, text: str) -> None:
        """Set the line that ``systemctl status`` shows."""
        self._send(_status(text))

    def reloading(self) -> None:
        """Report that the configuration is being read again; :meth:`ready` must follow."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def watchdog(self) -> None:
        """Send a heartbeat to the watchdog."""
        self._send("WATCHDOG=1")

    def stopping(self, status: str) -> None:
        """Report that the daemon has begun to shut down."""
        self._send("STOPPING=1", _status(status))

    def _send(self, *assignments: str) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.sendto("\n".join(assignments).encode(), socket.MSG_DONTWAIT, self._address)


def _address(text: str) -> str:
    """Return the address for the socket module: ``@name`` is in the abstract name space."""
    if text.startswith("@"):
        return f"\0{text[1:]}"
    return text if text.startswith("/") else ""


def _status(text: str) -> str:
    return f"STATUS={printable(text)}"


def _watchdog_interval(environ: Mapping[str, str]) -> float | None:
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    period = environ.get("WATCHDOG_USEC", "")
    return int(period) / _US / 2 if period.isdecimal() and int(period) > 0 else None
