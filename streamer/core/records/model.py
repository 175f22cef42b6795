"""The values that flow from shards and outcome rows to dataset lines.

Offsets and lengths are bytes. ``*_us`` are microseconds since 1970-01-01 UTC.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from streamer.core.records.conversation import Conversation


class State(StrEnum):
    """State of a line that was read. Counts of the six states add up to the lines read, at any moment."""

    ACCEPTED = "appended"
    DUPLICATE = "duplicate"
    REJECTED = "below_bar"
    WAITING = "waiting"
    EXPIRED = "never_scored"
    DEAD_LETTERED = "dead_lettered"


STATE_NAMES = {
    State.ACCEPTED: "appended",
    State.DUPLICATE: "duplicate",
    State.REJECTED: "below the bar",
    State.WAITING: "waiting",
    State.EXPIRED: "never scored",
    State.DEAD_LETTERED: "dead letters",
}
"""Names of the states in texts, in the order in which they are shown."""

OPEN_STATES = (State.WAITING, State.EXPIRED)
"""States of lines that still wait for their outcome."""


class Line(msgspec.Struct, frozen=True, gc=False):
    """One finished line of a shard: ``data`` without its newline.

    ``shard`` is the shard's path relative to the shard folder, as text that is valid UTF-8 (``path_text``). ``data`` is
    None when the line is longer than the limit; then ``head`` holds its first bytes.
    """

    shard: str
    number: int
    start: int
    stop: int
    data: bytes | None
    head: bytes = b""


class SourceRecord(msgspec.Struct, frozen=True):
    """One record as read from a shard line or from the trace database, in any layout."""

    session: str
    conversation: Conversation
    has_image: bool
    turn: Any = None
    model: Any = None
    provider: Any = None
    timestamp: Any = None
    time_us: int | None = None
    metadata: dict[str, Any] = msgspec.field(default_factory=dict)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Return the messages as objects."""
        return self.conversation.messages


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """One row of ``outcome_rewards``, with the result of the ``where`` condition.

    ``ref`` is the row's id in the ledger (0 before it is stored). ``rule`` names the condition that ``qualifies`` was
    computed under. ``created_us`` is the last microsecond that ``created_at`` can
    stand for, or None if it is no time. ``metadata`` is a JSON object with the
    requested keys of the row's ``reward_metadata``, or empty. ``problem`` is the counted reason if the row could not be
    evaluated, or empty.
    """

    id: int
    session: str
    total_reward: float | int | None
    achievements_count: float | int | None
    total_steps: float | int | None
    created_at: str
    created_us: int | None
    qualifies: bool
    rule: str
    ref: int = 0
    metadata: str = ""
    problem: str = ""


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """The state of one line and its counted reason, which is empty where the state says it all."""

    state: State
    reason: str = ""
    outcome: int | None = None
    rule: str = ""


class Span(msgspec.Struct, frozen=True, gc=False):
    """Consecutive lines of one shard with the same verdict, as the ledger stores them.

    ``first_us`` and ``last_us`` bound the records' own timestamps; None where a record had none.
    ``since`` is the wall-clock time (seconds since 1970) of the first reading: a label, never a criterion.
    ``rule`` names the condition that an outcome did not meet.
    """

    shard_id: int
    start: int
    stop: int
    line: int
    lines: int
    session: str
    state: State
    reason: str = ""
    outcome: int | None = None
    first_us: int | None = None
    last_us: int | None = None
    since: float = 0.0
    rule: str = ""
    id: int = 0


class Cursor(msgspec.Struct, frozen=True, gc=False):
    """How far one shard has been read, and how to recognise it.

    ``path`` is relative to the shard folder, as ``os.fsdecode`` gives it.
    ``offset`` is the end of the last finished line read, ``lines`` the number of lines before it. No newline lies
    between ``offset`` and ``scanned``. ``fingerprint`` is a digest of the bytes before ``offset``; ``stat`` is (dev,
    ino, size, mtime_ns, ctime_ns).
    """

    path: str
    id: int = 0
    offset: int = 0
    lines: int = 0
    scanned: int = 0
    fingerprint: bytes = b""
    stat: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)
