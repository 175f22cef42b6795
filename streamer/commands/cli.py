"""The ``streamer`` command line, which imports one module for each command."""

from __future__ import annotations

import importlib
import io
import sys
from typing import Annotated

import typer

from streamer import __version__
from streamer.base.errors import StreamerError
from streamer.base.text import printable

COMMANDS = {
    "run": "run",
    "status": "status",
    "tail": "tail.cli",
    "explain": "explain",
    "verify": "verify.cli",
    "report": "report.cli",
    "replay": "replay",
    "compact": "compact.cli",
    "doctor": "doctor.cli",
    "filter": "filter.cli",
    "export": "export.cli",
    "demo": "demo.cli",
    "soak": "soak.cli",
    "fleet": "fleet",
    "install-service": "install_service.cli",
}
"""The name of each command, and its module in ``streamer.commands``."""

_EXIT_CODES = """
Exit codes: 0 done; 1 something was found (verify, doctor, explain) or nothing was (filter, export);
2 wrong usage or configuration; 3 something needed is not there; 4 another daemon holds the dataset;
5 a person has to decide how to go on; 130 interrupted.
"""


def main() -> None:
    """Run the command of ``sys.argv``. An error ends it with the error's exit code, without a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a character that the locale lacks is no error
    try:
        _app(sys.argv[1:2])(prog_name="streamer")
    except StreamerError as error:
        for line in str(error).splitlines():
            sys.stderr.write(f"streamer: {printable(line)}\n" if not line.startswith(" ") else f"{printable(line)}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def _app(first: list[str]) -> typer.Typer:
    """Build the command line. Import only the command that is called, so that it starts at once."""
    app = typer.Typer(
        name="streamer",
        help="Turn the rollouts of a running evaluation into one deduplicated high-reward dataset.\n" + _EXIT_CODES,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for name in first if first and first[0] in COMMANDS else COMMANDS:
        command = getattr(importlib.import_module(f"streamer.commands.{COMMANDS[name]}"), name.replace("-", "_"))
        if isinstance(command, typer.Typer):  # with commands of its own
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
    return app


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it so
    if wanted:
        typer.echo(f"streamer {__version__}")
        raise typer.Exit


def _options(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take the options that all commands share."""
