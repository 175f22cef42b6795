"""What a condition may say, and how it is evaluated outside the trace database."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from streamer.base.errors import ConfigError, UnavailableError
from streamer.core.verdicts.reasons import CONDITION_FAILED, CONDITION_TOO_SLOW, VALUE_TOO_LONG
from streamer.sources.condition import Columns, Plan, check_condition, plan
from streamer.sources.evaluator import CopiedRow, Evaluation, Evaluator

COLUMNS = Columns(
    {"id": "INTEGER", "session_id": "VARCHAR", "total_reward": "TEXT", "created_at": "TEXT", "reward_metadata": "JSON"},
    {"session_id": "VARCHAR", "created_at": "DATETIME", "metadata": "JSON"},
)
SLOW = "length(trim(replace(hex(zeroblob(total_reward)), '0', 'a'), hex(zeroblob(20000)) || 'a')) >= 0"
"""Compares each character with 40,000 others, in one step of SQLite: seconds for a reward of 20,000."""


def row(plan: Plan, number: int, session: dict[str, Any] | None = None, **columns: Any) -> CopiedRow:
    """Return a row with what a plan copies."""
    theirs = None if session is None else ["s", *(session.get(name) for name in plan.sessions)]
    return CopiedRow(number, ["s", *(columns.get(name) for name in plan.outcomes)], theirs)


def evaluations(where: str, *rows: dict[str, Any], seconds: float = 5.0) -> list[Evaluation]:
    """Return what a condition says of rows."""
    made = plan(where, COLUMNS)
    evaluator = Evaluator(made, seconds)

    async def main() -> list[Evaluation]:
        return await evaluator.evaluate([row(made, number, **one) for number, one in enumerate(rows, 1)])

    try:
        return anyio.run(main)
    finally:
        evaluator.close()


def met(where: str, *rows: dict[str, Any]) -> list[bool]:
    """Return which rows meet a condition; none is a problem."""
    found = evaluations(where, *rows)
    assert not any(one.problem for one in found)
    return [one.qualifies for one in found]


def test_a_number_is_compared_as_a_number_whatever_the_table_declares() -> None:
    """10 is more than 3 in a column of text, too, and equals the text '10'."""
    assert met("total_reward >= 3", {"total_reward": 10}, {"total_reward": 2}, {"total_reward": None}) == [
        True,
        False,
        False,
    ]
    assert met("total_reward = '10'", {"total_reward": 10}) == [True]


def test_only_the_columns_that_it_looks_at_are_copied() -> None:
    """Others may be long, and are nobody's business."""
    made = plan("total_reward > 0 AND session_traces.metadata LIKE '%crafter%'", COLUMNS)
    assert (made.outcomes, made.sessions) == (("total_reward",), ("metadata",))
    assert plan("1", COLUMNS)[:2] == ((), ())


def test_it_sees_the_session_of_its_row() -> None:
    """A row without a session has NULL there, as by a LEFT JOIN."""
    where = "session_traces.metadata ->> 'env' = 'crafter'"
    assert met(where, {"session": {"metadata": '{"env": "crafter"}'}}, {"session": None}, {"session": {}}) == [
        True,
        False,
        False,
    ]


def test_a_rowid_is_that_of_the_producers_table() -> None:
    """Whether it is called id or rowid."""
    assert met("outcome_rewards.rowid = 2", {}, {}, {}) == [False, True, False]
    assert met("id >= 2", {"id": 1}, {"id": 2}) == [False, True]


def test_a_function_that_returns_a_table_is_not_a_table() -> None:
    """json_each over a column is how one asks for an achievement."""
    where = "EXISTS (SELECT 1 FROM json_each(reward_metadata, '$.final_achievements') WHERE value = 'wood')"
    assert met(where, {"reward_metadata": '{"final_achievements": ["wood"]}'}, {"reward_metadata": "{}"}) == [
        True,
        False,
    ]
    check_condition(where)


@pytest.mark.parametrize(
    "where",
    [
        "EXISTS (SELECT 1 FROM event_rewards e WHERE e.session_id = outcome_rewards.session_id)",
        "total_reward >= (SELECT avg(total_reward) FROM outcome_rewards)",
        "1 IN (SELECT 1 FROM json_each('[1]') JOIN main.sqlite_master)",
    ],
)
def test_a_subquery_on_a_table_is_refused_with_the_reason(where: str) -> None:
    """With a database and before there is one; a part of the rows would be an answer that is silently wrong."""
    for refuse in (check_condition, lambda where: plan(where, COLUMNS)):
        with pytest.raises(ConfigError) as caught:
            refuse(where)
        assert "selects from" in caught.value.cause
        assert "no table" in caught.value.hint


@pytest.mark.parametrize(
    "where", ["total_reward >", "1; DROP TABLE outcome_rewards", "total_reward > 0)", "", "SELECT"]
)
def test_what_is_no_condition_is_refused_before_there_is_a_database(where: str) -> None:
    """A typo is found at once."""
    with pytest.raises(ConfigError):
        check_condition(where)


def test_a_column_of_another_users_table_is_let_pass_until_there_is_a_database() -> None:
    """And refused where the table does not have it."""
    check_condition("my_score > 0")
    with pytest.raises(ConfigError, match="my_score"):
        plan("my_score > 0", COLUMNS)


def test_a_row_that_it_fails_on_is_named_and_the_others_get_their_answer() -> None:
    """JSON that is malformed, in one row."""
    found = evaluations(
        "json_extract(reward_metadata, '$.a') = 1", {"reward_metadata": '{"a": 1}'}, {"reward_metadata": "{"}
    )
    assert found == [Evaluation(qualifies=True), Evaluation(qualifies=False, problem=CONDITION_FAILED)]


def test_a_value_that_is_too_long_is_named_and_the_others_get_their_answer() -> None:
    """It is never handed to a function of SQLite."""
    found = evaluations(
        "length(reward_metadata) > 3", {"reward_metadata": "2026"}, {"reward_metadata": "x" * (1 << 20)}
    )
    assert found == [Evaluation(qualifies=True), Evaluation(qualifies=False, problem=VALUE_TOO_LONG)]


def test_one_row_that_takes_too_long_in_a_single_step_is_named_and_the_others_get_their_answer() -> None:
    """The process is given up; nothing else breaks off a step of SQLite."""
    rows = [{"total_reward": 1}] * 3 + [{"total_reward": 20_000}] + [{"total_reward": 1}] * 3
    found = evaluations(SLOW, *rows, seconds=0.2)
    assert [one.problem for one in found] == ["", "", "", CONDITION_TOO_SLOW, "", "", ""]
    assert [one.qualifies for one in found] == [True, True, True, False, True, True, True]


@pytest.fixture
def evaluator() -> Iterator[Evaluator]:
    """Evaluate total_reward > 0."""
    made = Evaluator(plan("total_reward > 0", COLUMNS))
    yield made
    made.close()


def test_a_process_that_died_is_an_error_once_and_replaced(evaluator: Evaluator) -> None:
    """Whoever killed it: the next request has a new one."""

    async def main() -> None:
        rows = [row(evaluator.plan, 1, total_reward=1)]
        await evaluator.evaluate(rows)
        assert evaluator.pid is not None
        os.kill(evaluator.pid, signal.SIGKILL)
        with pytest.raises(UnavailableError, match="retrying"):
            await evaluator.evaluate(rows)
        assert (await evaluator.evaluate(rows))[0].qualifies

    anyio.run(main)


def test_it_stops_in_the_middle_of_a_step() -> None:
    """A daemon that ends does not wait for a condition."""
    slow = Evaluator(plan(SLOW, COLUMNS), seconds=60)

    async def main() -> None:
        with anyio.move_on_after(0.2) as scope:
            await slow.evaluate([row(slow.plan, 1, total_reward=20_000)])
        assert scope.cancelled_caught
        assert slow.pid is None

    anyio.run(main)
