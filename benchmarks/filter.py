"""How fast ``streamer filter`` is, and in how much memory.

    python -m benchmarks.filter make traces.db --sessions 100000 --messages 20
    python -m benchmarks.filter run traces.db
    python -m benchmarks.filter duckdb traces.db     # the bare join of the same rows, if duckdb is installed

DuckDB fetches its extension for SQLite when it is first used; where it may not,
``pip install duckdb==1.5.5 duckdb-extension-sqlite-scanner==1.5.5`` brings one.

``make`` writes a trace database as the task app does: 20 messages a session are six decisions of three rows and a
system and a user row without a reply. ``--calls`` adds the events with their call records, which repeat the prompt.
``run`` filters all of it in a process of its own, and prints seconds, lines and the peak of its memory.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import resource
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
_ROWS_OF_DECISION = 3
_CHUNK = 500
_SYSTEM = "You are playing Crafter, a survival game. " + "Collect resources, craft tools, survive. " * 18
_TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE session_traces (
  session_id VARCHAR PRIMARY KEY, created_at DATETIME NOT NULL, num_timesteps INTEGER NOT NULL,
  num_events INTEGER NOT NULL, num_messages INTEGER NOT NULL, metadata TEXT, experiment_id VARCHAR
);
CREATE TABLE messages (
  id INTEGER PRIMARY KEY AUTOINCREMENT, session_id VARCHAR NOT NULL, timestep_id INTEGER,
  message_type VARCHAR NOT NULL, content TEXT NOT NULL, timestamp DATETIME, event_time FLOAT, message_time INTEGER,
  metadata TEXT
);
CREATE TABLE events (
  id INTEGER PRIMARY KEY AUTOINCREMENT, session_id VARCHAR NOT NULL, timestep_id INTEGER, event_type VARCHAR NOT NULL,
  event_time FLOAT, model_name VARCHAR, provider VARCHAR, call_records TEXT
);
CREATE TABLE outcome_rewards (
  id INTEGER PRIMARY KEY AUTOINCREMENT, session_id VARCHAR NOT NULL, total_reward INTEGER NOT NULL,
  achievements_count INTEGER NOT NULL, total_steps INTEGER NOT NULL, created_at DATETIME NOT NULL, reward_metadata TEXT
);
CREATE INDEX idx_session_created ON session_traces (created_at);
CREATE INDEX idx_message_session_step ON messages (session_id, timestep_id);
CREATE INDEX idx_event_session_step ON events (session_id, timestep_id);
CREATE INDEX idx_outcome_rewards_session ON outcome_rewards (session_id);
"""


def make(path: Path, sessions: int, messages: int, *, calls: bool) -> None:
    """Write a trace database with so many sessions, of so many messages each."""
    path.unlink(missing_ok=True)
    rng = random.Random(7)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript(_TABLES)
        for first in range(0, sessions, _CHUNK):
            db.execute("BEGIN")
            for number in range(first, min(first + _CHUNK, sessions)):
                _session(db, rng, number, messages, calls=calls)
            db.execute("COMMIT")


def _session(db: sqlite3.Connection, rng: random.Random, number: int, messages: int, *, calls: bool) -> None:
    name = f"{rng.getrandbits(128):032x}"
    start = _EPOCH + timedelta(seconds=number)
    decisions = -(-messages // _ROWS_OF_DECISION)
    metadata = {"run_id": name, "policy_name": "crafter-react", "env_name": "crafter", "seed": number}
    db.execute(
        "INSERT INTO session_traces VALUES (?, ?, ?, ?, ?, ?, NULL)",
        (name, start.isoformat(), decisions, decisions, messages, json.dumps(metadata)),
    )
    steps = [number * decisions + i + 1 for i in range(decisions)]
    rows = list(_messages(rng, name, start.timestamp(), steps))[:messages]
    db.executemany(
        "INSERT INTO messages (session_id, timestep_id, message_type, content, event_time, metadata)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        rows,
    )
    if calls:
        db.executemany(
            "INSERT INTO events (session_id, timestep_id, event_type, event_time, model_name, provider, call_records)"
            " VALUES (?, ?, 'cais', ?, 'gpt-4o-mini', 'custom', ?)",
            (_call(rows, i) for i in range(2, len(rows), _ROWS_OF_DECISION)),
        )
    reward = rng.choice((0, 0, 1, 2, 3))
    created = (start + timedelta(seconds=30)).isoformat()
    db.execute(
        "INSERT INTO outcome_rewards (session_id, total_reward, achievements_count, total_steps, created_at)"
        " VALUES (?, ?, ?, 80, ?)",
        (name, reward, reward, created),
    )


def _messages(rng: random.Random, name: str, start: float, steps: list[int]) -> Iterator[tuple[Any, ...]]:
    for turn, step in enumerate(steps):
        metadata = json.dumps({"turn": turn, "step_id": f"decision_{turn}"})
        seen = " ".join(rng.choice(("grass", "tree", "stone", "water", "sand")) for _ in range(81))
        state = f"=== CRAFTER GAME STATE ===\nStep: {turn * 10}/10000\nHealth: 9\nLocal Map View:\n{seen}\nChoose."
        acts = [rng.choice(("move_left", "move_right", "do", "sleep", "place_table")) for _ in range(6)]
        reply = json.dumps([{"tool_name": "interact_many", "arguments": {"actions": acts}}])
        system = json.dumps({"role": "system", "text": _SYSTEM, "content": _SYSTEM})
        user = json.dumps({"role": "user", "text": state, "content": state})
        yield name, step, "system", system, start + turn, metadata
        yield name, step, "user", user, start + turn + 0.1, metadata
        yield name, step, "assistant", reply, start + turn + 0.5, metadata[:-1] + ', "is_tool_call": true}'


def _call(rows: list[tuple[Any, ...]], i: int) -> tuple[Any, ...]:
    name, step, _, reply, moment, _ = rows[i]
    asked = [json.loads(row[3]) for row in rows[i - 2 : i]]
    [called] = json.loads(reply)
    record = {
        "request_params": {"raw_params": {"messages": asked, "tools": [_SYSTEM]}},
        "input_messages": [{"role": m["role"], "parts": [{"type": "text", "text": m["text"]}]} for m in asked],
        "output_text": "I look for a tree.",
        "output_tool_calls": [{"name": called["tool_name"], "arguments_json": json.dumps(called["arguments"])}],
    }
    return name, step, moment - 0.1, json.dumps([record])


def run(path: Path, output: Path, keys: str) -> None:
    """Filter the database in a process of its own, and print what that took."""
    config = output.with_suffix(".toml")
    config.write_text(f"[filter]\ndb = {json.dumps(str(path))}\noutput = {json.dumps(str(output))}\n{keys}\n")
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "streamer", "filter", "--config", str(config)], check=False)
    seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cost = f"{seconds:.1f} s ({used.ru_utime + used.ru_stime:.1f} s of one core)"
    size = output.stat().st_size if output.exists() else 0
    _print(
        f"exit code {done.returncode}, {cost}, peak memory {used.ru_maxrss / 1024:.0f} MiB, output {size / 1e6:,.0f} MB"
    )


def duckdb(path: Path, output: Path) -> None:
    """Let DuckDB join the same rows and write them as JSON lines: no chat is made of them, none is compared."""
    if importlib.util.find_spec("duckdb") is None:
        _print("duckdb is not installed")
        return
    query = f"""
    {_sqlite_extension()} ATTACH '{path}' AS t (TYPE sqlite, READ_ONLY);
    COPY (
      SELECT m.session_id, m.timestep_id, list(m.content ORDER BY m.id) AS contents, any_value(o.total_reward) AS reward
      FROM t.messages m JOIN t.outcome_rewards o USING (session_id) WHERE o.total_reward >= 0.01
      GROUP BY m.session_id, m.timestep_id
    ) TO '{output}' (FORMAT json);
    """
    start = time.perf_counter()
    script = f"import duckdb; duckdb.execute({query!r})"
    done = subprocess.run([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        _print(f"duckdb cannot read SQLite here: {done.stderr.strip().splitlines()[-1]}")
        return
    seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cost = f"{seconds:.1f} s ({used.ru_utime + used.ru_stime:.1f} s of all cores)"
    _print(f"duckdb: {cost}, peak memory {used.ru_maxrss / 1024:.0f} MiB")


def _sqlite_extension() -> str:
    """Return how DuckDB gets its extension for SQLite: from PyPI if it is installed, else from its own servers."""
    found = importlib.util.find_spec("duckdb_extension_sqlite_scanner")
    if found is None or found.origin is None:
        return "INSTALL sqlite; LOAD sqlite;"
    return "".join(f"LOAD '{path}';" for path in Path(found.origin).parent.rglob("*.duckdb_extension"))


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def main() -> None:
    """Take the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("make", "run", "duckdb"))
    parser.add_argument("database", type=Path)
    parser.add_argument("--sessions", type=int, default=100_000)
    parser.add_argument("--messages", type=int, default=20, help="of each session")
    parser.add_argument("--calls", action="store_true", help="write call records, too")
    parser.add_argument("--output", type=Path, default=None)
    parser.add_argument("--keys", default="min_official_score = 0.01", help="more keys of [filter]")
    options = parser.parse_args()
    output = options.output or options.database.with_suffix(".jsonl")
    if options.what == "make":
        make(options.database, options.sessions, options.messages, calls=options.calls)
        _print(f"{options.database}: {os.path.getsize(options.database) / 1e6:,.0f} MB")
    elif options.what == "run":
        run(options.database, output, options.keys)
    else:
        duckdb(options.database, output)


if __name__ == "__main__":
    main()
