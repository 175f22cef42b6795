"""``streamer report``: the contents and the history of a dataset, as text or as one HTML page."""

import os
import time
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from streamer.base.atomic_file import AtomicFile
from streamer.base.errors import RefusedError, UnavailableError
from streamer.base.files import Files
from streamer.base.text import printable
from streamer.commands.common import (
    ConfigOption,
    DatasetArgument,
    DatasetFlag,
    JsonOption,
    chosen_dataset,
    print_json,
    progress_bar,
)
from streamer.commands.report.page import page
from streamer.commands.report.report import DatasetReport
from streamer.commands.report.report import report as make_report
from streamer.commands.report.samples import read_samples
from streamer.commands.report.summary import summary
from streamer.commands.report.survey import SAMPLES
from streamer.config import Dataset
from streamer.sources.folder import OwnFiles

_MOST_SAMPLES = 200


def report(
    dataset: DatasetArgument = None,
    *,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write one self-contained page.")] = None,
    as_json: JsonOption = False,
    samples: Annotated[int, typer.Option(min=0, max=_MOST_SAMPLES, help="Records shown on the page.")] = SAMPLES,
    seed: Annotated[int, typer.Option(help="Picks the records: the same seed, the same records.")] = 0,
    config: ConfigOption = None,
    dataset_flag: DatasetFlag = None,
) -> None:
    """Say what is in a dataset and how it came about: growth, flow, rewards, lengths, tools, sample records.

    Reads it once, up to the length that its ledger has committed, with the daemon up or down.

    Exit code: 0 reported (broken lines are counted and named), 2 wrong usage or no such dataset, 3 the dataset cannot
    be read or the page cannot be written, 5 the page would replace a dataset or its files.

    Example: streamer report good.jsonl --html good.html
    """
    files = chosen_dataset(dataset, dataset_flag, config)
    if html is not None:
        _refuse_own_files(html, files)
    with progress_bar() as show:
        found = make_report(files.path, files.ledger, samples=samples, seed=seed, progress=partial(show, ""))
    if html is not None:
        _write_page(html, files.path, found)
    if as_json:
        print_json(found)
    elif html is not None:
        typer.echo(f"report: {printable(str(html))}")
    else:
        typer.echo("\n".join(summary(found)))


def _refuse_own_files(html: Path, files: Dataset) -> None:
    there = Path(os.path.realpath(html))
    if OwnFiles(files.path, files.ledger)(there.name, str(there)):
        raise RefusedError("write the report", printable(str(html)), "it is a file of the dataset", "name another one")


def _write_page(html: Path, dataset: Path, found: DatasetReport) -> None:
    """Write the page to a temporary file, and rename it when it is complete."""
    try:
        samples = read_samples(dataset, found.survey.sample)
    except OSError as error:
        raise UnavailableError("read", printable(str(dataset)), error.strerror or str(error)) from error
    with AtomicFile(Path(os.path.realpath(html)), Files()) as output:
        output.write(page(found, samples, time.time()).encode())
        output.publish()
