"""The files of one soak."""

from __future__ import annotations

from pathlib import Path

from streamer.commands.simulation.workspace import Workspace


class SoakWorkspace(Workspace, frozen=True):
    """Paths of one soak."""

    @property
    def backup(self) -> Path:
        """The folder of an older copy of the ledger."""
        return self.folder / "backup"

    @property
    def journals(self) -> Path:
        """The folder of the journals of producer and chaos."""
        return self.folder / "journals"

    @property
    def logs(self) -> Path:
        """The folder of the processes' logs, one file for each."""
        return self.folder / "logs"

    def options(self) -> list[str]:
        """Return the options of ``streamer run`` that name the files."""
        return ["--shards", str(self.shards), "--database", str(self.database), "--dataset", str(self.dataset)]

    def make(self) -> None:
        """Make the folders."""
        for folder in (self.shards, self.backup, self.journals, self.logs):
            folder.mkdir()
