"""The configured shard folder, without the files that streamer itself writes."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from streamer.base.lock import lock_file
from streamer.config import Config, Dataset
from streamer.sources.shards import ShardFolder
from streamer.store.dataset.dead_letters import dead_letters_path
from streamer.store.ledger.schema import ledger_files
from streamer.store.parts.parts import COMPACTING, manifest_path, new_manifest_path, part_names


def shard_folder(config: Config) -> ShardFolder:
    """Return the shard folder of a configuration."""
    source = config.source
    is_own = own_files([config.dataset, *config.others])
    return ShardFolder(source.shards, source.pattern, is_own, follow_symlinks=source.follow_symlinks)


def own_files(datasets: Iterable[Dataset]) -> Callable[[str, str], bool]:
    """Return a predicate (name, path): whether the file belongs to one of the datasets."""
    each = [OwnFiles(dataset.path, dataset.ledger) for dataset in datasets]
    return each[0] if len(each) == 1 else lambda name, path: any(is_own(name, path) for is_own in each)


class OwnFiles:
    """Recognises the files of a dataset: they may lie in the shard folder, but are no shards."""

    def __init__(self, dataset: Path, ledger: Path) -> None:
        manifests = manifest_path(dataset), new_manifest_path(dataset)
        files = {dataset, dead_letters_path(dataset), lock_file(dataset), *manifests, *ledger_files(ledger)}
        self._paths = {os.path.realpath(path) for path in files}
        self._names = {os.path.basename(path) for path in files} | {os.path.basename(path) for path in self._paths}
        self._is_part = part_names(dataset).fullmatch
        self._manifest = manifest_path(dataset)
        self._folder = os.path.realpath(dataset.parent)

    def __call__(self, name: str, path: str) -> bool:
        """Return whether the file is one of them; for most files the name alone rules it out."""
        if name in self._names:
            return os.path.realpath(path) in self._paths
        if not self._is_part(name.removesuffix(COMPACTING)):
            return False
        return os.path.dirname(os.path.realpath(path)) == self._folder and self._manifest.exists()
