"""What systemd is told, through a real socket."""

from __future__ import annotations

import os
import secrets
import socket
import time
from typing import TYPE_CHECKING

import pytest

from streamer.daemon.observers.systemd import Notifier

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, Notifier]]:
    """Return the manager's end of the socket, and a notifier that was told of it."""
    name = f"@{secrets.token_hex(8)}" if request.param == "abstract" else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(name.replace("@", "\0", 1))
        listener.settimeout(0)
        yield listener, Notifier({"NOTIFY_SOCKET": name})


def told(listener: socket.socket) -> dict[str, str]:
    """Return the assignments of the one datagram that is there."""
    lines = listener.recv(4096).decode().split("\n")
    with pytest.raises(BlockingIOError):
        listener.recv(4096)
    return dict(line.split("=", 1) for line in lines)


class TestMessages:
    """One datagram a message."""

    def test_readiness_is_told_with_a_status(self, manager: tuple[socket.socket, Notifier]) -> None:
        """READY=1 ends the start, and a reload."""
        listener, notifier = manager
        notifier.ready("watching 3 shards")
        assert told(listener) == {"READY": "1", "STATUS": "watching 3 shards"}

    def test_the_status_is_one_line(self, manager: tuple[socket.socket, Notifier]) -> None:
        """A name from outside cannot add an assignment."""
        listener, notifier = manager
        notifier.status("caf\u00e9 x\nMAINPID=1\udcff")
        assert told(listener) == {"STATUS": "caf\u00e9 x\\nMAINPID=1\\udcff"}

    def test_a_reload_is_told_with_the_monotonic_time(self, manager: tuple[socket.socket, Notifier]) -> None:
        """As notify-reload services of systemd 253 and later have to."""
        listener, notifier = manager
        before = time.monotonic_ns() // 1000
        notifier.reloading()
        message = told(listener)
        assert message.pop("RELOADING") == "1"
        assert before <= int(message.pop("MONOTONIC_USEC")) <= time.monotonic_ns() // 1000
        assert message == {}

    def test_the_watchdog_is_fed(self, manager: tuple[socket.socket, Notifier]) -> None:
        """WATCHDOG=1 and nothing else."""
        listener, notifier = manager
        notifier.watchdog()
        assert told(listener) == {"WATCHDOG": "1"}

    def test_the_end_is_told_with_a_status(self, manager: tuple[socket.socket, Notifier]) -> None:
        """STOPPING=1 as soon as the shutdown begins."""
        listener, notifier = manager
        notifier.stopping("committing the last batch")
        assert told(listener) == {"STOPPING": "1", "STATUS": "committing the last batch"}


class TestSilence:
    """Where no one listens, nothing happens."""

    @pytest.mark.parametrize(
        "environ",
        [
            {},
            {"NOTIFY_SOCKET": ""},
            {"NOTIFY_SOCKET": "@"},
            {"NOTIFY_SOCKET": "vsock:2:1234"},
            {"NOTIFY_SOCKET": "/no/such/socket"},
            {"NOTIFY_SOCKET": "/" + "x" * 500},
            {"NOTIFY_SOCKET": "@" + "x" * 500},
        ],
    )
    def test_a_socket_that_is_not_there_does_no_harm(self, environ: dict[str, str]) -> None:
        """No variable, no address, no listener: no exception."""
        tell_all(Notifier(environ))

    def test_a_manager_that_went_away_does_no_harm(self, tmp_path: Path) -> None:
        """The socket's file is left, but no one is behind it."""
        path = str(tmp_path / "notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(path)
        tell_all(Notifier({"NOTIFY_SOCKET": path}))

    def test_a_manager_that_does_not_read_is_not_waited_for(self, tmp_path: Path) -> None:
        """When its queue is full, messages are lost and the daemon goes on."""
        path = str(tmp_path / "notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(path)
            notifier = Notifier({"NOTIFY_SOCKET": path})
            for _ in range(2000):
                notifier.watchdog()


class TestWatchdog:
    """How often the watchdog wants to be fed."""

    def test_the_interval_is_half_the_managers_patience(self) -> None:
        """60 s of patience, fed every 30 s."""
        assert Notifier({"WATCHDOG_USEC": "60000000"}).watchdog_interval == 30.0

    def test_the_interval_is_ours_if_the_pid_is(self) -> None:
        """WATCHDOG_PID names the process that has to feed it."""
        environ = {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}
        assert Notifier(environ).watchdog_interval == 1.5

    @pytest.mark.parametrize(
        "environ",
        [
            {},
            {"WATCHDOG_USEC": ""},
            {"WATCHDOG_USEC": "0"},
            {"WATCHDOG_USEC": "soon"},
            {"WATCHDOG_USEC": "-5"},
            {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"},
        ],
    )
    def test_without_a_watchdog_of_ours_there_is_no_interval(self, environ: dict[str, str]) -> None:
        """Unset, senseless, or another process'."""
        assert Notifier(environ).watchdog_interval is None


def tell_all(notifier: Notifier) -> None:
    """Call every method once."""
    notifier.ready("ready")
    notifier.status("status")
    notifier.reloading()
    notifier.watchdog()
    notifier.stopping("stopping")
