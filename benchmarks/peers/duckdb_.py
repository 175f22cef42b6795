"""DuckDB: one query over all shards. SHARDS DATABASE OUTPUT.

The outcomes come in through Python's sqlite3, as DuckDB's own reader of SQLite is an extension that has to be
downloaded. Conversations are equal if their JSON is, text for text, by MD5: faster than by the text itself.
"""

import os
import sqlite3
import sys

import duckdb

_THREADS = 2
_LONGEST_LINE = 64 << 20
_COLUMNS = (
    "{run_id: 'VARCHAR', turn: 'INT', model: 'VARCHAR', provider: 'VARCHAR', dialogue: 'JSON', dialogue_text: 'JSON',"
    " assistant: 'JSON', metadata: 'JSON', timestamp: 'VARCHAR'}"
)
_TASKAPP = _COLUMNS, "run_id", "concat(dialogue, assistant)"
_MESSAGES = "{messages: 'JSON', metadata: 'JSON'}", "metadata->>'run_id'", "messages"


def main(shards: str, database: str, output: str) -> None:
    """Copy the lines of qualifying rollouts to ``output``, each conversation once."""
    rows = sqlite3.connect(f"file:{database}?mode=ro", uri=True).execute(
        "SELECT session_id FROM outcome_rewards WHERE total_reward > 0"
    )
    good = [session for (session,) in rows]
    columns, session, conversation = _MESSAGES if os.listdir(shards)[0].startswith("sft_") else _TASKAPP
    db = duckdb.connect(config={"threads": _THREADS, "preserve_insertion_order": False})
    db.execute("CREATE TABLE good AS SELECT unnest(?) AS session", [good])
    db.execute(
        f"COPY (SELECT DISTINCT ON (md5({conversation})) *"
        f" FROM read_ndjson('{shards}/*.jsonl', columns={columns}, maximum_object_size={_LONGEST_LINE})"
        f" WHERE {session} IN (SELECT session FROM good)) TO '{output}' (FORMAT json)"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
