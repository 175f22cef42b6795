"""The configuration of one dataset: each table of config.toml as a frozen struct."""

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
"""The default dataset, in the working directory."""

DEFAULT_WHERE = "total_reward > 0"

MIB = 1 << 20
DAY = 86_400.0


class LogLevel(StrEnum):
    """The minimum level of logged events."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """The format of log lines. ``auto`` depends on the type of stderr."""

    AUTO = "auto"
    CONSOLE = "console"
    JSON = "json"
    JOURNALD = "journald"


class From(StrEnum):
    """The source of conversations. Outcomes are always read from the trace database."""

    SHARDS = "shards"
    DATABASE = "database"
    BOTH = "both"


NO_SHARDS = Path(os.devnull)
"""Replaces the shard folder if none is read: no path leads below it."""


class Source(msgspec.Struct, frozen=True):
    """The sources: the shard folder, and the trace database as a path or a URL.

    ``pattern`` is matched with the name of a file, not with its folders. ``scan_interval`` and ``poll_interval`` are
    the seconds between two scans of the folder and two polls of the database. ``database_after`` is the time to wait
    for the shard of a rollout, in seconds, before its conversation is read from the database. ``objective`` names the
    rows that are outcomes where the database has one for each objective (``objective_key`` of synth-ai 0.4 to 0.9).
    ``token`` is the token for a server; ``database`` does not contain it. With ``kind = "jetstream"`` only the records
    of a fleet are read: those in ``buckets``, or all.
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
    objective: str = "reward"
    token: Secret = NO_SECRET
    kind: SourceKind = SourceKind.LOCAL
    buckets: frozenset[int] | None = None

    @property
    def reads_shards(self) -> bool:
        """Whether a shard folder is read."""
        return self.is_local and self.conversations is not From.DATABASE

    @property
    def is_local(self) -> bool:
        """Whether local shards and a trace database are read, rather than a fleet."""
        return self.kind is SourceKind.LOCAL


class Join(msgspec.Struct, frozen=True):
    """The rule that joins a record with its outcome, and the seconds of waiting after which it expires."""

    rule: JoinRule = JoinRule.AS_OF
    never_scored_after: float = DAY


class Qualify(msgspec.Struct, frozen=True):
    """The SQL condition on outcomes."""

    where: str = DEFAULT_WHERE


class Dedup(msgspec.Struct, frozen=True):
    """The definition of a duplicate."""

    by: DedupBy = DedupBy.CONVERSATION


class Dataset(msgspec.Struct, frozen=True):
    """The dataset file and its ledger."""

    path: Path
    ledger: Path


class Batch(msgspec.Struct, frozen=True):
    """The maximum size and age of a batch; at either it is committed."""

    records: int = 2000
    milliseconds: int = 50


class Log(msgspec.Struct, frozen=True):
    """The level and the format of the log."""

    level: LogLevel = LogLevel.INFO
    format: LogFormat = LogFormat.AUTO


class Web(msgspec.Struct, frozen=True):
    """The address of the web UI, which is off if ``listen`` is None, and the token that opens it, if any."""

    listen: Address | None = None
    token_file: Path | None = None
    token: Secret = NO_SECRET


class Config(msgspec.Struct, frozen=True):
    """The configuration of one dataset. Each attribute is a table of config.toml; ``cap`` is a list of tables.

    ``others`` are the other datasets of the same file. This daemon may write them, too; their files are no shards.
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
    """The flags of the command line; None if not given."""

    shards: str | None = None
    database: str | None = None
    dataset: str | None = None
    where: str | None = None
