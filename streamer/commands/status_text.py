"""A snapshot as text, in the same words for all commands. Text from outside is made printable."""

from __future__ import annotations

from pathlib import Path

from streamer.base.text import age, counted, printable
from streamer.core.records.model import STATE_NAMES, State
from streamer.sources.lag import Lag
from streamer.store.dataset.dead_letters import dead_letters_path
from streamer.store.ledger.delivery import Delivery
from streamer.store.views.snapshot import Snapshot


def lines(seen: Snapshot, lag: Lag) -> list[str]:
    """Return the lines that ``streamer status`` prints."""
    alive = f"alive, {seen.daemon}" if seen.daemon else "not running"
    head = [f"daemon           {alive}", f"dataset          {printable(seen.dataset)}"]
    if not seen.ledger:
        return [*head, "ledger           none yet: `streamer run` makes it"]
    size = f"{counted(seen.dataset_lines, 'record')}, {counted(seen.dataset_bytes, 'byte')}"
    return [
        *head,
        f"                 {size}{_ago(', last one', seen.last_append_seconds)}",
        f"read             {counted(seen.read, 'line')} of {places(seen)}",
        *(f"  {name:<15}{seen.counts[state]:,}{_attached(seen, state)}" for state, name in STATE_NAMES.items()),
        *_delivered(seen.delivery),
        f"lag              {counted(lag.unread_bytes, 'byte')} in {counted(lag.unread_shards, 'shard')} not read yet",
        *(f"note             {note}" for note in notes(seen)),
    ]


def _delivered(seen: Delivery | None) -> list[str]:
    """Return the delivery progress of a collector's dataset; no lines for other datasets."""
    if seen is None:
        return []
    aside = ", ".join(f"{n:,} {printable(reason)}" for reason, n in sorted(seen.undeliverable.items()))
    return [
        f"outbox           of the collector {printable(seen.collector)}",
        f"  delivered      {seen.delivered:,}",
        f"  on the way     {seen.waiting:,}, sent or to be sent",
        f"  undeliverable  {sum(seen.undeliverable.values()):,}{f' ({aside})' if aside else ''}",
        *([f"  missing        {seen.missing:,} in parts that were removed by hand"] if seen.missing else []),
        f"  messages       {seen.sent:,} sent, {seen.again:,} of lines that were lost",
    ]


def places(seen: Snapshot) -> str:
    """Return the number of sources that were read: shards, sessions of the trace database, buckets."""
    found = [(seen.shards, "shard")] if seen.shards or not (seen.sessions or seen.streams) else []
    found += [(seen.sessions, "session")] if seen.sessions else []
    found += [(seen.streams, "bucket")] if seen.streams else []
    return " and ".join(counted(n, noun) for n, noun in found)


def detail(seen: Snapshot, state: State, later: float = 0.0) -> str:
    """Return details of the lines in one state: the number of their rollouts, or their reasons.

    Args:
        seen: A snapshot of a ledger.
        state: The state.
        later: The age of the snapshot in seconds.
    """
    if state == State.ACCEPTED:
        return f"from {counted(seen.appended_rollouts, 'rollout')}"
    if state == State.WAITING and seen.waiting_rollouts:
        oldest = seen.oldest_waiting_seconds
        since = None if oldest is None else oldest + later
        return f"{counted(seen.waiting_rollouts, 'rollout')}{_ago(', the oldest', since)}"
    reasons = {reason: n for reason, n in seen.reasons.get(state, {}).items() if reason and n}
    return ", ".join(f"{n:,} {printable(reason)}" for reason, n in sorted(reasons.items()))


def sum_of(seen: Snapshot) -> list[str]:
    """Return the counts as the parts of a sum: "read 3", "= appended 2", "+ duplicate 1"."""
    counts = [f"{name} {seen.counts[state]:,}" for state, name in STATE_NAMES.items()]
    return [f"read {seen.read:,}", f"= {counts[0]}", *(f"+ {count}" for count in counts[1:])]


def notes(seen: Snapshot) -> list[str]:
    """Return a note on each fact that is out of the ordinary."""
    dead = printable(str(dead_letters_path(Path(seen.dataset))))
    found = (
        (seen.counts["dead_lettered"], "line", f"could not be taken: see {dead}"),
        (seen.unfinished, "shard", "without a newline at the end: the last line waits for it"),
        (seen.withdrawn_rollouts, "rollout", "in the dataset corrected below the bar later"),
        (seen.overwritten, "waiting line", "overwritten by the producer before the outcome came"),
        (seen.adopted, "record", "in the dataset without a shard line behind it (any more)"),
    )
    return [f"{counted(n, noun)} {text}" for n, noun, text in found if n]


def _attached(seen: Snapshot, state: State) -> str:
    more = detail(seen, state)
    if not more or state == State.ACCEPTED:
        return f" {more}" if more else ""
    return f" ({more})"


def _ago(label: str, seconds: float | None) -> str:
    return "" if seconds is None else f"{label} {age(seconds)} ago"
