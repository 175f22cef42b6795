"""Configuration of a fleet: its servers, its names, and the end of it that a daemon is."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import msgspec

_DEFAULT_PREFIX = "streamer"
_DEFAULT_BUCKETS = 32
MOST_PARTITIONS = 4096


class SinkKind(StrEnum):
    """Destination of records: the dataset; with ``jetstream`` also a writer, by way of the dataset."""

    FILE = "file"
    JETSTREAM = "jetstream"


class SourceKind(StrEnum):
    """Source of records: shards and a trace database of this machine, or the collectors of a fleet."""

    LOCAL = "local"
    JETSTREAM = "jetstream"


class Sink(msgspec.Struct, frozen=True):
    """Table ``[sink]``."""

    kind: SinkKind = SinkKind.FILE


class Fleet(msgspec.Struct, frozen=True):
    """Table ``[fleet]``: servers and credentials, and the name of the dataset.

    ``name`` names this host; empty for its host name. ``buckets``, the number of partitions, is used when the stream is
    created; afterwards the stream's own number counts. ``monitor`` holds the URLs of the servers' monitoring.
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
