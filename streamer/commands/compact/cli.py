"""``streamer compact``: take out of closed parts what was withdrawn, or would not get in under a stricter rule."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import anyio
import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from streamer.base.env import Env
from streamer.base.events import Emit
from streamer.base.lock import DatasetLock, lock_file
from streamer.base.text import counted, printable
from streamer.commands.compact.run import Compacted, Sum
from streamer.commands.compact.run import compact as compact_dataset
from streamer.config import Config, Flags, load
from streamer.daemon.observers import log
from streamer.reader.scan import check_is_dataset
from streamer.sources.outcomes import check_condition
from streamer.store.views.snapshot import ledger_of, snapshot

_OP = "compact the dataset"


def compact(
    *,
    config: Annotated[Path | None, typer.Option(help="config.toml; else STREAMER_CONFIG, else none.")] = None,
    shards: Annotated[str | None, typer.Option(help="Folder of the shards; else that of the dataset.")] = None,
    database: Annotated[str | None, typer.Option(help="Trace database; else that of the dataset.")] = None,
    dataset: Annotated[str | None, typer.Option(help="The dataset.")] = None,
    where: Annotated[str | None, typer.Option(help="SQL condition over outcome_rewards.")] = None,
    close_live: Annotated[bool, typer.Option("--close-live", help="Close the live file first, as a part.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be taken out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
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
    settings = load(config, os.environ, _completed(flags, config, os.environ))
    check_condition(settings.qualify.where)
    check_is_dataset(_OP, settings.dataset.path)
    emit = log.configure(settings.log, os.environ, sys.stderr)
    with DatasetLock(lock_file(settings.dataset.path)), _progress() as progress:
        done = anyio.run(_compact, settings, emit, progress, close_live, dry_run)
    if as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(done), indent=2).decode() + "\n")
        return
    for line in _summary(done, settings.dataset.path):
        typer.echo(line)


def _completed(flags: Flags, config: Path | None, environ: Mapping[str, str]) -> Flags:
    """Take from the ledger what the command line and a configuration do not say."""
    if flags.dataset is None or config is not None or environ.get("STREAMER_CONFIG"):
        return flags
    path = Path(flags.dataset)
    seen = snapshot(path, ledger_of(path))
    return msgspec.structs.replace(
        flags, shards=flags.shards or seen.shard_folder or None, database=flags.database or seen.database or None
    )


async def _compact(
    config: Config,
    emit: Emit,
    progress: Callable[[str, int, int], None],
    close_live: bool,  # noqa: FBT001 - anyio.run passes no keywords
    dry_run: bool,  # noqa: FBT001 - as above
) -> Compacted:
    return await compact_dataset(config, Env(emit=emit), progress=progress, close_live=close_live, dry_run=dry_run)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show how far it is, if a person is looking."""
    if not sys.stderr.isatty():
        yield lambda _what, _done, _size: None
        return
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading outcomes", total=None)
        yield lambda what, done, size: bar.update(task, description=what, completed=done, total=size)


def _summary(done: Compacted, dataset: Path) -> Iterator[str]:
    """Yield what a compaction did, line by line."""
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
