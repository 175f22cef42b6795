"""Makes a report from a survey of the dataset and a snapshot of its ledger."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from streamer.base.errors import StreamerError
from streamer.commands.report.survey import SAMPLES, Survey, survey
from streamer.store.views.snapshot import MadeWith, Snapshot, settings, snapshot


class DatasetReport(msgspec.Struct, frozen=True):
    """A survey of the dataset, and a snapshot of its ledger; None if it is missing or unreadable (``trouble``)."""

    survey: Survey
    seed: int
    ledger: Snapshot | None = None
    settings: MadeWith = MadeWith()
    trouble: str = ""

    @property
    def notes(self) -> list[str]:
        """Remarks that a reader needs to interpret the numbers."""
        notes = []
        if self.trouble:
            notes.append(self.trouble)
        elif self.ledger is None:
            notes.append("There is no ledger beside the dataset: what was read and not taken is not known.")
        elif self.survey.bytes < self.ledger.dataset_bytes:
            missing = self.ledger.dataset_bytes - self.survey.bytes
            notes.append(f"The dataset is {missing:,} bytes shorter than its ledger says: see `streamer doctor`.")
        if self.survey.beyond:
            notes.append(f"{self.survey.beyond:,} bytes at the end were not committed yet, and not read.")
        return notes


def report(
    dataset: Path,
    ledger: Path,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda _done, _size: None,
) -> DatasetReport:
    """Read a dataset up to its committed length, and its ledger.

    Args:
        dataset: The dataset; a daemon may write meanwhile.
        ledger: Its ledger, which may be missing.
        samples: The number of sample records.
        seed: The seed of the sample.
        progress: Called with (bytes read, bytes to read).

    Raises:
        ConfigError: there is no such dataset.
        UnavailableError: the dataset cannot be read, or the disk has no room for a temporary file.
    """
    seen, made_with, trouble = _look(dataset, ledger)
    committed = seen.dataset_bytes if seen else None
    found = survey(dataset, committed=committed, samples=samples, seed=seed, progress=progress)
    return DatasetReport(found, seed, seen, made_with, trouble)


def _look(dataset: Path, ledger: Path) -> tuple[Snapshot | None, MadeWith, str]:
    """Read the ledger. If it cannot be read, return the reason, so that the dataset is reported on all the same."""
    try:
        seen = snapshot(dataset, ledger)
        return (seen if seen.ledger else None), settings(ledger), ""
    except StreamerError as error:
        return None, MadeWith(), f"The ledger could not be read: {error.cause}"
