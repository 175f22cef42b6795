"""Polars: one lazy query over all shards. SHARDS DATABASE OUTPUT.

Lines stay text, as a content that is a string here and a list there has no Polars type. Conversations are
equal if a 64-bit hash of their JSON is.
"""

import os
import sqlite3
import sys

os.environ["POLARS_MAX_THREADS"] = "2"

import polars as pl

_TASKAPP = "$.run_id", ("$.dialogue", "$.assistant")
_MESSAGES = "$.metadata.run_id", ("$.messages",)
_IN_NO_LINE = "\x01"


def main(shards: str, database: str, output: str) -> None:
    """Copy the lines of qualifying rollouts to ``output``, each conversation once."""
    rows = sqlite3.connect(f"file:{database}?mode=ro", uri=True).execute(
        "SELECT session_id FROM outcome_rewards WHERE total_reward > 0"
    )
    good = [session for (session,) in rows]
    run_id, conversation = _MESSAGES if os.listdir(shards)[0].startswith("sft_") else _TASKAPP
    line = pl.col("line")
    (
        pl.scan_lines(f"{shards}/*.jsonl", name="line")
        .filter(line.str.json_path_match(run_id).is_in(good))
        .with_columns(line.str.json_path_match(path).hash().alias(path) for path in conversation)
        .unique(subset=list(conversation))
        .select("line")
        .sink_csv(output, include_header=False, quote_style="never", separator=_IN_NO_LINE)
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
