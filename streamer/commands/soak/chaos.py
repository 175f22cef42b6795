"""Mishaps: one at a time, at random moments, each kind as often as its weight says."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from random import Random

from streamer.commands.soak.agenda import Script
from streamer.commands.soak.journal import Closed, Journals, ShardMove, SoakJournal
from streamer.commands.soak.subjects import DaemonUnderTest, SoakSource
from streamer.commands.soak.workspace import SoakWorkspace

_MEAN_GAP = 0.8
"""Seconds between two mishaps."""

_KNOWN_SHARDS = 2000
_AT_ONCE = 4
"""Shards that one mishap befalls, at most."""

_LOCK_LOOK = 0.02
_TORN = b'{"messages":[{"role":"system","content":"a line that someone began and never finished'


class Chaos:
    """Draws mishaps from a deck that holds each kind at least once."""

    def __init__(
        self, place: SoakWorkspace, rng: Random, journal: SoakJournal, daemon: DaemonUnderTest, source: SoakSource
    ) -> None:
        self._place = place
        self._rng = rng
        self._journal = journal
        self._daemon = daemon
        self._source = source
        self._journals = Journals(place.journals)
        self._closed: deque[str] = deque(maxlen=_KNOWN_SHARDS)
        self._copies = 0
        self._deck: list[Callable[[], Script]] = []

    def act(self, *, ledger_too: bool) -> Script:
        """Wait a random while, then let one mishap happen, from its beginning to its end.

        Args:
            ledger_too: whether the ledger may be lost and restored. That makes the daemon read everything
                again, which heals what it may have done wrong: a good soak has an end without it.
        """
        yield self._rng.expovariate(1 / _MEAN_GAP)
        yield from self._draw(ledger_too=ledger_too)()

    def _draw(self, *, ledger_too: bool) -> Callable[[], Script]:
        while True:
            if not self._deck:
                self._deck = [mishap for mishap, weight in self._mishaps() for _ in range(weight)]
                self._rng.shuffle(self._deck)
            mishap = self._deck.pop()
            if ledger_too or mishap not in (self._ledger_lost, self._ledger_restored):
                return mishap

    def _mishaps(self) -> Iterator[tuple[Callable[[], Script], int]]:
        yield self._killed, 4
        yield self._killed_at_start, 1
        yield self._ended, 1
        yield self._paused, 2
        yield self._reloaded, 1
        yield self._second, 1
        yield self._ledger_lost, 1
        yield self._ledger_saved, 1
        yield self._ledger_restored, 1
        yield self._line_torn, 1
        yield self._locked, 2
        yield self._producer_killed, 1
        yield self._renamed, 2
        yield self._copied, 2
        yield self._touched, 1

    # -- the daemon ------------------------------------------------------------------------------------

    def _killed(self) -> Script:
        yield from self._down("daemon killed")

    def _killed_at_start(self) -> Script:
        """Kill it, and kill the next one while it starts."""
        self._daemon.kill()
        yield 0.0
        self._daemon.start()
        yield self._rng.uniform(0.0, 1.5)
        yield from self._down("daemon killed while it started")

    def _ended(self) -> Script:
        yield from self._daemon.stop()
        self._journal.did("daemon stopped and started")
        self._daemon.start()
        yield from self._daemon.up()

    def _paused(self) -> Script:
        self._journal.did("daemon paused")
        yield from self._daemon.pause(self._rng.uniform(0.1, 1.5))

    def _reloaded(self) -> Script:
        yield from self._daemon.reload()
        self._journal.did("daemon reconfigured (SIGHUP)")

    def _second(self) -> Script:
        yield from self._daemon.second()
        self._journal.did("second daemon started")

    def _down(self, what: str, meanwhile: Callable[[], None] = lambda: None) -> Script:
        """Kill the daemon, let something happen while it is down, and start it again."""
        self._daemon.kill()
        yield 0.0  # the watcher sees the lines that the killed daemon has written
        meanwhile()
        self._journal.did(what)
        self._daemon.start()
        if self._rng.random() < 0.8:  # noqa: PLR2004
            yield from self._daemon.up()

    # -- its files, while it is down -------------------------------------------------------------------

    def _ledger_lost(self) -> Script:
        yield from self._down("ledger deleted", self._remove_ledger)

    def _ledger_saved(self) -> Script:
        yield from self._down("ledger copied away", self._save_ledger)

    def _ledger_restored(self) -> Script:
        if not any(self._place.backup.iterdir()):
            yield from self._ledger_saved()
            yield self._rng.uniform(0.5, 2.0)
        yield from self._down("older ledger restored", self._restore_ledger)

    def _line_torn(self) -> Script:
        yield from self._down("half a line appended to the dataset", self._tear)

    def _remove_ledger(self) -> None:
        for path in self._ledger_files():
            path.unlink()

    def _save_ledger(self) -> None:
        shutil.rmtree(self._place.backup)
        self._place.backup.mkdir()
        for path in self._ledger_files():
            shutil.copy2(path, self._place.backup)

    def _restore_ledger(self) -> None:
        self._remove_ledger()
        for path in self._place.backup.iterdir():
            shutil.copy2(path, self._place.folder)

    def _ledger_files(self) -> list[Path]:
        """Return the ledger and its log; SQLite's shared memory is made anew."""
        ledger = self._place.ledger
        ledger.with_name(f"{ledger.name}-shm").unlink(missing_ok=True)
        return [path for path in (ledger, ledger.with_name(f"{ledger.name}-wal")) if path.exists()]

    def _tear(self) -> None:
        with self._place.dataset.open("ab") as dataset:
            dataset.write(_TORN[: self._rng.randint(1, len(_TORN))])

    # -- what it reads ---------------------------------------------------------------------------------

    def _locked(self) -> Script:
        """Hold the trace database for a moment, as another writer would."""
        with closing(sqlite3.connect(self._place.database, timeout=0, isolation_level=None)) as db:
            while not _takes(db):
                yield _LOCK_LOOK
            self._journal.did("trace database locked")
            yield self._rng.uniform(0.1, 1.5)
            db.rollback()

    def _producer_killed(self) -> Script:
        self._source.kill()
        self._journal.did("producer killed")
        yield self._rng.uniform(0.0, 0.5)
        self._source.start()

    def _renamed(self) -> Script:
        for shard in self._some_closed():
            self._copies += 1
            target = _other_name(shard, self._copies, "moved")
            self._move(shard, target, os.rename)
            self._closed.remove(shard)
            self._closed.append(target)
            self._journal.did("shards renamed")
            yield 0.0

    def _copied(self) -> Script:
        for shard in self._some_closed():
            self._copies += 1
            self._move(shard, _other_name(shard, self._copies, "copied"), shutil.copyfile)
            self._journal.did("shards copied")
            yield 0.0

    def _touched(self) -> Script:
        for shard in self._some_closed():
            os.utime(self._place.shards / shard)
            self._journal.did("shards touched")
            yield 0.0

    def _move(self, shard: str, target: str, act: Callable[[Path, Path], object]) -> None:
        self._journal.note(ShardMove(shard, target))
        (self._place.shards / target).parent.mkdir(parents=True, exist_ok=True)
        act(self._place.shards / shard, self._place.shards / target)

    def _some_closed(self) -> list[str]:
        """Return shards that the producer will not touch again."""
        for entry in self._journals.news():
            if isinstance(entry, Closed):
                self._closed.append(entry.path)
        return self._rng.sample(self._closed, min(len(self._closed), self._rng.randint(1, _AT_ONCE)))


def _takes(db: sqlite3.Connection) -> bool:
    with suppress(sqlite3.OperationalError):
        db.execute("BEGIN EXCLUSIVE")
        return True
    return False


def _other_name(shard: str, number: int, why: str) -> str:
    """Return a name that no shard has. Where the file's name tells the session, only the folder changes."""
    folder, name = os.path.split(shard)
    if name.startswith("sft_"):
        return os.path.join(f"{why}-{number}", name)
    return os.path.join(folder, f"{name.partition('.')[0]}.{why}-{number}.jsonl")
