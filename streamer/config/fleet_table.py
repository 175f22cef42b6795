"""What is configured of a fleet: where its servers are, what it is called, and which end of it a daemon is."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import msgspec

_DEFAULT_PREFIX = "streamer"
_DEFAULT_BUCKETS = 32
MOST_BUCKETS = 4096


class SinkKind(StrEnum):
    """Where records go: into the dataset, and from it to a writer, too, with ``jetstream``."""

    FILE = "file"
    JETSTREAM = "jetstream"


class SourceKind(StrEnum):
    """Where records come from: shards and a trace database of this machine, or the collectors of a fleet."""

    LOCAL = "local"
    JETSTREAM = "jetstream"


class Sink(msgspec.Struct, frozen=True):
    """Where records go."""

    kind: SinkKind = SinkKind.FILE


class Fleet(msgspec.Struct, frozen=True):
    """How to reach the servers of a fleet, and what its dataset is called there.

    ``name`` is what this host is called, empty for its host name. ``buckets`` counts when the stream is made;
    afterwards the stream says how many there are. ``monitor`` are the addresses at which the servers tell how they are.
    """

    servers: tuple[str, ...] = ()
    prefix: str = _DEFAULT_PREFIX
    dataset: str = ""
    name: str = ""
    buckets: int = _DEFAULT_BUCKETS
    credentials: Path | None = None
    nkey: Path | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    monitor: tuple[str, ...] = ()
