"""Flags over environment over config.toml -> one frozen Config, with every bad key and value named.

Each key of the file has one reader in ``keys.KEYS``: a function that takes the raw value and returns what the
daemon works with, or says what would be allowed. Flags and variables go through the same readers, so a
value means the same wherever it was written, but for relative paths: in the file they are relative to the
file's folder, elsewhere to the working directory.
"""

from streamer.config.file import parse_file
from streamer.config.loading import dataset, datasets, duration, fleet, load, load_all
from streamer.config.reload import changes, reloaded
from streamer.config.tables import (
    DEFAULT_DATASET,
    DEFAULT_WHERE,
    NO_SHARDS,
    Batch,
    Config,
    Dataset,
    Dedup,
    Flags,
    From,
    Join,
    Log,
    LogFormat,
    LogLevel,
    Qualify,
    Source,
    Web,
)
from streamer.config.tokens import TOKEN_CREDENTIAL, token_of
from streamer.config.values import real_path, shown_value

__all__ = [
    "DEFAULT_DATASET",
    "DEFAULT_WHERE",
    "NO_SHARDS",
    "TOKEN_CREDENTIAL",
    "Batch",
    "Config",
    "Dataset",
    "Dedup",
    "Flags",
    "From",
    "Join",
    "Log",
    "LogFormat",
    "LogLevel",
    "Qualify",
    "Source",
    "Web",
    "changes",
    "dataset",
    "datasets",
    "duration",
    "fleet",
    "load",
    "load_all",
    "parse_file",
    "real_path",
    "reloaded",
    "shown_value",
    "token_of",
]
