"""streamer turns a running evaluation into a clean training set, one finished rollout at a time.

The path of every record::

    shard line ─┐
                ├─► join ─► qualify ─► dedup ─► dataset line   ─► observers (log, sd_notify, progress)
    outcome row ┘                                │
                           ledger: one SQLite transaction per batch = the one commit point

``streamer.daemon.pipeline`` is that path as code; ``streamer.core.records.model`` defines the values on it.

``__all__`` is the public API: a reader of a growing dataset, and adapters for trainers. Each name is imported on first
use, so that commands start fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamer.base.errors import StreamerError
    from streamer.reader.adapters import hf_dataset, torch_dataset
    from streamer.reader.follow import Following, Record, follow

__version__ = "0.1.0"

__all__ = ["Following", "Record", "StreamerError", "follow", "hf_dataset", "torch_dataset"]

_HOMES = {
    "Following": "streamer.reader.follow",
    "Record": "streamer.reader.follow",
    "StreamerError": "streamer.base.errors",
    "follow": "streamer.reader.follow",
    "hf_dataset": "streamer.reader.adapters",
    "torch_dataset": "streamer.reader.adapters",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
