"""All configuration keys: their parsers, flags and environment variables."""

from __future__ import annotations

import difflib

from streamer.config.fleet_table import MOST_PARTITIONS, SinkKind, SourceKind
from streamer.config.tables import From, LogFormat, LogLevel
from streamer.config.values import (
    Parser,
    address_of,
    boolean,
    buckets_of,
    counted_by,
    database_of,
    file_of,
    fleet_name_of,
    models_of,
    monitors_of,
    objective_of,
    one_of,
    path_of,
    pattern_of,
    reward_of,
    reward_type_of,
    seconds,
    servers_of,
    share,
    size,
    where_of,
    whole,
)
from streamer.core.records.key import DedupBy
from streamer.core.verdicts.join import JoinRule
from streamer.core.verdicts.near.rules import Scope
from streamer.core.verdicts.qualify import Images
from streamer.core.verdicts.turns import Turns

KEYS: dict[str, dict[str, Parser]] = {
    "source": {
        "kind": one_of(SourceKind),
        "buckets": buckets_of,
        "shards": path_of,
        "pattern": pattern_of,
        "database": database_of,
        "conversations": one_of(From),
        "database_after": seconds,
        "objective": objective_of,
        "follow_symlinks": boolean,
        "force_polling": boolean,
        "scan_interval": seconds,
        "poll_interval": seconds,
        "max_line_bytes": size,
    },
    "join": {"rule": one_of(JoinRule), "never_scored_after": seconds},
    "qualify": {"where": where_of},
    "records": {
        "models": models_of,
        "images": one_of(Images),
        "min_turn": whole(0, 1 << 53),
        "max_turn": whole(0, 1 << 53),
        "turns": one_of(Turns),
        "reward_type": reward_type_of,
        "min_turn_reward": reward_of,
    },
    "dedup": {"by": one_of(DedupBy)},
    "near": {
        "threshold": share(0.5),
        "ngram": whole(1, 100),
        "scope": one_of(Scope),
        "images": whole(0, 32),
        "keep": whole(1, 10_000_000),
    },
    "dataset": {"path": file_of, "ledger": file_of},
    "roll": {"bytes": size, "records": whole(1, 1 << 53), "age": seconds},
    "retain": {"bytes": size, "records": whole(1, 1 << 53), "age": seconds, "forget_keys": boolean},
    "batch": {"records": whole(1, 1_000_000), "milliseconds": whole(1, 60_000)},
    "log": {"level": one_of(LogLevel), "format": one_of(LogFormat)},
    "web": {"listen": address_of, "token_file": file_of},
    "sink": {"kind": one_of(SinkKind)},
    "fleet": {
        "servers": servers_of,
        "prefix": fleet_name_of,
        "dataset": fleet_name_of,
        "name": fleet_name_of,
        "buckets": whole(1, MOST_PARTITIONS),
        "credentials": file_of,
        "nkey": file_of,
        "tls_ca": file_of,
        "tls_cert": file_of,
        "tls_key": file_of,
        "monitor": monitors_of,
    },
}
DOTTED = {f"{table}.{key}": reader for table, keys in KEYS.items() for key, reader in keys.items()}
OVERRIDABLE = ("join", "qualify", "records", "dedup", "near", "roll", "retain")
"""Tables that a [[dataset]] may override, besides ``cap``."""

CAP: dict[str, Parser] = {"by": counted_by, "most": whole(1, 1 << 53)}
"""The keys of each table [[cap]]; all of them are required."""

VARIABLES = {
    "source.shards": ("TASKAPP_SFT_OUTPUT_DIR", "SFT_OUTPUT_DIR"),
    "source.database": ("TURSO_LOCAL_DB_URL", "SQLD_DB_PATH", "TASKAPP_TRACE_DB_PATH"),
    "dataset.path": ("STREAMER_DATASET",),
    "qualify.where": ("STREAMER_WHERE",),
}
"""Environment variables by key; the first one that is set wins. Those of shards and database are the producer's."""


def flag_of(key: str) -> str:
    """Return the flag of a key of ``VARIABLES``, without dashes."""
    table, _, name = key.partition(".")
    return table if table == "dataset" else name


def ways_to_set(key: str) -> str:
    """Return the hint for a missing key."""
    table, _, name = key.partition(".")
    if key not in VARIABLES:
        return f"write {name} under [{table}] in config.toml"
    variables = " or ".join(VARIABLES[key])
    return f"give --{flag_of(key)}, set {variables}, or write {name} under [{table}] in config.toml"


def unknown(name: str, siblings: list[str]) -> tuple[str, str]:
    """Return (cause, hint) for an unknown key; the hint names the most similar key."""
    elsewhere = [dotted for dotted in DOTTED if dotted.endswith(f".{name}")]
    near = difflib.get_close_matches(name, siblings, n=1) or elsewhere
    meant = f"did you mean {near[0]}?" if near else f"known are {', '.join(siblings)}"
    return "there is no such key", meant
