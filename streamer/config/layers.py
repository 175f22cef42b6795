"""Merge the layers (flags over environment over config.toml) for each dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path

from streamer.base.lock import lock_file
from streamer.base.text import printable
from streamer.config.file import take_entry, take_file
from streamer.config.keys import VARIABLES, flag_of
from streamer.config.settings import Problem, Settings
from streamer.config.tables import Dataset, Flags
from streamer.config.values import path_of, real_path, shown_value
from streamer.store.dataset.dead_letters import dead_letters_path
from streamer.store.parts.parts import manifest_path, part_names


def gather(config_file: Path | None, environ: Mapping[str, str], flags: Flags) -> list[Settings]:
    """Return the settings of each dataset; ``complain`` of the first one reports the problems of all.

    Raises:
        ConfigError: The file cannot be read.
    """
    settings = Settings()
    file = _config_file(config_file, environ)
    if file is not None:
        take_file(settings, file)
    if not settings.entries:
        _take_outside(settings, VARIABLES, environ, flags)
        return [settings]
    _take_outside(settings, [key for key in VARIABLES if key.startswith("source.")], environ, flags)
    return _several(settings, environ, flags)


def _several(settings: Settings, environ: Mapping[str, str], flags: Flags) -> list[Settings]:
    """Return the settings of each [[dataset]], or of the one that a flag or variable names."""
    found: list[Settings] = []
    for entry in settings.entries:
        own = settings.for_entry()
        take_entry(own, entry)
        if own.get("dataset.path") is not None:
            found.append(own)
        elif own.origin("dataset.path") is None:
            hint = 'write path = "NAME.jsonl" below this [[dataset]]'
            settings.reject(Problem(f"{entry.place}: path", "it is not configured", hint))
    _reject_shared_files(found)
    chosen = _chosen(found, environ, flags) or [settings]
    where = _outside("qualify.where", environ, flags)
    if len(chosen) > 1 and where is not None:
        hint = "choose one with --dataset, or write qualify.where below each [[dataset]]"
        settings.reject(Problem(where[0], "there are several datasets, each with a condition of its own", hint))
    else:
        _take_outside(chosen[0], ["qualify.where"], environ, flags)
    return chosen


def _chosen(found: Sequence[Settings], environ: Mapping[str, str], flags: Flags) -> list[Settings]:
    outside = _outside("dataset.path", environ, flags)
    if outside is None or not found:
        return list(found)
    origin, raw = outside
    path = found[0].read("dataset.path", raw, origin, Path())
    if path is None:
        return []
    chosen = [one for one in found if real_path(one.get("dataset.path")) == real_path(path)]
    if not chosen:
        names = ", ".join(printable(str(one.get("dataset.path"))) for one in found)
        found[0].reject(Problem(origin, f"{shown_value(raw)} is none of the configured datasets", f"they are: {names}"))
    return chosen


def _reject_shared_files(found: Sequence[Settings]) -> None:
    """Reject datasets that share a file, and give each the list of the others."""
    targets = [Dataset(**one.table("dataset")) for one in found]
    for number, one in enumerate(found):
        one.others = tuple(target for other, target in enumerate(targets) if other != number)
    for (_, earlier), (later, target) in combinations(zip(found, targets, strict=True), 2):
        key = _shared_key(earlier, target)
        if key is not None:
            cause = f"{shown_value(str(getattr(target, key)))} would be mixed up with {shown_value(str(earlier.path))}"
            origin = later.origin(f"dataset.{key}") or later.origin("dataset.path") or ""
            later.reject(Problem(origin, cause, "each dataset needs a path and a ledger of its own"))


def _shared_key(one: Dataset, other: Dataset) -> str | None:
    """Return the key of ``other`` whose path is also a file of ``one``; None if they share none."""
    files = _files_of(one.path) | {real_path(one.ledger)}
    if files & _files_of(other.path) or _has_part(one, _files_of(other.path)) or _has_part(other, files):
        return "path"
    ledger = {real_path(other.ledger)}
    return "ledger" if files & ledger or _has_part(one, ledger) else None


def _files_of(path: Path) -> set[Path]:
    """Return the paths of a dataset and of its companion files, without its parts."""
    return {real_path(file) for file in (path, lock_file(path), dead_letters_path(path), manifest_path(path))}


def _has_part(dataset: Dataset, files: set[Path]) -> bool:
    folder, is_part = real_path(dataset.path).parent, part_names(dataset.path).fullmatch
    return any(file.parent == folder and is_part(file.name) for file in files)


def _take_outside(settings: Settings, keys: Iterable[str], environ: Mapping[str, str], flags: Flags) -> None:
    """Read some keys from flags and variables."""
    for key in keys:
        outside = _outside(key, environ, flags)
        if outside is not None:
            origin, text = outside
            settings.take(key, text, origin, Path())


def _outside(key: str, environ: Mapping[str, str], flags: Flags) -> tuple[str, str] | None:
    """Return the flag or variable that sets a key, and its value; None if none does."""
    text = getattr(flags, flag_of(key))
    if text is not None:
        return f"--{flag_of(key)}", text
    variable = next((name for name in VARIABLES[key] if environ.get(name)), None)
    return (variable, environ[variable]) if variable is not None else None


def _config_file(config_file: Path | None, environ: Mapping[str, str]) -> Path | None:
    named = str(config_file) if config_file is not None else environ.get("STREAMER_CONFIG")
    return path_of(named, Path()) if named else None
