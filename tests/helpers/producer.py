"""What a producer leaves behind, made to order, and what a test looks at afterwards.

Databases have the tables of the real task app, shards its two layouts. Times are given in seconds after
``EPOCH``. The last part opens pipelines on a folder that holds ``shards/`` and ``traces.db``, and checks
what holds after every commit.
"""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, Any

import anyio.lowlevel

from streamer.base.env import Env, no_failpoints
from streamer.base.files import Files
from streamer.config import Batch, Config, Dataset, Dedup, From, Join, Qualify, Source
from streamer.core.records.key import DedupBy
from streamer.core.verdicts.join import JoinRule
from streamer.core.verdicts.qualify import RecordRules
from streamer.daemon.build import open_pipeline
from streamer.daemon.pipeline import Pipeline
from streamer.store.parts.files import open_dataset
from streamer.store.views.snapshot import Snapshot, snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from streamer.base.events import Event

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
PNG = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5"
    "ErkJggg=="
)
_TABLES = """
CREATE TABLE experiments (experiment_id VARCHAR PRIMARY KEY, name VARCHAR);
CREATE TABLE session_traces (
  session_id VARCHAR PRIMARY KEY, created_at DATETIME NOT NULL, num_timesteps INTEGER NOT NULL,
  num_events INTEGER NOT NULL, num_messages INTEGER NOT NULL, metadata TEXT, experiment_id VARCHAR,
  embedding VECTOR, FOREIGN KEY(experiment_id) REFERENCES experiments(experiment_id)
);
CREATE TABLE outcome_rewards (
  id INTEGER PRIMARY KEY AUTOINCREMENT, session_id VARCHAR NOT NULL, total_reward INTEGER NOT NULL,
  achievements_count INTEGER NOT NULL, total_steps INTEGER NOT NULL, created_at DATETIME NOT NULL,
  reward_metadata TEXT, FOREIGN KEY(session_id) REFERENCES session_traces(session_id)
);
CREATE INDEX idx_outcome_rewards_session ON outcome_rewards (session_id);
CREATE INDEX idx_outcome_rewards_total ON outcome_rewards (total_reward);
"""
_call_ids = count()


class FakeClock:
    """Time that passes only when it is told to. It begins now, as the times of files are real."""

    def __init__(self) -> None:
        self._start = time.time()
        self.passed = 0.0

    def now(self) -> float:
        """Return seconds since 1970-01-01 UTC."""
        return self._start + self.passed

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return self.passed

    async def sleep(self, seconds: float) -> None:
        """Let time pass, and others run."""
        self.advance(seconds)
        await anyio.lowlevel.checkpoint()

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.passed += seconds


# -- the trace database ------------------------------------------------------------------------------------


def make_traces(path: Path, *, wal: bool = False) -> Path:
    """Create an empty trace database as the task app does; with ``wal`` as sqld does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA journal_mode={'wal' if wal else 'delete'}")
        db.executescript(_TABLES)
    return path


def add_outcome(path: Path, session: str, reward: object, seconds: float = 0.0, **more: Any) -> int:
    """Add an outcome row, and its session if that is new; return the row's id. ``more`` is of its metadata."""
    created = (EPOCH + timedelta(seconds=seconds)).isoformat(timespec="microseconds")
    metadata = json.dumps({"env_id": "env", "policy_id": "policy", "env_seed": 7, "final_achievements": []} | more)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(
            "INSERT OR IGNORE INTO session_traces (session_id, created_at, num_timesteps, num_events, num_messages,"
            " metadata) VALUES (?, ?, 8, 8, 16, ?)",
            (session, created, json.dumps({"run_id": session, "env_name": "crafter", "seed": 7})),
        )
        row = db.execute(
            "INSERT INTO outcome_rewards (session_id, total_reward, achievements_count, total_steps, created_at,"
            " reward_metadata) VALUES (?, ?, 1, 8, ?, ?)",
            (session, reward, created, metadata),
        )
        assert row.lastrowid is not None
        return row.lastrowid


def correct_outcome(path: Path, row: int, reward: object) -> None:
    """Correct the reward of an outcome row, as a late judge does."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE outcome_rewards SET total_reward = ? WHERE id = ?", (reward, row))


# -- shards ------------------------------------------------------------------------------------------------


def iso(seconds: float) -> str:
    """Return a record's timestamp: naive UTC."""
    return (EPOCH + timedelta(seconds=seconds)).replace(tzinfo=None).isoformat()


def call(name: str = "interact_many", **arguments: Any) -> dict[str, Any]:
    """Return a tool call with an id that no other one has."""
    function = {"name": name, "arguments": json.dumps(arguments or {"actions": ["move_left", "do"]})}
    return {"id": f"call_{next(_call_ids):08x}", "type": "function", "function": function}


def prompt(text: str, *, image: bool = False) -> list[dict[str, Any]]:
    """Return what a policy is asked: a system and a user message."""
    parts = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": PNG}}]
    return [
        {"role": "system", "content": "You are playing Crafter."},
        {"role": "user", "content": parts if image else text},
    ]


def dialogue(
    run: str, turn: int = 0, text: str = "state", *, image: bool = False, seconds: float | None = 0.0, **more: Any
) -> dict[str, Any]:
    """Return the value of one line in the layout that the task app writes; the reply is a tool call."""
    asked = prompt(text, image=image)
    reply: dict[str, Any] = {"content": "", "content_text": "", "tool_calls": [call()], "has_image": False}
    value: dict[str, Any] = {
        "run_id": run,
        "turn": turn,
        "model": "gpt-4o-mini",
        "provider": "custom",
        "dialogue": asked,
        "dialogue_text": [{"role": message["role"], "content": text} for message in asked],
        "assistant": reply,
        "metadata": {"user_has_image": image, "assistant_has_image": False, "has_image": image},
        **more,
    }
    return value if seconds is None else value | {"timestamp": iso(seconds)}


def messages(run: str, turn: int = 0, text: str = "state", *, image: bool = False, **more: Any) -> dict[str, Any]:
    """Return the value of one line in the layout that the pipeline documents: without a time."""
    reply = {"role": "assistant", "content": "", "tool_calls": [call()]}
    metadata = {"run_id": run, "turn": turn, "model": "gpt-4o-mini", "reward": 1.0}
    return {"messages": [*prompt(text, image=image), reply], "metadata": metadata, **more}


def conversation(value: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the messages that a trainer should get of a line's value, in either layout."""
    if "messages" in value:
        found: list[dict[str, Any]] = value["messages"]
        return found
    reply = {key: part for key, part in value["assistant"].items() if key not in ("content_text", "has_image")}
    return [*value["dialogue"], {"role": "assistant", **reply}]


def jsonl(*values: Any) -> bytes:
    """Return values as finished lines."""
    return b"".join(json.dumps(value, ensure_ascii=False).encode() + b"\n" for value in values)


GOOD = jsonl(messages("run-a")).rstrip(b"\n")
DEEP = b"[" * 10_000 + b"]" * 10_000


def put(key: str, raw: bytes) -> bytes:
    """Return a good line with one more key, whose value is ``raw``, be it JSON or not."""
    return GOOD[:-1] + b', "%s": %s}' % (key.encode(), raw)


def bare(value: object) -> Any:
    """Return a conversation without the random ids of its calls, to compare it with others."""
    if isinstance(value, list):
        return [bare(item) for item in value]
    if isinstance(value, dict):
        return {key: bare(item) for key, item in value.items() if key not in ("id", "tool_call_id")}
    return value


# -- the consumer ------------------------------------------------------------------------------------------


def settings(
    folder: Path,
    *,
    where: str = "total_reward > 0",
    join: JoinRule = JoinRule.AS_OF,
    by: DedupBy = DedupBy.CONVERSATION,
    batch: int = 2000,
    max_line: int = 1 << 20,
    never_scored_after: float = 86_400.0,
    conversations: From = From.SHARDS,
    records: RecordRules | None = None,
) -> Config:
    """Return the configuration of a daemon that works in ``folder``."""
    path = folder / "out" / "good.jsonl"
    return Config(
        source=Source(folder / "shards", str(folder / "traces.db"), conversations, max_line_bytes=max_line),
        dataset=Dataset(path, path.with_name("good.jsonl.ledger")),
        join=Join(join, never_scored_after),
        qualify=Qualify(where),
        records=records or RecordRules(),
        dedup=Dedup(by),
        batch=Batch(records=batch),
    )


def work_off(
    config: Config,
    clock: FakeClock | None = None,
    files: Files | None = None,
    failpoint: Callable[[str], None] = no_failpoints,
) -> list[Event]:
    """Open a pipeline, work off what is there, close it, and return what it told."""
    events: list[Event] = []
    clock = clock or FakeClock()

    async def main() -> None:
        async with open_pipeline(
            config, Env(files=files or Files(), clock=clock, emit=events.append, failpoint=failpoint)
        ) as pipeline:
            await settle(pipeline, clock)

    anyio.run(main)
    return events


async def settle(pipeline: Pipeline, clock: FakeClock) -> None:
    """Work everything off: changes that are too recent to be trusted, and sweeps over known outcomes, too."""
    for _ in range(3):
        await pipeline.drain()
        clock.advance(60.0)


def written(dataset: Path) -> bytes:
    """Return what a dataset holds, in all of its files."""
    with open_dataset(dataset) as files:
        return files.read(files.length, 0)


def records(config: Config) -> list[dict[str, Any]]:
    """Return the values of all dataset lines; each line has to be whole."""
    data = written(config.dataset.path)
    assert data.endswith(b"\n") or not data
    return [json.loads(line) for line in data.splitlines()]


def conversations(values: Iterable[dict[str, Any]]) -> list[str]:
    """Return conversations in a form that can be sorted and compared, ids of calls left out."""
    return sorted(json.dumps(bare(conversation(value)), sort_keys=True) for value in values)


def accounts(config: Config) -> Snapshot:
    """Return the accounts, after seeing that they add up (rule 1), to each other and to the files."""
    seen = snapshot(config.dataset.path, config.dataset.ledger)
    with closing(sqlite3.connect(f"file:{config.dataset.ledger}?mode=ro", uri=True)) as db:
        spans = db.execute("SELECT state, reason, sum(lines) FROM span GROUP BY state, reason").fetchall()
        tally = db.execute("SELECT state, reason, lines FROM tally WHERE lines").fetchall()
        keys = db.execute("SELECT count(*) FROM record").fetchone()[0]
    dead = config.dataset.path.with_name("good.jsonl.dead.jsonl")
    lines = len(records(config))
    assert sorted(spans) == sorted(tally)
    assert seen.read == sum(lines for _, _, lines in spans)
    assert seen.counts["appended"] + seen.adopted == seen.dataset_lines + seen.removed_lines
    assert seen.dataset_lines == lines
    assert keys == lines + (0 if config.retain.forget_keys else seen.removed_lines)
    assert seen.dataset_bytes == len(written(config.dataset.path))
    assert seen.counts["dead_lettered"] == (dead.read_bytes().count(b"\n") if dead.exists() else 0)
    return seen
