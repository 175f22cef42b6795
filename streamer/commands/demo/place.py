"""Where everything of one demo lies."""

from pathlib import Path

import msgspec


class DemoPlace(msgspec.Struct, frozen=True):
    """Where everything of one demo lies."""

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
        return self.folder / "high_reward.jsonl"

    @property
    def config(self) -> Path:
        """How the daemon is configured."""
        return self.folder / "config.toml"

    def log(self, name: str) -> Path:
        """Return the file with what a child of this name said."""
        return self.folder / f"{name}.log"

    def lines_written(self) -> int:
        """Count the finished lines of all shards."""
        return sum(shard.read_bytes().count(b"\n") for shard in self.shards.glob("*.jsonl"))
