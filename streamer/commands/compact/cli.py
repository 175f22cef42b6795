"""``streamer compact``: removes retracted records, and those that stricter rules reject, from closed parts."""

import os
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated

import anyio
import typer

from streamer.base.env import Env
from streamer.base.lock import DatasetLock, lock_file
from streamer.base.text import counted, printable
from streamer.commands.common import (
    JsonOption,
    RunConfigOption,
    WhereOption,
    is_configured,
    print_json,
    progress_bar,
    with_sources,
)
from streamer.commands.compact.run import Compacted, Sum
from streamer.commands.compact.run import compact as compact_dataset
from streamer.config import Flags, load
from streamer.daemon.observers import log
from streamer.reader.scan import check_is_dataset
from streamer.sources.condition import check_condition
from streamer.store.views.snapshot import ledger_of, snapshot

_OP = "compact the dataset"


def compact(
    *,
    config: RunConfigOption = None,
    shards: Annotated[str | None, typer.Option(help="Folder of the shards; else that of the dataset.")] = None,
    database: Annotated[str | None, typer.Option(help="Trace database; else that of the dataset.")] = None,
    dataset: Annotated[str | None, typer.Option(help="The dataset.")] = None,
    where: WhereOption = None,
    close_live: Annotated[bool, typer.Option("--close-live", help="Close the live file first, as a part.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be taken out.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Rewrite closed parts without the records that would not get in today.

    These are records of rollouts whose outcome was corrected downwards, and those that a stricter `where` or [records]
    leaves out. Give the rules as to `run`; the daemon must be stopped. The live file is left alone unless --close-live
    closes it. Readers keep what they have open, and tokens stay good. What was a duplicate of a record that went is
    judged again by the next run.

    Exit code: 0 done, also if nothing was to be taken out, 2 wrong configuration or no such dataset, 3 something needed
    is not there (the trace database, room on the disk), 4 a daemon holds the dataset, 5 dataset and ledger contradict
    each other.

    Example: streamer compact --dataset good.jsonl --where 'total_reward >= 3' --dry-run
    """
    flags = Flags(shards=shards, database=database, dataset=dataset, where=where)
    settings = load(config, os.environ, _completed(flags, config))
    check_condition(settings.qualify.where)
    check_is_dataset(_OP, settings.dataset.path)
    emit = log.configure(settings.log, os.environ, sys.stderr)
    with DatasetLock(lock_file(settings.dataset.path)), progress_bar("reading outcomes", in_bytes=False) as progress:
        call = partial(compact_dataset, progress=progress, close_live=close_live, dry_run=dry_run)
        done = anyio.run(call, settings, Env(emit=emit))
    if as_json:
        print_json(done)
        return
    for line in _summary(done, settings.dataset.path):
        typer.echo(line)


def _completed(flags: Flags, config: Path | None) -> Flags:
    """Take from the ledger what neither the command line nor a configuration says."""
    if flags.dataset is None or is_configured(config):
        return flags
    path = Path(flags.dataset)
    return with_sources(flags, snapshot(path, ledger_of(path)))


def _summary(done: Compacted, dataset: Path) -> Iterator[str]:
    """Yield the result of a compaction as lines of text."""
    would = "would be " if done.dry_run else ""
    removed = _total(done.removed)
    width = len(f"{max(removed.records, done.left.records):,}")
    yield f"{removed.records:>{width},} {_records(removed)} {would}taken out: {removed.bytes:,} bytes"
    yield from (f"{one.records:>{width},} {reason}" for reason, one in sorted(done.removed.items()))
    yield f"{counted(done.parts, 'part')} {would}rewritten"
    where = "in" if done.dry_run else "left in"
    yield f"{done.left.records:>{width},} {_records(done.left)} {where} {printable(str(dataset))}"
    for reason, records in done.unjudged.items():
        yield f"{records:>{width},} of them could not be judged, and stay: {reason}"
    live = _total(done.live)
    if live.records:
        reasons = ", ".join(f"{one.records:,} {reason}" for reason, one in sorted(done.live.items()))
        yield f"{live.records:>{width},} more would go from the live file ({reasons}): --close-live closes it first"


def _total(sums: Mapping[str, Sum]) -> Sum:
    return Sum(sum(one.records for one in sums.values()), sum(one.bytes for one in sums.values()))


def _records(one: Sum) -> str:
    return "record" if one.records == 1 else "records"
