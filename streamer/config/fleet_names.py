"""What everything of a fleet is called on its servers. Pure.

::

    <prefix>.<dataset>.<bucket>                     records; the stream <prefix>-<dataset> holds them
    <prefix>.ask.<dataset>.<bucket>                 a collector asks the bucket's writer for a receipt
    <prefix>.receipt.<dataset>.<host>.<collector>   receipts
    <prefix>.alive.<dataset>.<host>.<collector>     a collector says how it is; <prefix>-<dataset>-alive keeps the last

A *bucket* is a share of all keys: records that are the same one are in the same bucket, so with the same writer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

FORMAT = "1"
"""The version of what is said over the stream; its metadata hold it."""

META_FORMAT, META_BUCKETS, META_DEDUP = "streamer-format", "streamer-buckets", "streamer-dedup"
"""Keys of the stream's metadata: the version, how many buckets there are, and ``dedup.by`` of the whole fleet."""

_RESERVED = frozenset({"ask", "receipt", "alive"})
"""No dataset has one of these names: they stand where its name would."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_NO_NAME = re.compile(r"[^A-Za-z0-9_-]+", re.ASCII)


def is_name(text: str) -> bool:
    """Say whether a text can be the name of a prefix, a dataset, or a host."""
    return _NAME.fullmatch(text) is not None and text not in _RESERVED


def host_name(text: str) -> str:
    """Return a host's name as one that can be used here."""
    return _NO_NAME.sub("-", text).strip("-")[:64] or "host"


def bucket_of(key: bytes, buckets: int) -> int:
    """Return the bucket of a record's key."""
    return int.from_bytes(key[:4], "big") % buckets


def parse_buckets(text: str) -> frozenset[int] | None:
    """Return the buckets that a text such as "0-7,12" names; None if it names none."""
    found: set[int] = set()
    for piece in text.replace(" ", "").split(","):
        match = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", piece, re.ASCII)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            return None
        found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return frozenset(found)


def shown_buckets(buckets: Iterable[int]) -> str:
    """Return buckets as :func:`parse_buckets` takes them: "0-7,12"."""
    runs: list[list[int]] = []
    for bucket in sorted(buckets):
        if runs and bucket == runs[-1][1] + 1:
            runs[-1][1] = bucket
        else:
            runs.append([bucket, bucket])
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in runs)


class Names(msgspec.Struct, frozen=True):
    """The names of one fleet."""

    prefix: str
    dataset: str

    @property
    def stream(self) -> str:
        """The stream that carries the records."""
        return f"{self.prefix}-{self.dataset}"

    @property
    def records(self) -> str:
        """The subjects of all records."""
        return f"{self.prefix}.{self.dataset}.*"

    @property
    def owners(self) -> str:
        """The key-value bucket that says who writes which bucket."""
        return f"{self.prefix}-{self.dataset}-owners"

    @property
    def objects(self) -> str:
        """The object store for records that are larger than a message may be."""
        return f"{self.prefix}-{self.dataset}-objects"

    @property
    def keys(self) -> str:
        """The object store for what moves with a bucket; collectors have no business there."""
        return f"{self.prefix}-{self.dataset}-keys"

    @property
    def beats(self) -> str:
        """The stream that keeps what each collector said last of how it is."""
        return f"{self.prefix}-{self.dataset}-alive"

    def subject(self, bucket: int) -> str:
        """Return where records of a bucket are published."""
        return f"{self.prefix}.{self.dataset}.{bucket}"

    def consumer(self, bucket: int) -> str:
        """Return the durable consumer of a bucket."""
        return f"bucket-{bucket}"

    def ask(self, bucket: int) -> str:
        """Return where the writer of a bucket is asked for a receipt."""
        return f"{self.prefix}.ask.{self.dataset}.{bucket}"

    def receipt(self, origin: str) -> str:
        """Return where a collector hears of receipts; ``origin`` is ``<host>.<collector>``."""
        return f"{self.prefix}.receipt.{self.dataset}.{origin}"

    def alive(self, origin: str) -> str:
        """Return where a collector says how it is."""
        return f"{self.prefix}.alive.{self.dataset}.{origin}"
