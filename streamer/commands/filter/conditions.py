"""Tests sessions and records by the conditions of a filter. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from streamer.commands.filter.config import FilterConfig
from streamer.core.records.model import Outcome, SourceRecord
from streamer.core.verdicts.join import JoinRule, choose
from streamer.core.verdicts.reasons import NOT_A_NUMBER

CONDITIONS = (
    "splits",
    "task_ids",
    "models",
    "min_created_at",
    "max_created_at",
    "min_official_score",
    "max_official_score",
    "min_judge_scores",
    "max_judge_scores",
)
"""In the order in which they are tested: a removed session counts under the first condition that it fails."""


class Session(msgspec.Struct, frozen=True):
    """One row of ``session_traces``, with the outcomes of its rollouts and the models that it called.

    ``metadata`` lacks prompt and completion, which may be long.
    """

    row: int
    id: str
    created_at: Any
    created_us: int | None
    metadata: dict[str, Any]
    outcomes: list[Outcome] = []
    models: list[str] = []


def removed_by(session: Session, config: FilterConfig) -> str | None:
    """Return the key of the first condition that a session fails, or None if it meets all."""
    return (
        _by_names(session, config)
        or _by_time(session.created_us, config)
        or _by_official_score(session, config)
        or _by_judges(session.metadata.get("judge_scores"), config)
    )


def record_is_taken(record: SourceRecord, outcome: Outcome | None, config: FilterConfig) -> bool:
    """Return whether a record of a chosen session meets the conditions.

    A session that was run several times has good and bad rollouts, perhaps of several models.

    Args:
        record: One of the session's records.
        outcome: The result of :func:`outcome_of`; None for a session without outcomes.
        config: The conditions.
    """
    if config.models and record.model is not None and record.model not in config.models:
        return False
    return outcome is None or (not outcome.problem and _official(outcome.total_reward, config) is None)


def outcome_of(record: SourceRecord, outcomes: list[Outcome]) -> Outcome | None:
    """Return the outcome of a record's rollout.

    Args:
        record: A record, whose time may be unknown.
        outcomes: The outcomes of its session. The first one created at or after the record is chosen; the newest
            if the record is later than all of them.
    """
    if len(outcomes) <= 1:
        return outcomes[0] if outcomes else None
    return choose(outcomes, record.time_us, JoinRule.AS_OF) or choose(outcomes, None, JoinRule.AS_OF)


def _by_names(session: Session, config: FilterConfig) -> str | None:
    metadata = session.metadata
    if config.splits and not _is_among(metadata.get("task_split"), config.splits):
        return "splits"
    if config.task_ids and not _is_among(metadata.get("task_id"), config.task_ids):
        return "task_ids"
    models = session.models if metadata.get("model") is None else [metadata["model"]]
    if config.models and not any(_is_among(model, config.models) for model in models):
        return "models"
    return None


def _is_among(value: Any, wanted: frozenset[str]) -> bool:
    """Return whether a value is wanted. An integer is compared by its digits, because the wanted values are texts."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return isinstance(value, str) and value in wanted


def _by_time(created_us: int | None, config: FilterConfig) -> str | None:
    if config.min_created_at is not None and (created_us is None or created_us < config.min_created_at):
        return "min_created_at"
    if config.max_created_at is not None and (created_us is None or created_us > config.max_created_at):
        return "max_created_at"
    return None


def _by_official_score(session: Session, config: FilterConfig) -> str | None:
    """Return the key of the bound that every rollout of the session fails, or None."""
    rollouts = [row for row in session.outcomes if not row.problem]
    if session.outcomes and not rollouts:
        return NOT_A_NUMBER
    scores = [row.total_reward for row in rollouts] or [session.metadata.get("official_score")]
    failed = [_official(score, config) for score in scores]
    return None if None in failed else failed[0]


def _official(score: Any, config: FilterConfig) -> str | None:
    """Return the key of the bound that a score fails, or None. A missing score fails any bound."""
    low, high = config.min_official_score, config.max_official_score
    if low is not None and not (_is_number(score) and score >= low):
        return "min_official_score"
    if high is not None and not (_is_number(score) and score <= high):
        return "max_official_score"
    return None


def _by_judges(scores: Any, config: FilterConfig) -> str | None:
    given = scores if isinstance(scores, dict) else {}
    for judge, floor in config.min_judge_scores.items():
        if not (_is_number(given.get(judge)) and given[judge] >= floor):
            return "min_judge_scores"
    for judge, ceiling in config.max_judge_scores.items():
        if not (_is_number(given.get(judge)) and given[judge] <= ceiling):
            return "max_judge_scores"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
