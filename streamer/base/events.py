"""Events, one dataclass each; the log, metrics and the web UI observe them.

An event holds plain values and can say in a sentence what happened; it never holds texts of models. ``level`` is its
importance to people: debug, info, warning, error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Self

from streamer.base.errors import StreamerError
from streamer.base.text import counted


@dataclass(frozen=True)
class Event:
    """The base of all events: a stable ``name``, a ``level`` and a sentence."""

    name: ClassVar[str] = "event"
    level: ClassVar[str] = "info"

    def message(self) -> str:
        """Say what happened, for people."""
        return self.name.replace("_", " ")


Emit = Callable[[Event], None]


def fan_out(*observers: Emit) -> Emit:
    """Return a function that calls each of ``observers`` with every event, in order."""

    def emit(event: Event) -> None:
        for observer in observers:
            observer(event)

    return emit


@dataclass(frozen=True)
class Started(Event):
    """The daemon has recovered and is about to read."""

    name = "started"
    dataset: str
    dataset_bytes: int
    shards: str
    database: str
    where: str

    def message(self) -> str:
        """Say what is read and what is written."""
        read = " and ".join(place for place in (self.shards, self.database) if place)
        return f"reading {read}, appending to {self.dataset}"


@dataclass(frozen=True)
class Recovered(Event):
    """Dataset and ledger did not agree at start, and do now."""

    name = "recovered"
    level = "warning"
    adopted: int
    foreign: int
    cut_bytes: int

    def message(self) -> str:
        """Say what was healed."""
        return (
            f"the dataset was ahead of its ledger: {counted(self.adopted, 'line')} adopted, {self.foreign} not ours"
            f" left as they are, a torn tail of {self.cut_bytes} bytes cut"
        )


@dataclass(frozen=True)
class Committed(Event):
    """One batch is durable.

    ``runs`` are the first rollouts with accepted records. ``sync_seconds`` is the duration of the dataset's sync, None
    if nothing was written to it; ``commit_seconds`` that of the ledger's transaction. ``latencies`` are the ages in
    seconds of the outcomes by which records were accepted; the log leaves them out.
    """

    name = "committed"
    read: int
    appended: int
    duplicate: int
    below_bar: int
    waiting: int
    dead_lettered: int
    appended_bytes: int
    dataset_bytes: int
    sync_seconds: float | None
    commit_seconds: float
    runs: tuple[str, ...] = ()
    latencies: tuple[float, ...] = field(default=(), repr=False)

    def message(self) -> str:
        """Say how many records the batch has added."""
        return f"{counted(self.appended, 'record')} appended of {counted(self.read, 'line')}"


@dataclass(frozen=True)
class Quiet(Committed):
    """One batch without a new record is durable."""

    name = "committed"
    level = "debug"


@dataclass(frozen=True)
class PartClosed(Event):
    """The live file was full or old and is a closed part now, which does not change."""

    name = "part_closed"
    part: str
    records: int
    bytes: int

    def message(self) -> str:
        """Say which part it is."""
        return f"{counted(self.records, 'record')} are in {self.part} now, which does not change any more"


@dataclass(frozen=True)
class PartRemoved(Event):
    """A part was removed: it was too old, or one too many."""

    name = "part_removed"
    part: str
    records: int

    def message(self) -> str:
        """Say which part it was."""
        return f"{self.part} was removed with its {counted(self.records, 'record')}, as configured under [retain]"


@dataclass(frozen=True)
class PartCompacted(Event):
    """Records that would be rejected today were removed from a part."""

    name = "part_compacted"
    part: str
    removed: int
    records: int

    def message(self) -> str:
        """Say which part it was."""
        return f"{counted(self.removed, 'record')} taken out of {self.part}, {self.records:,} left"


@dataclass(frozen=True)
class PartsMissing(Event):
    """Closed parts are missing."""

    name = "parts_missing"
    level = "warning"
    parts: int

    def message(self) -> str:
        """Say what this means."""
        return f"{counted(self.parts, 'part')} of the dataset is not there any more: taken as removed, keys are kept"


@dataclass(frozen=True)
class DeadLettered(Event):
    """Lines of one shard are unusable; they are in the dead letters, with reasons."""

    name = "dead_lettered"
    level = "warning"
    shard: str
    line: int
    reason: str
    lines: int

    def message(self) -> str:
        """Say where and why."""
        return (
            f"{counted(self.lines, 'line')} of {self.shard} cannot be taken ({self.reason}), from line {self.line} on"
        )


@dataclass(frozen=True)
class OutcomesSeen(Event):
    """Outcome rows were new or had changed."""

    name = "outcomes_seen"
    level = "debug"
    rows: int
    qualifying: int


@dataclass(frozen=True)
class NumberConverted(Event):
    """A value of an outcome row became a number by the documented rule. Reported once for each column."""

    name = "number_converted"
    row: int
    column: str
    converted_from: str

    def message(self) -> str:
        """Say what was converted; the row is an example."""
        return f"outcome_rewards.{self.column} holds {self.converted_from} (row {self.row}); it is read as a number"


@dataclass(frozen=True)
class OutcomeProblem(Event):
    """A value of an outcome row is no number, so that the row does not qualify. Reported once for each column."""

    name = "outcome_problem"
    level = "warning"
    row: int
    column: str
    problem: str

    def message(self) -> str:
        """Say which value, and what follows; the row is an example."""
        return (
            f"outcome_rewards.{self.column} of row {self.row} is no number ({self.problem}):"
            " such rollouts do not qualify (`streamer status` counts their lines as not_a_number)"
        )


@dataclass(frozen=True)
class DatabaseReplaced(Event):
    """Another file has replaced the trace database; its rows are read from the first one on."""

    name = "database_replaced"
    level = "warning"
    database: str

    def message(self) -> str:
        """Say which database."""
        return f"{self.database} is another file now, and is read from its start"


@dataclass(frozen=True)
class ShardOverwritten(Event):
    """The producer overwrote bytes that were read; the shard is read again from its start."""

    name = "shard_overwritten"
    level = "warning"
    shard: str
    waiting_lines: int

    def message(self) -> str:
        """Say which lines were lost with the old bytes."""
        text = f"{self.shard} was overwritten and is read again"
        if not self.waiting_lines:
            return text
        return f"{text}; {self.waiting_lines} of its lines had no outcome yet, and their bytes are gone"


@dataclass(frozen=True)
class ShardMoved(Event):
    """A shard was renamed; its cursor goes with it."""

    name = "shard_moved"
    shard: str
    was: str


@dataclass(frozen=True)
class ShardUnreadable(Event):
    """A shard cannot be read now; each scan retries it."""

    name = "shard_unreadable"
    level = "warning"
    shard: str
    cause: str

    def message(self) -> str:
        """Say which shard and why."""
        return f"{self.shard} cannot be read: {self.cause}; it is tried again with every scan"


@dataclass(frozen=True)
class LinesExpired(Event):
    """Lines have waited for their outcome longer than configured; they are still judged if it comes."""

    name = "never_scored"
    level = "warning"
    lines: int


@dataclass(frozen=True)
class Failure(Event):
    """Something outside is unavailable and is retried; ``op`` is one of a few fixed phrases."""

    op: str
    where: str
    cause: str
    hint: str

    @classmethod
    def of(cls, error: StreamerError) -> Self:
        """Make the event of an error."""
        return cls(error.op, error.where, error.cause, error.hint)

    def message(self) -> str:
        """Say the operation, the place, the cause and the way out."""
        return f"cannot {self.op}: {self.where}: {self.cause} ({self.hint})"


@dataclass(frozen=True)
class FailureBegan(Failure):
    """A failure is new, or has another cause than before."""

    name = "trouble"
    level = "warning"


@dataclass(frozen=True)
class FailureContinued(Failure):
    """A failure has occurred again, with the same cause."""

    name = "still_trouble"
    level = "debug"


@dataclass(frozen=True)
class FailureEnded(Event):
    """An operation that failed works again."""

    name = "trouble_over"
    op: str
    where: str

    def message(self) -> str:
        """Say what works again."""
        return f"can {self.op} again: {self.where}"


@dataclass(frozen=True)
class RecordsResent(Event):
    """A writer lacks lines that the stream had acknowledged; they are sent again."""

    name = "sent_again"
    level = "warning"
    bucket: int
    records: int

    def message(self) -> str:
        """Say how many."""
        return (
            f"not all of {counted(self.records, 'record')} in bucket {self.bucket} reached a writer, although the"
            " stream had taken them: sent again"
        )


@dataclass(frozen=True)
class RecordUndeliverable(Event):
    """A record cannot be delivered; it stays in the outbox, and no writer gets it."""

    name = "set_aside"
    level = "warning"
    place: int
    bytes: int
    reason: str
    cause: str

    def message(self) -> str:
        """Say which record, why, and what to do."""
        return (
            f"the record at {self.place} of the outbox, {counted(self.bytes, 'byte')} long, cannot be delivered"
            f" ({self.reason}): {self.cause}"
        )


@dataclass(frozen=True)
class OutboxMissing(Event):
    """A part of the outbox is missing, with lines that may not have been delivered."""

    name = "outbox_missing"
    level = "error"
    bytes: int

    def message(self) -> str:
        """Say what this means."""
        return f"{counted(self.bytes, 'byte')} of the outbox are not there any more: passed over, not delivered"


@dataclass(frozen=True)
class SyncedLate(Event):
    """A server of the fleet acknowledges records before they are on its disk."""

    name = "synced_late"
    level = "warning"
    server: str
    seconds: float

    def message(self) -> str:
        """Say which setting to change."""
        return (
            f"{self.server} acknowledges before it syncs, every {self.seconds:g} s: set `sync_interval: always` in its"
            " block `jetstream`; what it loses is sent again"
        )


@dataclass(frozen=True)
class SyncUnknown(Event):
    """It is unknown whether a server of the fleet syncs before it acknowledges."""

    name = "sync_unknown"
    where: str
    cause: str

    def message(self) -> str:
        """Say why."""
        return f"whether {self.where} sync what they acknowledge could not be checked: {self.cause}"


@dataclass(frozen=True)
class PartitionMoved(Event):
    """A partition of the fleet was handed to this writer, or from it."""

    name = "bucket_moved"
    bucket: int
    came: bool
    keys: int

    def message(self) -> str:
        """Say which way."""
        way = "has come to this writer" if self.came else "was given up by this writer"
        return f"bucket {self.bucket} {way}, with {counted(self.keys, 'key')}"


@dataclass(frozen=True)
class WebUIServed(Event):
    """The web UI can be opened; ``url`` does not contain its token."""

    name = "page_served"
    url: str

    def message(self) -> str:
        """Say where."""
        return f"the page is at {self.url}"


@dataclass(frozen=True)
class WebUIFault(Event):
    """A request of the web UI ended with an unexpected error, which does not affect the dataset."""

    name = "page_fault"
    level = "error"
    request: str
    fault: str

    def message(self) -> str:
        """Say which kind of request, and which kind of error."""
        return f"the page could not answer {self.request}: {self.fault}"


@dataclass(frozen=True)
class NotificationsLost(Event):
    """The file system sends no notifications; the timed scan still finds changes."""

    name = "notifications_lost"
    level = "warning"
    folder: str
    cause: str

    def message(self) -> str:
        """Say what this costs."""
        return f"no notifications for {self.folder}: {self.cause}; changes are found by the timed scan"


@dataclass(frozen=True)
class Reloaded(Event):
    """SIGHUP: the configuration was read again."""

    name = "reloaded"
    changed: str
    refused: str

    def message(self) -> str:
        """Say what changed, and what cannot while the daemon runs."""
        text = f"configuration read again, changed: {self.changed or 'nothing'}"
        return f"{text}; needs a restart: {self.refused}" if self.refused else text


@dataclass(frozen=True)
class ReloadFailed(Event):
    """SIGHUP: the configuration is wrong; the old one stays in force."""

    name = "reload_failed"
    level = "error"
    cause: str

    def message(self) -> str:
        """Say what is wrong."""
        return f"the old configuration stays in force: {self.cause}"


@dataclass(frozen=True)
class Idle(Event):
    """The daemon was idle for the requested time and ends."""

    name = "idle"
    seconds: float

    def message(self) -> str:
        """Say how long it was quiet."""
        return f"nothing new for {self.seconds:g} s: the end"


@dataclass(frozen=True)
class Stopped(Event):
    """The daemon has ended cleanly."""

    name = "stopped"
    dataset_bytes: int
