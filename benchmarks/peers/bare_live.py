"""The bare loop, going on for ever: ask every 10 ms what is new. SHARDS DATABASE OUTPUT.

It asks SQLite's data_version, and the folder's time of change; a shard is taken once its outcome is known and it
ends with a newline. It forgets everything when it ends, and looks at no shard a second time.
"""

import os
import sqlite3
import sys
import time
from collections.abc import Iterator

from benchmarks.peers.bare_loop import parse

_PAUSE_SECONDS = 0.01
_COARSE_NS = 50_000_000
"""A change this recent may be followed by another one with the same time."""


def outcomes(database: str) -> Iterator[list[str]]:
    """Yield the sessions that qualify since the last time."""
    db = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=5.0, isolation_level=None)
    version, last = -1, 0
    while True:
        good = []
        (now,) = db.execute("PRAGMA data_version").fetchone()
        if now != version:
            version = now
            rows = db.execute("SELECT id, session_id, total_reward FROM outcome_rewards WHERE id > ?", (last,))
            for number, session, reward in rows.fetchall():
                last = max(last, number)
                if reward > 0:
                    good.append(session)
        yield good


def finished(shards: str) -> Iterator[list[list[bytes]]]:
    """Yield the lines of the shards that are finished since the last time."""
    done: set[str] = set()
    changed = 0
    while True:
        found = []
        before, changed = changed, os.stat(shards).st_mtime_ns
        if changed != before or time.time_ns() - changed < _COARSE_NS:
            for name in set(os.listdir(shards)) - done:
                with open(os.path.join(shards, name), "rb") as shard:
                    lines = shard.readlines()
                if lines and lines[-1].endswith(b"\n"):
                    done.add(name)
                    found.append(lines)
                else:
                    changed = 0  # look again
        yield found


def main(shards: str, database: str, output: str) -> None:
    """Append the lines of qualifying rollouts to ``output`` as they come, each conversation once."""
    good: set[str] = set()
    seen: set[bytes] = set()
    waiting: dict[str, list[bytes]] = {}
    with open(output, "ab") as out:
        for sessions, found in zip(outcomes(database), finished(shards), strict=True):
            good.update(sessions)
            waiting.update((parse(lines[0]).session(), lines) for lines in found)
            for session in waiting.keys() & good:
                for text in waiting.pop(session):
                    if (key := parse(text).key()) not in seen:
                        seen.add(key)
                        out.write(text)
            out.flush()
            time.sleep(_PAUSE_SECONDS)


if __name__ == "__main__":
    main(*sys.argv[1:])
