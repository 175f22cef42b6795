"""``streamer replay``: judges lines again by other rules, into another dataset, and compares the two."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from streamer.base.errors import ConfigError
from streamer.base.text import counted, printable
from streamer.commands.common import WhereOption, is_configured, print_json, with_sources
from streamer.commands.run import run_once
from streamer.config import Flags, load, real_path
from streamer.config.fleet_table import Sink
from streamer.store.views.compare import Comparison, compare
from streamer.store.views.snapshot import ledger_of, snapshot

_OP = "replay"


def replay(
    dataset: Annotated[Path, typer.Argument(help="The dataset whose lines are judged again; it is only read.")],
    out: Annotated[Path, typer.Option(help="The dataset to write; of an earlier replay, it goes on.")],
    *,
    where: WhereOption = None,
    config: Annotated[Path | None, typer.Option(help="config.toml with the other rules.")] = None,
    shards: Annotated[str | None, typer.Option(help="Folder of the shards; else that of DATASET.")] = None,
    database: Annotated[str | None, typer.Option(help="Trace database; else that of DATASET.")] = None,
    ledger: Annotated[Path | None, typer.Option(help="The ledger of DATASET; else the one beside it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as one JSON object.")] = False,
) -> None:
    """Judge all lines again by other rules, into a new dataset, and compare the two.

    Lines come from the shards (or the trace database) as in `run --once`; what became of each of them before is taken
    from the ledger of DATASET, whose daemon may be running. What the two have in common, what only one of them has, and
    why, line by line in sums; `explain` says more of each example.

    Exit code: 0 done, 2 wrong configuration or no such dataset, 3 something needed is not there, 4 another process
    writes that dataset, 5 it contradicts its ledger.

    Example: streamer replay good.jsonl --out stricter.jsonl --where 'total_reward >= 5'
    """
    old = ledger or ledger_of(dataset)
    seen = snapshot(dataset, old)
    if not seen.ledger:
        raise ConfigError(_OP, printable(str(old)), "there is no such ledger", "name the dataset, or --ledger")
    flags = Flags(shards=shards, database=database, dataset=str(out), where=where)
    settings = load(config, os.environ, flags if is_configured(config) else with_sources(flags, seen))
    if real_path(settings.dataset.path) == real_path(dataset) or real_path(settings.dataset.ledger) == real_path(old):
        raise ConfigError(_OP, printable(str(out)), "it is the dataset to be compared with", "name another --out")
    if not settings.source.is_local:
        hint = "replay on the hosts that collect, or give --shards and --database without the configuration"
        raise ConfigError(_OP, "source.kind", "records of a fleet cannot be judged again: they are gone there", hint)
    settings = msgspec.structs.replace(settings, sink=Sink())  # a trial of other rules is not sent to writers
    for line in run_once(lambda: [settings]):
        typer.echo(line, err=as_json)
    found = compare(old, settings.dataset.ledger)
    if as_json:
        print_json(found)
        return
    typer.echo("")
    for line in _as_text(found, dataset, out):
        typer.echo(line)


def _as_text(found: Comparison, old: Path, new: Path) -> Iterator[str]:
    before, after = printable(old.name), printable(new.name)
    if found.records is None:
        yield "records cannot be compared: dedup.by differs, or the version of its keys"
    else:
        records = found.records
        width = len(f"{max(records.both, records.only_old, records.only_new):,}")
        yield f"{records.both:>{width},} records in both"
        yield f"{records.only_old:>{width},} only in {before}"
        yield f"{records.only_new:>{width},} only in {after}"
    yield f"{counted(found.unchanged, 'line')} with the same fate in both"
    for change in found.changes:
        lines, rollouts = counted(change.lines, "line"), counted(change.rollouts, "rollout")
        yield f"{change.old} -> {change.new}: {lines} of {rollouts}"
        yield f"  such as {', '.join(map(printable, change.examples))}"
