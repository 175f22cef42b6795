"""The layers: flags over environment over config.toml."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from streamer.config.file import take_file
from streamer.config.keys import KEYS, VARIABLES, flag_of
from streamer.config.settings import Settings
from streamer.config.tables import Config, Dataset, Flags, From
from streamer.config.tokens import with_token, without_token
from streamer.config.values import UnfitError, path_of, seconds, shown_value
from streamer.errors import ConfigError


def load(config_file: Path | None, environ: Mapping[str, str], flags: Flags) -> Config:
    """Return the configuration of a daemon.

    Args:
        config_file: the value of ``--config``; without it ``STREAMER_CONFIG`` is used, if it is set.
        environ: the environment; an empty variable counts as unset.
        flags: they override the environment, which overrides the file.

    Raises:
        ConfigError: the file cannot be read, or any setting is bad or missing. All of them are named.
    """
    settings = _gather(config_file, environ, flags)
    if settings.get("source.conversations") is not From.DATABASE:
        settings.require("source.shards")
    settings.require("source.database")
    settings.check_together()
    settings.complain()
    tables = {field.name: field.type for field in msgspec.structs.fields(Config) if field.name in KEYS}
    config = Config(cap=settings.caps, **{name: table(**settings.table(name)) for name, table in tables.items()})
    return msgspec.structs.replace(
        config, source=without_token(config.source, environ), web=with_token(config.web, environ)
    )


def duration(text: str, origin: str) -> float:
    """Return the seconds of a duration such as "10m"; ``origin`` is where it was written.

    Raises:
        ConfigError: it is none.
    """
    try:
        return float(seconds(_number_or_text(text), Path()))
    except UnfitError as unfit:
        raise ConfigError("take the duration", origin, f"{shown_value(text)} is not {unfit}") from None


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def dataset(config_file: Path | None, environ: Mapping[str, str], dataset_flag: str | None) -> Dataset:
    """Return the dataset and its ledger, for commands that need neither shards nor a trace database.

    A ledger that the file names belongs to the path that the file names: a flag or variable that names
    another dataset gets the ledger beside that one.

    Raises:
        ConfigError: as :func:`load` does, but for shards and a database that are not configured.
    """
    settings = _gather(config_file, environ, Flags(dataset=dataset_flag))
    settings.check_together()
    settings.complain()
    return Dataset(**settings.table("dataset"))


def dataset_path(config_file: Path | None, environ: Mapping[str, str], dataset_flag: str | None) -> Path:
    """Return the path of :func:`dataset`."""
    return dataset(config_file, environ, dataset_flag).path


def _gather(config_file: Path | None, environ: Mapping[str, str], flags: Flags) -> Settings:
    settings = Settings()
    file = _config_file(config_file, environ)
    if file is not None:
        take_file(settings, file)
    for key, variables in VARIABLES.items():
        flag = flag_of(key)
        text = getattr(flags, flag)
        set_one = next((name for name in variables if environ.get(name)), None)
        if text is not None:
            settings.take(key, text, f"--{flag}", Path())
        elif set_one is not None:
            settings.take(key, environ[set_one], set_one, Path())
    return settings


def _config_file(config_file: Path | None, environ: Mapping[str, str]) -> Path | None:
    named = str(config_file) if config_file is not None else environ.get("STREAMER_CONFIG")
    return path_of(named, Path()) if named else None
