"""A soak: a producer and a daemon on the user's own file system, mishaps for both, and a strict look at the end.

The path of one soak::

    plan ─► producer ──► shards, trace database ──► the daemon under test ──► dataset ◄── watcher
               │                                      ▲ chaos                    │
               └─► journal ──► oracle: what must, may and must not be in ──► validate ──► report

The journal holds what the producer meant to do before it did it, so that a kill leaves no doubt. The oracle
is plain code of its own: it shares no rule with the daemon that it judges.
"""
