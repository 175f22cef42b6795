"""Near-duplicate index of the dataset: signatures in the ledger, their bands in memory.

The ledger holds the signatures of the newest ``keep`` records, numbered in the order of the dataset. They are appended
in the transaction of their batch. Bands would be random writes; they are computed from the signatures at each start.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from streamer.core.verdicts.near.buckets import Buckets
from streamer.core.verdicts.near.rules import Near
from streamer.core.verdicts.near.signature import Signature, Signer
from streamer.store.ledger.rows import chunks, marks

_SCHEMA = """
CREATE TABLE IF NOT EXISTS near_record (
  number INTEGER PRIMARY KEY, offset INTEGER NOT NULL, slots BLOB NOT NULL, images BLOB NOT NULL
)
"""
_LOADED = 2000
"""Signatures loaded in one step at a start."""


class KeptSignature(NamedTuple):
    """A record of the dataset: the log offset of its line, and its signature."""

    offset: int
    signature: Signature


class Resemblance(NamedTuple):
    """The record that a new one nearly equals: the log offset of its line, and their similarity."""

    offset: int
    similarity: float


class NearIndex:
    """The newest records of one dataset.

    Its memory follows the batches, not their commits: create a new one after a failure.

    Raises:
        MissingExtraError: a package that the rules need is not installed.
    """

    def __init__(self, rules: Near) -> None:
        self._signer = Signer(rules)
        self._keep = rules.keep
        self._buckets = Buckets(self._signer.bands, rules.keep)
        self._added: dict[int, KeptSignature] = {}
        self.meaning = self._signer.meaning

    def prepare(self, db: sqlite3.Connection, *, forget: bool) -> None:
        """Create the table if it is missing, or empty it if ``forget`` is set."""
        db.execute(_SCHEMA)
        if forget:
            db.execute("DELETE FROM near_record")

    def load(self, db: sqlite3.Connection) -> bool:
        """Load some of the signatures in the ledger; return False when there are no more."""
        rows = db.execute(
            "SELECT number, slots, images FROM near_record WHERE number >"
            " max(?, (SELECT coalesce(max(number), 0) FROM near_record) - ?) ORDER BY number LIMIT ?",
            (self._buckets.last, self._keep, _LOADED),
        ).fetchall()
        for number, slots, images in rows:
            self._buckets.add(number, self._signer.bands_of(Signature(slots, images)))
        return bool(rows)

    def take(self, line: bytes, offset: int) -> None:
        """Add a line of the dataset that has no signature in the ledger."""
        signature = self.sign(line)
        if signature is not None:
            self.add(signature, offset)

    def sign(self, line: bytes) -> Signature | None:
        """Return the signature of a dataset line; None if it has nothing to compare."""
        try:
            return self._signer.sign(line)
        except ValueError:
            return None

    def related(self, signatures: Iterable[Signature | None]) -> set[int]:
        """Return the numbers of the records to compare with any of these."""
        return {
            number
            for signature in signatures
            if signature is not None
            for number in self._buckets.candidates(self._signer.bands_of(signature))
        }

    def fetch(self, db: sqlite3.Connection, numbers: Iterable[int]) -> dict[int, KeptSignature]:
        """Return the signatures of these records from the ledger."""
        found: dict[int, KeptSignature] = {}
        for chunk in chunks(sorted(numbers)):
            rows = db.execute(
                f"SELECT number, offset, slots, images FROM near_record WHERE number IN ({marks(chunk)})", chunk
            )
            found |= {number: KeptSignature(offset, Signature(slots, images)) for number, offset, slots, images in rows}
        return found

    def resembled(self, signature: Signature, known: Mapping[int, KeptSignature]) -> Resemblance | None:
        """Return the most similar record, the oldest of several; None if none is near.

        Args:
            signature: Signature of the new record.
            known: Signatures of the records to compare with, from the ledger.
        """
        found = [
            (alike, -kept.offset)
            for kept in self._shared(signature, known)
            if (alike := self._signer.similarity(signature, kept.signature)) is not None
        ]
        if not found:
            return None
        alike, offset = max(found)
        return Resemblance(-offset, alike)

    def _shared(self, signature: Signature, known: Mapping[int, KeptSignature]) -> Iterator[KeptSignature]:
        for number in self._buckets.candidates(self._signer.bands_of(signature)):
            kept = self._added.get(number) or known.get(number)
            if kept is not None:
                yield kept

    def add(self, signature: Signature, offset: int) -> None:
        """Add a record whose line has the log offset ``offset``."""
        number = self._buckets.last + 1
        self._buckets.add(number, self._signer.bands_of(signature))
        self._added[number] = KeptSignature(offset, signature)

    def write(self, db: sqlite3.Connection) -> None:
        """Write the added signatures, and delete all but the newest ``keep``."""
        db.executemany(
            "INSERT INTO near_record (number, offset, slots, images) VALUES (?, ?, ?, ?)",
            [(n, one.offset, one.signature.slots, one.signature.images) for n, one in self._added.items()],
        )
        db.execute("DELETE FROM near_record WHERE number <= ?", (self._buckets.last - self._keep,))
        self._added = {}
