"""Translates a FilterConfig to the configuration of a daemon that continues it.

The conditions on sessions become the SQL condition that the trace database evaluates for each outcome. ``limit``,
``offset`` and ``shuffle`` have no meaning for a file that grows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from streamer.base.errors import ConfigError
from streamer.commands.filter.config import FilterConfig
from streamer.config import Config, Dataset, Qualify, Source
from streamer.core.verdicts.qualify import RecordRules

_METADATA = "CASE WHEN json_valid(session_traces.metadata) THEN session_traces.metadata ELSE '{}' END"
_CREATED_US = "(julianday(session_traces.created_at) - 2440587.5) * 86400000000.0"
_ENDS = ("limit", "offset", "shuffle")


def daemon_config(settings: FilterConfig, source: Source) -> Config:
    """Return the configuration of the daemon that continues a filter.

    Args:
        settings: The filter.
        source: The source of the daemon, with the database of the filter.

    Raises:
        ConfigError: the filter has a key that a daemon cannot apply.
    """
    ends = [key for key in _ENDS if getattr(settings, key)]
    if ends:
        cause = "a dataset that grows has no end to count from, and no order to choose"
        raise ConfigError("follow the filter", ", ".join(f"filter.{key}" for key in ends), cause, "leave it out")
    path = settings.output
    return Config(
        source=source,
        dataset=Dataset(path, path.with_name(f"{path.name}.ledger")),
        qualify=Qualify(condition(settings)),
        records=RecordRules(models=tuple(sorted(settings.models))),
    )


def condition(settings: FilterConfig) -> str:
    """Return the conditions of a filter on an outcome and its session, as SQL over both tables.

    Times are compared by the millisecond. Models are tested on the records instead.
    """
    return " AND ".join(_conditions(settings)) or "1"


def _conditions(settings: FilterConfig) -> Iterator[str]:
    for key, names in (("task_split", settings.splits), ("task_id", settings.task_ids)):
        if names:
            yield f"CAST(json_extract({_METADATA}, '$.{key}') AS TEXT) IN ({_listed(names)})"
    for sign, moment in ((">=", settings.min_created_at), ("<=", settings.max_created_at)):
        if moment is not None:
            yield f"round({_CREATED_US} / 1000) {sign} {moment / 1000!r}"
    for sign, bound in ((">=", settings.min_official_score), ("<=", settings.max_official_score)):
        if bound is not None:
            yield f"typeof(total_reward) IN ('integer', 'real') AND total_reward {sign} {bound!r}"
    for sign, scores in ((">=", settings.min_judge_scores), ("<=", settings.max_judge_scores)):
        for judge, score in scores.items():
            yield (
                f"EXISTS (SELECT 1 FROM json_each({_METADATA}, '$.judge_scores') AS judge WHERE judge.key ="
                f" {_quoted(judge)} AND judge.type IN ('integer', 'real') AND judge.value {sign} {score!r})"
            )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(_quoted(name) for name in sorted(names))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
