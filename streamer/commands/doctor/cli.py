"""``streamer doctor``: what is set up wrong, and what to do about it."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from streamer.base.errors import ConfigError
from streamer.base.text import printable
from streamer.commands.doctor.checks import DoctorFinding, Level, examine, misconfigured
from streamer.config import Flags, load_all

_PROBLEMS_FOUND = 1
"""Exit code when something has to be put right."""

_MARKS = {Level.OK: "ok       ", Level.WARNING: "warning  ", Level.PROBLEM: "PROBLEM  "}


def doctor(
    *,
    config: Annotated[Path | None, typer.Option(help="The daemon's config.toml.")] = None,
    shards: Annotated[str | None, typer.Option(help="Folder of the shards; else SFT_OUTPUT_DIR.")] = None,
    database: Annotated[str | None, typer.Option(help="Trace database: file, sqld folder or URL.")] = None,
    dataset: Annotated[str | None, typer.Option(help="The dataset; else all that are configured.")] = None,
    where: Annotated[str | None, typer.Option(help="SQL condition over outcome_rewards.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Look at everything that streamer needs, and say what to do about what is wrong.

    Where several datasets are configured, it looks at each; --dataset picks one.

    Exit code: 0 nothing is wrong (there may be warnings), 1 problems found.

    Example: streamer doctor --config config.toml
    """
    flags = Flags(shards=shards, database=database, dataset=dataset, where=where)
    findings = list(_findings(config, flags))
    if as_json:
        text = msgspec.json.format(msgspec.json.encode({"findings": findings}), indent=2).decode()
        sys.stdout.write(text.encode("ascii", "backslashreplace").decode() + "\n")
    else:
        _show(findings)
    if any(finding.level is Level.PROBLEM for finding in findings):
        raise typer.Exit(_PROBLEMS_FOUND)


def _findings(config: Path | None, flags: Flags) -> Iterable[DoctorFinding]:
    try:
        settings = load_all(config, os.environ, flags)
    except ConfigError as error:
        return [misconfigured(error)]
    return examine(settings, os.environ)


def _show(findings: Iterable[DoctorFinding]) -> None:
    for finding in findings:
        first, *rest = finding.what.splitlines()
        typer.echo(f"{_MARKS[finding.level]}{printable(first)}")
        for line in rest:
            typer.echo(f"         {printable(line)}")
        if finding.remedy:
            typer.echo(f"           -> {printable(finding.remedy)}")
