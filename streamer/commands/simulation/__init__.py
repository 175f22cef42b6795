"""The simulation kit: an evaluation's producer and a daemon beside it, for `demo`, `soak` and the benchmarks.

``workspace`` names the files, ``process`` starts the processes, ``shards`` and ``trace`` write what the real
producer writes, ``screen`` shows the progress, and ``draws`` makes random choices repeatable.
"""
