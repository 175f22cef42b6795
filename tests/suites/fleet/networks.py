"""Networks of their own for servers and hosts, on one bridge: what is cut is cut, as with a cable."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import ExitStack
from typing import Self


def why_not() -> str:
    """Return why there can be no networks here, empty if there can."""
    if os.geteuid() != 0:
        return "networks can be made by root alone"
    if shutil.which("ip") is None:
        return "there is no `ip` (Debian's package iproute2)"
    name = f"st{os.getpid()}probe"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode:
        return "this machine makes no networks (a container without the right to?)"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return ""


class Networks:
    """Named networks with one address each, joined by a bridge in a network that holds nothing else.

    Args:
        names: of the networks; the first has the address 10.213.0.1, and so on.
    """

    def __init__(self, *names: str) -> None:
        self._mark = f"st{os.getpid()}"
        self._names = names

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            hub = self._add(stack, "hub")
            _ip("-n", hub, "link", "add", "name", "hub", "type", "bridge")
            _ip("-n", hub, "link", "set", "hub", "up")
            for number, name in enumerate(self._names, 1):
                space = self._add(stack, name)
                _ip(
                    "-n",
                    hub,
                    "link",
                    "add",
                    "name",
                    f"v{number}",
                    "type",
                    "veth",
                    "peer",
                    "name",
                    "eth0",
                    "netns",
                    space,
                )
                _ip("-n", hub, "link", "set", f"v{number}", "master", "hub", "up")
                _ip("-n", space, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
                _ip("-n", space, "link", "set", "eth0", "up")
                _ip("-n", space, "link", "set", "lo", "up")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def address(self, name: str) -> str:
        """Return the address of a network."""
        return f"10.213.0.{self._names.index(name) + 1}"

    def inside(self, name: str) -> tuple[str, ...]:
        """Return the command that runs its arguments in a network."""
        return ("ip", "netns", "exec", f"{self._mark}{name}")

    def cut(self, name: str) -> None:
        """Cut a network off from the others."""
        self._set(name, "down")

    def join(self, name: str) -> None:
        """Join it to the others again."""
        self._set(name, "up")

    def _set(self, name: str, state: str) -> None:
        _ip("-n", f"{self._mark}hub", "link", "set", f"v{self._names.index(name) + 1}", state)

    def _add(self, stack: ExitStack, name: str) -> str:
        space = f"{self._mark}{name}"
        _ip("netns", "add", space)
        stack.callback(_ip, "netns", "del", space)
        return space


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
