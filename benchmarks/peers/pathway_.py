"""Pathway, an incremental engine: join, group by conversation, one record of each. SHARDS DATABASE OUTPUT [live].

With ``live`` it goes on for ever, at the smallest commit interval that it takes. Conversations are equal if
their bytes are, as in the bare loop.
"""

import os
import sqlite3
import sys
from typing import Any

os.environ["PATHWAY_THREADS"] = "2"

import pathway as pw

from benchmarks.peers.bare_loop import parse

_COMMIT_MS = 1


_OUTCOME = pw.schema_builder(
    {
        "id": pw.column_definition(dtype=int, primary_key=True),
        "session_id": pw.column_definition(dtype=str),
        "total_reward": pw.column_definition(dtype=int),
    }
)


def main(shards: str, database: str, output: str, mode: str = "static") -> None:
    """Copy the lines of qualifying rollouts to ``output``, each conversation once."""
    live = mode == "live"
    lines = pw.io.plaintext.read(shards, mode="streaming" if live else "static", autocommit_duration_ms=_COMMIT_MS)
    lines = lines.select(pw.this.data, look=pw.apply_with_type(_look, tuple[str, bytes], pw.this.data))
    lines = lines.select(pw.this.data, session=pw.this.look[0], key=pw.this.look[1])
    if live:
        outcomes = pw.io.sqlite.read(database, "outcome_rewards", _OUTCOME, autocommit_duration_ms=_COMMIT_MS)
    else:
        outcomes = pw.debug.table_from_rows(_OUTCOME, _outcomes(database))
    good = outcomes.filter(pw.this.total_reward > 0)
    met = lines.join(good, lines.session == good.session_id).select(lines.data, lines.key)
    kept = met.groupby(met.key).reduce(data=pw.reducers.earliest(met.data))
    with open(output, "w") as out:

        def write(key: Any, row: dict[str, Any], time: int, is_addition: bool) -> None:  # noqa: ARG001, FBT001
            out.write(row["data"] + "\n")

        pw.io.subscribe(kept, on_change=write, on_time_end=lambda _time: out.flush())
        pw.run(monitoring_level=pw.MonitoringLevel.NONE)


def _look(data: str) -> tuple[str, bytes]:
    line = parse(data)
    return line.session(), line.key()


def _outcomes(database: str) -> list[tuple[int, str, int]]:
    db = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    return db.execute("SELECT id, session_id, total_reward FROM outcome_rewards").fetchall()


if __name__ == "__main__":
    main(*sys.argv[1:])
