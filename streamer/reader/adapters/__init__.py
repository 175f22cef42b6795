"""Adapters of a growing dataset for trainers. Importing this needs neither ``datasets`` nor ``torch``."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from streamer.base.errors import MissingExtraError
from streamer.reader.follow import BEGINNING, END, follow

if TYPE_CHECKING:
    import datasets

    from streamer.reader.adapters.for_torch import TorchDataset


def hf_dataset(
    path: str | Path, *, start: str = BEGINNING, wait: bool = False, shards: int = 1
) -> datasets.IterableDataset:
    """Return a ``datasets.IterableDataset`` of the records of a dataset: rows of ``messages`` and ``metadata``.

    ``state_dict`` and ``load_state_dict`` resume it: rows before the state are read again and skipped.

    Args:
        path: The dataset.
        start: As for :func:`streamer.follow`; ``"end"`` is the present end of the dataset.
        wait: Wait for new records for ever. Each shard then needs its own worker, as the first shard never ends.
        shards: Number of shards, split by rollout, for as many workers of a ``DataLoader``.

    Raises:
        MissingExtraError: ``datasets`` is not installed.
        ConfigError, OSError, RefusedError: As :func:`streamer.follow` does.
    """
    datasets = _module("datasets")
    from streamer.reader.adapters.for_datasets import rows  # noqa: PLC0415 - what is above says clearly what is missing

    place = {"path": str(path), "start": _fixed(path, start), "wait": wait, "count": shards}
    return datasets.IterableDataset.from_generator(rows, gen_kwargs={**place, "shards": list(range(shards))})


def torch_dataset(
    path: str | Path, *, start: str = BEGINNING, wait: bool = False, shard: tuple[int, int] = (0, 1)
) -> TorchDataset:
    """Return a ``torch.utils.data.IterableDataset`` of the records of a dataset: ``messages`` and ``metadata``.

    Workers of a ``DataLoader`` share the rollouts, so that each record comes once. ``StatefulDataLoader`` of torchdata
    calls ``state_dict`` and ``load_state_dict`` in each worker.

    Args:
        path: The dataset.
        start: As for :func:`streamer.follow`; ``"end"`` is the present end of the dataset.
        wait: Wait for new records for ever.
        shard: (rank, world size) of this process, where several processes train.

    Raises:
        MissingExtraError: ``torch`` is not installed.
        ConfigError, OSError, RefusedError: As :func:`streamer.follow` does.
    """
    _module("torch")
    from streamer.reader.adapters.for_torch import TorchDataset  # noqa: PLC0415 - as above

    return TorchDataset(str(path), _fixed(path, start, shard), wait=wait, shard=shard)


def _fixed(path: str | Path, start: str, shard: tuple[int, int] = (0, 1)) -> str:
    """Return ``start``, or the token of the present end: every pass over the rows begins there."""
    with follow(path, start=start, wait=False, shard=shard) as found:
        return found.token if start == END else start


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingExtraError(
            "give the dataset to a trainer", name, "it is not installed", f"pip install {name}"
        ) from None
