"""Plots as inline SVG. The style of the page colours them, and a table below each has its numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial

from streamer.base.histogram import Bin
from streamer.commands.report.html import Html, el

_HEIGHT = 220
_WIDE, _NARROW = 960, 480
"""The widths of a curve, which takes a whole row, and of a histogram."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 22, 30
_EDGE = 8
"""The margin left and right of bars, which have labels instead of a scale."""

_PLOT_HEIGHT = _HEIGHT - _TOP - _BOTTOM
_BASE = _TOP + _PLOT_HEIGHT
_TICKS = 4
_DAY = 86_400
_HUGE, _WHOLE = 1e12, 100.0
"""Numbers from these values on are shortened, or shown without a fraction."""

_MANY = 7
_ROWS = 24
"""The most rows of the table below a curve."""


def histogram(found: Sequence[Bin], title: str, unit: str) -> Html:
    """Return a histogram: a bar for each bin, as high as its number of records."""
    labels = _labels(found)
    top = max((bar.records for bar in found), default=0) or 1
    step = (_NARROW - 2 * _EDGE) / max(1, len(found))
    width = min(step * 0.82, 90)
    every = -(-len(found) // _MANY)
    marks = []
    for i, bar in enumerate(found):
        middle = _EDGE + step * (i + 0.5)
        height = _PLOT_HEIGHT * bar.records / top
        y = _BASE - height
        tip = el("title", f"{labels[i]}: {bar.records:,}")
        marks.append(
            el("rect", tip, class_="bar", x=_n(middle - width / 2), y=_n(y), width=_n(width), height=_n(height), rx=2)
        )
        marks += [_text(middle, y - 5, f"{bar.records:,}", "value")] if bar.records else []
        if i % every == 0:
            label = _number(bar.low) if bar.low == bar.high or len(found) > _TICKS else labels[i]
            marks.append(_text(middle, _HEIGHT - 10, label))
    describe = f"{len(found)} bars; the highest is {top:,} records." if found else "No values."
    table = _table((unit, "records"), [(label, f"{bar.records:,}") for label, bar in zip(labels, found, strict=True)])
    return _figure(_NARROW, title, describe, [_frame(_EDGE, _NARROW - _EDGE), marks], table)


def curve(points: Sequence[tuple[float, int]], title: str, unit: str, *, times: bool) -> Html:
    """Return a curve of the number of records over seconds since the epoch (``times``) or over rollouts."""
    low, high = points[0][0], points[-1][0]
    top = _above(points[-1][1])
    span = high - low or 1.0
    width = _WIDE - _LEFT - _RIGHT

    def place(point: tuple[float, int]) -> tuple[float, float]:
        return _LEFT + width * (point[0] - low) / span, _TOP + _PLOT_HEIGHT * (1 - point[1] / top)

    line = "L".join(f"{_n(x)} {_n(y)}" for x, y in map(place, points))
    area = f"M{_LEFT} {_BASE}L{line}L{_n(_LEFT + width)} {_BASE}Z"
    name = _tick(span) if times else "{:,.0f}".format
    marks = [
        _grid(top),
        el("path", class_="area", d=area),
        el("path", class_="line", d=f"M{line}"),
        _frame(_LEFT, _LEFT + width),
        [_text(_LEFT + width * share, _HEIGHT - 10, name(low + span * share), _anchor(share)) for share in _shares()],
    ]
    every = -(-len(points) // _ROWS)
    rows = [(name(x), f"{y:,}") for x, y in [*points[:-1:every], points[-1]]]
    describe = f"From {points[0][1]:,} records at {name(low)} to {points[-1][1]:,} at {name(high)}."
    return _figure(_WIDE, title, describe, marks, _table((unit, "records"), rows))


def moment(seconds: float) -> str:
    """Return a time in UTC, to the second."""
    return _time(seconds, "%Y-%m-%d %H:%M:%S")


def _tick(span: float) -> Callable[[float], str]:
    """Return the formatter of times for a curve over ``span`` seconds, with the precision that it needs."""
    if span < _DAY:
        return partial(_time, form="%H:%M:%S")
    return partial(_time, form="%Y-%m-%d %H:%M" if span < 30 * _DAY else "%Y-%m-%d")


def _time(seconds: float, form: str) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime(form)
    except (ValueError, OverflowError, OSError):  # the time is beyond the first or last year of the calendar
        return f"{seconds:,.0f} s"


def _labels(found: Sequence[Bin]) -> list[str]:
    return [_number(bar.low) if bar.low == bar.high else f"{_number(bar.low)} to {_number(bar.high)}" for bar in found]


def _number(value: float) -> str:
    if abs(value) >= _HUGE:
        return f"{value:.3g}"
    return f"{value:,.0f}" if value == int(value) or abs(value) >= _WHOLE else f"{value:.3g}"


def _n(value: float) -> str:
    return f"{value:.1f}"


def _above(value: int) -> int:
    """Return a round number of at least ``value`` that ticks divide evenly."""
    if value <= _TICKS:
        return _TICKS
    step = 10 ** math.floor(math.log10(value / _TICKS))
    steps = (step * tenths / 10 for tenths in (10, 15, 20, 25, 30, 40, 50, 60, 80, 100))
    return next(int(one) * _TICKS for one in steps if one == int(one) and one * _TICKS >= value)


def _shares() -> Iterator[float]:
    return (i / _TICKS for i in range(_TICKS + 1))


def _anchor(share: float) -> str:
    return {0.0: "from", 1.0: "to"}.get(share, "")


def _grid(top: int) -> Iterator[Html]:
    for share in _shares():
        y = _TOP + _PLOT_HEIGHT * (1 - share)
        yield el("line", class_="grid-line", x1=_LEFT, x2=_WIDE - _RIGHT, y1=_n(y), y2=_n(y))
        yield _text(_LEFT - 8, y + 4, f"{int(top * share):,}", "to")


def _frame(left: float, right: float) -> Html:
    return el("line", class_="axis", x1=left, x2=right, y1=_BASE, y2=_BASE)


def _text(x: float, y: float, text: str, class_: str = "") -> Html:
    return el("text", text, x=_n(x), y=_n(y), class_=class_)


def _figure(width: int, title: str, describe: str, marks: object, table: Html) -> Html:
    image = el(
        "svg",
        el("title", title),
        el("desc", describe),
        marks,  # type: ignore[arg-type]
        viewBox=f"0 0 {width} {_HEIGHT}",
        class_="wide-plot" if width == _WIDE else "narrow-plot",
        role="img",
        aria_label=f"{title}. {describe}",
    )
    return el(
        "figure",
        el("figcaption", title),
        el("div", image, class_="plot"),
        el("details", el("summary", "as a table"), table),
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Html:
    return el(
        "table",
        el("thead", el("tr", [el("th", name, scope="col") for name in head])),
        el("tbody", [el("tr", [el("td", cell) for cell in row]) for row in rows]),
    )
