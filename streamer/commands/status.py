"""``streamer status``: is the daemon alive, and do the accounts add up."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from streamer import config as configuration
from streamer.dead_letters import dead_letters_path
from streamer.lag import Lag, measure
from streamer.snapshot import Snapshot, snapshot
from streamer.text import counted, printable

_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


def status(
    *,
    config: Annotated[Path | None, typer.Option(help="The daemon's config.toml.")] = None,
    dataset: Annotated[str | None, typer.Option(help="The dataset; else the configured one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say whether the daemon is alive, and where every line that was read stands.

    Works from the ledger, with the daemon up or down. The six counts add up to the lines read.

    Exit code: 0 answered, 2 wrong configuration, 3 the ledger cannot be read.

    Example: streamer status --dataset good.jsonl --json | jq .accounting
    """
    files = configuration.dataset(config, os.environ, dataset)
    seen = snapshot(files.path, files.ledger)
    lag = measure(files.ledger, seen)
    if as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(_as_json(seen, lag)), indent=2).decode() + "\n")
        return
    for line in _as_text(seen, lag):
        typer.echo(line)


def _as_json(seen: Snapshot, lag: Lag) -> dict[str, Any]:
    values = msgspec.to_builtins(seen)
    counts, reasons = values.pop("counts"), values.pop("reasons")
    daemon = values.pop("daemon")
    return {
        "alive": daemon is not None,
        "daemon": daemon,
        "accounting": {"read": seen.read, **counts},
        "reasons": {state: {reason: n for reason, n in split.items() if reason} for state, split in reasons.items()},
        "lag": msgspec.to_builtins(lag),
        **values,
    }


def _as_text(seen: Snapshot, lag: Lag) -> list[str]:
    alive = f"alive, {seen.daemon}" if seen.daemon else "not running"
    lines = [f"daemon           {alive}", f"dataset          {printable(seen.dataset)}"]
    if not seen.ledger:
        return [*lines, "ledger           none yet: `streamer run` makes it"]
    last = _age(", last one", seen.last_append_seconds)
    lines += [
        f"                 {counted(seen.dataset_lines, 'record')}, {counted(seen.dataset_bytes, 'byte')}{last}",
        f"read             {counted(seen.read, 'line')} of {_places(seen)}",
        *(f"  {name:<15}{seen.counts[state]:,}{_detail(seen, state)}" for state, name in _NAMES.items()),
        f"lag              {counted(lag.unread_bytes, 'byte')} in {counted(lag.unread_shards, 'shard')} not read yet",
    ]
    return [*lines, *_notes(seen)]


def _places(seen: Snapshot) -> str:
    """Return what was read: a dataset may be of shards, of sessions in the trace database, or of both."""
    places = [(seen.shards, "shard")] if seen.shards or not seen.sessions else []
    places += [(seen.sessions, "session")] if seen.sessions else []
    return " and ".join(counted(n, noun) for n, noun in places)


_NAMES = {
    "appended": "appended",
    "duplicate": "duplicate",
    "below_bar": "below the bar",
    "waiting": "waiting",
    "never_scored": "never scored",
    "dead_lettered": "dead letters",
}


def _detail(seen: Snapshot, state: str) -> str:
    reasons = {reason: n for reason, n in seen.reasons.get(state, {}).items() if reason}
    split = ", ".join(f"{n:,} {printable(reason)}" for reason, n in sorted(reasons.items()))
    if state == "appended":
        return f" from {counted(seen.appended_rollouts, 'rollout')}"
    if state == "waiting" and seen.waiting_rollouts:
        split = f"{counted(seen.waiting_rollouts, 'rollout')}{_age(', the oldest', seen.oldest_waiting_seconds)}"
    return f" ({split})" if split else ""


def _notes(seen: Snapshot) -> list[str]:
    """Say what is out of the ordinary, and nothing else."""
    dead = printable(str(dead_letters_path(Path(seen.dataset))))
    notes = (
        (seen.counts["dead_lettered"], "line", f"could not be taken: see {dead}"),
        (seen.unfinished, "shard", "without a newline at the end: the last line waits for it"),
        (seen.withdrawn_rollouts, "rollout", "in the dataset corrected below the bar later"),
        (seen.overwritten, "waiting line", "overwritten by the producer before the outcome came"),
        (seen.adopted, "record", "in the dataset without a shard line behind it (any more)"),
    )
    return [f"note             {counted(n, noun)} {text}" for n, noun, text in notes if n]


def _age(label: str, seconds: float | None) -> str:
    if seconds is None:
        return ""
    unit, size = next((u for u in _UNITS if seconds >= u[1]), _UNITS[-1])
    return f"{label} {seconds / size:.0f} {unit} ago"
