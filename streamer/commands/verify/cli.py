"""``streamer verify``: whether trainers can take a dataset, and what it holds."""

import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from streamer.base.text import printable
from streamer.commands.common import (
    UNEXPECTED,
    ConfigOption,
    JsonOption,
    aligned,
    bin_range,
    print_json,
    progress_bar,
)
from streamer.commands.verify.inspect import Findings, VerifyReport, inspect
from streamer.config import datasets
from streamer.core.records.key import DedupBy


def verify(
    dataset: Annotated[Path | None, typer.Argument(help="The dataset; else all that are configured.")] = None,
    *,
    config: ConfigOption = None,
    by: Annotated[DedupBy, typer.Option(help="What makes a duplicate, as the daemon has it.")] = DedupBy.CONVERSATION,
    no_images: Annotated[bool, typer.Option("--no-images", help="Do not decode images.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check every line of a dataset and say what is in it.

    Where several datasets are configured, each is checked, with --json as {"datasets": [...]}; DATASET picks one.

    Exit code: 0 fine (there may be warnings), 1 problems found, 2 wrong usage.

    Example: streamer verify high_reward.jsonl --json | jq .problems.counts
    """
    paths = [dataset] if dataset else [found.path for found in datasets(config, os.environ, None)]
    with progress_bar() as show:
        progress = partial(show, "")
        reports = [inspect(path, by=by, decode_images=not no_images, progress=progress) for path in paths]
    if as_json:
        values = [{"fine": not report.problems.counts, **msgspec.to_builtins(report)} for report in reports]
        print_json(values[0] if len(values) == 1 else {"datasets": values})
    else:
        for number, report in enumerate(reports):
            typer.echo("\n" if number else "", nl=False)
            _show(report)
    if any(report.problems.counts for report in reports):
        raise typer.Exit(UNEXPECTED)


class _Section(NamedTuple):
    """A section of the report. Text from the dataset has gone through ``printable``."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def _show(report: VerifyReport) -> None:
    sections = [section for section in _sections(report) if section.rows]
    if sys.stdout.isatty():
        _show_tables(_verdict(report), sections)
        return
    typer.echo(_verdict(report))
    for section in sections:
        typer.echo(f"\n{section.title}")
        for row in aligned(section.rows):
            typer.echo(f"  {row}")


def _show_tables(verdict: str, sections: list[_Section]) -> None:
    console = Console(highlight=False)
    console.print(Text(verdict, style="bold"))
    for section in sections:
        table = Table(title=section.title, title_justify="left", box=SIMPLE)
        for column in section.columns:
            table.add_column(column)
        for row in section.rows:
            # Text, as a str would be read for markup.
            table.add_row(*map(Text, row))
        console.print(table)


def _verdict(report: VerifyReport) -> str:
    found = [_sum(report.problems, "problem"), _sum(report.warnings, "warning")]
    what = ", ".join(text for text in found if text) or "fine"
    parts = f" in {report.files:,} files" if report.files > 1 else ""
    return f"{printable(report.dataset)}: {report.lines:,} lines, {report.bytes:,} bytes{parts}: {what}"


def _sum(findings: Findings, noun: str) -> str:
    times = sum(findings.counts.values())
    return f"{times:,} {noun}{'s' if times > 1 else ''}" if times else ""


def _sections(report: VerifyReport) -> Iterator[_Section]:
    yield from _findings(report.problems, "problem", report.files)
    yield from _findings(report.warnings, "warning", report.files)
    yield _Section("contents", ("what", ""), _contents(report))
    yield _Section("total_reward", ("value", "records"), _rewards(report))
    yield _counts("messages", "role", report.roles)
    yield _counts("models", "model", report.models)
    yield _counts("tools called", "tool", report.tools)


def _findings(findings: Findings, noun: str, files: int) -> Iterator[_Section]:
    yield _counts(f"{noun}s", "kind", findings.counts)
    rows = [
        (
            f"line {found.line}",
            f"byte {found.offset}" + (f" of {printable(found.file)}" if files > 1 else ""),
            str(found.kind),
            printable(found.detail),
        )
        for found in findings.first
    ]
    yield _Section(f"first {noun}s", ("line", "offset", "kind", "detail"), rows)


def _counts(title: str, column: str, counts: dict[str, int]) -> _Section:
    rows = [(printable(name), f"{times:,}") for name, times in counts.items()]
    return _Section(title, (column, "count"), rows)


def _contents(report: VerifyReport) -> list[tuple[str, str]]:
    images, lengths = report.images, report.lengths
    rows = [
        ("rollouts", f"{report.rollouts:,}"),
        ("line length", f"{lengths.min:,} to {lengths.max:,} bytes, median {lengths.median:,}"),
        ("with images", f"{images.records:,} records"),
    ]
    if images.records:
        results = f"{images.decoded:,} decoded, {images.skipped:,} not decoded, {images.remote:,} remote"
        rows.append(("images", f"{results}, {images.broken:,} broken"))
    return rows


def _rewards(report: VerifyReport) -> list[tuple[str, str]]:
    rows = [(bin_range(reward), f"{reward.records:,}") for reward in report.rewards]
    return [*rows, ("none", f"{report.without_reward:,}")] if report.without_reward else rows
