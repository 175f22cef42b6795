"""Apply a changed configuration at run time, as far as possible."""

from __future__ import annotations

from typing import Any

import msgspec

from streamer.config.tables import Config, Log


def changes(old: Config, new: Config) -> tuple[list[str], list[str]]:
    """Return the dotted keys that differ: (those that take effect at run time, those that need a restart)."""
    before, after = _flat(old), _flat(new)
    different = [key for key in before if before[key] != after[key]]
    return [key for key in different if _is_live(key)], [key for key in different if not _is_live(key)]


def reloaded(old: Config, new: Config) -> Config:
    """Return ``new``, with the keys that need a restart as in ``old``."""
    log = Log(level=new.log.level, format=old.log.format)
    names = ("source", "dataset", "dedup", "near", "roll", "web", "sink", "fleet", "others")
    fixed = {name: getattr(old, name) for name in names}
    return msgspec.structs.replace(new, log=log, **fixed)


def _is_live(key: str) -> bool:
    return key.partition(".")[0] in {"join", "qualify", "records", "cap", "retain", "batch"} or key == "log.level"


def _flat(config: Config) -> dict[str, Any]:
    """Return all values by dotted key."""
    flat: dict[str, Any] = {}
    for name, table in msgspec.structs.asdict(config).items():
        if name == "others":
            continue  # these datasets are compared on their own
        if name == "cap":
            flat[name] = table
            continue
        flat |= {f"{name}.{key}": value for key, value in msgspec.structs.asdict(table).items()}
    return flat
