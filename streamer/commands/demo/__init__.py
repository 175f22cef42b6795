"""A small evaluation to watch streamer with: real Crafter episodes, written as the real producer writes.

::

    policy ── decides ──► episodes ──► turns ─┬─► trace   (the trace database, row by row)
                                              └─► shards  (one file a rollout, at its end)

``producer`` is that picture as a program of its own; ``streamer demo`` runs it next to a daemon.
"""
