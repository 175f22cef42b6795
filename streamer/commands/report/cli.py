"""``streamer report``: what is in a dataset and how it came about, as text or as one page to keep."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from streamer import config as configuration
from streamer.base.atomic_file import AtomicFile
from streamer.base.errors import RefusedError, UnavailableError
from streamer.base.files import Files
from streamer.base.text import printable
from streamer.commands.report.page import page
from streamer.commands.report.report import DatasetReport
from streamer.commands.report.report import report as make_report
from streamer.commands.report.samples import read_samples
from streamer.commands.report.summary import summary
from streamer.commands.report.survey import SAMPLES
from streamer.config import Dataset
from streamer.daemon.observers.progress import reading
from streamer.sources.folder import OwnFiles
from streamer.store.views.snapshot import ledger_of

_MOST_SAMPLES = 200


def report(
    dataset: Annotated[Path | None, typer.Argument(help="The dataset; else the configured one.")] = None,
    *,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write one self-contained page.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    samples: Annotated[int, typer.Option(min=0, max=_MOST_SAMPLES, help="Records shown on the page.")] = SAMPLES,
    seed: Annotated[int, typer.Option(help="Picks the records: the same seed, the same records.")] = 0,
    config: Annotated[Path | None, typer.Option(help="The daemon's config.toml.")] = None,
    dataset_flag: Annotated[str | None, typer.Option("--dataset", help="The same as DATASET.")] = None,
) -> None:
    """Say what is in a dataset and how it came about: growth, flow, rewards, lengths, tools, sample records.

    Reads it once, up to the length that its ledger has committed, with the daemon up or down.

    Exit code: 0 reported (broken lines are counted and named), 2 wrong usage or no such dataset, 3 the dataset cannot
    be read or the page cannot be written, 5 the page would replace a dataset or its files.

    Example: streamer report good.jsonl --html good.html
    """
    if dataset is not None and dataset_flag is not None:
        raise typer.BadParameter("give the dataset once", param_hint="--dataset")
    files = _files(dataset, config, dataset_flag)
    if html is not None:
        _refuse_own_files(html, files)
    with reading(sys.stderr.isatty()) as progress:
        found = make_report(files.path, files.ledger, samples=samples, seed=seed, progress=progress)
    if html is not None:
        _write_page(html, files.path, found)
    if as_json:
        typer.echo(json.dumps(msgspec.to_builtins(found), indent=2))  # in ASCII: nothing of it steers a terminal
    elif html is not None:
        typer.echo(f"report: {printable(str(html))}")
    else:
        typer.echo("\n".join(summary(found)))


def _files(dataset: Path | None, config: Path | None, dataset_flag: str | None) -> Dataset:
    if dataset is not None and config is None:
        return Dataset(dataset, ledger_of(dataset))
    return configuration.dataset(config, os.environ, str(dataset) if dataset else dataset_flag)


def _refuse_own_files(html: Path, files: Dataset) -> None:
    there = Path(os.path.realpath(html))
    if OwnFiles(files.path, files.ledger)(there.name, str(there)):
        raise RefusedError("write the report", printable(str(html)), "it is a file of the dataset", "name another one")


def _write_page(html: Path, dataset: Path, found: DatasetReport) -> None:
    """Write the page under another name, and put it in its place when it is whole."""
    try:
        samples = read_samples(dataset, found.survey.sample)
    except OSError as error:
        raise UnavailableError("read", printable(str(dataset)), error.strerror or str(error)) from error
    with AtomicFile(Path(os.path.realpath(html)), Files()) as output:
        output.write(page(found, samples, time.time()).encode())
        output.publish()
