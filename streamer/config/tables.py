"""The settings for one dataset: each table of config.toml as a frozen struct."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path

import msgspec

from streamer.base.address import Address
from streamer.base.secret import NO_SECRET, Secret
from streamer.config.fleet_table import Fleet, Sink, SourceKind
from streamer.core.records.key import DedupBy
from streamer.core.verdicts.caps import Cap
from streamer.core.verdicts.join import JoinRule
from streamer.core.verdicts.near.rules import Near
from streamer.core.verdicts.qualify import RecordRules
from streamer.store.parts.parts import RetainRules, RollRules

DEFAULT_DATASET = "high_reward.jsonl"
"""The dataset if nothing names one, in the working directory."""

DEFAULT_WHERE = "total_reward > 0"


MIB = 1 << 20
DAY = 86_400.0


class LogLevel(StrEnum):
    """The least level of an event that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """What a log line looks like. ``auto`` looks at where stderr goes."""

    AUTO = "auto"
    CONSOLE = "console"
    JSON = "json"
    JOURNALD = "journald"


class From(StrEnum):
    """Where conversations are read. Outcomes always come from the trace database."""

    SHARDS = "shards"
    DATABASE = "database"
    BOTH = "both"


NO_SHARDS = Path(os.devnull)
"""Stands for the folder where none is read: no path leads below it."""


class Source(msgspec.Struct, frozen=True):
    """What is read: the shard folder and the trace database, as a path or a URL.

    ``pattern`` is matched with the name of a file, not with its folders. ``scan_interval`` and
    ``poll_interval`` are seconds between two looks at the folder and at the database. ``database_after`` are the
    seconds for which the shard of a rollout is waited for, before its conversation is taken from the database.
    ``token`` is what a server is shown; ``database`` does not hold it. With ``kind = "jetstream"`` none of these is
    read, but the records of a fleet, those in ``buckets`` or in all of them.
    """

    shards: Path
    database: str
    conversations: From = From.SHARDS
    database_after: float = 10.0
    pattern: str = "*.jsonl"
    follow_symlinks: bool = False
    force_polling: bool = False
    scan_interval: float = 5.0
    poll_interval: float = 0.1
    max_line_bytes: int = 64 * MIB
    token: Secret = NO_SECRET
    kind: SourceKind = SourceKind.LOCAL
    buckets: frozenset[int] | None = None

    @property
    def reads_shards(self) -> bool:
        """Say whether there is a shard folder to look at."""
        return self.is_local and self.conversations is not From.DATABASE

    @property
    def is_local(self) -> bool:
        """Say whether shards and a trace database are read; otherwise a fleet is."""
        return self.kind is SourceKind.LOCAL


class Join(msgspec.Struct, frozen=True):
    """How a record finds its outcome, and after how many seconds of waiting it counts as never scored."""

    rule: JoinRule = JoinRule.AS_OF
    never_scored_after: float = DAY


class Qualify(msgspec.Struct, frozen=True):
    """The SQL condition that an outcome has to meet."""

    where: str = DEFAULT_WHERE


class Dedup(msgspec.Struct, frozen=True):
    """What makes two records the same one."""

    by: DedupBy = DedupBy.CONVERSATION


class Dataset(msgspec.Struct, frozen=True):
    """The file that the records are appended to, and the ledger that belongs to it."""

    path: Path
    ledger: Path


class Batch(msgspec.Struct, frozen=True):
    """A batch is committed when it holds so many records, or is so many milliseconds old."""

    records: int = 2000
    milliseconds: int = 50


class Log(msgspec.Struct, frozen=True):
    """What is logged, and in which format."""

    level: LogLevel = LogLevel.INFO
    format: LogFormat = LogFormat.AUTO


class Web(msgspec.Struct, frozen=True):
    """Where the page is served; not at all where ``listen`` is None. ``token`` is what it is opened with, if any."""

    listen: Address | None = None
    token_file: Path | None = None
    token: Secret = NO_SECRET


class Config(msgspec.Struct, frozen=True):
    """All settings for one dataset. Each attribute is a table of config.toml; ``cap`` is any number of them.

    ``others`` are the other datasets of the same file. Their daemon may be this one; their files are no shards.
    """

    source: Source
    dataset: Dataset
    join: Join = Join()
    qualify: Qualify = Qualify()
    records: RecordRules = RecordRules()
    dedup: Dedup = Dedup()
    roll: RollRules = RollRules()
    retain: RetainRules = RetainRules()
    near: Near = Near()
    cap: tuple[Cap, ...] = ()
    batch: Batch = Batch()
    log: Log = Log()
    web: Web = Web()
    sink: Sink = Sink()
    fleet: Fleet = Fleet()
    others: tuple[Dataset, ...] = ()


class Flags(msgspec.Struct, frozen=True):
    """What the command line said; None where it said nothing."""

    shards: str | None = None
    database: str | None = None
    dataset: str | None = None
    where: str | None = None
