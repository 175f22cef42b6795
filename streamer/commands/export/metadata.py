"""Metadata as columns of fixed types, whatever types shards held."""

from __future__ import annotations

from typing import Any

import msgspec

from streamer.core.records.schema import METADATA_KEYS

COLUMNS: dict[str, type] = {
    "run_id": str,
    "turn": int,
    "model": str,
    "provider": str,
    "total_reward": float,
    "achievements_count": int,
    "total_steps": int,
    "has_image": bool,
    "timestamp": str,
    "shard": str,
}
"""The metadata keys of every line, and their types."""

assert tuple(COLUMNS) == METADATA_KEYS  # noqa: S101 - a key added there needs a type here

_LARGEST = 1 << 63
_encode = msgspec.json.Encoder().encode


def columns_of(metadata: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Return (columns, all other values as a JSON object).

    A value of another type than its column is null in the column, and unchanged in the object: no value is lost.
    """
    columns = {name: _fitted(metadata.get(name), kind) for name, kind in COLUMNS.items()}
    rest = {
        key: value
        for key, value in metadata.items()
        if key not in COLUMNS or (columns[key] is None and value is not None)
    }
    return columns, _encode(rest).decode()


def _fitted(value: object, kind: type) -> Any:
    if isinstance(value, bool):
        return value if kind is bool else None
    if kind is float and isinstance(value, int) and abs(value) < 1 << 53:  # a larger one would be another number
        return float(value)
    if kind is int and isinstance(value, int):
        return value if -_LARGEST <= value < _LARGEST else None
    return value if isinstance(value, kind) else None
