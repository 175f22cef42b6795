"""Read config.toml into the settings."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import NoReturn

from streamer.base.errors import ConfigError
from streamer.base.text import printable
from streamer.config.keys import KEYS, OVERRIDABLE, unknown
from streamer.config.settings import DatasetEntry, Problem, Settings
from streamer.config.values import shown_value


def take_file(settings: Settings, file: Path) -> None:
    """Read a file into the settings, where its tables [[dataset]] are kept as entries."""
    shown = printable(str(file))
    for name, table in parse_file(file).items():
        place = f"{shown}: {printable(name)}"
        if name == "cap":
            _take_caps(settings, table, place, file.parent, "[[cap]]")
        elif name not in KEYS:
            settings.reject(Problem(place, *unknown(name, [*KEYS, "cap"])))
        elif name == "dataset" and isinstance(table, list):
            _keep_entries(settings, table, shown, file.parent)
        else:
            _take_table(settings, name, table, place, file.parent, f"[{name}]")


def take_entry(settings: Settings, entry: DatasetEntry) -> None:
    """Read one table [[dataset]] into the settings of that dataset."""
    for name, raw in entry.table.items():
        place = f"{entry.place}: {printable(name)}"
        if name in KEYS["dataset"]:
            settings.take(f"dataset.{name}", raw, place, entry.folder)
        elif name == "cap":
            settings.caps = ()
            _take_caps(settings, raw, place, entry.folder, "[[dataset.cap]]")
        elif name in OVERRIDABLE:
            _take_table(settings, name, raw, place, entry.folder, f"[dataset.{name}]")
        elif name in KEYS:
            settings.reject(Problem(place, "it is the same for all datasets", f"write [{name}] above [[dataset]]"))
        else:
            settings.reject(Problem(place, *unknown(name, [*KEYS["dataset"], *OVERRIDABLE, "cap"])))


def _keep_entries(settings: Settings, tables: list[object], shown: str, folder: Path) -> None:
    for number, table in enumerate(tables, 1):
        if isinstance(table, dict):
            settings.entries.append(DatasetEntry(table, f"{shown}: dataset {number}", folder))
        else:
            settings.reject(Problem(f"{shown}: dataset {number}", f"{shown_value(table)} is not a table"))
    if not tables:
        settings.reject(Problem(f"{shown}: dataset", "it is empty", "write [[dataset]]"))


def _take_caps(settings: Settings, tables: object, place: str, folder: Path, header: str) -> None:
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        settings.reject(Problem(place, f"{shown_value(tables)} is not a list of tables", f"write {header}"))
        return
    for number, table in enumerate(tables, 1):
        settings.take_cap(table, f"{place} {number}", folder)


def _take_table(settings: Settings, name: str, table: object, place: str, folder: Path, header: str) -> None:
    if not isinstance(table, dict):
        settings.reject(Problem(place, f"{shown_value(table)} is not a table", f"write {header}"))
        return
    for key, raw in table.items():
        where = f"{place}.{printable(key)}"
        if key in KEYS[name]:
            settings.take(f"{name}.{key}", raw, where, folder)
        else:
            settings.reject(Problem(where, *unknown(key, list(KEYS[name]))))


def parse_file(file: Path) -> dict[str, object]:
    """Parse a TOML file.

    Raises:
        ConfigError: It cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(file.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        _refuse(file, "there is no such file", "name another one with --config or STREAMER_CONFIG")
    except OSError as error:
        _refuse(file, error.strerror or str(error))
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        _refuse(file, f"it is not UTF-8 (at line {line})")
    except ValueError as error:
        # Mostly TOMLDecodeError, which names line and column; tomllib lets a few plain ones through.
        _refuse(file, f"it is not TOML: {printable(str(error))}")
    except RecursionError:
        _refuse(file, "it is not TOML that anyone would write: it is nested too deeply")


def _refuse(file: Path, cause: str, hint: str = "") -> NoReturn:
    raise ConfigError("read the configuration", printable(str(file)), cause, hint) from None
