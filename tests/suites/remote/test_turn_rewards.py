"""Event rewards of a real server: read with their outcomes, found again when they change, through failures."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import anyio
import pytest

from streamer.base.errors import ConfigError, UnavailableError
from streamer.core.verdicts.turns import TurnReward, TurnRules, Turns
from tests.helpers.place import ended, until
from tests.helpers.producer import EPOCH, dialogue
from tests.helpers.traces import _TABLES as TABLES
from tests.suites.remote.test_commands import RemotePlace
from tests.suites.remote.test_polling import Polling

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.suites.remote.proxy import Proxy
    from tests.suites.remote.sqld import Sqld

RULES = TurnRules(Turns.REWARDED, "achievement_delta")
_EVENT = "INSERT INTO events (session_id, event_type, event_time) VALUES (?, 'environment', ?)"
_REWARD = """
INSERT INTO event_rewards (event_id, session_id, turn_number, reward_value, reward_type, annotation, created_at)
VALUES ((SELECT max(id) FROM events), ?, ?, ?, ?, ?, ?)
"""


def make_tables(sqld: Sqld) -> None:
    """Make the tables that hold events."""
    sqld.execute(*filter(str.strip, TABLES.split(";")))


def reward(
    sqld: Sqld, session: str, turn: int, value: float = 1.0, kind: str = "achievement_delta", names: str = ""
) -> None:
    """Add a reward, and its event."""
    created = (EPOCH + timedelta(seconds=turn)).isoformat()
    annotation = f'{{"achievements": [{names}]}}'
    sqld.execute(
        (_EVENT, [session, EPOCH.timestamp() + turn]), (_REWARD, [session, turn, value, kind, annotation, created])
    )


def run(url: str, test: Callable[[Polling], Awaitable[None]]) -> None:
    """Run a test with a poller that reads event rewards."""

    async def main() -> None:
        at = Polling(url, turns=RULES)
        try:
            await test(at)
        finally:
            await at.poller.close()

    anyio.run(main)


async def read(at: Polling) -> dict[str, list[TurnReward]]:
    """Poll until every outcome has come, and return the rewards that came with them."""
    found: dict[str, list[TurnReward]] = {}
    while not at.poller.caught_up:
        await at.poll()
        found |= {one.session: list(one.rewards) for one in at.poller.rewards}
    return found


async def news(at: Polling) -> None:
    """Poll until rows come; what fails is not tried again."""
    while not await at.poll():
        assert at.clock.monotonic() < 60.0


def test_rewards_come_with_the_outcomes_that_qualify(sqld: Sqld) -> None:
    """Each value as it is, of one type; nothing of other sessions."""
    make_tables(sqld)
    for session, total in (("a", 1), ("b", 0), ("c", 2)):
        sqld.add_outcome(session, total, 9)
    reward(sqld, "a", 1, 0.1, names='"x", "y"')
    reward(sqld, "a", 2, 5, kind="sparse")
    reward(sqld, "b", 1)

    async def test(at: Polling) -> None:
        start = round(EPOCH.timestamp() * 1e6)
        second = start + 1_000_000
        assert await read(at) == {"a": [TurnReward(1, 0.1, second, second, ("x", "y"))], "c": []}

    run(sqld.url, test)


def test_rewards_that_come_later_are_found_by_a_sweep(sqld: Sqld) -> None:
    """As corrected outcomes are."""
    make_tables(sqld)
    sqld.add_outcome("a", 1, 9)

    async def test(at: Polling) -> None:
        assert await read(at) == {"a": []}
        reward(sqld, "a", 3)
        rows = await at.until(lambda _: any(one.rewards for one in at.poller.rewards))
        assert {row.session for row in rows} == {"a"}
        assert at.clock.monotonic() < 90.0

    run(sqld.url, test)


def test_an_outcome_whose_rewards_cannot_be_read_is_read_again(sqld: Sqld) -> None:
    """The position is not moved past it: both come, or neither does."""
    make_tables(sqld)

    async def test(at: Polling) -> None:
        assert await read(at) == {}
        sqld.execute("ALTER TABLE event_rewards RENAME TO elsewhere")
        sqld.add_outcome("a", 1, 9)
        with pytest.raises(UnavailableError, match="event_rewards"):
            await news(at)
        sqld.execute("ALTER TABLE elsewhere RENAME TO event_rewards")
        reward(sqld, "a", 3)
        rows = await at.until(bool)
        assert [row.session for row in rows] == ["a"]
        assert [[row.turn for row in one.rewards] for one in at.poller.rewards] == [[3]]

    run(sqld.url, test)


def test_a_network_that_fails_all_the_time_loses_no_reward(sqld: Sqld, proxy: Proxy) -> None:
    """Answers are cut anywhere; in the end each session has come with all that it has."""
    make_tables(sqld)
    for number in range(30):
        sqld.add_outcome(f"s{number}", 1, 9)
        reward(sqld, f"s{number}", number)

    async def test(at: Polling) -> None:
        found: dict[str, list[int]] = {}
        for cut in (100, 700, 2_000, 5_000, None):
            proxy.cut_after = cut
            proxy.hang_up()
            for _ in range(4):
                try:
                    await at.poll()
                except UnavailableError:
                    continue
                found |= {one.session: [row.turn for row in one.rewards] for one in at.poller.rewards}
        found |= {session: [row.turn for row in rows] for session, rows in (await read(at)).items()}
        assert found == {f"s{number}": [number] for number in range(30)}

    run(proxy.url, test)


def test_a_server_without_event_rewards_is_refused(sqld: Sqld) -> None:
    """As soon as it has an outcome; before, they may be still to come."""

    async def test(at: Polling) -> None:
        with pytest.raises(UnavailableError, match="no table event_rewards yet"):
            await at.poll()
        sqld.add_outcome("a", 1, 9)
        at.clock.advance(60)
        with pytest.raises(ConfigError, match="no table event_rewards"):
            await at.poll()

    run(sqld.url, test)


def test_a_daemon_takes_rewarded_turns_of_a_server(tmp_path: Path, sqld: Sqld) -> None:
    """Through the real executable, from shards and a server."""
    make_tables(sqld)
    place = RemotePlace(tmp_path, sqld.url)
    place.configure('[records]\nturns = "rewarded"')
    with place.daemon() as process:
        reward(sqld, "a", 1, 2.0, names='"collect_wood"')
        sqld.add_outcome("a", 1, 9)
        place.shard("a.jsonl", *(dialogue("a", turn, f"a {turn}", seconds=turn) for turn in range(4)))
        until(lambda: place.holds(1))
        process.terminate()
        assert ended(process) == 0
    (record,) = place.records()
    assert record["metadata"]["turn"] == 1
    assert record["metadata"]["turn_reward"] == 2.0
    assert record["metadata"]["turn_achievements"] == ["collect_wood"]
    assert place.status()["reasons"]["below_bar"] == {"turn_reward": 3}
    assert "1 of 1 session" in place.call("doctor").stdout
