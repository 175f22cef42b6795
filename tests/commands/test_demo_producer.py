"""The demo's producer must write as the real one does, and show every outcome of a line."""

from __future__ import annotations

import base64
import io
import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from streamer.commands.demo import shards
from streamer.commands.demo.policy import MAX_ACTIONS, MIN_ACTIONS, Forager, PlayerView, Wanderer, route
from streamer.commands.simulation.trace import TraceWriter
from streamer.core.records import layouts
from streamer.core.records.key import DedupBy, record_key

if TYPE_CHECKING:
    from pathlib import Path

WHY = "the demo plays real Crafter episodes: pip install 'streamer[demo]'"
ROLLOUTS = 5
"""The shortest run that holds every role."""


class Written:
    """The files of one run of the producer."""

    def __init__(self, folder: Path, printed: list[str]) -> None:
        self.printed = printed
        self.paths = sorted((folder / "shards").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        self.shards = [[json.loads(line) for line in path.read_text().splitlines()] for path in self.paths]
        self.records = [record for shard in self.shards for record in shard]
        self._database = folder / "traces.db"

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return rows of the trace database."""
        with closing(sqlite3.connect(f"file:{self._database}?mode=ro", uri=True)) as database:
            return database.execute(query).fetchall()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """One run of the producer, shared by the tests."""
    pytest.importorskip("crafter", reason=WHY)
    from streamer.commands.demo.producer import DemoProducer  # noqa: PLC0415 - after the skip

    folder = tmp_path_factory.mktemp("producer")
    with TraceWriter(folder / "traces.db", "demo") as trace:
        played = DemoProducer(folder / "shards", trace, seed=7).rollouts(ROLLOUTS)
        return Written(folder, [f"{rollout.casting.role} {rollout.reward}" for rollout in played])


def meadow(**tiles: tuple[int, int]) -> PlayerView:
    """Return a state in the middle of a 9x9 meadow with the given tiles on it."""
    world = [["grass"] * 9 for _ in range(9)]
    for kind, (x, y) in tiles.items():
        world[x][y] = kind
    inventory = {"health": 9, "wood": 0, "sapling": 0, "wood_pickaxe": 0}
    return PlayerView(1, (4, 4), (0, 1), inventory, (), tuple(map(tuple, world)), b"")


@pytest.mark.slow
def test_records_have_the_keys_of_the_real_layout(written: Written) -> None:
    """Top level, reply and metadata: no key more, no key less, in the real order."""
    top = "run_id turn model provider dialogue dialogue_text assistant metadata timestamp"
    for record in written.records:
        assert list(record) == top.split()
        assert list(record["assistant"]) == ["content", "content_text", "tool_calls", "has_image"]
        assert list(record["metadata"]) == ["user_has_image", "assistant_has_image", "has_image"]
        assert [message["role"] for message in record["dialogue"]] == ["system", "user"]


@pytest.mark.slow
def test_a_reply_is_one_call_with_two_to_five_actions(written: Written) -> None:
    """The arguments are a JSON string, as in the real records."""
    for record in written.records:
        (call,) = record["assistant"]["tool_calls"]
        assert call["function"]["name"] == "interact_many"
        assert MIN_ACTIONS <= len(json.loads(call["function"]["arguments"])["actions"]) <= MAX_ACTIONS


@pytest.mark.slow
def test_every_record_can_be_read_by_the_daemon(written: Written) -> None:
    """The layouts module knows them, and their session is the shard's run id."""
    for path, shard in zip(written.paths, written.shards, strict=True):
        for line in path.read_bytes().splitlines():
            record = layouts.read(line, path.name)
            assert record.session == layouts.session_of_name(path.name) == shard[0]["run_id"]
            assert record.time_us is not None


@pytest.mark.slow
def test_some_prompts_are_frames_and_some_are_words(written: Written) -> None:
    """A frame is a PNG of 64x64 pixels; a state in words starts like the real one."""
    image = pytest.importorskip("PIL.Image", reason=WHY)
    contents = [record["dialogue"][1]["content"] for record in written.records]
    frames = [content[0]["image_url"]["url"] for content in contents if isinstance(content, list)]
    words = [content for content in contents if isinstance(content, str)]
    assert frames
    assert words
    for frame in frames:
        png = base64.b64decode(frame.removeprefix("data:image/png;base64,"))
        assert image.open(io.BytesIO(png)).size == (64, 64)
    assert all(text.startswith("=== CRAFTER GAME STATE ===\n") for text in words)


@pytest.mark.slow
def test_some_rollouts_earn_nothing_and_some_do(written: Written) -> None:
    """The outcome rows hold whole rewards that agree with their achievements."""
    rows = written.rows("SELECT total_reward, achievements_count, reward_metadata FROM outcome_rewards")
    assert len(rows) == ROLLOUTS
    assert {reward > 0 for reward, _, _ in rows} == {True, False}
    for reward, count, metadata in rows:
        assert reward == count == len(json.loads(metadata)["final_achievements"])


@pytest.mark.slow
def test_a_repeated_rollout_is_a_duplicate_under_another_run_id(written: Written) -> None:
    """Every record of the repeat has the key of an earlier one, though ids and times differ."""
    assert written.printed[-1].startswith("repeat")
    keys = [[_key(record) for record in shard] for shard in written.shards]
    first, last = written.shards[0], written.shards[-1]
    assert keys[-1] == keys[0]
    assert {record["run_id"] for record in first} != {record["run_id"] for record in last}


@pytest.mark.slow
def test_a_record_is_older_than_its_outcome(written: Written) -> None:
    """The as-of join finds the row of the same rollout."""
    created = dict(written.rows("SELECT session_id, created_at FROM outcome_rewards"))
    for record in written.records:
        outcome_us = layouts.time_us(created[record["run_id"]])
        record_us = layouts.time_us(record["timestamp"])
        assert outcome_us is not None
        assert record_us is not None
        assert record_us <= outcome_us


@pytest.mark.slow
def test_the_trace_database_agrees_with_the_records(written: Written) -> None:
    """Sessions, timesteps, messages, events and rewards agree with the records, in delete mode."""
    assert written.rows("PRAGMA journal_mode") == [("delete",)]
    turns = len(written.records)
    assert written.rows("SELECT count(*) FROM session_traces WHERE num_timesteps > 0") == [(ROLLOUTS,)]
    assert written.rows("SELECT count(*) FROM session_timesteps") == [(turns,)]
    assert written.rows("SELECT count(*) FROM messages") == [(3 * turns,)]
    assert written.rows("SELECT count(*) FROM events") == [(2 * turns,)]
    sparse = "SELECT sum(reward_value) FROM event_rewards WHERE reward_type = 'sparse'"
    assert written.rows(sparse) == written.rows("SELECT sum(total_reward) FROM outcome_rewards")


@pytest.mark.slow
def test_a_cut_shard_is_cut_inside_a_line_and_then_whole(tmp_path: Path, written: Written) -> None:
    """In between, the file ends without a newline."""
    met: list[bytes] = []

    def sleep(_seconds: float) -> None:
        met.extend(path.read_bytes() for path in tmp_path.iterdir())

    shard = written.shards[0]
    path = shards.write(tmp_path, "run", layouts._EPOCH, shard, cut=True, sleep=sleep)
    (half,) = met
    assert not half.endswith(b"\n")
    assert path.read_bytes().startswith(half)
    assert [json.loads(line) for line in path.read_bytes().splitlines()] == shard


def test_route_bumps_into_the_nearest_tile() -> None:
    """The last move turns the player towards it."""
    state = meadow(tree=(7, 4), water=(4, 2))
    assert route(state, frozenset({"tree"})) == ("move_right",) * 3
    assert route(state, frozenset({"tree", "water"})) == ("move_up",) * 2
    assert route(state, frozenset({"iron"})) is None


def test_players_decide_the_same_way_for_the_same_seed() -> None:
    """So a repeated rollout repeats its replies too."""
    state = meadow(tree=(7, 4))
    for player in (Forager, Wanderer):
        assert [player(seed)(state) for seed in range(20)] == [player(seed)(state) for seed in range(20)]


def test_a_wanderer_never_uses_what_is_in_front_of_it() -> None:
    """Without ``do`` nothing is collected, and without anything collected nothing is made."""
    state = meadow(tree=(4, 5))
    player = Wanderer(3)
    assert not any("do" in player(state).actions for _ in range(200))


def _key(record: dict[str, Any]) -> bytes:
    said = layouts.read(json.dumps(record).encode(), "shard.jsonl").conversation
    return record_key(said, DedupBy.CONVERSATION, (None, None, None))
