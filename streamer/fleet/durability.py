"""Durability of the servers: whether their monitoring says that they sync before they acknowledge.

Correctness does not depend on it: records that a server loses are sent again. But a server that acknowledges before it
syncs loses more than necessary when the power fails, and sending again costs time.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import urllib.error
import urllib.request
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

from anyio import to_thread

from streamer.base.errors import ConfigError
from streamer.base.events import Emit, SyncedLate, SyncUnknown
from streamer.base.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from streamer.config.fleet_table import Fleet

_PATIENCE = 5.0
"""Seconds a server has to answer."""

_LARGEST = 1 << 20
"""Bytes of an answer that are read."""

_NANO = 1e9


class ServerSync(NamedTuple):
    """One server: its name and the seconds between two syncs (0: always); or why they are unknown (``trouble``)."""

    where: str
    server: str = ""
    seconds: float | None = None
    trouble: str = ""

    @property
    def is_good(self) -> bool:
        """Say whether the server syncs before it acknowledges."""
        return self.seconds == 0

    def __str__(self) -> str:
        if self.trouble:
            return f"{self.where}: cannot be asked: {self.trouble}"
        if self.is_good:
            return f"{self.server}: syncs what it acknowledges"
        return (
            f"{self.server}: acknowledges before it syncs, every {self.seconds:g} s: set `sync_interval: always` in the"
            " block `jetstream` of its configuration"
        )


async def report(fleet: Fleet, emit: Emit) -> None:
    """Ask the servers once, at the start of a collector or writer, and report those that may lose records."""
    if not fleet.monitor:
        emit(SyncUnknown("the servers", "fleet.monitor is not set"))
        return
    try:
        found = await look(fleet.monitor, fleet.tls_ca)
    except ConfigError as error:
        emit(SyncUnknown("the servers", error.cause))
        return
    for one in found:
        if one.trouble:
            emit(SyncUnknown(one.where, one.trouble))
        elif one.seconds:
            emit(SyncedLate(one.server, one.seconds))


async def look(monitors: Sequence[str], authority: Path | None = None) -> list[ServerSync]:
    """Ask each server's monitoring at the same time; a failure is part of the result.

    Args:
        monitors: URLs such as ``http://host:8222``.
        authority: Certificates to trust for ``https``; None for those of the system.

    Raises:
        ConfigError: The certificates cannot be read.
    """
    try:
        context = ssl.create_default_context(cafile=authority)
    except OSError as error:  # an SSLError is one
        hint = "set fleet.tls_ca to a file with them"
        raise ConfigError("read the certificates", printable(str(authority)), str(error), hint) from None
    return await asyncio.gather(*(to_thread.run_sync(_ask, monitor, context) for monitor in monitors))


def _ask(monitor: str, context: ssl.SSLContext) -> ServerSync:
    url = f"{monitor.rstrip('/')}/varz"
    try:
        with closing(urllib.request.urlopen(url, timeout=_PATIENCE, context=context)) as answer:  # noqa: S310 - checked
            said = json.loads(answer.read(_LARGEST))
    except (OSError, ValueError) as error:
        return ServerSync(monitor, trouble=printable(str(getattr(error, "reason", "") or error)))
    return read(monitor, said)


def read(monitor: str, said: Any) -> ServerSync:
    """Decode an answer of ``/varz``, whatever it holds."""
    jetstream = said.get("jetstream") if isinstance(said, dict) else None
    config = jetstream.get("config") if isinstance(jetstream, dict) else None
    if not isinstance(config, dict):
        return ServerSync(monitor, trouble="its answer is not that of a server with JetStream")
    name = said.get("server_name")
    shown = printable(str(name))[:100] if name else monitor
    if config.get("sync_always") is True:
        return ServerSync(monitor, shown, 0.0)
    interval = config.get("sync_interval")
    if isinstance(interval, int | float) and interval > 0:
        return ServerSync(monitor, shown, interval / _NANO)
    return ServerSync(monitor, trouble="it does not say how often it syncs")
