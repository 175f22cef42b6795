"""The files of one simulation, all below one folder."""

from __future__ import annotations

from pathlib import Path

import msgspec


class Workspace(msgspec.Struct, frozen=True):
    """Paths of one simulation. ``dataset_name`` is the file name of the dataset."""

    folder: Path
    dataset_name: str = "good.jsonl"

    @property
    def shards(self) -> Path:
        """The folder that the producer fills."""
        return self.folder / "shards"

    @property
    def database(self) -> Path:
        """The producer's trace database."""
        return self.folder / "traces.db"

    @property
    def dataset(self) -> Path:
        """The daemon's dataset."""
        return self.folder / self.dataset_name

    @property
    def ledger(self) -> Path:
        """The daemon's ledger."""
        return self.folder / f"{self.dataset_name}.ledger"

    @property
    def dead_letters(self) -> Path:
        """The daemon's dead letters."""
        return self.folder / f"{self.dataset_name}.dead.jsonl"

    @property
    def config(self) -> Path:
        """The daemon's configuration."""
        return self.folder / "config.toml"
