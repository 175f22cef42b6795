"""Load the configuration of one dataset, or of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from streamer.base.errors import ConfigError
from streamer.base.text import printable
from streamer.config.fleet_table import Fleet, SourceKind
from streamer.config.keys import KEYS
from streamer.config.layers import gather
from streamer.config.settings import Problem, Settings
from streamer.config.tables import Config, Dataset, Dedup, Flags, From
from streamer.config.tokens import with_token, without_token
from streamer.config.values import BadValueError, seconds, shown_value
from streamer.core.records.key import DedupBy

_T = TypeVar("_T")


def load(config_file: Path | None, environ: Mapping[str, str], flags: Flags) -> Config:
    """Return the configuration of one dataset.

    Args:
        config_file: The value of ``--config``; the default is ``STREAMER_CONFIG``, if it is set.
        environ: The environment; an empty variable counts as unset.
        flags: The flags, which override the environment, which overrides the file.

    Raises:
        ConfigError: The file cannot be read, or settings are invalid or missing; all of them are named. Or several
            datasets are configured, and none is chosen.
    """
    return _only(load_all(config_file, environ, flags), lambda config: config.dataset)


def load_all(config_file: Path | None, environ: Mapping[str, str], flags: Flags) -> list[Config]:
    """Return the configuration of each dataset, in the order of the file, as :func:`load` does for one.

    If the file has tables [[dataset]], a flag or variable that names a dataset chooses the one with that path.
    """
    found = gather(config_file, environ, flags)
    for settings in found:
        _require(settings)
        settings.check_together()
    if len(found) > 1 and found[0].uses_fleet:
        hint = "let each have a daemon and a configuration of its own"
        found[0].reject(Problem("dataset", "a fleet has one dataset, and several are configured", hint))
    found[0].complain()
    configs = [_config(settings) for settings in found]
    source, web = without_token(configs[0].source, environ), with_token(configs[0].web, environ)
    return [msgspec.structs.replace(config, source=source, web=web) for config in configs]


def _require(settings: Settings) -> None:
    """Reject missing keys of local sources, or of a fleet."""
    if settings.get("source.kind") is not SourceKind.JETSTREAM:
        if settings.get("source.conversations") is not From.DATABASE:
            settings.require("source.shards")
        settings.require("source.database")
    if settings.uses_fleet:
        settings.require("fleet.servers", "fleet.dataset")


def _config(settings: Settings) -> Config:
    tables = {field.name: field.type for field in msgspec.structs.fields(Config) if field.name in KEYS}
    made = {name: table(**settings.table(name)) for name, table in tables.items()}
    return Config(cap=settings.caps, others=settings.others, **made)


def duration(text: str, origin: str) -> float:
    """Return the seconds of a duration such as "10m"; ``origin`` names its place for the error.

    Raises:
        ConfigError: It is no duration.
    """
    try:
        return float(seconds(_number_or_text(text), Path()))
    except BadValueError as unfit:
        raise ConfigError("take the duration", origin, f"{shown_value(text)} is not {unfit}") from None


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def dataset(config_file: Path | None, environ: Mapping[str, str], dataset_flag: str | None) -> Dataset:
    """Return the dataset and its ledger, for commands that need neither shards nor a trace database.

    A ledger in the file belongs to the dataset in the file: if a flag or variable names another dataset, its
    ledger is the one beside it.

    Raises:
        ConfigError: As in :func:`load`, except for missing shards and a missing database.
    """
    return _only(datasets(config_file, environ, dataset_flag), lambda found: found)


def datasets(config_file: Path | None, environ: Mapping[str, str], dataset_flag: str | None) -> list[Dataset]:
    """Return each dataset and its ledger, as :func:`dataset` does for one."""
    found = gather(config_file, environ, Flags(dataset=dataset_flag))
    for settings in found:
        settings.check_together()
    found[0].complain()
    return [Dataset(**settings.table("dataset")) for settings in found]


def fleet(config_file: Path | None, environ: Mapping[str, str], *needed: str) -> tuple[Fleet, DedupBy]:
    """Return the fleet and ``dedup.by``, for commands that need only these.

    Args:
        config_file: As in :func:`load`.
        environ: As in :func:`load`.
        needed: Required keys; the default are those that are needed to reach the fleet.

    Raises:
        ConfigError: As in :func:`load`, except for missing keys of other tables.
    """
    settings = gather(config_file, environ, Flags())[0]
    settings.require(*(needed or ("fleet.servers", "fleet.dataset")))
    settings.check_together()
    settings.complain()
    return Fleet(**settings.table("fleet")), Dedup(**settings.table("dedup")).by


def _only(found: list[_T], dataset_of: Callable[[_T], Dataset]) -> _T:
    if len(found) == 1:
        return found[0]
    names = ", ".join(printable(str(dataset_of(one).path)) for one in found)
    raise ConfigError("choose a dataset", "--dataset", "several are configured", f"name one of them: {names}")
