"""streamer turns a running evaluation into a clean training set, one finished rollout at a time.

The path of every record, in four hops::

    shard line ─┐
                ├─► join ─► qualify ─► dedup ─► dataset line   ─► observers (log, sd_notify, progress)
    outcome row ┘                                │
                           ledger: one SQLite transaction per batch = the one commit point

``streamer.pipeline`` is that sentence as code; ``streamer.model`` holds the values that flow.

What is public for programs stands in ``__all__``: a reader of a dataset that grows, and what trainers take of it.
Each is imported when it is first asked for, so that commands start at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamer.adapters import hf_dataset, torch_dataset
    from streamer.errors import StreamerError
    from streamer.following import Following, Record, follow

__version__ = "0.1.0"

__all__ = ["Following", "Record", "StreamerError", "follow", "hf_dataset", "torch_dataset"]

_HOMES = {
    "Following": "streamer.following",
    "Record": "streamer.following",
    "StreamerError": "streamer.errors",
    "follow": "streamer.following",
    "hf_dataset": "streamer.adapters",
    "torch_dataset": "streamer.adapters",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
