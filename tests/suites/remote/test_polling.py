"""Outcome rows of a real server: found, found again when they change, over a network that fails in every way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from streamer.base.errors import ConfigError, UnavailableError
from streamer.config.database_url import Server, server_of
from streamer.core.verdicts.reasons import CONDITION_FAILED
from streamer.sources.outcomes import PAGE, OutcomePoller
from streamer.sources.remote_database import RemoteDatabase
from streamer.sources.trace_database import TooSlowError
from tests.helpers.producer import FakeClock
from tests.suites.remote.sqld import free_port

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from streamer.core.records.model import Outcome
    from streamer.core.verdicts.turns import TurnRules
    from tests.suites.remote.proxy import Proxy
    from tests.suites.remote.sqld import Sqld

INTERVAL = 0.1
"""Seconds between two polls at the quickest."""

HOUR = 3600.0


class Polling:
    """A poller in a time that stands still, and passes between two polls as the daemon would let it."""

    def __init__(self, url: str, where: str = "total_reward > 0", turns: TurnRules | None = None) -> None:
        self.clock = FakeClock()
        self.poller = OutcomePoller(url, where, self.clock, turns=turns, random=lambda: 0.5)

    async def poll(self) -> Sequence[Outcome]:
        """Poll until there is an answer, then let the pause pass that is asked for."""
        try:
            rows = await self.poller.poll()
            while self.poller.is_waiting:
                rows = await self.poller.poll()
        except UnavailableError:
            self.clock.advance(self.poller.pause_after_failure(INTERVAL))
            raise
        self.clock.advance(self.poller.pause(INTERVAL))
        return rows

    async def until(self, wanted: Callable[[list[Outcome]], bool]) -> list[Outcome]:
        """Poll until the rows that came meet a condition, whatever fails meanwhile, for an hour at most."""
        rows: list[Outcome] = []
        end = self.clock.monotonic() + HOUR
        while not wanted(rows):
            assert self.clock.monotonic() < end, rows
            try:
                rows += await self.poll()
            except UnavailableError:
                continue
        return rows

    async def caught_up(self) -> list[Outcome]:
        """Poll until every row has come."""
        return await self.until(lambda _: self.poller.caught_up)

    async def for_time(self, seconds: float) -> list[Outcome]:
        """Poll for so long, and return what came."""
        rows: list[Outcome] = []
        end = self.clock.monotonic() + seconds
        while self.clock.monotonic() < end:
            rows += await self.poll()
        return rows


def polling(url: str, test: Callable[[Polling], Awaitable[None]], where: str = "total_reward > 0") -> None:
    """Run a test with a poller, and close that."""

    async def main() -> None:
        tested = Polling(url, where)
        try:
            await test(tested)
        finally:
            await tested.poller.close()

    anyio.run(main)


def ids(rows: Sequence[Outcome]) -> list[int]:
    """Return the ids of rows."""
    return [row.id for row in rows]


def many_rows(number: int) -> str:
    """Return the statement that adds many rows."""
    return (
        "INSERT INTO outcome_rewards (session_id, total_reward, achievements_count, total_steps, created_at)"
        f" WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {number})"
        " SELECT 'run-' || i, i % 2, 1, 8, '2026-01-01' FROM n"
    )


def test_keys_of_the_metadata_that_are_asked_for_are_carried(sqld: Sqld) -> None:
    """And no others; what is no JSON has none."""
    for run in ("run-a", "run-b", "run-c"):
        sqld.add_outcome(run, 3)
    sqld.execute(
        ("UPDATE outcome_rewards SET reward_metadata = ? WHERE id = 1", ['{"env_seed": 7, "list": ["✓"], "more": 1}']),
        ("UPDATE outcome_rewards SET reward_metadata = ? WHERE id = 2", ["{"]),
    )

    async def test(at: Polling) -> None:
        at.poller.set_where("total_reward > 0", keys=["env_seed", "list", "none"])
        assert [row.metadata for row in await at.caught_up()] == ['{"env_seed":7,"list":["✓"]}', "", ""]

    polling(sqld.url, test)


def test_a_row_is_read_with_the_verdict_of_the_server(sqld: Sqld) -> None:
    """Each column, and whether the condition holds, with the session joined to it."""
    sqld.add_outcome("run-a", 3, 1.5)
    sqld.add_outcome("run-b", 0)

    async def test(at: Polling) -> None:
        first, second = await at.caught_up()
        assert (first.id, first.session, first.total_reward, first.achievements_count, first.total_steps) == (
            1, "run-a", 3, 1, 8,
        )  # fmt: skip
        assert (first.created_at, first.qualifies, second.qualifies) == (
            "2026-01-01T00:00:01.500000+00:00",
            True,
            False,
        )

    polling(sqld.url, test, "total_reward > 0 AND json_extract(session_traces.metadata, '$.seed') = 7")


def test_odd_values_hold_up_no_other_row(sqld: Sqld) -> None:
    """A text that is no UTF-8 and an infinity end an answer of the server, unless they are wrapped for the way."""
    sqld.execute(
        "CREATE TABLE other (session_id, total_reward)",
        "DROP TABLE outcome_rewards",
        "ALTER TABLE other RENAME TO outcome_rewards",
        "INSERT INTO outcome_rewards VALUES (CAST(x'ff61' AS TEXT), 9e999), ('run-b', 0.1), (17, 'much'), (NULL, NULL),"
        " ('numpy', x'0300000000000000'), ('csv', '10')",
    )

    async def test(at: Polling) -> None:
        rows = await at.caught_up()
        assert [(row.session, row.total_reward) for row in rows] == [
            *[("\\xffa", None), ("run-b", 0.1), ("17", None), ("", None), ("numpy", 3), ("csv", 10)],
        ]
        assert {row.session for row in rows if row.problem} == {"\\xffa", "17"}
        assert {row.session for row in rows if row.qualifies} == {"run-b", "numpy", "csv"}

    polling(sqld.url, test)


def test_ids_of_any_size_are_passed_exactly(sqld: Sqld) -> None:
    """The library would make floats of them, and rows would be passed over."""
    large = [1 << 40, (1 << 53) + 1, (1 << 62) + 1, (1 << 62) + 2]
    for number in large[:-1]:
        sqld.execute(f"INSERT INTO outcome_rewards VALUES ({number}, 'run', 1, 1, 8, '2026-01-01', NULL)")

    async def test(at: Polling) -> None:
        assert ids(await at.caught_up()) == large[:-1]
        sqld.execute(f"INSERT INTO outcome_rewards VALUES ({large[-1]}, 'run', 1, 1, 8, '2026-01-01', NULL)")
        assert ids(await at.until(lambda rows: large[-1] in ids(rows)))[-1] == large[-1]

    polling(sqld.url, test)


def test_many_rows_come_page_by_page(sqld: Sqld) -> None:
    """No page is longer than it may be, and no row is passed over or comes twice."""
    number = 4 * PAGE + 7
    sqld.execute(many_rows(number))

    async def test(at: Polling) -> None:
        pages = []
        while not at.poller.caught_up:
            pages.append(await at.poll())
        assert max(map(len, pages)) <= PAGE
        assert [row.id for page in pages for row in page] == list(range(1, number + 1))

    polling(sqld.url, test)


def test_an_idle_server_is_asked_rarely_and_a_sign_of_news_makes_it_quick(sqld: Sqld, proxy: Proxy) -> None:
    """A dozen polls and two sweeps a minute; libsql makes two requests of each statement."""
    sqld.add_outcome("run-a", 3)

    async def test(at: Polling) -> None:
        await at.for_time(60.0)
        before = proxy.requests
        assert ids(await at.for_time(300.0)).count(1) <= 10  # the sweeps
        assert proxy.requests - before <= 2 * 5 * (12 + 2)
        assert at.poller.pause(INTERVAL) == 5.0
        at.poller.hurry()
        sqld.add_outcome("run-b", 3)
        begun = at.clock.monotonic()
        await at.until(lambda rows: 2 in ids(rows))
        assert at.clock.monotonic() - begun < 0.5

    polling(proxy.url, test)


def test_a_poll_that_follows_at_once_is_no_request(sqld: Sqld, proxy: Proxy) -> None:
    """Shards may come thick and fast."""
    sqld.add_outcome("run-a", 3)

    async def test(at: Polling) -> None:
        await at.for_time(20.0)
        at.poller.hurry()
        await at.poll()
        at.clock.passed -= INTERVAL  # as if the pause had not passed
        before = proxy.requests
        for _ in range(50):
            assert await at.poller.poll() == ()
        assert proxy.requests == before

    polling(proxy.url, test)


def test_a_corrected_row_is_noticed_by_the_sweep(sqld: Sqld) -> None:
    """Within minutes, though nothing says that anything has changed."""
    sqld.execute(many_rows(2 * PAGE))

    async def test(at: Polling) -> None:
        await at.caught_up()
        sqld.execute("UPDATE outcome_rewards SET total_reward = 5 WHERE id = 700")
        begun = at.clock.monotonic()
        await at.until(lambda rows: (700, 5) in [(row.id, row.total_reward) for row in rows])
        assert at.clock.monotonic() - begun < 180

    polling(sqld.url, test)


def test_a_correction_of_the_last_row_is_noticed_at_once(sqld: Sqld) -> None:
    """It is read again with each poll, to see that it is still there."""
    sqld.add_outcome("run-a", 0)

    async def test(at: Polling) -> None:
        await at.for_time(10.0)
        sqld.execute("UPDATE outcome_rewards SET total_reward = 5")
        rows = await at.poll()
        assert [(row.total_reward, row.qualifies) for row in rows] == [(5, True)]

    polling(sqld.url, test)


def test_a_server_that_is_killed_and_started_again_goes_on_where_it_was(sqld: Sqld, proxy: Proxy) -> None:
    """Its streams are gone; the connection is made anew, and no row comes twice or is passed over."""
    sqld.execute(many_rows(PAGE))

    async def test(at: Polling) -> None:
        await at.caught_up()
        sqld.kill()
        with pytest.raises(UnavailableError) as caught:
            await at.poll()
        assert "127.0.0.1" in caught.value.where
        sqld.start()
        sqld.add_outcome("run-new", 3)
        rows = await at.until(bool)
        assert ids(rows) == [PAGE + 1]
        assert not at.poller.replaced

    polling(proxy.url, test)


def test_a_stream_that_the_server_has_forgotten_is_no_failure(sqld: Sqld) -> None:
    """Between two polls it was started again: the statement is asked once more, on a new connection."""
    sqld.add_outcome("run-a", 3)

    async def test(at: Polling) -> None:
        await at.caught_up()
        sqld.kill()
        sqld.start()
        sqld.add_outcome("run-b", 3)
        assert ids(await at.poll()) == [2]

    polling(sqld.url, test)


def test_hours_without_network_cost_a_few_tries_each_minute(sqld: Sqld, proxy: Proxy) -> None:
    """With pauses that grow, and end where they began when it is back."""
    sqld.add_outcome("run-a", 3)

    async def test(at: Polling) -> None:
        await at.caught_up()
        proxy.is_gone = True
        proxy.hang_up()
        before = proxy.connections
        begun = at.clock.monotonic()
        causes = set()
        while at.clock.monotonic() < begun + 3 * HOUR:
            with pytest.raises(UnavailableError) as caught:
                await at.poll()
            causes.add(str(caught.value))
        assert proxy.connections - before <= 3 * HOUR / 60 * 3
        assert len(causes) <= 2  # each is said once
        proxy.is_gone = False
        sqld.add_outcome("run-b", 3)
        back = at.clock.monotonic()
        assert ids(await at.until(bool)) == [2]
        assert at.clock.monotonic() - back <= 31.0

    polling(proxy.url, test)


def test_a_poll_that_comes_too_early_after_a_failure_is_no_request(proxy: Proxy) -> None:
    """Shards that go on coming do not wake a server that is away."""
    proxy.is_gone = True

    async def test(at: Polling) -> None:
        with pytest.raises(UnavailableError):
            await at.poll()
        at.clock.passed = 0.0
        before = proxy.connections
        for _ in range(50):
            with pytest.raises(UnavailableError):
                await at.poller.poll()
        assert proxy.connections == before

    polling(proxy.url, test)


@pytest.mark.parametrize("cut", [0, 50, 400, 1200, 5_000, 20_000])
def test_an_answer_that_is_cut_off_moves_no_position(sqld: Sqld, proxy: Proxy, cut: int) -> None:
    """Half a page is no page: afterwards all of it comes, and nothing else."""
    sqld.execute(many_rows(PAGE + 7))

    async def test(at: Polling) -> None:
        proxy.cut_after = cut
        for _ in range(3):
            with pytest.raises(UnavailableError):
                await at.poll()
        proxy.cut_after = None
        assert ids(await at.caught_up()) == list(range(1, PAGE + 8))

    polling(proxy.url, test)


@pytest.mark.parametrize("cut", [400, 1200, 2000, 5_000, 20_000])
def test_an_answer_that_is_cut_off_later_moves_no_position(sqld: Sqld, proxy: Proxy, cut: int) -> None:
    """The position is kept, and no row of the page that was cut is taken for read."""
    sqld.execute(many_rows(PAGE))

    async def test(at: Polling) -> None:
        first = await at.caught_up()
        sqld.execute(many_rows(PAGE - 1))
        proxy.hang_up()
        proxy.cut_after = cut
        rows: list[Outcome] = []
        for _ in range(3):
            try:
                rows += await at.poll()
            except UnavailableError:
                proxy.hang_up()
        proxy.cut_after = None
        rows += await at.until(lambda more: 2 * PAGE - 1 in ids(more))
        new = [number for number in ids(rows) if number > PAGE]
        assert sorted(set(new)) == list(range(PAGE + 1, 2 * PAGE))
        assert ids(first) == list(range(1, PAGE + 1))

    polling(proxy.url, test)


def test_a_server_that_says_nothing_holds_up_nobody(sqld: Sqld, proxy: Proxy) -> None:
    """A poll returns at once, and again; the statement ends within its own time."""
    sqld.add_outcome("run-a", 3)
    proxy.is_silent = True

    async def test(at: Polling) -> None:
        with anyio.fail_after(5):
            for _ in range(3):
                assert await at.poller.poll() == ()
                assert at.poller.is_waiting
            at.poller.set_where("total_reward > 1")  # and nobody waits for it to end
        proxy.is_silent = False
        proxy.hang_up()
        assert ids(await at.caught_up()) == [1]

    polling(proxy.url, test)


def test_a_statement_ends_within_its_time(proxy: Proxy) -> None:
    """The library itself would wait for ever."""
    proxy.is_silent = True

    async def main() -> None:
        database = RemoteDatabase(Server(proxy.url, proxy.url, "127.0.0.1"), FakeClock(), lambda: 0.5, seconds=0.5)
        with anyio.fail_after(5), pytest.raises(TooSlowError, match=r"more than 0\.5 s"):
            await database.fetch("SELECT 1")
        proxy.is_silent = False
        proxy.hang_up()
        assert await database.fetch("SELECT 1") == [[1]]
        await database.close()

    anyio.run(main)


def test_another_database_in_its_place_is_read_from_its_start(sqld: Sqld) -> None:
    """Its last row has the same id, and is another one."""
    sqld.execute(many_rows(3))

    async def test(at: Polling) -> None:
        await at.caught_up()
        sqld.execute("DELETE FROM outcome_rewards", "DELETE FROM sqlite_sequence", many_rows(3),
                     "UPDATE outcome_rewards SET session_id = 'other-' || id")  # fmt: skip
        rows = await at.until(lambda rows: len({row.session for row in rows}) == 3)
        assert {row.session for row in rows} == {"other-1", "other-2", "other-3"}
        assert at.poller.replaced

    polling(sqld.url, test)


def test_a_database_that_was_emptied_is_read_from_its_start(sqld: Sqld) -> None:
    """Its ids begin again, below the position."""
    sqld.execute(many_rows(3))

    async def test(at: Polling) -> None:
        await at.caught_up()
        sqld.execute("DELETE FROM outcome_rewards", "DELETE FROM sqlite_sequence")
        sqld.add_outcome("run-new", 3)
        assert [(row.id, row.session) for row in await at.until(bool)] == [(1, "run-new")]

    polling(sqld.url, test)


def test_a_missing_table_is_waited_for(sqld: Sqld) -> None:
    """The producer makes it with its first rollout."""
    sqld.execute("ALTER TABLE outcome_rewards RENAME TO later")

    async def test(at: Polling) -> None:
        with pytest.raises(UnavailableError, match="no table outcome_rewards yet"):
            await at.poll()
        sqld.execute("ALTER TABLE later RENAME TO outcome_rewards")
        sqld.add_outcome("run-a", 3)
        assert len(await at.caught_up()) == 1

    polling(sqld.url, test)


@pytest.mark.parametrize(
    "where",
    [
        "reward > 0",
        "total_reward >",
        "total_reward > 0)",
        "created_at > '2025'",
        "total_reward > 0; DROP TABLE outcome_rewards",
        "nosuch) ; DROP TABLE outcome_rewards; --",
        "1) THEN 1 END FROM outcome_rewards; DELETE FROM outcome_rewards; --",
        "DELETE FROM outcome_rewards",
        "count(*) > 0",
    ],
)
def test_a_condition_that_is_none_is_named_and_does_nothing(sqld: Sqld, where: str) -> None:
    """A misspelt column, a syntax error, a sum over all rows, a second statement."""
    sqld.add_outcome("run-a", 3)

    async def test(at: Polling) -> None:
        with pytest.raises(ConfigError) as caught:
            await at.poll()
        assert caught.value.where == "qualify.where"

    polling(sqld.url, test, where)
    assert sqld.execute("SELECT count(*) FROM outcome_rewards")[0]["rows"][0][0]["value"] == "1"


def test_a_row_that_the_condition_fails_on_holds_up_no_other_row(sqld: Sqld) -> None:
    """As for a file: it is named with its reason."""
    sqld.add_outcome("run-a", 3)
    sqld.execute("UPDATE outcome_rewards SET reward_metadata = '{'")

    async def test(at: Polling) -> None:
        assert [row.problem for row in await at.caught_up()] == [CONDITION_FAILED]

    polling(sqld.url, test, "json_extract(reward_metadata, '$.env_seed') = 7")


def test_a_server_that_is_not_there_is_named() -> None:
    """With what to look at."""

    async def test(at: Polling) -> None:
        with pytest.raises(UnavailableError, match="Connection refused") as caught:
            await at.poll()
        assert "host and port" in caught.value.hint

    polling(f"http://127.0.0.1:{free_port()}", test)


def test_a_condition_can_be_checked_while_a_poll_goes_on(sqld: Sqld) -> None:
    """A reload may come at any moment."""
    sqld.add_outcome("run-a", 3)

    async def test(at: Polling) -> None:
        await at.caught_up()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(at.poll)
            await at.poller.check("total_reward > 1")
        with pytest.raises(ConfigError):
            await at.poller.check("nosuch > 1")

    polling(sqld.url, test)


def test_urls_of_the_producer_name_the_server(sqld: Sqld) -> None:
    """As libsql and SQLAlchemy write them."""
    for url in (f"libsql://127.0.0.1:{sqld.port}?tls=0", f"sqlite+libsql://127.0.0.1:{sqld.port}/?secure=false"):
        server = server_of(url)
        assert server is not None
        assert server.url == sqld.url
