"""Dataset class for torch. Importing this needs torch; the class can be pickled, as workers are started with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from streamer.reader.follow import follow


class TorchDataset(IterableDataset):  # type: ignore[misc]  # torch is not type-checked
    """Made by :func:`streamer.torch_dataset`. Each pass begins at the same position, or at that of a loaded state."""

    def __init__(self, path: str, start: str, *, wait: bool, shard: tuple[int, int]) -> None:
        super().__init__()
        self._path = path
        self._start = start
        self._wait = wait
        self._shard = shard
        self._resume: str | None = None
        self._token = start

    def __iter__(self) -> Iterator[dict[str, Any]]:
        rank, world = self._shard
        worker = get_worker_info()
        if worker is not None:
            rank, world = rank * worker.num_workers + worker.id, world * worker.num_workers
        start, self._resume = self._resume or self._start, None
        with follow(self._path, start=start, wait=self._wait, shard=(rank, world)) as records:
            for record in records:
                self._token = record.token
                yield {"messages": record.messages, "metadata": record.metadata}

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the last record that was yielded."""
        return {"token": self._token}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Make the next pass begin at the position of a state."""
        self._resume = self._token = state["token"]
