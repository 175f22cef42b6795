"""Names of a fleet's streams, subjects and stores on its servers. Pure.

::

    <prefix>.<dataset>.<partition>                  records; the stream <prefix>-<dataset> holds them
    <prefix>.ask.<dataset>.<partition>              a collector asks the partition's writer for a receipt
    <prefix>.receipt.<dataset>.<host>.<collector>   receipts
    <prefix>.alive.<dataset>.<host>.<collector>     heartbeats of collectors; <prefix>-<dataset>-alive keeps the last

A *partition* is a share of all keys: duplicates are in the same partition, so with the same writer. Settings, stored
names and messages call it a bucket.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

FORMAT = "1"
"""Version of the messages in the stream; stored in its metadata."""

META_FORMAT, META_PARTITIONS, META_DEDUP = "streamer-format", "streamer-buckets", "streamer-dedup"
"""Keys of the stream's metadata: the version, the number of partitions, and ``dedup.by`` of the whole fleet."""

_RESERVED = frozenset({"ask", "receipt", "alive"})
"""Names that no dataset may have: they stand in its place in subjects."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_NO_NAME = re.compile(r"[^A-Za-z0-9_-]+", re.ASCII)


def is_name(text: str) -> bool:
    """Say whether a text is a valid prefix, or name of a dataset or host."""
    return _NAME.fullmatch(text) is not None and text not in _RESERVED


def host_name(text: str) -> str:
    """Turn the name of a host into a valid name."""
    return _NO_NAME.sub("-", text).strip("-")[:64] or "host"


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition of a key."""
    return int.from_bytes(key[:4], "big") % partitions


def parse_partitions(text: str) -> frozenset[int] | None:
    """Return the partitions in a text such as "0-7,12"; None if the text is invalid."""
    found: set[int] = set()
    for piece in text.replace(" ", "").split(","):
        match = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", piece, re.ASCII)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            return None
        found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return frozenset(found)


def shown_partitions(partitions: Iterable[int]) -> str:
    """Format partitions for :func:`parse_partitions`: "0-7,12"."""
    runs: list[list[int]] = []
    for partition in sorted(partitions):
        if runs and partition == runs[-1][1] + 1:
            runs[-1][1] = partition
        else:
            runs.append([partition, partition])
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in runs)


class Names(msgspec.Struct, frozen=True):
    """Names of one fleet."""

    prefix: str
    dataset: str

    @property
    def stream(self) -> str:
        """Stream of records."""
        return f"{self.prefix}-{self.dataset}"

    @property
    def records(self) -> str:
        """Subjects of all records."""
        return f"{self.prefix}.{self.dataset}.*"

    @property
    def owners(self) -> str:
        """Key-value store with the owner of each partition."""
        return f"{self.prefix}-{self.dataset}-owners"

    @property
    def objects(self) -> str:
        """Object store for records larger than a message."""
        return f"{self.prefix}-{self.dataset}-objects"

    @property
    def keys(self) -> str:
        """Object store for partition handoffs; collectors have no access."""
        return f"{self.prefix}-{self.dataset}-keys"

    @property
    def heartbeats(self) -> str:
        """Stream that keeps the last heartbeat of each collector."""
        return f"{self.prefix}-{self.dataset}-alive"

    def subject(self, partition: int) -> str:
        """Return the subject of a partition's records."""
        return f"{self.prefix}.{self.dataset}.{partition}"

    def consumer(self, partition: int) -> str:
        """Return the durable consumer of a partition."""
        return f"bucket-{partition}"

    def ask(self, partition: int) -> str:
        """Return the subject of questions to a partition's writer."""
        return f"{self.prefix}.ask.{self.dataset}.{partition}"

    def receipt(self, producer: str) -> str:
        """Return the subject of receipts for a collector, ``<host>.<collector>``."""
        return f"{self.prefix}.receipt.{self.dataset}.{producer}"

    def alive(self, producer: str) -> str:
        """Return the subject of a collector's heartbeats."""
        return f"{self.prefix}.alive.{self.dataset}.{producer}"
