"""streamer turns a running evaluation into a clean training set, one finished rollout at a time.

The path of every record, in four hops::

    shard line ─┐
                ├─► join ─► qualify ─► dedup ─► dataset line   ─► observers (log, sd_notify, progress)
    outcome row ┘                                │
                           ledger: one SQLite transaction per batch = the one commit point

``streamer.pipeline`` is that sentence as code; ``streamer.model`` holds the values that flow.
"""

__version__ = "0.1.0"
