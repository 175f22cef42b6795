"""Where everything of one soak lies."""

from __future__ import annotations

from pathlib import Path

import msgspec


class SoakPlace(msgspec.Struct, frozen=True):
    """Where everything of one soak lies: all of it below one folder."""

    folder: Path

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
        """What the daemon makes of both."""
        return self.folder / "good.jsonl"

    @property
    def ledger(self) -> Path:
        """What the daemon remembers."""
        return self.folder / "good.jsonl.ledger"

    @property
    def dead_letters(self) -> Path:
        """The lines that the daemon could not take."""
        return self.folder / "good.jsonl.dead.jsonl"

    @property
    def config(self) -> Path:
        """The daemon's configuration."""
        return self.folder / "config.toml"

    @property
    def backup(self) -> Path:
        """An older copy of the ledger."""
        return self.folder / "backup"

    @property
    def journals(self) -> Path:
        """What producer and chaos wrote down of their acts."""
        return self.folder / "journals"

    @property
    def logs(self) -> Path:
        """What the processes said, one file for each."""
        return self.folder / "logs"

    def make(self) -> None:
        """Make the folders."""
        for folder in (self.shards, self.backup, self.journals, self.logs):
            folder.mkdir()
