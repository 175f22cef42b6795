"""The shard folder that a configuration names, without the files that streamer itself writes."""

from pathlib import Path

from streamer.config import Config
from streamer.dead_letters import dead_letters_path
from streamer.lock import lock_file
from streamer.sources.shards import ShardFolder


def shard_folder(config: Config) -> ShardFolder:
    """Return the folder whose shards a daemon with this configuration reads."""
    source = config.source
    ours = own_files(config.dataset.path, config.dataset.ledger)
    return ShardFolder(source.shards, source.pattern, ours, follow_symlinks=source.follow_symlinks)


def own_files(dataset: Path, ledger: Path) -> frozenset[Path]:
    """Return the files of a dataset: they may lie in the shard folder, and are no shards."""
    return frozenset({dataset, ledger, dead_letters_path(dataset), lock_file(dataset)})
