"""From lines and outcomes to verdicts: join, qualify, dedup in order.

Pure, and knows no files: it takes and returns plain values; a shard is a text that stands in the lines it writes.

``judge`` gives every line either a verdict or, if it qualifies, the key to look up; ``settle`` gives the
rest their verdicts, given the keys that the dataset holds.
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
from streamer.core.verdicts.qualify import Facts, RecordRules, rejection_reason
from streamer.core.verdicts.reasons import AFTER_LAST_OUTCOME, REWARDS_UNREAD, RULE_CHANGED, SENT_AGAIN, WHERE
from streamer.core.verdicts.turns import TurnBook, TurnReward


class Rules(msgspec.Struct, frozen=True):
    """All settings that verdicts depend on. ``where`` is the name of the condition in force."""

    where: str
    join: JoinRule
    records: RecordRules
    by: DedupBy


class Item(msgspec.Struct, frozen=True):
    """One line with its parsed content, or the error if it is malformed. ``since`` is the time of the first reading.

    A decision of the trace database counts as a line without bytes. A record that arrived from a collector qualified
    there.
    """

    line: Line
    shard_id: int
    since: float
    content: Envelope | Decision | ArrivedRecord | MalformedError


class Judged(msgspec.Struct, frozen=True):
    """A line with its provisional verdict; ``offer`` is set while the verdict depends on the dataset."""

    item: Item
    verdict: Verdict
    offer: _Offer | None = None


class _Offer(msgspec.Struct, frozen=True, gc=False):
    """A record that qualifies: its key to look up in the dataset, and the line to write if it is new.

    The line is encoded at once: keeping the records of a whole batch would cost more than encoding some duplicates.
    ``again`` is the reason if it is a duplicate.
    """

    key: bytes
    line: bytes
    again: str = ""


class _Admission(Protocol):
    """A filter of records that qualify and whose key is new."""

    def reject(self, item: Item, offset: int) -> Verdict | None:
        """Return the verdict that rejects a record, or None to admit it, with its line at log offset ``offset``."""


class Settled(msgspec.Struct, frozen=True):
    """The result of a batch: bytes to append, keys and verdicts to store."""

    spans: Sequence[Span]
    dataset: bytes
    appended: Sequence[tuple[bytes, int]]
    claimed: Sequence[bytes]
    dead: Sequence[Item]
    dead_letters: bytes


def parse(line: Line, shard_id: int, since: float, max_line: int) -> Item | None:
    """Return one line with its envelope parsed; None for a blank line, which is not counted."""
    if line.data is None:
        return Item(line, shard_id, since, MalformedError("too_long", f"longer than {max_line} bytes"))
    if not line.data.strip():
        return None
    try:
        return Item(line, shard_id, since, layouts.envelope(line.data, line.shard))
    except MalformedError as error:
        return Item(line, shard_id, since, error)


def sessions(items: Iterable[Item]) -> set[str]:
    """Return the sessions whose outcomes are needed to judge ``items``."""
    return {item.content.session for item in items if not isinstance(item.content, MalformedError)}


def judge(
    items: Iterable[Item],
    outcomes: Mapping[str, Sequence[Outcome]],
    rules: Rules,
    rewards: Mapping[str, Sequence[TurnReward]] | None = None,
) -> list[Judged]:
    """Return every line with a verdict, or with the key that its verdict depends on.

    Args:
        items: The lines.
        outcomes: All known outcomes of their sessions.
        rules: The settings that verdicts depend on.
        rewards: The event rewards of their sessions that were read, if the rules need any.
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
    """Offer a record that qualified at its collector."""
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
        # Records of rejected rollouts stay undecoded: that saves half of the decoding.
        return Judged(item, Verdict(State.REJECTED, outcome.problem or WHERE, outcome.ref, outcome.rule))
    try:
        record = record_of(line) if isinstance(line, Envelope) else line.record()
    except MalformedError as error:
        return _dead(item, error)
    if outcome is None:
        return Judged(item, Verdict(State.WAITING, AFTER_LAST_OUTCOME if rows else ""))
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
    reason = rejection_reason(record, rules.records)
    worth: Worth | None = None
    if turns is not None and reason is None:
        rollout = turns.rollout(outcome)
        if rollout is None:
            return Verdict(State.WAITING, REWARDS_UNREAD), None
        reason = rollout.rejection_reason(record.turn)
        worth = rollout.of(record.turn)
    return None if reason is None else Verdict(State.REJECTED, reason, outcome.ref, outcome.rule), worth


def _dead(item: Item, error: MalformedError) -> Judged:
    dead = Item(item.line, item.shard_id, item.since, error)
    return Judged(dead, Verdict(State.DEAD_LETTERED, error.reason))


def settle(
    judged: Sequence[Judged], known: Mapping[bytes, bool], length: int, admission: _Admission | None = None
) -> Settled:
    """Return the final verdict of every line, and the bytes to write.

    Args:
        judged: The batch, in order; the first of several equal keys is accepted.
        known: Keys in the dataset, each with whether a shard line claims it. The line of a key that was adopted
            after a crash and is not claimed counts as accepted, and nothing is written.
        length: Log offset of the dataset's end, where the first new line will begin.
        admission: Called with each record that would be written, in order; None admits all.
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
        elif admission is not None and (rejection := admission.reject(one.item, length)) is not None:
            verdict = msgspec.structs.replace(rejection, outcome=verdict.outcome)
        else:
            taken.add(offer.key)
            lines.append(offer.line)
            appended.append((offer.key, length))
            length += len(offer.line)
        verdicts.append((one.item, verdict))
    dead = [(one.item, error) for one in judged if isinstance(error := one.item.content, MalformedError)]
    letters = b"".join(encode_dead_letter(item.line, error.reason, error.detail) for item, error in dead)
    return Settled(spans_of(verdicts), b"".join(lines), appended, claimed, [item for item, _ in dead], letters)


def spans_of(verdicts: Iterable[tuple[Item, Verdict]]) -> list[Span]:
    """Return lines with their verdicts as spans, in the same order."""
    runs: list[list[tuple[Item, Verdict]]] = []
    for item, verdict in verdicts:
        if runs and _continues(*runs[-1][-1], item, verdict):
            runs[-1].append((item, verdict))
        else:
            runs.append([(item, verdict)])
    return [_span(run) for run in runs]


def _continues(before: Item, verdict_before: Verdict, item: Item, verdict: Verdict) -> bool:
    """Say whether one span can describe a line and the one before it."""
    return (
        before.line.stop == item.line.start
        and before.shard_id == item.shard_id
        and before.since == item.since
        and verdict_before == verdict
        and _session(before) == _session(item)
        and (_time(before) is None) is (_time(item) is None)
    )


def _span(run: Sequence[tuple[Item, Verdict]]) -> Span:
    (first, verdict), (last, _) = run[0], run[-1]
    times = [time for item, _ in run if (time := _time(item)) is not None]
    return Span(
        shard_id=first.shard_id,
        start=first.line.start,
        stop=last.line.stop,
        line=first.line.number,
        lines=len(run),
        session=_session(first),
        state=verdict.state,
        reason=verdict.reason,
        outcome=verdict.outcome,
        first_us=min(times, default=None),
        last_us=max(times, default=None),
        since=first.since,
        rule=verdict.rule,
    )


def _session(item: Item) -> str:
    return "" if isinstance(item.content, MalformedError) else item.content.session


def _time(item: Item) -> int | None:
    return None if isinstance(item.content, MalformedError) else item.content.time_us


def count(spans: Iterable[Span]) -> dict[State, int]:
    """Return the number of lines by state."""
    counts = dict.fromkeys(State, 0)
    for span in spans:
        counts[span.state] += span.lines
    return counts
