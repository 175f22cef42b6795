"""A report: what a dataset holds, and what its ledger says of how it came about."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from streamer.base.errors import StreamerError
from streamer.commands.report.survey import SAMPLES, Survey, survey
from streamer.store.views.snapshot import MadeWith, Snapshot, settings, snapshot


class DatasetReport(msgspec.Struct, frozen=True):
    """A survey of the dataset, and its ledger: None if there is none, or if it cannot be read (``trouble``)."""

    survey: Survey
    seed: int
    ledger: Snapshot | None = None
    settings: MadeWith = MadeWith()
    trouble: str = ""

    @property
    def notes(self) -> list[str]:
        """What a reader has to know to take the numbers for what they are."""
        found = []
        if self.trouble:
            found.append(self.trouble)
        elif self.ledger is None:
            found.append("There is no ledger beside the dataset: what was read and not taken is not known.")
        elif self.survey.bytes < self.ledger.dataset_bytes:
            missing = self.ledger.dataset_bytes - self.survey.bytes
            found.append(f"The dataset is {missing:,} bytes shorter than its ledger says: see `streamer doctor`.")
        if self.survey.beyond:
            found.append(f"{self.survey.beyond:,} bytes at the end were not committed yet, and not read.")
        return found


def report(
    dataset: Path,
    ledger: Path,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda _done, _size: None,
) -> DatasetReport:
    """Read a dataset up to the length that its ledger has committed, and what the ledger says.

    Args:
        dataset: the dataset; a daemon may write meanwhile.
        ledger: its ledger, if there is one.
        samples: how many records are picked at random.
        seed: the same one picks the same records.
        progress: called with (bytes read, bytes to read).

    Raises:
        ConfigError: there is no such dataset.
        UnavailableError: it cannot be read, or the disk has no room for a temporary file.
    """
    seen, made_with, trouble = _look(dataset, ledger)
    committed = seen.dataset_bytes if seen else None
    found = survey(dataset, committed=committed, samples=samples, seed=seed, progress=progress)
    return DatasetReport(found, seed, seen, made_with, trouble)


def _look(dataset: Path, ledger: Path) -> tuple[Snapshot | None, MadeWith, str]:
    """Ask the ledger; one that cannot be read is told, and the dataset is reported on all the same."""
    try:
        seen = snapshot(dataset, ledger)
        return (seen if seen.ledger else None), settings(ledger), ""
    except StreamerError as error:
        return None, MadeWith(), f"The ledger could not be read: {error.cause}"
