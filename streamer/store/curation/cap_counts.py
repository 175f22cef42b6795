"""Counts of the dataset's records by value, and the caps on them.

Values are taken from the dataset line, so that a line that is about to be written and one that is found after a crash
count the same. The ledger holds the counts.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from blake3 import blake3

from streamer.base.text import invalid_utf8, printable
from streamer.core.records.dataset_line import line_key
from streamer.core.records.key import KEY_VERSION, DedupBy
from streamer.core.verdicts.caps import Cap
from streamer.core.verdicts.reasons import CAP

_LONGEST_SHOWN = 120
_SCHEMA = """
CREATE TABLE IF NOT EXISTS cap_count (
  cap TEXT, value BLOB, records INTEGER NOT NULL, last INTEGER NOT NULL, PRIMARY KEY (cap, value)
) WITHOUT ROWID
"""


class _Value(NamedTuple):
    """One value of a record: its digest for the ledger, and its text for people."""

    digest: bytes
    shown: str


class _Count(NamedTuple):
    """Number of records with a value, and the log offset of the last of them."""

    records: int
    last: int


class Full(NamedTuple):
    """A full cap that rejects a record: each of the ``values`` has at least ``records`` records."""

    cap: Cap
    values: str
    records: int
    last: int


Values = Sequence[Sequence[_Value]]
"""The values of one record, for each cap."""


class _Line(msgspec.Struct, gc=False):
    metadata: dict[str, Any]


_line = msgspec.json.Decoder(_Line).decode
_encode = msgspec.json.Encoder(order="sorted").encode


def values_of(line: bytes, caps: Sequence[Cap]) -> Values:
    """Return the values of a dataset line for each cap; none for a line that streamer did not write.

    A list has its items as values, an object the keys whose value is true; null is no value.
    """
    try:
        if invalid_utf8(line) is not None:
            return [()] * len(caps)
        metadata = _line(line).metadata
        return [_prompt(line) if cap.key is None else _values(metadata.get(cap.key)) for cap in caps]
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return [()] * len(caps)


def _prompt(line: bytes) -> Sequence[_Value]:
    return [_Value(line_key(line, DedupBy.PROMPT), "its prompt")]


def _values(found: object) -> Sequence[_Value]:
    if isinstance(found, dict):
        found = [name for name, holds in found.items() if holds]
    several = found if isinstance(found, list) else [found]
    return list({value.digest: value for one in several if one is not None for value in [_value(one)]}.values())


def _value(one: Any) -> _Value:
    encoded = _encode(one)
    shown = encoded.decode()
    return _Value(
        blake3(encoded).digest(16),
        printable(shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]}…"),
    )


class Caps:
    """The caps in force, and the counts that one batch needs."""

    def __init__(self, caps: Sequence[Cap]) -> None:
        self._caps = caps
        self._counts: dict[tuple[str, bytes], _Count] = {}
        self._changed: dict[tuple[str, bytes], _Count] = {}

    @property
    def parts(self) -> dict[str, str]:
        """Return the version of the counts by the cap's name in the table ``curation``."""
        return {f"{CAP}{cap.by}": f"1/{KEY_VERSION}" if cap.key is None else "1" for cap in self._caps}

    def prepare(self, db: sqlite3.Connection, *, forget: Iterable[str]) -> None:
        """Create the table if it is missing, and delete outdated counts."""
        db.execute(_SCHEMA)
        db.executemany("DELETE FROM cap_count WHERE cap = ?", [(part.removeprefix(CAP),) for part in forget])

    def values_of(self, line: bytes) -> Values:
        """Return the values of a dataset line for each cap."""
        return values_of(line, self._caps)

    def counted_by(self, line: bytes) -> list[tuple[str, bytes]]:
        """Return (name of the cap, digest of the value) for everything that a dataset line counts as."""
        return [
            (cap.by, value.digest) for cap, of in zip(self._caps, self.values_of(line), strict=True) for value in of
        ]

    def fetch(self, db: sqlite3.Connection, values: Iterable[Values]) -> None:
        """Load the counts of these values, and of no others."""
        wanted = {
            (cap.by, value.digest)
            for record in values
            for cap, of in zip(self._caps, record, strict=True)
            for value in of
        }
        self._counts = {}
        for place in wanted:
            row = db.execute("SELECT records, last FROM cap_count WHERE cap = ? AND value = ?", place).fetchone()
            if row is not None:
                self._counts[place] = _Count(*row)

    def full(self, values: Values) -> Full | None:
        """Return the first cap that is full for a record, None if all have room.

        A record of several values has room while one of them has: the rarest value decides.
        """
        for cap, of in zip(self._caps, values, strict=True):
            counts = [self._counts.get((cap.by, value.digest), _NONE) for value in of]
            if counts and all(count.records >= cap.most for count in counts):
                fewest = min(counts)
                shown = ", ".join(value.shown for value in of)
                return Full(cap, shown[:_LONGEST_SHOWN], fewest.records, fewest.last)
        return None

    def add(self, values: Values, offset: int, parts: Mapping[str, int] | None = None) -> None:
        """Count a record for each of its values.

        Args:
            values: Its values for each cap.
            offset: Log offset of its line.
            parts: During backfill, the length up to which each cap has counted.
        """
        for cap, of in zip(self._caps, values, strict=True):
            if parts is not None and parts[f"{CAP}{cap.by}"] > offset:
                continue
            for value in of:
                place = cap.by, value.digest
                before = self._counts.get(place, _NONE)
                self._counts[place] = self._changed[place] = _Count(before.records + 1, offset)

    def write(self, db: sqlite3.Connection) -> None:
        """Write the changed counts."""
        db.executemany(
            "INSERT OR REPLACE INTO cap_count (cap, value, records, last) VALUES (?, ?, ?, ?)",
            [(*place, *count) for place, count in self._changed.items()],
        )
        self._changed = {}


_NONE = _Count(0, 0)
