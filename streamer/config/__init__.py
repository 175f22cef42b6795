"""Merge flags, environment and config.toml into one frozen Config, and report every invalid key and value.

Flags override the environment, which overrides the file. Each key has one parser in ``keys.KEYS``: a function that
converts the raw value, or reports the allowed values. Flags and variables use the same parsers, so a value means
the same everywhere, except for relative paths: in the file they are relative to its folder, elsewhere to the
working directory.
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
