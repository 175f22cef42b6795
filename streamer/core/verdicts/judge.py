"""From lines and outcomes to verdicts: join, qualify, dedup in order. Pure: no I/O, no clock.

``judge`` gives every line either a verdict or, if it qualifies, the key to look up; ``settle`` gives the
rest their verdicts, now that it is known which keys the dataset holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from streamer.core.records import layouts
from streamer.core.records.arrived import ArrivedRecord
from streamer.core.records.dataset_line import encode_line
from streamer.core.records.dead_letter import encode_dead_letter
from streamer.core.records.key import DedupBy, record_key
from streamer.core.records.layouts import Envelope, MalformedError, record_of
from streamer.core.records.model import Line, Outcome, SourceRecord, Span, State, Verdict
from streamer.core.records.trace_messages import Decision
from streamer.core.records.worth import Worth
from streamer.core.verdicts.join import JoinRule, choose
from streamer.core.verdicts.qualify import Facts, RecordRules, below_bar
from streamer.core.verdicts.reasons import DUE_AFTER_OUTCOMES, REWARDS_UNREAD, RULE_CHANGED, SENT_AGAIN
from streamer.core.verdicts.turns import TurnBook, TurnReward


class Rules(msgspec.Struct, frozen=True):
    """Everything that verdicts depend on. ``where`` is the name of the condition in force."""

    where: str
    join: JoinRule
    records: RecordRules
    by: DedupBy


class Item(msgspec.Struct, frozen=True):
    """One line on its way: what it holds, or why that cannot be taken. ``since`` is when it was first read.

    A decision of the trace database is a line as well. It has no bytes. A record that has arrived from a collector is
    one that has qualified there.
    """

    line: Line
    shard_id: int
    since: float
    content: Envelope | Decision | ArrivedRecord | MalformedError


class Judged(msgspec.Struct, frozen=True):
    """A line with its verdict so far; ``offer`` is set while the verdict depends on the dataset."""

    item: Item
    verdict: Verdict
    offer: _Offer | None = None


class _Offer(msgspec.Struct, frozen=True, gc=False):
    """A record that qualifies: the key to look up in the dataset, and the line to write if it is not there.

    The line is made while the record is at hand: to keep the records of a whole batch would cost more than the lines of
    some duplicates. ``again`` is the reason if it turns out to be one of them.
    """

    key: bytes
    line: bytes
    again: str = ""


class _Admission(Protocol):
    """What may leave out a record that qualifies and whose key is new."""

    def refuse(self, item: Item, offset: int) -> Verdict | None:
        """Return why a record is left out; None takes it, with its line at ``offset`` of the dataset."""


class Settled(msgspec.Struct, frozen=True):
    """What a batch comes to: bytes to write, keys to remember, verdicts to keep."""

    spans: Sequence[Span]
    dataset: bytes
    appended: Sequence[tuple[bytes, int]]
    claimed: Sequence[bytes]
    dead: Sequence[Item]
    dead_letters: bytes


def parse(line: Line, shard_id: int, since: float, max_line: int) -> Item | None:
    """Read one line; None for a blank one, which is no line of the dataset's business."""
    if line.data is None:
        return Item(line, shard_id, since, MalformedError("too_long", f"longer than {max_line} bytes"))
    if not line.data.strip():
        return None
    try:
        return Item(line, shard_id, since, layouts.envelope(line.data, line.shard))
    except MalformedError as error:
        return Item(line, shard_id, since, error)


def sessions(items: Iterable[Item]) -> set[str]:
    """Return the sessions whose outcomes have to be known to judge ``items``."""
    return {item.content.session for item in items if not isinstance(item.content, MalformedError)}


def judge(
    items: Iterable[Item],
    outcomes: Mapping[str, Sequence[Outcome]],
    rules: Rules,
    rewards: Mapping[str, Sequence[TurnReward]] | None = None,
) -> list[Judged]:
    """Give every line a verdict, or the key on which it depends.

    Args:
        items: the lines.
        outcomes: all known outcomes of their sessions.
        rules: what verdicts depend on.
        rewards: the event rewards of those of their sessions whose were read, if the rules ask for any.
    """
    turn_rules = rules.records.turn_rules
    turns = TurnBook(rewards or {}, outcomes, rules.join, turn_rules) if turn_rules else None
    return [
        _arrived(item, item.content)
        if isinstance(item.content, ArrivedRecord)
        else _judge(item, item.content, outcomes, rules, turns)
        for item in items
    ]


def _arrived(item: Item, record: ArrivedRecord) -> Judged:
    """Judge a record of a collector: it has qualified there."""
    again = SENT_AGAIN if record.again else ""
    return Judged(item, Verdict(State.ACCEPTED), _Offer(record.key, record.line, again))


def _judge(
    item: Item,
    line: Envelope | Decision | MalformedError,
    outcomes: Mapping[str, Sequence[Outcome]],
    rules: Rules,
    turns: TurnBook | None,
) -> Judged:
    if isinstance(line, MalformedError):
        return _dead(item, line)
    rows = outcomes.get(line.session, ())
    outcome = choose(rows, line.time_us, rules.join)
    if outcome is not None and outcome.rule == rules.where and not outcome.qualifies:
        # Nobody asks what a rollout said that does not qualify: half of the lines are never decoded.
        return Judged(item, Verdict(State.REJECTED, "where", outcome.ref, outcome.rule))
    try:
        record = record_of(line) if isinstance(line, Envelope) else line.record()
    except MalformedError as error:
        return _dead(item, error)
    if outcome is None:
        return Judged(item, Verdict(State.WAITING, DUE_AFTER_OUTCOMES if rows else ""))
    if outcome.rule != rules.where:
        return Judged(item, Verdict(State.WAITING, RULE_CHANGED))
    return _judge_record(item, record, outcome, rules, turns)


def _judge_record(item: Item, record: SourceRecord, outcome: Outcome, rules: Rules, turns: TurnBook | None) -> Judged:
    verdict, worth = judge_facts(record, outcome, rules, turns)
    if verdict is not None:
        return Judged(item, verdict)
    key = record_key(record.conversation, rules.by, (record.session, record.turn, record.timestamp))
    line = encode_line(record, outcome, item.line.shard, worth)
    return Judged(item, Verdict(State.ACCEPTED, "", outcome.ref), _Offer(key, line))


def judge_facts(
    record: Facts, outcome: Outcome, rules: Rules, turns: TurnBook | None
) -> tuple[Verdict | None, Worth | None]:
    """Judge a record of a rollout that qualifies by the record rules.

    Returns:
        The verdict that keeps the record out for now, or None if it gets in; and the worth of its turn if known.
    """
    reason = below_bar(record, rules.records)
    worth: Worth | None = None
    if turns is not None and reason is None:
        rollout = turns.rollout(outcome)
        if rollout is None:
            return Verdict(State.WAITING, REWARDS_UNREAD), None
        reason = rollout.below_bar(record.turn)
        worth = rollout.of(record.turn)
    return None if reason is None else Verdict(State.REJECTED, reason, outcome.ref, outcome.rule), worth


def _dead(item: Item, error: MalformedError) -> Judged:
    dead = Item(item.line, item.shard_id, item.since, error)
    return Judged(dead, Verdict(State.DEAD_LETTERED, error.reason))


def settle(
    judged: Sequence[Judged], known: Mapping[bytes, bool], length: int, gate: _Admission | None = None
) -> Settled:
    """Give every line its final verdict.

    Args:
        judged: the batch, in order; of equal keys the first is taken.
        known: keys in the dataset -> whether a shard line stands behind them. A line whose key was
            adopted after a crash is that very line: it counts as appended, and nothing is written.
        length: bytes in the dataset, where the first new line will begin.
        gate: asked of each record that would be written, in order; None takes all of them.
    """
    verdicts: list[tuple[Item, Verdict]] = []
    lines: list[bytes] = []
    appended: list[tuple[bytes, int]] = []
    claimed: list[bytes] = []
    claimable = {key for key, is_claimed in known.items() if not is_claimed}
    taken = set(known)
    for one in judged:
        verdict, offer = one.verdict, one.offer
        if offer is None:
            pass
        elif offer.key in claimable:
            claimable.discard(offer.key)
            claimed.append(offer.key)
        elif offer.key in taken:
            verdict = Verdict(State.DUPLICATE, offer.again, verdict.outcome)
        elif gate is not None and (left_out := gate.refuse(one.item, length)) is not None:
            verdict = msgspec.structs.replace(left_out, outcome=verdict.outcome)
        else:
            taken.add(offer.key)
            lines.append(offer.line)
            appended.append((offer.key, length))
            length += len(offer.line)
        verdicts.append((one.item, verdict))
    dead = [one.item for one in judged if isinstance(one.item.content, MalformedError)]
    return Settled(
        spans_of(verdicts), b"".join(lines), appended, claimed, dead, b"".join(_dead_letter(item) for item in dead)
    )


def _dead_letter(item: Item) -> bytes:
    error = item.content
    return encode_dead_letter(item.line, error.reason, error.detail) if isinstance(error, MalformedError) else b""


class _Run:
    """Consecutive lines of one shard that have all in common that a span says of them."""

    def __init__(self, item: Item, verdict: Verdict) -> None:
        self._first = item
        self._verdict = verdict
        self._session = _session(item)
        self._timed = _time(item) is not None
        self._stop = item.line.start
        self._lines = 0
        self._times: list[int] = []

    def takes(self, item: Item, verdict: Verdict) -> bool:
        """Add a line, unless it is of another kind or stands elsewhere."""
        first, line, time = self._first, item.line, _time(item)
        if (
            self._stop != line.start
            or first.shard_id != item.shard_id
            or first.since != item.since
            or self._verdict != verdict
            or self._session != _session(item)
            or self._timed is (time is None)
        ):
            return False
        self._stop = line.stop
        self._lines += 1
        if time is not None:
            self._times.append(time)
        return True

    def span(self) -> Span:
        """Return the lines as one span."""
        first, verdict = self._first, self._verdict
        return Span(
            shard_id=first.shard_id,
            start=first.line.start,
            stop=self._stop,
            line=first.line.number,
            lines=self._lines,
            session=self._session,
            state=verdict.state,
            reason=verdict.reason,
            outcome=verdict.outcome,
            first_us=min(self._times, default=None),
            last_us=max(self._times, default=None),
            since=first.since,
            rule=verdict.rule,
        )


def spans_of(verdicts: Iterable[tuple[Item, Verdict]]) -> list[Span]:
    """Return lines with their verdicts as spans, in the same order."""
    runs: list[_Run] = []
    for item, verdict in verdicts:
        if not (runs and runs[-1].takes(item, verdict)):
            runs.append(_Run(item, verdict))
            runs[-1].takes(item, verdict)
    return [run.span() for run in runs]


def _session(item: Item) -> str:
    return "" if isinstance(item.content, MalformedError) else item.content.session


def _time(item: Item) -> int | None:
    return None if isinstance(item.content, MalformedError) else item.content.time_us


def count(spans: Iterable[Span]) -> dict[State, int]:
    """Return lines by state."""
    counts = dict.fromkeys(State, 0)
    for span in spans:
        counts[span.state] += span.lines
    return counts
