"""From lines and outcomes to verdicts: join, qualify, dedup in order. Pure: no I/O, no clock.

``judge`` gives every line either a verdict or, if it qualifies, the key to look up; ``settle`` gives the
rest their verdicts, now that it is known which keys the dataset holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from streamer import layouts
from streamer.dataset import encode_line
from streamer.dead_letters import encode_dead_letter
from streamer.dedup import DedupBy, record_key
from streamer.join import JoinRule, choose
from streamer.layouts import MalformedError
from streamer.model import Line, Outcome, Record, Span, State, Verdict
from streamer.qualify import RecordRules, below_bar

DUE_AFTER_OUTCOMES = "after_last_outcome"
"""Reason of waiting lines whose session has outcomes, all of them older than the record."""

RULE_CHANGED = "rule_changed"
"""Reason of waiting lines whose outcome has not been read under the present condition yet."""


class Rules(msgspec.Struct, frozen=True):
    """Everything that verdicts depend on. ``where`` is the name of the condition in force."""

    where: str
    join: JoinRule
    records: RecordRules
    by: DedupBy


class Item(msgspec.Struct, frozen=True):
    """One line on its way: what it holds, or why that cannot be taken. ``since`` is when it was first read."""

    line: Line
    shard_id: int
    since: float
    content: Record | MalformedError


class Judged(msgspec.Struct, frozen=True):
    """A line with its verdict so far; ``key`` is set while the verdict depends on the dataset."""

    item: Item
    verdict: Verdict
    outcome: Outcome | None = None
    key: bytes | None = None


class Settled(msgspec.Struct, frozen=True):
    """What a batch comes to: bytes to write, keys to remember, verdicts to keep."""

    spans: Sequence[Span]
    dataset: bytes
    appended: Sequence[tuple[bytes, int]]
    claimed: Sequence[bytes]
    dead_letters: bytes


def parse(line: Line, shard_id: int, since: float, max_line: int) -> Item | None:
    """Read one line; None for a blank one, which is no line of the dataset's business."""
    if line.data is None:
        return Item(line, shard_id, since, MalformedError("too_long", f"longer than {max_line} bytes"))
    if not line.data.strip():
        return None
    try:
        return Item(line, shard_id, since, layouts.read(line.data, line.shard))
    except MalformedError as error:
        return Item(line, shard_id, since, error)


def sessions(items: Iterable[Item]) -> set[str]:
    """Return the sessions whose outcomes have to be known to judge ``items``."""
    return {item.content.session for item in items if isinstance(item.content, Record)}


def judge(items: Iterable[Item], outcomes: Mapping[str, Sequence[Outcome]], rules: Rules) -> list[Judged]:
    """Give every line a verdict, or the key on which it depends."""
    return [_judge(item, outcomes, rules) for item in items]


def _judge(item: Item, outcomes: Mapping[str, Sequence[Outcome]], rules: Rules) -> Judged:
    record = item.content
    if isinstance(record, MalformedError):
        return Judged(item, Verdict(State.DEAD_LETTERED, record.reason))
    rows = outcomes.get(record.session, ())
    outcome = choose(rows, record.time_us, rules.join)
    if outcome is None:
        return Judged(item, Verdict(State.WAITING, DUE_AFTER_OUTCOMES if rows else ""))
    if outcome.rule != rules.where:
        return Judged(item, Verdict(State.WAITING, RULE_CHANGED))
    reason = below_bar(record, outcome, rules.records)
    if reason is not None:
        return Judged(item, Verdict(State.BELOW_BAR, reason, outcome.ref, outcome.rule))
    key = record_key(record.messages, rules.by, (record.session, record.turn, record.timestamp))
    return Judged(item, Verdict(State.APPENDED, "", outcome.ref), outcome, key)


def settle(judged: Sequence[Judged], known: Mapping[bytes, bool], length: int) -> Settled:
    """Give every line its final verdict.

    Args:
        judged: the batch, in order; of equal keys the first is taken.
        known: keys in the dataset -> whether a shard line stands behind them. A line whose key was
            adopted after a crash is that very line: it counts as appended, and nothing is written.
        length: bytes in the dataset, where the first new line will begin.
    """
    verdicts: list[tuple[Item, Verdict]] = []
    lines: list[bytes] = []
    appended: list[tuple[bytes, int]] = []
    claimed: list[bytes] = []
    claimable = {key for key, is_claimed in known.items() if not is_claimed}
    taken = set(known)
    for one in judged:
        verdict, key = one.verdict, one.key
        if key is None or one.outcome is None or not isinstance(one.item.content, Record):
            pass
        elif key in claimable:
            claimable.discard(key)
            claimed.append(key)
        elif key in taken:
            verdict = Verdict(State.DUPLICATE, "", verdict.outcome)
        else:
            taken.add(key)
            lines.append(encode_line(one.item.content, one.outcome, one.item.line.shard))
            appended.append((key, length))
            length += len(lines[-1])
        verdicts.append((one.item, verdict))
    return Settled(_spans(verdicts), b"".join(lines), appended, claimed, _dead_letters(judged))


def _dead_letters(judged: Iterable[Judged]) -> bytes:
    return b"".join(
        encode_dead_letter(one.item.line, one.item.content.reason, one.item.content.detail)
        for one in judged
        if isinstance(one.item.content, MalformedError)
    )


def _spans(verdicts: Iterable[tuple[Item, Verdict]]) -> list[Span]:
    spans: list[Span] = []
    for item, verdict in verdicts:
        one = _span(item, verdict)
        if spans and _continues(spans[-1], one):
            spans[-1] = _joined(spans[-1], one)
        else:
            spans.append(one)
    return spans


def _span(item: Item, verdict: Verdict) -> Span:
    record = item.content if isinstance(item.content, Record) else None
    time = record.time_us if record else None
    return Span(
        shard_id=item.shard_id,
        start=item.line.start,
        stop=item.line.stop,
        line=item.line.number,
        lines=1,
        session=record.session if record else "",
        state=verdict.state,
        reason=verdict.reason,
        outcome=verdict.outcome,
        first_us=time,
        last_us=time,
        since=item.since,
        rule=verdict.rule,
    )


def _continues(span: Span, one: Span) -> bool:
    return (
        span.stop == one.start
        and span.shard_id == one.shard_id
        and span.session == one.session
        and span.state == one.state
        and span.reason == one.reason
        and span.outcome == one.outcome
        and span.since == one.since
        and span.rule == one.rule
        and (span.first_us is None) == (one.first_us is None)
    )


def _joined(span: Span, one: Span) -> Span:
    times = [t for t in (span.first_us, span.last_us, one.first_us, one.last_us) if t is not None]
    return msgspec.structs.replace(
        span,
        stop=one.stop,
        lines=span.lines + 1,
        first_us=min(times, default=None),
        last_us=max(times, default=None),
    )


def count(spans: Iterable[Span]) -> dict[State, int]:
    """Return lines by state."""
    counts = dict.fromkeys(State, 0)
    for span in spans:
        counts[span.state] += span.lines
    return counts
