"""The parts that commands share: options, the choice of a dataset, JSON, progress, tables of text, exit code 1."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from streamer import config as configuration
from streamer.base.histogram import Bin
from streamer.config import Dataset, Flags
from streamer.store.views.snapshot import Snapshot, ledger_of

UNEXPECTED = 1
"""Exit code: something was found (verify, doctor, soak), or nothing was (explain, filter, export)."""

ConfigOption = Annotated[Path | None, typer.Option(help="The daemon's config.toml.")]
RunConfigOption = Annotated[Path | None, typer.Option(help="config.toml; else STREAMER_CONFIG, else none.")]
ShardsOption = Annotated[str | None, typer.Option(help="Folder of the shards; else SFT_OUTPUT_DIR.")]
DatabaseOption = Annotated[str | None, typer.Option(help="Trace database: file, sqld folder or URL.")]
WhereOption = Annotated[str | None, typer.Option(help="SQL condition over outcome_rewards.")]
DatasetsOption = Annotated[str | None, typer.Option(help="The dataset; else all that are configured.")]
DatasetArgument = Annotated[Path | None, typer.Argument(help="The dataset; else the configured one.")]
DatasetFlag = Annotated[str | None, typer.Option("--dataset", help="The same as DATASET.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def chosen_dataset(dataset: Path | None, flag: str | None, config: Path | None) -> Dataset:
    """Return the one dataset that DATASET, --dataset or the configuration names.

    Raises:
        BadParameter: both DATASET and --dataset are given.
        ConfigError: the configuration cannot be used, or names several datasets.
    """
    if dataset is not None and flag is not None:
        raise typer.BadParameter("give the dataset once", param_hint="--dataset")
    if dataset is not None and config is None:
        return Dataset(dataset, ledger_of(dataset))
    return configuration.dataset(config, os.environ, str(dataset) if dataset else flag)


def is_configured(config: Path | None) -> bool:
    """Return whether --config or STREAMER_CONFIG names a configuration."""
    return config is not None or bool(os.environ.get("STREAMER_CONFIG"))


def with_sources(flags: Flags, seen: Snapshot) -> Flags:
    """Return flags that name the shards and the database of a ledger where they name none themselves."""
    return msgspec.structs.replace(
        flags, shards=flags.shards or seen.shard_folder or None, database=flags.database or seen.database or None
    )


def print_json(value: Any) -> None:
    """Print a value as indented JSON. In ASCII, so that no character of it can steer a terminal."""
    typer.echo(json.dumps(msgspec.to_builtins(value), indent=2))


@contextmanager
def progress_bar(first: str = "", *, in_bytes: bool = True) -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function that shows (step, done, total) as one moving line, if stderr is a terminal.

    Args:
        first: The step to show until the function is called.
        in_bytes: Whether ``done`` and ``total`` are bytes.
    """
    if not sys.stderr.isatty():
        yield lambda _step, _done, _total: None
        return
    from rich import progress  # noqa: PLC0415 - only a terminal needs it
    from rich.console import Console  # noqa: PLC0415 - as above

    sizes = (progress.DownloadColumn(), progress.TransferSpeedColumn()) if in_bytes else ()
    text = progress.TextColumn("{task.description}")
    columns = (text, progress.BarColumn(), *sizes, progress.TimeRemainingColumn())
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(first, total=None)
        yield lambda step, done, total: bar.update(task, description=step, completed=done, total=total)


def aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return rows of cells as lines whose columns are aligned."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def bin_range(one: Bin) -> str:
    """Return the values of a bin as text: "3", "0 to 0.5"."""
    return f"{one.low:g}" if one.low == one.high else f"{one.low:g} to {one.high:g}"
