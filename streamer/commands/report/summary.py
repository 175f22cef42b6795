"""A report as text, for a terminal or a log."""

from __future__ import annotations

from collections.abc import Iterator

from streamer.base.histogram import Bin
from streamer.base.sparkline import sparkline
from streamer.base.text import counted, printable
from streamer.commands import status_text
from streamer.commands.common import bin_range
from streamer.commands.report.gather import Top
from streamer.commands.report.plots import moment
from streamer.commands.report.report import DatasetReport
from streamer.commands.report.survey import Spread, Survey
from streamer.core.records.model import STATE_NAMES
from streamer.reader.summary_line import cut
from streamer.store.views.snapshot import Snapshot

_BEST = 5
_LABEL = 17
_NAME = 48
_BINS = 6
_COLUMNS = 60


def summary(report: DatasetReport) -> Iterator[str]:
    """Yield the lines of a short summary of a report."""
    found = report.survey
    yield f"{printable(found.dataset)}: {counted(found.records, 'record')} of {counted(found.rollouts, 'rollout')}"
    for label, text in _facts(report):
        yield f"{label:<{_LABEL}}{text}"
    if found.best:
        yield "best rollouts"
        for rollout in found.best[:_BEST]:
            names = "  ".join(cut(printable(name), _NAME) for name in (rollout.run_id, rollout.model))
            yield f"  {rollout.reward:<{_LABEL - 2}g}{names}  {counted(rollout.records, 'record')}"
    if found.findings.counts:
        yield "problems in lines"
        for broken in found.findings.first[:_BEST]:
            yield f"  line {broken.line} at byte {broken.offset:,}: {broken.kind}: {printable(broken.detail)}"


def _facts(report: DatasetReport) -> Iterator[tuple[str, str]]:
    found = report.survey
    yield "size", f"{counted(found.bytes, 'byte')}, {counted(found.lines, 'line')}"
    if found.records:
        yield "growth", _growth(found)
    if report.ledger:
        yield "flow", " ".join(status_text.sum_of(report.ledger))
        yield from _reasons(report.ledger)
    yield from (("condition", printable(sql)) for sql in report.settings.where)
    if found.rewards:
        yield "rewards", _bins(found.rewards, found.without_reward)
    if found.achievement_counts:
        yield "achievements", _bins(found.achievement_counts, 0)
    yield from _names("  reached", found.achievements)
    if found.records:
        yield "messages", f"{_spread(found.messages)} a record"
        yield "characters", f"{_spread(found.characters)} a record"
        yield "roles", ", ".join(f"{role} {sums.messages:,}" for role, sums in found.roles.items())
    yield from _names("tools", found.tools)
    yield from _names("models", found.models)
    if found.images:
        yield "images", f"{counted(found.images, 'image')} in {counted(found.with_image, 'record')}"
    if found.findings.counts:
        yield "problems", ", ".join(f"{kind} {times:,}" for kind, times in found.findings.counts.items())
    yield from (("note", printable(note)) for note in report.notes)


def _growth(found: Survey) -> str:
    points = found.growth.points
    steps = [later[1] - before[1] for before, later in zip([(0.0, 0), *points], points, strict=False)]
    merged = -(-len(steps) // _COLUMNS)
    chart = sparkline([sum(steps[i : i + merged]) for i in range(0, len(steps), merged)])
    if not found.growth.by_time:
        return f"{chart}  in the order of rollouts: most records have no time"
    return f"{chart}  {moment(points[0][0])} to {moment(points[-1][0])} UTC"


def _reasons(seen: Snapshot) -> Iterator[tuple[str, str]]:
    for state, name in STATE_NAMES.items():
        more = status_text.detail(seen, state) if seen.counts[state] else ""
        if more:
            yield f"  {name}", more


def _bins(found: list[Bin], without: int) -> str:
    parts = [f"{bin_range(one)}: {one.records:,}" for one in found if one.records]
    shown = parts if len(parts) <= 2 * _BINS else [*parts[:_BINS], "…", *parts[-_BINS:]]
    return "  ".join([*shown, *([f"none: {without:,}"] if without else [])])


def _spread(found: Spread) -> str:
    if found.min == found.max:
        return f"{found.min:,.0f}"
    return f"{found.min:,.0f} to {found.max:,.0f}, median {found.median:,.0f}"


def _names(label: str, found: Top) -> Iterator[tuple[str, str]]:
    if not found.names:
        return
    names = [f"{cut(printable(name), _NAME)} {times:,}" for name, times in found.names.items()]
    others = [f"{counted(found.other_names, 'other')} {found.others:,}"] if found.other_names else []
    yield label, ", ".join([*names, *others])
