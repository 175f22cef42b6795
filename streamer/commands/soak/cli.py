"""``streamer soak``: tests the guarantees on your own file system, with everything going wrong at once."""

import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from streamer.base.errors import ConfigError, UnavailableError
from streamer.base.text import printable
from streamer.commands.common import UNEXPECTED, JsonOption, print_json
from streamer.commands.soak.report import SoakReport, as_text
from streamer.commands.soak.soak import Soak


def soak(
    *,
    minutes: Annotated[float, typer.Option(min=0.05, help="How long, fractions too.")] = 5.0,
    seed: Annotated[
        int | None, typer.Option(min=0, help="What is drawn.", show_default="drawn, and told in the end")
    ] = None,
    folder: Annotated[
        Path, typer.Option(help="Where: a folder of its own is made in it.", show_default="here")
    ] = Path(),
    keep: Annotated[bool, typer.Option("--keep", help="Keep everything, also when all is well.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Let a producer write and a daemon follow while both are killed and disturbed, then check every record.

    About 20 MB a minute are written. No setting of yours is used, and nothing outside the folder is touched.
    The draws are the same for the same seed; the moments are not.

    Exit code: 0 every promise held, 1 a promise was broken (everything is kept then), 2 wrong usage.

    Example: streamer soak --minutes 5 --seed 7 --folder /mnt/data
    """
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    made = _make(folder)
    report = _run(Soak(made, minutes, random.randrange(1 << 16) if seed is None else seed), made)  # noqa: S311
    if report.clean and not keep:
        shutil.rmtree(made)
        report = msgspec.structs.replace(report, folder=None)
    _show(report, as_json=as_json)
    raise typer.Exit(0 if report.clean else UNEXPECTED)


def _make(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix="streamer-soak-", dir=folder.resolve()))
    except OSError as error:
        raise ConfigError("make a folder", printable(str(folder)), error.strerror or str(error)) from error


def _run(soak: Soak, folder: Path) -> SoakReport:
    try:
        return soak.run()
    except OSError as error:
        cause = error.strerror or str(error)
        raise UnavailableError("soak", printable(str(folder)), cause, "see `df` and the folder's rights") from error
    except (KeyboardInterrupt, SystemExit):
        typer.echo(f"Stopped; no process is left. What there is: {printable(str(folder))}", err=True)
        raise


def _show(report: SoakReport, *, as_json: bool) -> None:
    if as_json:
        print_json(report)
        return
    for line in as_text(report):
        typer.echo(line)
