"""Frozen samples: a folder that an earlier version left, kept as text, and put back as it was."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from streamer import follow

FROZEN = Path(__file__).parents[1] / "data" / "v0.1"
"""What version 0.1 left behind. It never changes: a new version adds a folder of its own."""

HOME = "/data"
"""Stands for the folder that a sample was made in."""

_DUMPED = {"good.jsonl.ledger": "ledger.sql", "traces.db": "traces.sql"}


def dump(database: Path) -> str:
    """Return a SQLite database as text, with the numbers that say what kind of database it is."""
    with closing(sqlite3.connect(database)) as db:
        numbers = "".join(
            f"PRAGMA {name}={db.execute(f'PRAGMA {name}').fetchone()[0]};\n"
            for name in ("application_id", "user_version", "journal_mode")
        )
        return numbers + "\n".join(db.iterdump()) + "\n"


def freeze(folder: Path, target: Path) -> None:
    """Copy a folder of shards, dataset, ledger and trace database; databases become text."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.ledger*", "*.db", "*.lock", "log"))
    for name, script in _DUMPED.items():
        if (folder / name).exists():
            (target / script).write_text(dump(folder / name).replace(str(folder), HOME))


def stable(text: str, folder: Path) -> Any:
    """Return the JSON that a command printed, without names of folders, and what depends on times; None for none."""
    found = json.loads(text.replace(str(folder), HOME)) if text else None
    if isinstance(found, dict):
        return {key: value for key, value in found.items() if not key.endswith(("_seconds", "lag"))}
    return found


def thaw(name: str, folder: Path) -> Path:
    """Put one of the frozen folders back, at ``folder``, and return it."""
    shutil.copytree(FROZEN / name, folder, dirs_exist_ok=True)
    for database, name_of_script in _DUMPED.items():
        script = folder / name_of_script
        if script.exists():
            with closing(sqlite3.connect(folder / database)) as db:
                db.executescript(script.read_text())
            script.unlink()
    return folder


def said(run: str, turn: int) -> str:
    """Return what is said in one turn of a rollout, by nobody else."""
    return " ".join(f"{run}-{turn}-{word}" for word in range(30))


def coming(dataset: Path, token: str) -> int:
    """Return how many records come after a token."""
    with follow(dataset, start=token, wait=False) as reader:
        return sum(1 for _ in reader)
