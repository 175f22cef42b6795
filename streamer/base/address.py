"""Addresses of the web UI: host and port, and whether other machines can reach them."""

from __future__ import annotations

import ipaddress
import re

import msgspec

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")
_PORT = re.compile(r"[0-9]{1,5}")
_LAST_PORT = 65_535


class Address(msgspec.Struct, frozen=True):
    """A host (an IP address without brackets, or a name) and a port; port 0 means any free port."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it; False for names other than localhost."""
        if self.host == "localhost":
            return True
        address = ip_address(self.host)
        return address is not None and address.is_loopback

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address | None:
    """Return the address in a text such as "127.0.0.1:8765", "[::1]:8765" or "localhost:8765", or None."""
    host, _, port = text.rpartition(":")
    if not _PORT.fullmatch(port) or int(port) > _LAST_PORT:
        return None
    if host.startswith("[") and host.endswith("]"):
        inner = host[1:-1]
        return Address(inner, int(port)) if ":" in inner and ip_address(inner) is not None else None
    return Address(host.lower(), int(port)) if _NAME.fullmatch(host) else None


def ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the IP address in a text, or None if it is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
