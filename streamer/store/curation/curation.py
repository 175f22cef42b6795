"""The admission filter: rejects near-duplicates and records beyond a cap, of records that qualify and are new.

Invariants
- Signatures and counts are computed from dataset lines alone: a line that is about to be written and one that is found
  after a crash give the same.
- They are written in the transaction of the batch, with the dataset length up to which they are complete. Lines beyond
  that length are backfilled at the next start: after a crash, an older ledger, a setting that was off, or a change of
  version.
- Near-duplicates first: a near-duplicate fills no cap.

Tables, created when first needed
- ``curation``     the backfilled length and the version of the near-duplicates and of each cap
- ``near_record``  signatures (``near_index``)
- ``cap_count``    counts (``cap_counts``)
- ``refused``      the reason for each rejected line (``rejections``)
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from anyio import to_thread

from streamer.core.records.model import State, Verdict
from streamer.core.verdicts.caps import Cap
from streamer.core.verdicts.judge import Item, Judged
from streamer.core.verdicts.near.rules import Near
from streamer.core.verdicts.near.signature import Signature
from streamer.core.verdicts.reasons import CAP, NEAR
from streamer.store.curation import rejections
from streamer.store.curation.cap_counts import Caps, Values
from streamer.store.curation.near_index import KeptSignature, NearIndex
from streamer.store.curation.rejections import Rejection
from streamer.store.dataset.writer import DatasetWriter
from streamer.store.ledger.ledger import Ledger

_SCHEMA = """
CREATE TABLE IF NOT EXISTS curation (part TEXT PRIMARY KEY, meaning TEXT NOT NULL, length INTEGER NOT NULL)
"""
_CHUNK_LINES, _CHUNK_BYTES = 2000, 8 << 20
"""Lines and bytes backfilled in one ledger transaction, and held in memory; or one longer line."""


class Curation:
    """Near-duplicates and caps of one dataset, for the life of one pipeline.

    Raises:
        MissingExtraError: a package that the rules need is not installed.
    """

    def __init__(self, near: Near, caps: Sequence[Cap]) -> None:
        self._near = NearIndex(near) if near.is_on else None
        self._caps = Caps(caps)
        self._is_on = bool(caps) or near.is_on

    def set_caps(self, caps: Sequence[Cap]) -> None:
        """Replace the caps; call ``catch_up`` afterwards."""
        self._caps = Caps(caps)
        self._is_on = bool(caps) or self._near is not None

    async def catch_up(self, ledger: Ledger, dataset: DatasetWriter, failpoint: Callable[[str], None]) -> None:
        """Backfill signatures and counts of dataset lines that the ledger does not have yet.

        Args:
            ledger: The ledger of the dataset, after recovery.
            dataset: The dataset.
            failpoint: Called with the name of each point at which a crash must be harmless.
        """
        if not self._is_on:
            return
        lengths = await ledger.transact(self._prepare)
        while self._near is not None and await ledger.look(self._near.load):
            failpoint("recovery: some signatures loaded")
        for chunk in chunks(dataset.lines(await ledger.parts(), min(lengths.values()))):
            values = await to_thread.run_sync(self._backfill, chunk, lengths)
            offset, line = chunk[-1]
            await ledger.transact(partial(self._count, values, lengths, offset + len(line)))
            failpoint("recovery: some lines taken up")

    def _prepare(self, db: sqlite3.Connection) -> dict[str, int]:
        """Create missing tables, and return the backfilled length of each part."""
        db.execute(_SCHEMA)
        rejections.prepare(db)
        meanings = self._meanings
        known = {part: (meaning, length) for part, meaning, length in db.execute("SELECT * FROM curation")}
        stale = [part for part, meaning in meanings.items() if known.get(part, ("",))[0] != meaning]
        if self._near is not None:
            self._near.prepare(db, forget=NEAR in stale)
        self._caps.prepare(db, forget=[part for part in stale if part != NEAR])
        db.executemany(
            "INSERT OR REPLACE INTO curation (part, meaning, length) VALUES (?, ?, 0)",
            [(part, meanings[part]) for part in stale],
        )
        return {part: 0 if part in stale else known[part][1] for part in meanings}

    @property
    def _meanings(self) -> dict[str, str]:
        near = {} if self._near is None else {NEAR: self._near.meaning}
        return near | self._caps.parts

    def _backfill(self, lines: Sequence[tuple[int, bytes]], lengths: Mapping[str, int]) -> list[tuple[int, Values]]:
        """Sign lines of the dataset; return (log offset, values that caps count by) of each."""
        if self._near is not None:
            for offset, line in lines:
                if offset >= lengths[NEAR]:
                    self._near.take(line, offset)
        return [(offset, self._caps.values_of(line)) for offset, line in lines]

    def _count(
        self, lines: Sequence[tuple[int, Values]], lengths: Mapping[str, int], length: int, db: sqlite3.Connection
    ) -> None:
        self._caps.fetch(db, [values for _, values in lines])
        for offset, values in lines:
            self._caps.add(values, offset, lengths)
        self.write(db, length)

    def write(self, db: sqlite3.Connection, length: int) -> None:
        """Write signatures and counts; they are then complete up to this length of the dataset."""
        if self._near is not None:
            self._near.write(db)
        self._caps.write(db)
        db.executemany(
            "UPDATE curation SET length = max(length, ?) WHERE part = ?", [(length, part) for part in self._meanings]
        )

    def counted_by(self, line: bytes) -> list[tuple[str, bytes]]:
        """Return (name of the cap, digest of the value) for everything that a dataset line counts as."""
        return self._caps.counted_by(line)

    def remove(self, db: sqlite3.Connection, places: str, counted: str) -> None:
        """Forget records that are removed from the dataset, in the same transaction.

        Caps that are not in force are counted again once they are.

        Args:
            db: The ledger.
            places: SELECT of the log offsets of their lines.
            counted: SELECT of (name of the cap, digest of the value, records), as in ``counted_by``.
        """
        if _has(db, "near_record"):
            db.execute(f"DELETE FROM near_record WHERE offset IN ({places})")
        if _has(db, "cap_count"):
            db.executemany(
                "UPDATE cap_count SET records = records - ? WHERE cap = ? AND value = ?",
                [(records, by, value) for by, value, records in db.execute(counted)],
            )
        if _has(db, "curation"):
            stale = db.execute("SELECT part FROM curation WHERE part != ?", (NEAR,)).fetchall()
            db.executemany(
                "DELETE FROM curation WHERE part = ?", [row for row in stale if row[0] not in self._caps.parts]
            )

    async def admission_filter(
        self, ledger: Ledger, judged: Sequence[Judged], known: Mapping[bytes, bool]
    ) -> AdmissionFilter | None:
        """Return the filter for the records of a batch; None if there is nothing to decide.

        Args:
            ledger: The ledger of the dataset.
            judged: The batch.
            known: Keys that are in the dataset.
        """
        if not self._is_on:
            return None
        # By shard and offset: records of one key may belong to several runs.
        lines = {
            _place(one.item): one.offer.line for one in judged if one.offer is not None and one.offer.key not in known
        }
        if not lines:
            return None
        candidates = await to_thread.run_sync(self._look_at, lines)
        return await ledger.look(partial(self._gate, candidates))

    def _look_at(self, lines: Mapping[_Place, bytes]) -> dict[_Place, _Candidate]:
        near, caps = self._near, self._caps
        return {
            place: _Candidate(None if near is None else near.sign(line), caps.values_of(line))
            for place, line in lines.items()
        }

    def _gate(self, candidates: Mapping[_Place, _Candidate], db: sqlite3.Connection) -> AdmissionFilter:
        self._caps.fetch(db, [candidate.values for candidate in candidates.values()])
        near: dict[int, KeptSignature] = {}
        if self._near is not None:
            numbers = self._near.related(candidate.signature for candidate in candidates.values())
            near = self._near.fetch(db, numbers)
        return AdmissionFilter(self, self._near, self._caps, candidates, near)


def forget(db: sqlite3.Connection, place: int) -> None:
    """Let records that resemble those before a place of the dataset come in again; what caps counted stays."""
    if _has(db, "near_record"):
        db.execute("DELETE FROM near_record WHERE offset < ?", (place,))


def _has(db: sqlite3.Connection, table: str) -> bool:
    return bool(db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone())


_Place = tuple[int, int]
"""The shard and the offset of a line."""


def _place(item: Item) -> _Place:
    return item.shard_id, item.line.start


def chunks(lines: Iterator[tuple[int, bytes]]) -> Iterator[list[tuple[int, bytes]]]:
    """Yield lines of a dataset in chunks of some thousand, or fewer if they are long."""
    chunk: list[tuple[int, bytes]] = []
    size = 0
    for offset, line in lines:
        chunk.append((offset, line))
        size += len(line)
        if len(chunk) == _CHUNK_LINES or size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


class _Candidate(msgspec.Struct, frozen=True):
    """The signature and the cap values of a record that qualifies."""

    signature: Signature | None
    values: Values


class AdmissionFilter:
    """Decides on the records of one batch, in order: each admitted record counts for those after it."""

    def __init__(
        self,
        curation: Curation,
        near: NearIndex | None,
        caps: Caps,
        candidates: Mapping[_Place, _Candidate],
        related: Mapping[int, KeptSignature],
    ) -> None:
        self._curation = curation
        self._near = near
        self._caps = caps
        self._candidates = candidates
        self._related = related
        self._rejections: list[Rejection] = []

    def reject(self, item: Item, offset: int) -> Verdict | None:
        """Return the verdict that rejects a record, or None to admit it, with its line at log offset ``offset``."""
        candidate = self._candidates[_place(item)]
        signature, values = candidate.signature, candidate.values
        if self._near is not None and signature is not None:
            resembled = self._near.resembled(signature, self._related)
            if resembled is not None:
                self._reject(item, resembled.offset, similarity=resembled.similarity)
                return Verdict(State.DUPLICATE, NEAR)
        full = self._caps.full(values)
        if full is not None:
            self._reject(item, full.last, most=full.cap.most, records=full.records, value=full.values)
            return Verdict(State.REJECTED, f"{CAP}{full.cap.by}")
        if self._near is not None and signature is not None:
            self._near.add(signature, offset)
        self._caps.add(values, offset)
        return None

    def _reject(self, item: Item, offset: int, **why: Any) -> None:
        self._rejections.append(Rejection(item.shard_id, item.line.start, offset, **why))

    def write(self, db: sqlite3.Connection, length: int) -> None:
        """Write the decisions, in the transaction of the batch."""
        self._curation.write(db, length)
        rejections.write(db, self._rejections)
