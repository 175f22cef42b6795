"""Mishaps: one at a time, at random moments, by the weight of each kind."""

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
"""Most shards that one mishap hits."""

_LOCK_RETRY_SECONDS = 0.02
_TORN = b'{"messages":[{"role":"system","content":"a line that someone began and never finished'


class Chaos:
    """Draws mishaps from a deck that holds each kind at least once.

    Args:
        workspace: Paths of the soak.
        rng: Decides everything.
        journal: Gets an entry for each mishap.
        daemon: The daemon under test.
        source: The producer.
    """

    def __init__(
        self, workspace: SoakWorkspace, rng: Random, journal: SoakJournal, daemon: DaemonUnderTest, source: SoakSource
    ) -> None:
        self._workspace = workspace
        self._rng = rng
        self._journal = journal
        self._daemon = daemon
        self._source = source
        self._journals = Journals(workspace.journals)
        self._closed: deque[str] = deque(maxlen=_KNOWN_SHARDS)
        self._copies = 0
        self._deck: list[Callable[[], Script]] = []

    def act(self, *, ledger_too: bool) -> Script:
        """Wait a random time, then let one mishap happen, from its beginning to its end.

        Args:
            ledger_too: The ledger may be lost and restored. Then the daemon reads everything again, which can
                repair its mistakes: the last part of a soak must be without it.
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
        """Kill the daemon, and kill the next one while it starts."""
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

    def _down(self, mishap: str, meanwhile: Callable[[], None] = lambda: None) -> Script:
        """Kill the daemon, call ``meanwhile``, and start the daemon again."""
        self._daemon.kill()
        yield 0.0  # the watcher sees the lines that the killed daemon has written
        meanwhile()
        self._journal.did(mishap)
        self._daemon.start()
        if self._rng.random() < 0.8:  # noqa: PLR2004
            yield from self._daemon.up()

    # -- the daemon's files, while it is down -------------------------------------------------------------------

    def _ledger_lost(self) -> Script:
        yield from self._down("ledger deleted", self._remove_ledger)

    def _ledger_saved(self) -> Script:
        yield from self._down("ledger copied away", self._save_ledger)

    def _ledger_restored(self) -> Script:
        if not any(self._workspace.backup.iterdir()):
            yield from self._ledger_saved()
            yield self._rng.uniform(0.5, 2.0)
        yield from self._down("older ledger restored", self._restore_ledger)

    def _line_torn(self) -> Script:
        yield from self._down("half a line appended to the dataset", self._tear)

    def _remove_ledger(self) -> None:
        for path in self._ledger_files():
            path.unlink()

    def _save_ledger(self) -> None:
        shutil.rmtree(self._workspace.backup)
        self._workspace.backup.mkdir()
        for path in self._ledger_files():
            shutil.copy2(path, self._workspace.backup)

    def _restore_ledger(self) -> None:
        self._remove_ledger()
        for path in self._workspace.backup.iterdir():
            shutil.copy2(path, self._workspace.folder)

    def _ledger_files(self) -> list[Path]:
        """Return the ledger and its write-ahead log; remove SQLite's shared memory, which it creates again."""
        ledger = self._workspace.ledger
        ledger.with_name(f"{ledger.name}-shm").unlink(missing_ok=True)
        return [path for path in (ledger, ledger.with_name(f"{ledger.name}-wal")) if path.exists()]

    def _tear(self) -> None:
        with self._workspace.dataset.open("ab") as dataset:
            dataset.write(_TORN[: self._rng.randint(1, len(_TORN))])

    # -- the daemon's sources ----------------------------------------------------------------------------

    def _locked(self) -> Script:
        """Lock the trace database for a moment, as another writer would."""
        with closing(sqlite3.connect(self._workspace.database, timeout=0, isolation_level=None)) as db:
            while not _locks(db):
                yield _LOCK_RETRY_SECONDS
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
            os.utime(self._workspace.shards / shard)
            self._journal.did("shards touched")
            yield 0.0

    def _move(self, shard: str, target: str, act: Callable[[Path, Path], object]) -> None:
        self._journal.note(ShardMove(shard, target))
        (self._workspace.shards / target).parent.mkdir(parents=True, exist_ok=True)
        act(self._workspace.shards / shard, self._workspace.shards / target)

    def _some_closed(self) -> list[str]:
        """Return some shards that the producer will not touch again."""
        for entry in self._journals.new_entries():
            if isinstance(entry, Closed):
                self._closed.append(entry.path)
        return self._rng.sample(self._closed, min(len(self._closed), self._rng.randint(1, _AT_ONCE)))


def _locks(db: sqlite3.Connection) -> bool:
    with suppress(sqlite3.OperationalError):
        db.execute("BEGIN EXCLUSIVE")
        return True
    return False


def _other_name(shard: str, number: int, act: str) -> str:
    """Return a name that no shard has; if the file's name is the session id, only the folder changes."""
    folder, name = os.path.split(shard)
    if name.startswith("sft_"):
        return os.path.join(f"{act}-{number}", name)
    return os.path.join(folder, f"{name.partition('.')[0]}.{act}-{number}.jsonl")
