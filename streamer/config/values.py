"""Parsers that convert one raw value, or report the allowed values.

Each takes the raw value and the folder that relative paths start from.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from streamer.base.address import Address, parse_address
from streamer.base.errors import ConfigError
from streamer.base.text import printable
from streamer.config.database_url import server_of
from streamer.config.fleet_names import is_name, parse_partitions
from streamer.config.fleet_table import MOST_PARTITIONS
from streamer.config.tables import DAY, DEFAULT_WHERE, MIB
from streamer.core.verdicts.caps import METADATA, PROMPT
from streamer.core.verdicts.turns import DEFAULT_REWARD_TYPE

Parser = Callable[[object, Path], Any]
"""(raw value, folder that relative paths start from) -> value; raises BadValueError."""

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY}
_BYTES = {"b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "kib": 1 << 10, "mib": MIB, "gib": 1 << 30}
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?) ?([A-Za-z]+)", re.ASCII)
_MIN_SECONDS, _MAX_SECONDS = 0.001, 3650 * DAY
_MAX_NUMBER = 1 << 40


class BadValueError(Exception):
    """An invalid value; the argument describes the allowed ones, as a noun phrase."""


def boolean(raw: object, _folder: Path) -> bool:
    """Parse true or false."""
    if isinstance(raw, bool):
        return raw
    raise BadValueError("true or false")


def _text_of(raw: object, allowed: str) -> str:
    """Return a text that is not blank and without NUL, which neither the operating system nor SQLite accepts."""
    if isinstance(raw, str) and raw.strip() and "\0" not in raw:
        return raw
    raise BadValueError(allowed)


def path_of(raw: object, folder: Path) -> Path:
    """Parse a path; "~" is the home folder."""
    return folder / os.path.expanduser(_text_of(raw, "a path"))


def file_of(raw: object, folder: Path) -> Path:
    """Parse a path to a file."""
    path = path_of(raw, folder)
    if path.name in ("", "..") or str(raw).endswith("/"):
        raise BadValueError("a path to a file")
    return path


def database_of(raw: object, folder: Path) -> str:
    """Parse the path or the URL of a trace database."""
    text = _text_of(raw, "the path or the URL of a trace database")
    try:
        server_of(text)
    except ConfigError as error:
        raise BadValueError(f"a server that can be read: {error.cause} ({error.hint})") from None
    return text if "://" in text or text.startswith("file:") else str(path_of(text, folder))


def pattern_of(raw: object, _folder: Path) -> str:
    """Parse a pattern for file names."""
    allowed = 'a pattern for file names such as "*.jsonl", without "/": sub-folders are always searched'
    text = _text_of(raw, allowed)
    if "/" in text:
        raise BadValueError(allowed)
    return text


def where_of(raw: object, _folder: Path) -> str:
    """Parse an SQL condition, without validating it."""
    allowed = f'an SQL condition such as "{DEFAULT_WHERE}", in UTF-8 and without NUL'
    text = _text_of(raw, allowed).strip()
    # An undecodable byte of the environment is a lone surrogate here, which SQLite rejects.
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise BadValueError(allowed)
    return text


def objective_of(raw: object, _folder: Path) -> str:
    """Parse the name of an objective."""
    return _text_of(raw, 'the name of an objective such as "reward"')


def models_of(raw: object, _folder: Path) -> tuple[str, ...]:
    """Parse a list of model names."""
    allowed = 'a list of model names such as ["gpt-5-nano"]'
    if not isinstance(raw, list):
        raise BadValueError(allowed)
    return tuple(_text_of(item, allowed) for item in raw)


def servers_of(raw: object, _folder: Path) -> tuple[str, ...]:
    """Parse the addresses of nats-servers."""
    return _urls(raw, ("nats", "tls"), 'a list of servers such as ["nats://one:4222", "tls://two:4222"]')


def monitors_of(raw: object, _folder: Path) -> tuple[str, ...]:
    """Parse the monitoring addresses of nats-servers."""
    return _urls(raw, ("http", "https"), 'a list of monitoring addresses such as ["http://one:8222"]')


def _urls(raw: object, schemes: tuple[str, ...], allowed: str) -> tuple[str, ...]:
    if not isinstance(raw, list) or not raw:
        raise BadValueError(allowed)
    urls = tuple(_text_of(item, allowed) for item in raw)
    for url in urls:
        try:
            found = urlsplit(url)
            fits = found.scheme in schemes and bool(found.hostname) and (found.port is None or found.port > 0)
        except ValueError:
            fits = False
        if not fits or not url.isascii() or not url.isprintable() or " " in url:
            raise BadValueError(allowed)
    return urls


def fleet_name_of(raw: object, _folder: Path) -> str:
    """Parse a name that is valid in subjects and streams."""
    if isinstance(raw, str) and is_name(raw):
        return raw
    raise BadValueError('1 to 64 letters, digits, "-" and "_", other than "ask", "receipt" and "alive"')


def buckets_of(raw: object, _folder: Path) -> frozenset[int]:
    """Parse the numbers of buckets."""
    found = parse_partitions(raw) if isinstance(raw, str) else None
    if found is None or max(found) >= MOST_PARTITIONS:
        raise BadValueError(f'numbers of buckets below {MOST_PARTITIONS} such as "0-15" or "0-7,12"')
    return found


def reward_type_of(raw: object, _folder: Path) -> str:
    """Parse a reward_type of event_rewards."""
    allowed = f'a reward_type of event_rewards such as "{DEFAULT_REWARD_TYPE}"'
    text = _text_of(raw, allowed)
    if not text.isprintable():
        raise BadValueError(allowed)
    return text


def reward_of(raw: object, _folder: Path) -> float:
    """Parse a reward."""
    if isinstance(raw, int | float) and not isinstance(raw, bool) and -_MAX_NUMBER <= raw <= _MAX_NUMBER:
        return float(raw)
    raise BadValueError("a number such as 1 or 0.5")


def address_of(raw: object, _folder: Path) -> Address:
    """Parse an address to listen on."""
    address = parse_address(raw) if isinstance(raw, str) else None
    if address is None:
        raise BadValueError('an address such as "127.0.0.1:8765", "[::1]:8765" or "localhost:8765"')
    return address


def whole(low: int, high: int) -> Parser:
    """Return a parser of whole numbers from ``low`` to ``high``."""

    def read(raw: object, _folder: Path) -> int:
        if isinstance(raw, int) and not isinstance(raw, bool) and low <= raw <= high:
            return raw
        raise BadValueError(f"a whole number from {low} to {high}")

    return read


def share(low: float) -> Parser:
    """Return a parser of numbers from ``low`` to 1."""

    def read(raw: object, _folder: Path) -> float:
        if isinstance(raw, int | float) and not isinstance(raw, bool) and low <= raw <= 1:
            return float(raw)
        raise BadValueError(f"a number from {low} to 1")

    return read


def counted_by(raw: object, _folder: Path) -> str:
    """Parse the property that a cap counts by."""
    allowed = '"prompt", "run_id", or a key of the metadata such as "metadata.env_seed"'
    by = _text_of(raw, allowed)
    if by in (PROMPT, "run_id") or (by.startswith(METADATA) and by != METADATA and by.isprintable()):
        return by
    raise BadValueError(allowed)


def one_of(choices: type[StrEnum]) -> Parser:
    """Return a parser of the values of an enum."""

    def read(raw: object, _folder: Path) -> StrEnum:
        if isinstance(raw, str) and raw in tuple(choices):
            return choices(raw)
        raise BadValueError("one of " + ", ".join(f'"{choice}"' for choice in choices))

    return read


def seconds(raw: object, _folder: Path) -> float:
    """Parse a duration, in seconds."""
    amount = _quantity(raw, _SECONDS)
    if amount is not None and _MIN_SECONDS <= amount <= _MAX_SECONDS:
        return float(amount)
    raise BadValueError('a number of seconds, or a duration such as "250ms", "5s", "10m", "24h", up to "3650d"')


def size(raw: object, _folder: Path) -> int:
    """Parse a size, in bytes."""
    amount = _quantity(raw.lower() if isinstance(raw, str) else raw, _BYTES)
    if amount is not None and 1 <= amount <= _MAX_NUMBER and amount == int(amount):
        return int(amount)
    raise BadValueError('a whole number of bytes, or a size such as "10MB", "64MiB", "1GiB", up to "1024GiB"')


def _quantity(raw: object, units: Mapping[str, float]) -> float | None:
    """Return a number unchanged, and a text such as "5s" in the base unit; None if it is neither.

    NaN and infinity pass; they fail the comparison with the bounds.
    """
    if isinstance(raw, int | float) and not isinstance(raw, bool):
        return raw
    match = _QUANTITY.fullmatch(raw) if isinstance(raw, str) else None
    return float(match[1]) * units[match[2]] if match and match[2] in units else None


def real_path(path: Path) -> Path:
    """Return the path with its links resolved, as far as possible."""
    # Path.resolve raises for circular links; opening the file gives a better error.
    return Path(os.path.realpath(path))


_MAX_SHOWN = 60
_LONG_NUMBER = 1 << 64


def shown_value(raw: object) -> str:
    """Return a raw value for messages, on one line and truncated."""
    if isinstance(raw, list | dict):
        return "a list" if isinstance(raw, list) else "a table"
    if isinstance(raw, bool):
        return str(raw).lower()
    if isinstance(raw, int) and abs(raw) > _LONG_NUMBER:
        # Python refuses to format a number of thousands of digits.
        return "a very long number"
    text = str(raw)
    text = printable(text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…")
    return f'"{text}"' if isinstance(raw, str) else text
