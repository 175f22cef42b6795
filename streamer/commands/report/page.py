"""Renders a report as one HTML page without scripts and requests, for light and dark mode and for screen readers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.resources import files

from streamer import __version__
from streamer.base.text import age, counted, sized
from streamer.commands import status_text
from streamer.commands.report import plots
from streamer.commands.report.gather import Top
from streamer.commands.report.html import Child, Html, el, join
from streamer.commands.report.report import DatasetReport
from streamer.commands.report.samples import Shown, ShownMessage, ShownRecord
from streamer.commands.report.survey import RoleCounts, Survey
from streamer.core.records.model import STATE_NAMES
from streamer.store.views.snapshot import Snapshot

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_OPEN_ROLES = ("user", "assistant")
"""Messages of other roles are folded: the system prompt is the same in all records."""


def page(report: DatasetReport, samples: Sequence[ShownRecord], made: float) -> str:
    """Return the page.

    Args:
        report: The report.
        samples: The sample records.
        made: The time of the report in seconds since the epoch.
    """
    found = report.survey
    name = found.dataset.rsplit("/", 1)[-1]
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="referrer", content="no-referrer"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", f"{name}: report"),
        el("style", Html(files("streamer.commands.report").joinpath("page.css").read_text("utf-8"))),
    )
    sections = list(_sections(report, samples))
    links = [el("a", title, href=f"#{key}") for key, title, _ in sections]
    body = el(
        "body",
        el(
            "header",
            el("p", "Dataset report", class_="kicker"),
            el("h1", name),
            el("p", f"{found.dataset} · {plots.moment(made)} UTC · streamer {__version__}", class_="quiet"),
            _tiles(report),
            [el("p", note, class_="note") for note in report.notes],
            el("nav", links, aria_label="Sections"),
        ),
        el("main", [_section(key, title, content) for key, title, content in sections]),
    )
    return f"<!doctype html>\n{el('html', head, body, lang='en')}\n"


def _section(key: str, title: str, content: Child) -> Html:
    return el("section", el("h2", title, id=key), content, aria_labelledby=key)


def _sections(report: DatasetReport, samples: Sequence[ShownRecord]) -> Iterator[tuple[str, str, Child]]:
    found = report.survey
    if report.ledger:
        yield "flow", "What was read, and what became of it", _flow(report.ledger)
    if found.records:
        yield "growth", "Growth", _growth(found)
        yield "rewards", "Rewards", _rewards(found)
        yield "lengths", "Lengths", _lengths(found)
        yield "contents", "Contents", _contents(found)
    if found.best:
        yield "best", "Best rollouts", _best(found)
    if samples:
        yield "samples", "Sample records", _samples(report, samples)
    yield "settings", "Settings and sources", _settings(report)
    if found.findings.counts:
        yield "problems", "Problems in lines", _broken(found)


def _tiles(report: DatasetReport) -> Html:
    found = report.survey
    tiles = [
        ("records", f"{found.records:,}"),
        ("rollouts", f"{found.rollouts:,}"),
        ("size", sized(found.bytes)),
        ("images", f"{found.images:,}"),
    ]
    if report.ledger and report.ledger.read:
        tiles.append(("of lines read", f"{100 * report.ledger.counts['appended'] / report.ledger.read:.0f} %"))
    broken = sum(found.findings.counts.values())
    if broken:
        tiles.append(("problems in lines", f"{broken:,}"))
    return el("dl", [el("div", el("dt", label), el("dd", value)) for label, value in tiles], class_="tiles")


# -- flow ------------------------------------------------------------------------------------------------


def _flow(seen: Snapshot) -> Child:
    text = ", ".join(f"{name} {seen.counts[state]:,}" for state, name in STATE_NAMES.items())
    parts = [
        el("span", class_=f"part {state}", style=f"flex-grow:{seen.counts[state]}")
        for state in STATE_NAMES
        if seen.counts[state]
    ]
    rows = [
        [el("span", class_=f"dot {state}"), name, _number(seen.counts[state]), status_text.detail(seen, state)]
        for state, name in STATE_NAMES.items()
    ]
    table = _table(
        ("", "lines", "number", "more"),
        [*rows, ["", el("strong", "read"), _number(seen.read), f"of {status_text.places(seen)}"]],
    )
    return [
        el(
            "p",
            f"The six numbers add up to the {counted(seen.read, 'line')} read. Only appended lines are in the dataset.",
        ),
        el("div", parts, class_="flow", role="img", aria_label=f"{seen.read:,} lines read: {text}") if parts else None,
        table,
        el("ul", [el("li", note) for note in status_text.notes(seen)]),
    ]


# -- plots -----------------------------------------------------------------------------------------------


def _growth(found: Survey) -> Child:
    growth = found.growth
    if growth.by_time:
        without = f" Not in the plot: {counted(growth.without_time, 'record')} without a time."
        first, last = (plots.moment(growth.points[end][0]) for end in (0, -1))
        text = (
            "By the time at which each record was played (metadata.timestamp), not at which it was appended:"
            f" from {first} to {last} UTC."
        )
        return [
            el("p", text, without if growth.without_time else None),
            plots.curve(growth.points, "Records over time", "time (UTC)", times=True),
        ]
    text = "Most records have no time of their own: the growth is shown over the rollouts, in the order of the dataset."
    return [el("p", text), plots.curve(growth.points, "Records over rollouts", "rollouts", times=False)]


def _rewards(found: Survey) -> Child:
    without = f"{counted(found.without_reward, 'record')} without a reward." if found.without_reward else None
    achieved = found.achievement_counts
    return [
        el(
            "div",
            plots.histogram(found.rewards, "total_reward of each record", "reward") if found.rewards else None,
            plots.histogram(achieved, "achievements_count of each record", "achievements") if achieved else None,
            class_="plots",
        ),
        el("p", without) if without else None,
        _names("achievement", found.achievements),
    ]


def _lengths(found: Survey) -> Child:
    text = (
        "Characters of all texts and tool calls; images are not counted. The last bar takes the longest 1 % as well."
        f" Median: {found.messages.median:,.0f} messages, {found.characters.median:,.0f} characters."
        f" Longest: {found.characters.max:,.0f} characters."
    )
    return [
        el("p", text),
        el(
            "div",
            plots.histogram(found.messages.bins, "Messages of each record", "messages"),
            plots.histogram(found.characters.bins, "Characters of each record", "characters"),
            class_="plots",
        ),
    ]


def _contents(found: Survey) -> Child:
    images = f"{counted(found.images, 'image')} in {counted(found.with_image, 'record')}"
    return [
        el(
            "div",
            _roles(found.roles),
            _names("tool", found.tools),
            _names("model", found.models),
            class_="columns",
        ),
        el("p", f"{images}, {sized(found.image_characters)} of the dataset.") if found.images else None,
    ]


def _roles(roles: dict[str, RoleCounts]) -> Html:
    most = max((sums.messages for sums in roles.values()), default=0)
    rows = [
        [role, _bar(sums.messages, most), _number(sums.messages), _number(sums.characters)]
        for role, sums in roles.items()
    ]
    return _table(("role", "", "messages", "characters"), rows)


def _names(noun: str, found: Top) -> Html | None:
    if not found.names:
        return None
    most = max(found.names.values())
    rows: list[list[Child]] = [[name, _bar(times, most), _number(times)] for name, times in found.names.items()]
    if found.other_names:
        rows.append([el("em", counted(found.other_names, "other")), _bar(found.others, most), _number(found.others)])
    return _table((noun, "", "times"), rows)


def _best(found: Survey) -> Html:
    rows = [
        [
            el("code", rollout.run_id),
            _number(rollout.reward),
            _number(rollout.records),
            rollout.model,
            _number(rollout.line),
        ]
        for rollout in found.best
    ]
    return _table(("rollout", "reward", "records", "model", "first line"), rows)


# -- samples ---------------------------------------------------------------------------------------------


def _samples(report: DatasetReport, samples: Sequence[ShownRecord]) -> Child:
    text = f"{counted(len(samples), 'record')}, picked at random (seed {report.seed}); what is left out is text there."
    return [el("p", text), el("div", map(_record, samples), class_="grid")]


def _record(record: ShownRecord) -> Html:
    facts = [el("div", el("dt", key), el("dd", value)) for key, value in record.facts.items()]
    messages: list[Child] = [*map(_message, record.messages)]
    if record.left_out:
        messages.insert(2, el("p", f"{counted(record.left_out, 'message')} left out", class_="quiet"))
    return el(
        "article",
        el("h3", f"Line {record.line:,}"),
        el("dl", facts, class_="facts"),
        el("p", f"Not shown: {record.unread}", class_="note") if record.unread else None,
        messages,
    )


def _message(message: ShownMessage) -> Html:
    images = [el("img", src=url, alt=f"image {i} of this message") for i, url in enumerate(message.images, 1)]
    content = [
        _text(message.text),
        el("div", images, class_="images") if images else None,
        [el("div", el("code", name, class_="call"), _text(arguments)) for name, arguments in message.calls],
        [el("p", f"Left out: {what}", class_="quiet") for what in message.left_out],
    ]
    if message.role in _OPEN_ROLES:
        return el("div", el("p", message.role, class_="role"), content, class_=f"message {message.role}")
    return el("details", el("summary", message.role, class_="role"), content, class_="message")


def _text(shown: Shown) -> Child:
    if not shown.text:
        return None
    more = el("p", f"… {counted(shown.left_out, 'more character')}", class_="quiet") if shown.left_out else None
    return [el("pre", shown.text, dir="auto"), more]


# -- settings and sources -------------------------------------------------------------------------------


def _settings(report: DatasetReport) -> Child:
    seen, made_with = report.ledger, report.settings
    rows: list[list[Child]] = [["dataset", el("code", report.survey.dataset)]]
    label = "where" if len(made_with.where) == 1 else "where, at some time"
    rows += [[label, el("code", sql)] for sql in made_with.where]
    if made_with.dedup_by:
        rows.append(["dedup.by", el("code", made_with.dedup_by)])
    if seen:
        rows += [["shards", el("code", f"{seen.shard_folder}/{seen.pattern}")]] if seen.shard_folder else []
        rows += [["trace database", el("code", seen.database)]] if seen.database else []
        rows.append(["outcome rows", _number(seen.outcomes)])
        last = seen.last_append_seconds
        rows += [["last record", f"{age(last)} before this report"]] if last is not None else []
    rows.append(
        ["read for this report", f"{counted(report.survey.bytes, 'byte')}, {counted(report.survey.lines, 'line')}"]
    )
    return _table(("what", ""), rows)


def _broken(found: Survey) -> Child:
    counts = [[str(kind), _number(times)] for kind, times in found.findings.counts.items()]
    rows = [[_number(one.line), _number(one.offset), str(one.kind), one.detail] for one in found.findings.first]
    text = f"`streamer verify` has all of it, and also looks for duplicates and broken images. The first {len(rows)}:"
    return [_table(("what", "times"), counts), el("p", text), _table(("line", "byte", "what", "detail"), rows)]


# -- elements --------------------------------------------------------------------------------------------


def _table(head: Sequence[str], rows: Sequence[Sequence[Child]]) -> Html:
    cells = [el("tr", [el("td", cell, class_=_class(cell)) for cell in row]) for row in rows]
    classes = [_class(cell) for cell in rows[0]] if rows else [""] * len(head)
    titles = [
        el("th", title, scope="col", class_=class_) if title else el("td")
        for title, class_ in zip(head, classes, strict=True)
    ]
    return el("div", el("table", el("thead", el("tr", titles)), el("tbody", cells)), class_="wide")


class _Number(Html):
    """A number, for a column of numbers."""

    __slots__ = ()


class _Share(Html):
    """A bar, for a column of bars."""

    __slots__ = ()


def _number(value: float) -> _Number:
    return _Number(join(f"{value:,}" if isinstance(value, int) else f"{value:,g}"))


def _bar(part: int, whole: int) -> _Share:
    return _Share(el("span", style=f"width:{100 * min(part, whole) / (whole or 1):.1f}%"))


def _class(cell: Child) -> str:
    if isinstance(cell, _Number):
        return "number"
    return "share" if isinstance(cell, _Share) else ""
