"""The pass itself: all sessions are asked, the chosen ones are read, and their examples are written.

Two passes over the database, both in short pages: one over the sessions, which are small, and one over the messages
of those that were chosen, by the time at which they were created. What has to be remembered is on disk.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3

from streamer.base.errors import UnavailableError
from streamer.commands.filter.conditions import CONDITIONS, Session, outcome_of, record_is_taken, removed_by
from streamer.commands.filter.config import FilterConfig
from streamer.commands.filter.scratch import Scratch
from streamer.commands.filter.sessions import Sessions
from streamer.config.database_url import Server
from streamer.core.records.dataset_line import encode_line
from streamer.core.records.key import DedupBy, record_key
from streamer.core.records.layouts import MalformedError
from streamer.core.records.model import Outcome, SourceRecord
from streamer.core.records.trace_messages import from_completion
from streamer.sources.conversations import Conversations
from streamer.sources.database_file import open_for_batch
from streamer.sources.pages import FilePages, Pages, RemotePages

_BUSY_SECONDS = 10.0
"""How long one read waits for a producer that is committing."""

_TOLD = ("env_name", "policy_name", "seed", "official_score")
"""What a line repeats of its session's metadata."""

_RANK_BYTES = 8
_NO_OUTCOME = Outcome(0, "", None, None, None, "", None, qualifies=True, rule="")


class _Example(msgspec.Struct, frozen=True):
    """The first decision that could not be taken for one reason."""

    session: str
    turn: int | None
    detail: str


class Counts(msgspec.Struct):
    """Where everything went. ``removed`` has the sessions that each condition removed, in the order they are asked.

    ``dead`` has the decisions that could not be taken, by reason, and ``first_dead`` the first of each. ``seen``
    says whether all chosen sessions were read: with a limit, the pass ends early.
    """

    sessions: int = 0
    removed: dict[str, int] = {}
    chosen: int = 0
    dead: dict[str, int] = {}
    first_dead: dict[str, _Example] = {}
    other_rollouts: int = 0
    duplicates: int = 0
    skipped: int = 0
    written: int = 0
    seen: bool = True


def run(
    config: FilterConfig,
    write: Callable[[bytes], None],
    folder: Path,
    pages: Callable[[sqlite3.Connection, Path], FilePages] = FilePages,
) -> Counts:
    """Filter one trace database.

    Args:
        config: what is taken.
        write: is given every line of the output, newline included, in order.
        folder: where lines wait that are to be shuffled; as much room as the output needs.
        pages: makes the reader of a file that is open.

    Returns:
        What became of every session and decision.

    Raises:
        UnavailableError: the database is not there, is busy for long, or is not one of a producer.
    """
    place = config.database
    if isinstance(place, Server):
        with closing(RemotePages(place)) as remote, Scratch(folder) as scratch:
            return _Pass(config, remote, scratch).run(write)
    if not place.is_file():
        raise UnavailableError("read the trace database", str(place), "there is no such file", "see db under [filter]")
    with open_for_batch(place, _BUSY_SECONDS) as db, Scratch(folder) as scratch:
        return _Pass(config, pages(db, place), scratch).run(write)


class _Pass:
    def __init__(self, config: FilterConfig, pages: Pages, scratch: Scratch) -> None:
        self._config = config
        self._scratch = scratch
        self._sessions = Sessions(pages, with_models=bool(config.models))
        self._conversations = Conversations(pages)
        self._source = pages.path.name
        self._dead: Counter[str] = Counter()
        self.counts = Counts(removed=dict.fromkeys(self._asked(), 0))

    def run(self, write: Callable[[bytes], None]) -> Counts:
        """Write the examples that are in the window of offset and limit."""
        counts, config = self.counts, self._config
        self._choose()
        for line in self._shuffled() if config.shuffle else self._lines():
            if counts.skipped < config.offset:
                counts.skipped += 1
            elif config.limit is not None and counts.written >= config.limit:
                counts.seen = False
                break
            else:
                write(line)
                counts.written += 1
        counts.dead = dict(self._dead.most_common())
        return counts

    def _asked(self) -> list[str]:
        return [key for key in CONDITIONS if getattr(self._config, key) not in (None, frozenset(), {})]

    def _choose(self) -> None:
        for session in self._sessions:
            self.counts.sessions += 1
            failed = removed_by(session, self._config)
            if failed is None:
                self.counts.chosen += 1
                self._scratch.choose(_what_is_told(session))
            else:
                self.counts.removed[failed] += 1

    def _shuffled(self) -> Iterator[bytes]:
        """Yield all lines in an order that depends on the seed and on what they say, and on nothing else."""
        seed = str(self._config.shuffle_seed).encode()
        for key, line in self._examples():
            self._scratch.shuffle_in(blake3(seed + b"\0" + key).digest(_RANK_BYTES), key, line)
        yield from self._scratch.shuffled()

    def _lines(self) -> Iterator[bytes]:
        for _, line in self._examples():
            yield line

    def _examples(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, line) of every example that is taken, each once."""
        for session in self._scratch.chosen():
            ours = _session_keys(session)
            for record in self._records(session):
                outcome = outcome_of(record, session.outcomes)
                if not record_is_taken(record, outcome, self._config):
                    self.counts.other_rollouts += 1
                    continue
                key = record_key(record.conversation, DedupBy.CONVERSATION, (None, None, None))
                if not self._scratch.is_new(key):
                    self.counts.duplicates += 1
                    continue
                line = encode_line(_with(record, ours), outcome or _NO_OUTCOME, self._source)
                yield key, line

    def _records(self, session: Session) -> Iterator[SourceRecord]:
        read = False
        for decision in self._conversations.decisions(session.id, session.metadata.get("model")):
            read = True
            if isinstance(decision.found, SourceRecord):
                yield decision.found
            else:
                self._bury(session, decision.turn, decision.found)
        if not read:
            try:
                yield from_completion(session.id, self._sessions.metadata(session))
            except MalformedError as error:
                self._bury(session, None, error)

    def _bury(self, session: Session, turn: int | None, error: MalformedError) -> None:
        self._dead[error.reason] += 1
        self.counts.first_dead.setdefault(error.reason, _Example(session.id, turn, error.detail))


def _what_is_told(session: Session) -> Session:
    """Return a session without what was only needed to choose it."""
    metadata = {name: session.metadata.get(name) for name in (*_TOLD, "model")}
    return msgspec.structs.replace(session, metadata=metadata, models=[])


def _session_keys(session: Session) -> dict[str, Any]:
    """Return what ``synth-ai filter`` says of a session in every line, and its official score."""
    told = {name: session.metadata.get(name) for name in _TOLD}
    return {"session_id": session.id, "created_at": session.created_at, **told}


def _with(record: SourceRecord, more: dict[str, Any]) -> SourceRecord:
    return msgspec.structs.replace(record, metadata={**record.metadata, **more})
