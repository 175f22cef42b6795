"""Draws the live view of ``streamer tail``: growth, counts and the newest records, within the lines of the terminal.

No line is wider than the terminal. Text from outside goes through ``steady``, and is the last of its line or in a
column that is padded by cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.text import Text

from streamer.base.sparkline import sparkline
from streamer.base.text import age, counted, sized, steady
from streamer.commands import status_text
from streamer.commands.tail.cells import cropped, end_of, filled, fitted
from streamer.commands.tail.watch import TailView
from streamer.core.records.model import STATE_NAMES, State
from streamer.reader.summary_line import LineSummary
from streamer.store.views.snapshot import Snapshot

_COLOURS = {
    State.ACCEPTED: "green",
    State.DUPLICATE: "yellow",
    State.REJECTED: "magenta",
    State.WAITING: "cyan",
    State.EXPIRED: "blue",
    State.DEAD_LETTERED: "red",
}

_TABLE_WIDTH, _TABLE_HEIGHT = 48, 20
"""On a smaller terminal, the counts are a sum instead of a table."""

_AIRY = 20
"""From this height on, empty lines separate the parts."""

_LEAST_RECORDS = 3
_STALE = 2.0
"""Seconds after which outdated counts show their age."""

_BAR = 30


def picture(view: TailView, width: int, height: int) -> list[Text]:
    """Return at most ``height`` lines of at most ``width`` cells."""
    growth = _growth(view, width)
    fixed = [[_head(view, width)], [growth[0]], [_foot(view, width)]]
    if height <= len(fixed):
        order = (fixed[1], fixed[0], fixed[2])  # on a tiny terminal the count comes first
        return [line for part in order for line in part][: max(0, height)]
    left = height - len(fixed)
    chart = [growth[1]] if left > _LEAST_RECORDS else []
    flow = _flow(view, width, height, left - len(chart))
    airy = [Text()] if height >= _AIRY else []
    above = [*fixed[0], *fixed[1], *chart, *airy, *flow, *airy]
    return [*above, *_newest(view, width, height - len(above) - 1), *fixed[2]]


def _head(view: TailView, width: int) -> Text:
    alive = ("● alive", "green") if view.daemon else ("○ not running", "yellow")
    daemon = Text.assemble(alive, f", pid {view.daemon.pid}" if view.daemon and width >= _TABLE_WIDTH else "")
    room = width - daemon.cell_len - 2
    if room <= 0:
        return cropped(daemon, width)
    return Text.assemble((end_of(view.dataset, room), "bold"), "  ", daemon)


def _growth(view: TailView, width: int) -> tuple[Text, Text]:
    """Return the growth as text, and as a line of bars."""
    if view.size is None:
        return cropped(Text("waiting for the dataset: it is not there yet", style="yellow"), width), Text()
    parts = [counted(view.seen.dataset_lines, "record")] if view.seen else []
    parts += [sized(view.size), f"{view.per_minute:,.0f} a minute"]
    parts += [f"{view.came:,} came while you look"] if view.came else []
    last = view.seen.last_append_seconds if view.seen else None
    parts += [f"last one {age(last + view.age)} ago"] if last is not None else []
    words = cropped(Text("  ").join(Text(part, style="bold" if not i else "") for i, part in enumerate(parts)), width)
    return words, _chart(view, width)


def _chart(view: TailView, width: int) -> Text:
    label_room = 24 if width >= _TABLE_WIDTH else 0
    slots = view.history.slots(width - label_room)
    chart = Text(sparkline(slots.records), style="green")
    if label_room:
        chart.append(f"  records each {age(slots.seconds)}", style="dim")
    return cropped(chart, width)


def _flow(view: TailView, width: int, height: int, room: int) -> list[Text]:
    """Return the six counts, which are of one moment and add up to the lines read."""
    if view.seen is None:
        reason = view.failure or "no ledger beside the dataset: what was read, and what was not taken, is not known"
        return [cropped(Text(steady(reason), style="yellow"), width)][: max(0, room)]
    if width >= _TABLE_WIDTH and height >= _TABLE_HEIGHT:
        return list(_flow_table(view, view.seen, width))
    rows = _flow_sum(view.seen, width)
    return rows if len(rows) < room else []  # a part of a sum would mislead


def _flow_table(view: TailView, seen: Snapshot, width: int) -> Iterator[Text]:
    stale = f", counted {age(view.age)} ago" if view.stale and view.age >= _STALE else ""
    digits = len(f"{seen.read:,}")
    yield cropped(Text(f"{'read':<16}{seen.read:>{digits},}  of {status_text.places(seen)}{stale}"), width)
    bar = min(_BAR, width // 4)
    for state, name in STATE_NAMES.items():
        count = seen.counts[state]
        filled = -(-bar * count // seen.read) if seen.read else 0  # round up, so that each non-zero count is visible
        line = Text.assemble(
            f"  {name:<14}{count:>{digits},}  ", ("━" * filled, _COLOURS[state]), ("─" * (bar - filled), "dim"), "  "
        )
        more = steady(status_text.detail(seen, state, view.age)) if count else ""
        yield cropped(line.append(more, style="dim"), width)


def _flow_sum(seen: Snapshot, width: int) -> list[Text]:
    """Return the counts as a sum, broken before its signs."""
    first, *others = status_text.sum_of(seen)
    rows = [first]
    for part in others:
        if len(rows[-1]) + 1 + len(part) <= width:
            rows[-1] += f" {part}"
        else:
            rows.append(part)
    return [cropped(Text(row), width) for row in rows]


_COLUMNS = (("run id", 36), ("turn", 4), ("reward", 6), ("model", 16), ("size", 8))
_NARROW = 72
_REWARD = 6


def _newest(view: TailView, width: int, height: int) -> list[Text]:
    """Return as many of the newest records as fit, newest last, padded to ``height`` lines."""
    if height <= 0:
        return []
    head = [_row_of([name for name, _ in _COLUMNS], "reply", width, "dim")] if width >= _NARROW and height > 1 else []
    room = height - len(head)
    rows = [_record(found, width) for found in view.newest[-room:]]
    if not rows and view.size is not None:
        rows = [cropped(Text("no records yet", style="dim"), width)]
    return [*head, *rows, *[Text()] * (room - len(rows))]


def _record(found: LineSummary, width: int) -> Text:
    if found.problem:
        return cropped(Text(fitted(f"byte {found.offset:,}: {found.problem}", width), style="red"), width)
    if width < _NARROW:
        reward = Text(f"{filled(found.reward, _REWARD)} ", style="green")
        return cropped(reward.append(fitted(found.reply, max(0, width - _REWARD - 1)), style="default"), width)
    cells = [found.run_id, found.turn, found.reward, found.model, sized(found.size)]
    return _row_of(cells, found.reply, width, "")


def _row_of(cells: Sequence[str], reply: str, width: int, style: str) -> Text:
    line = Text()
    for (name, most), cell in zip(_COLUMNS, cells, strict=True):
        room = min(most, width // 5) if name == "run id" else most
        colour = {"run id": "cyan", "reward": "green"}.get(name, "")
        line.append(f"{filled(cell, room)}  ", style=style or colour)
    return cropped(line.append(fitted(reply, max(0, width - line.cell_len)), style=style), width)


def _foot(view: TailView, width: int) -> Text:
    notes = [view.note] if view.note else []
    notes += [view.failure] if view.failure and view.seen else []
    notes += status_text.notes(view.seen) if view.seen else []
    if notes:
        return Text(fitted("; ".join(notes), width), style="yellow")
    return Text(fitted("q or Ctrl-C ends", width), style="dim")
