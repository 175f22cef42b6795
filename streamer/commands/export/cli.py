"""``streamer export``: writes a dataset in the format of a trainer."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from streamer import config as configuration
from streamer.base.text import counted, printable
from streamer.commands.common import UNEXPECTED, ConfigOption, JsonOption, print_json, progress_bar
from streamer.commands.export.card import ExportReport
from streamer.commands.export.options import Format, ImageMode, Options, parse_splits, read_tools
from streamer.commands.export.run import EXCLUDED
from streamer.commands.export.run import export as export_dataset


def export(  # noqa: PLR0913 - the options of the command
    dataset: Annotated[str | None, typer.Argument(help="The dataset; else the configured one.")] = None,
    *,
    to: Annotated[Format, typer.Option(help="The format.")],
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    split: Annotated[str, typer.Option(help="Shares of the rollouts: train=0.9,test=0.1.")] = "train=1",
    where: Annotated[str | None, typer.Option(help="SQL condition on the metadata (extra `export`).")] = None,
    top_rollouts: Annotated[int | None, typer.Option(min=1, help="Only so many rollouts, by reward.")] = None,
    sample: Annotated[int | None, typer.Option(min=1, help="Only so many records, drawn by the seed.")] = None,
    seed: Annotated[int, typer.Option(help="For splits, samples and ties.")] = 0,
    images: Annotated[ImageMode | None, typer.Option(help="What becomes of images.")] = None,
    tools: Annotated[Path | None, typer.Option(help="JSON list of tool definitions, told in every record.")] = None,
    prompt_completion: Annotated[
        bool, typer.Option("--prompt-completion", help="(trl) Columns prompt and completion in place of messages.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an older export at OUT.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a dataset, or a part of it, as a folder that a trainer loads, with a dataset card.

    The daemon may run meanwhile: what is committed when the export begins is taken. The folder appears when it is
    complete; the same input and options give the same files. A rollout is never in two splits.

    Exit code: 0 written, 1 no record is left and nothing was written, 2 wrong usage or a missing extra, 3 something
    cannot be read or written now, 4 another export writes that folder, 5 the folder is no export or the dataset
    contradicts its ledger.

    Example: streamer export good.jsonl --to hub --out good-hub --split train=0.9,test=0.1
    """
    files = configuration.dataset(config, os.environ, dataset)
    options = Options(
        format=to,
        splits=parse_splits(split),
        where=where,
        top_rollouts=top_rollouts,
        sample=sample,
        seed=seed,
        images=images,
        tools=None if tools is None else read_tools(tools),
        prompt_completion=prompt_completion,
    )
    with progress_bar("reading") as progress:
        report = export_dataset(files.path, files.ledger, out, options, overwrite=overwrite, progress=progress)
    if as_json:
        print_json(report)
    else:
        for line in _shown(report, out):
            typer.echo(line)
    if not report.written:
        raise typer.Exit(UNEXPECTED)


def _shown(report: ExportReport, out: Path) -> Iterator[str]:
    width = len(f"{report.origin.lines:,}")
    yield f"{report.origin.lines:>{width},} lines"
    for split in report.splits:
        yield f"{split.records:>{width},} in {split.name}, from {counted(split.rollouts, 'rollout')}"
    for reason, count in report.excluded.items():
        yield f"{count:>{width},} left out: {reason}"
    for warning in report.warnings:
        yield f"warning: {warning}"
    folder = printable(str(out))
    if not report.written:
        yield f"no record is left: nothing was written to {folder}"
        return
    yield f"output: {folder}"
    yield f"what could not be taken, line by line: {printable(str(out / EXCLUDED))}"
