"""``streamer tail``: the last records of a dataset, and each new one."""

import sys
import time
from collections.abc import Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Annotated

import anyio
import typer

from streamer.base.errors import ConfigError, UnavailableError
from streamer.base.lines import FileLine
from streamer.base.stdout import reader_is_gone, until_enough
from streamer.base.text import counted, printable
from streamer.commands.common import ConfigOption, DatasetArgument, DatasetFlag, chosen_dataset
from streamer.config import Dataset
from streamer.reader.summary_line import START, LineSummary, cut, summarize
from streamer.reader.tail import Follower, follow

_LAST = 10
"""Default number of records at the start of the plain view."""

_SCREENFUL = 100
"""Default number of records at the start of the live view: more than most terminals have lines."""

_RUN_SHARE = 4
"""A run id gets at most the width of the terminal divided by this."""

_CLOCK = 1.0
"""Seconds after which ages are drawn again although nothing has changed."""

_Show = Callable[[FileLine], None]


def tail(
    dataset: DatasetArgument = None,
    *,
    lines: Annotated[
        int | None, typer.Option("-n", "--lines", min=0, help="Begin with so many records; 10, or a screenful.")
    ] = None,
    no_follow: Annotated[bool, typer.Option("--no-follow", help="Stop at the end.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Write the JSON lines, byte for byte.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Print lines on a terminal, too.")] = False,
    config: ConfigOption = None,
    dataset_flag: DatasetFlag = None,
) -> None:
    """Show the last records of a dataset, and every new one as it is written. Ctrl-C ends it.

    A terminal shows them live, with how the dataset grows and where all lines that were read stand. A pipe, --plain,
    --raw and --no-follow give one line for each record: run id, turn, reward, and how the reply begins.

    Exit code: 0 ended, 2 wrong usage or no such dataset (--no-follow), 3 the dataset cannot be read.

    Example: streamer tail good.jsonl

    Example: streamer tail -n 100 --no-follow --raw | jq .metadata.total_reward
    """
    files = chosen_dataset(dataset, dataset_flag, config)
    try:
        with until_enough():
            if plain or raw or no_follow or not sys.stdout.isatty() or not _watch(files, lines):
                _print_lines(files.path, _LAST if lines is None else lines, for_ever=not no_follow, raw=raw)
    except OSError as error:
        raise UnavailableError("read", printable(str(files.path)), error.strerror or str(error)) from error


def _watch(files: Dataset, lines: int | None) -> bool:
    """Show the live view until the user ends it; return False if the terminal cannot draw it."""
    from streamer.commands.tail.picture import picture  # noqa: PLC0415 - only terminals need rich, which loads slowly
    from streamer.commands.tail.terminal import TICK, Terminal, can_draw  # noqa: PLC0415
    from streamer.commands.tail.watch import Watch  # noqa: PLC0415

    if not can_draw():
        return False
    with Watch(files.path, files.ledger, _SCREENFUL if lines is None else lines) as watch:
        try:
            with Terminal() as terminal:
                drawn = 0.0
                while True:
                    now = time.monotonic()
                    if watch.look() or terminal.resized or now >= drawn + _CLOCK:
                        terminal.show(partial(picture, watch.view()))
                        drawn = now
                    terminal.rest(TICK)
        except KeyboardInterrupt:
            came = counted(watch.view().came, "record")
            typer.echo(f"{printable(str(files.path))}: {came} came while you looked")
    return True


def _print_lines(path: Path, last: int, *, for_ever: bool, raw: bool) -> None:
    show = _write if raw else _shower()
    _look_for(path, wait=for_ever)
    if for_ever:
        anyio.run(_show_for_ever, path, last, show)
    else:
        _show_end(path, last, show)


def _look_for(path: Path, *, wait: bool) -> None:
    if path.exists():
        return
    if not wait:
        raise ConfigError("read", printable(str(path)), "there is no such file", "streamer tail DATASET")
    _note(f"waiting for {path}")


def _show_end(path: Path, lines: int, show: _Show) -> None:
    with Follower(path, last=lines) as follower:
        while found := follower.read():
            for line in found:
                show(line)


async def _show_for_ever(path: Path, lines: int, show: _Show) -> None:
    restarted = f"{path} became shorter: this is another file, from its start"
    followed = follow(path, last=lines, on_restart=lambda: _note(restarted), sleep=_sleep)
    async with aclosing(followed):
        async for line in followed:
            show(line)


def _note(text: str) -> None:
    typer.echo(f"streamer tail: {printable(text)}", err=True)


async def _sleep(seconds: float) -> None:
    """Sleep, or end if the reader has gone: without a new record no write would fail."""
    if reader_is_gone():
        raise BrokenPipeError
    await anyio.sleep(seconds)


def _write(line: FileLine) -> None:
    sys.stdout.buffer.write(line.data)
    sys.stdout.buffer.flush()


def _shower() -> _Show:
    if not sys.stdout.isatty():
        return lambda line: typer.echo("  ".join(_cells(summarize(line), START)))
    from rich.console import Console  # noqa: PLC0415 - only terminals need rich, which loads slowly
    from rich.text import Text  # noqa: PLC0415

    console = Console(highlight=False)

    def show(line: FileLine) -> None:
        """Print a record on one line. All text of the record is escaped; none is parsed as markup."""
        seen = summarize(line)
        styles = ("red",) if seen.problem else ("cyan", "", "green", "")
        cells = _cells(seen, console.width // _RUN_SHARE)
        row = Text("  ").join(Text(cell, style=style) for cell, style in zip(cells, styles, strict=True))
        console.print(row, no_wrap=True, overflow="ellipsis", crop=True)

    return show


def _cells(seen: LineSummary, run_width: int) -> tuple[str, ...]:
    if seen.problem:
        return (f"byte {seen.offset}: {seen.problem}",)
    return cut(seen.run_id, run_width), f"turn {seen.turn}", f"reward {seen.reward}", cut(seen.reply, START)
