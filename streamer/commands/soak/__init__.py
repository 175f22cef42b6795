"""The soak: a producer and a daemon on the user's own file system, mishaps for both, strict checks at the end.

The path of one soak::

    plan ─► producer ──► shards, trace database ──► the daemon under test ──► dataset ◄── watcher
               │                                      ▲ chaos                    │
               └─► journal ──► oracle: records that must, may, must not be in ──► validate ──► report

The journal has each act of the producer before it happens, so that a kill leaves no doubt. The oracle shares
no rule with the daemon that it judges.
"""
