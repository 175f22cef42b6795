"""The demo: real Crafter episodes, written as the real producer writes them, beside a daemon.

::

    policy ── decides ──► episodes ──► turns ─┬─► trace   (the trace database, row by row)
                                              └─► shards  (one file for each rollout, at its end)

``producer`` is this path as a program; ``streamer demo`` runs it beside a daemon.
"""
