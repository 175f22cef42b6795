"""Runs a filter: tests all sessions, reads the chosen ones, and writes their examples.

Two passes over the database, both in short pages: one over the sessions, which are small, and one over the messages
of the chosen sessions, by creation time. State between the passes is on disk.
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
"""Seconds that one read waits for a producer that is committing."""

_REPEATED = ("env_name", "policy_name", "seed", "official_score")
"""Keys of the session's metadata that each line repeats."""

_RANK_BYTES = 8
_NO_OUTCOME = Outcome(0, "", None, None, None, "", None, qualifies=True, rule="")


class _Example(msgspec.Struct, frozen=True):
    """The first dead letter with one reason."""

    session: str
    turn: int | None
    detail: str


class Counts(msgspec.Struct):
    """The counts of one pass. ``removed`` has the sessions that each condition removed, in the order of the tests.

    ``dead`` has the dead letters by reason, and ``first_dead`` the first of each. ``seen`` is False if a limit ended
    the pass before all chosen sessions were read.
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
        config: The filter.
        write: Called with every line of the output, newline included, in order.
        folder: The folder for lines to shuffle; it needs as much room as the output.
        pages: Makes the reader of an open file.

    Returns:
        The counts of sessions and decisions.

    Raises:
        UnavailableError: the database is missing, is busy for long, or is not one of a producer.
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
        self.counts = Counts(removed=dict.fromkeys(self._conditions(), 0))

    def run(self, write: Callable[[bytes], None]) -> Counts:
        """Write the examples within offset and limit."""
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

    def _conditions(self) -> list[str]:
        return [key for key in CONDITIONS if getattr(self._config, key) not in (None, frozenset(), {})]

    def _choose(self) -> None:
        for session in self._sessions:
            self.counts.sessions += 1
            failed = removed_by(session, self._config)
            if failed is None:
                self.counts.chosen += 1
                self._scratch.choose(_reduced(session))
            else:
                self.counts.removed[failed] = self.counts.removed.get(failed, 0) + 1

    def _shuffled(self) -> Iterator[bytes]:
        """Yield all lines in an order that depends only on the seed and on the lines themselves."""
        seed = str(self._config.shuffle_seed).encode()
        for key, line in self._examples():
            self._scratch.shuffle_in(blake3(seed + b"\0" + key).digest(_RANK_BYTES), key, line)
        yield from self._scratch.shuffled()

    def _lines(self) -> Iterator[bytes]:
        for _, line in self._examples():
            yield line

    def _examples(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, line) of every accepted example, each once."""
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
                self._dead_letter(session, decision.turn, decision.found)
        if not read:
            try:
                yield from_completion(session.id, self._sessions.metadata(session))
            except MalformedError as error:
                self._dead_letter(session, None, error)

    def _dead_letter(self, session: Session, turn: int | None, error: MalformedError) -> None:
        self._dead[error.reason] += 1
        self.counts.first_dead.setdefault(error.reason, _Example(session.id, turn, error.detail))


def _reduced(session: Session) -> Session:
    """Return a session without the values that were only needed to choose it."""
    metadata = {name: session.metadata.get(name) for name in (*_REPEATED, "model")}
    return msgspec.structs.replace(session, metadata=metadata, models=[])


def _session_keys(session: Session) -> dict[str, Any]:
    """Return the keys of a session that ``synth-ai filter`` writes to every line, and its official score."""
    repeated = {name: session.metadata.get(name) for name in _REPEATED}
    return {"session_id": session.id, "created_at": session.created_at, **repeated}


def _with(record: SourceRecord, more: dict[str, Any]) -> SourceRecord:
    return msgspec.structs.replace(record, metadata={**record.metadata, **more})
