"""``streamer doctor``: what is set up wrong, and how to mend it."""

import os
from collections.abc import Iterable
from pathlib import Path

import typer

from streamer.base.errors import ConfigError
from streamer.base.text import printable
from streamer.commands.common import (
    UNEXPECTED,
    ConfigOption,
    DatabaseOption,
    DatasetsOption,
    JsonOption,
    ShardsOption,
    WhereOption,
    print_json,
)
from streamer.commands.doctor.checks import DoctorFinding, Level, examine, misconfigured
from streamer.config import Flags, load_all

_MARKS = {Level.OK: "ok       ", Level.WARNING: "warning  ", Level.PROBLEM: "PROBLEM  "}


def doctor(
    *,
    config: ConfigOption = None,
    shards: ShardsOption = None,
    database: DatabaseOption = None,
    dataset: DatasetsOption = None,
    where: WhereOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look at everything that streamer needs, and say what to do about what is wrong.

    Where several datasets are configured, it looks at each; --dataset picks one.

    Exit code: 0 nothing is wrong (there may be warnings), 1 problems found.

    Example: streamer doctor --config config.toml
    """
    flags = Flags(shards=shards, database=database, dataset=dataset, where=where)
    findings = list(_findings(config, flags))
    if as_json:
        print_json({"findings": findings})
    else:
        _show(findings)
    if any(finding.level is Level.PROBLEM for finding in findings):
        raise typer.Exit(UNEXPECTED)


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
