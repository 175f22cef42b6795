"""config.toml -> raw values, taken into the settings."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import NoReturn

from streamer.config.keys import KEYS, unknown
from streamer.config.settings import Problem, Settings
from streamer.config.values import shown_value
from streamer.errors import ConfigError
from streamer.text import printable


def take_file(settings: Settings, file: Path) -> None:
    """Take all that a file says into the settings."""
    shown = printable(str(file))
    for name, table in parse_file(file).items():
        if name == "cap":
            _take_caps(settings, table, file)
        elif name not in KEYS:
            settings.reject(Problem(f"{shown}: {printable(name)}", *unknown(name, [*KEYS, "cap"])))
        elif not isinstance(table, dict):
            settings.reject(Problem(f"{shown}: {name}", f"{shown_value(table)} is not a table", f"write [{name}]"))
        else:
            _take_table(settings, name, table, file)


def _take_caps(settings: Settings, tables: object, file: Path) -> None:
    shown = printable(str(file))
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        settings.reject(Problem(f"{shown}: cap", f"{shown_value(tables)} is not a list of tables", "write [[cap]]"))
        return
    for number, table in enumerate(tables, 1):
        settings.take_cap(table, f"{shown}: cap {number}", file.parent)


def _take_table(settings: Settings, name: str, table: dict[str, object], file: Path) -> None:
    shown = printable(str(file))
    for key, raw in table.items():
        where = f"{shown}: {name}.{printable(key)}"
        if key in KEYS[name]:
            settings.take(f"{name}.{key}", raw, where, file.parent)
        else:
            settings.reject(Problem(where, *unknown(key, list(KEYS[name]))))


def parse_file(file: Path) -> dict[str, object]:
    """Return what a TOML file holds.

    Raises:
        ConfigError: it cannot be read, or is no TOML.
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
