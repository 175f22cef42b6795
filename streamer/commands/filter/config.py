"""Reads the ``[filter]`` table of a TOML file into a frozen FilterConfig; an error names every bad key and value.

The keys have the names and the meaning of ``synth-ai filter``; docs/filter.md lists the differences.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Callable, Mapping
from datetime import date, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from streamer.base.errors import ConfigError
from streamer.base.secret import NO_SECRET, Secret
from streamer.base.text import printable
from streamer.config import parse_file, real_path, shown_value, token_of
from streamer.config.database_url import Server, locate, split_token
from streamer.core.records.layouts import time_us

_OP = "use the configuration"
_SUFFIXES = (".jsonl", ".json")
_LARGEST = 1 << 62


class FilterConfig(msgspec.Struct, frozen=True):
    """The source, the conditions and the output of a filter. A condition that is not set accepts everything.

    ``db`` is a path or a URL, ``token`` the token for a server, ``output`` the file to write. Times are microseconds
    since 1970-01-01 UTC. ``limit`` and ``offset`` count examples: lines of the output. Bounds are inclusive.
    """

    db: str
    output: Path
    splits: frozenset[str] = frozenset()
    task_ids: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()
    min_official_score: float | None = None
    max_official_score: float | None = None
    min_judge_scores: dict[str, float] = {}
    max_judge_scores: dict[str, float] = {}
    limit: int | None = None
    offset: int = 0
    shuffle: bool = False
    shuffle_seed: int = 0
    min_created_at: int | None = None
    max_created_at: int | None = None
    token: Secret = NO_SECRET

    @property
    def database(self) -> Path | Server:
        """The file or the server of the trace database."""
        return locate(self.db, self.token)


def load(file: Path, environ: Mapping[str, str] = MappingProxyType({})) -> FilterConfig:
    """Return the ``[filter]`` table of a file.

    Args:
        file: A TOML file; its other tables are ignored. Relative paths in it start from the working directory, as
            for ``synth-ai filter``.
        environ: The environment, which may hold the token for a server.

    Raises:
        ConfigError: the file cannot be read, or keys are unknown, bad or missing. All of them are named.
    """
    tables = parse_file(file)
    shown = printable(str(file))
    table = tables.get("filter")
    if not isinstance(table, dict):
        near = difflib.get_close_matches("filter", list(tables), n=1)
        hint = f"did you mean [filter] where it says [{printable(near[0])}]?" if near else "write [filter]"
        raise ConfigError(_OP, shown, "it has no table [filter]", hint)
    config = read(table, shown)
    return config if config.token else msgspec.structs.replace(config, token=token_of(environ))


def read(table: Mapping[str, object], shown: str) -> FilterConfig:
    """Return a ``[filter]`` table; ``shown`` is the name of its file, for errors.

    Raises:
        ConfigError: keys are unknown, bad or missing. All of them are named.
    """
    problems: list[str] = []
    values: dict[str, Any] = {}
    for key, raw in table.items():
        try:
            values[key] = _reader(key)(raw)
        except _UnfitError as unfit:
            problems.append(f"filter.{printable(key)}: {unfit}")
    problems += [f"filter.{key}: it is missing" for key in ("db", "output") if key not in table]
    problems += _contradictions(values, table)
    if not problems:
        values["db"], token = split_token(values["db"])
        return FilterConfig(**values, token=token)
    if len(problems) == 1:
        where, _, cause = problems[0].partition(": ")
        raise ConfigError(_OP, f"{shown}: {where}", cause)
    raise ConfigError(_OP, f"{len(problems)} problems", "\n  ".join(["each has to be put right", *problems]))


class _UnfitError(Exception):
    """A key or value that cannot be used; the argument is the reason."""


def _unfit(raw: object, allowed: str) -> _UnfitError:
    return _UnfitError(f"{shown_value(raw)} is not {allowed}")


def _reader(key: str) -> Callable[[object], Any]:
    if key in _KEYS:
        return _KEYS[key]
    near = difflib.get_close_matches(key, list(_KEYS), n=1)
    meant = f"did you mean {near[0]}?" if near else f"known are {', '.join(_KEYS)}"
    raise _UnfitError(f"there is no such key ({meant})")


def _contradictions(values: Mapping[str, Any], table: Mapping[str, object]) -> list[str]:
    """Return the contradictions between values that are valid alone."""
    found = [
        f"filter.{low}: {shown_value(table[low])} is above {high}, which is {shown_value(table[high])}"
        for low, high in (("min_official_score", "max_official_score"), ("min_created_at", "max_created_at"))
        if values.get(low) is not None and values.get(high) is not None and values[low] > values[high]
    ]
    ceilings = values.get("max_judge_scores", {})
    found += [
        f"filter.min_judge_scores.{printable(judge)}: {floor} is above its max_judge_scores, which is {ceilings[judge]}"
        for judge, floor in values.get("min_judge_scores", {}).items()
        if judge in ceilings and floor > ceilings[judge]
    ]
    if "shuffle_seed" in values and not values.get("shuffle"):
        found.append("filter.shuffle_seed: it needs shuffle = true")
    if "db" in values and "output" in values and _is_database(values["db"], values["output"]):
        found.append("filter.output: it is the trace database")
    return found


def _is_database(db: str, output: Path) -> bool:
    """Return whether the output is the file of the database, or one of its journals."""
    place = locate(db)
    if isinstance(place, Server):
        return False
    database = str(real_path(place))
    return str(output) in (database, f"{database}-wal", f"{database}-shm", f"{database}-journal")


def _text(raw: object, allowed: str) -> str:
    if isinstance(raw, str) and raw.strip() and "\0" not in raw:
        return raw.strip()
    raise _unfit(raw, allowed)


def _db(raw: object) -> str:
    text = _text(raw, "the path or the URL of a trace database")
    try:
        locate(text)
    except ConfigError as error:
        raise _UnfitError(f"{error.where} cannot be read: {error.cause}; {error.hint}") from None
    return text


def _output(raw: object) -> Path:
    allowed = "the path of a .jsonl or .json file"
    path = real_path(Path(os.path.expanduser(_text(raw, allowed))))
    if path.suffix.lower() not in _SUFFIXES or path.is_dir():
        raise _unfit(raw, allowed)
    return path


def _names(raw: object) -> frozenset[str]:
    allowed = 'a list of texts such as ["train"]'
    items = [raw] if isinstance(raw, str) else raw
    if not isinstance(items, list):
        raise _unfit(raw, allowed)
    for item in items:
        if not isinstance(item, str):
            raise _UnfitError(f"{shown_value(item)} in it is not a text: write {allowed}")
    return frozenset(_text(item, allowed) for item in items)


def _score(raw: object) -> float:
    if isinstance(raw, int | float) and not isinstance(raw, bool) and abs(raw) < _LARGEST and math.isfinite(raw):
        return float(raw)
    raise _unfit(raw, "a finite number")


def _judge_scores(raw: object) -> dict[str, float]:
    if not isinstance(raw, dict):
        raise _unfit(raw, "a table of judges such as { quality = 0.5 }")
    scores = {}
    for judge, score in raw.items():
        try:
            scores[judge] = _score(score)
        except _UnfitError as unfit:
            raise _UnfitError(f"{printable(judge)}: {unfit}") from None
    return scores


def _whole(low: int) -> Callable[[object], int]:
    def read_whole(raw: object) -> int:
        if isinstance(raw, int) and not isinstance(raw, bool) and low <= raw <= _LARGEST:
            return raw
        raise _unfit(raw, f"a whole number from {low} on")

    return read_whole


def _seed(raw: object) -> int:
    if isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    raise _unfit(raw, "a whole number")


def _boolean(raw: object) -> bool:
    if isinstance(raw, bool):
        return raw
    raise _unfit(raw, "true or false")


def _moment(raw: object) -> int:
    value = raw.isoformat() if isinstance(raw, date | datetime) else raw
    moment = time_us(value)
    if moment is None:
        raise _unfit(raw, 'a time such as "2026-01-31T12:00:00Z" (without a zone it is UTC), or a number of seconds')
    return moment


_KEYS: dict[str, Callable[[object], Any]] = {
    "db": _db,
    "output": _output,
    "splits": _names,
    "task_ids": _names,
    "models": _names,
    "min_official_score": _score,
    "max_official_score": _score,
    "min_judge_scores": _judge_scores,
    "max_judge_scores": _judge_scores,
    "limit": _whole(1),
    "offset": _whole(0),
    "shuffle": _boolean,
    "shuffle_seed": _seed,
    "min_created_at": _moment,
    "max_created_at": _moment,
}
