"""``streamer tail``: the records of a dataset, those that are there last and those to come."""

import os
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any

import anyio
import typer
from rich.console import Console
from rich.text import Text

from streamer.check import check_line, shown, tool_calls
from streamer.config import dataset_path
from streamer.errors import ConfigError, UnavailableError
from streamer.follow import DatasetLine, Follower, follow
from streamer.text import printable

_START = 400
"""Characters of a value or a reply that are shown where the terminal is not narrower."""

_RUN_SHARE = 4
"""A run id gets at most this part of the terminal's width."""

Show = Callable[[DatasetLine], None]


def tail(
    dataset: Annotated[Path | None, typer.Argument(help="The dataset; else the configured one.")] = None,
    *,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="Begin with so many records.")] = 10,
    no_follow: Annotated[bool, typer.Option("--no-follow", help="Stop at the end.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Write the JSON lines, byte for byte.")] = False,
    config: Annotated[Path | None, typer.Option(help="The daemon's config.toml.")] = None,
    dataset_flag: Annotated[str | None, typer.Option("--dataset", help="The same as DATASET.")] = None,
) -> None:
    """Show the last records of a dataset, and every new one as it is written. Ctrl-C ends it.

    One line for each record: run id, turn, reward, and how the reply begins.

    Example: streamer tail -n 100 --no-follow --raw | jq .metadata.total_reward
    """
    if dataset is not None and dataset_flag is not None:
        raise typer.BadParameter("give the dataset once", param_hint="--dataset")
    path = dataset or dataset_path(config, os.environ, dataset_flag)
    show = _write if raw else _shower()
    try:
        _look_for(path, wait=not no_follow)
        if no_follow:
            _show_end(path, lines, show)
        else:
            anyio.run(_show_for_ever, path, lines, show)
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        _give_up_stdout()
    except OSError as error:
        raise UnavailableError("read", printable(str(path)), error.strerror or str(error)) from error


def _look_for(path: Path, *, wait: bool) -> None:
    if path.exists():
        return
    if not wait:
        raise ConfigError("read", printable(str(path)), "there is no such file", "streamer tail DATASET")
    _note(f"waiting for {path}")


def _show_end(path: Path, lines: int, show: Show) -> None:
    with Follower(path, last=lines) as follower:
        while found := follower.read():
            for line in found:
                show(line)


async def _show_for_ever(path: Path, lines: int, show: Show) -> None:
    restarted = f"{path} became shorter: this is another file, from its start"
    followed = follow(path, last=lines, on_restart=lambda: _note(restarted), sleep=_sleep)
    async with aclosing(followed):
        async for line in followed:
            show(line)


def _note(text: str) -> None:
    typer.echo(f"streamer tail: {printable(text)}", err=True)


async def _sleep(seconds: float) -> None:
    """Sleep, but not for a reader that has gone: without a new record no write would tell us."""
    if _reader_is_gone():
        raise BrokenPipeError
    await anyio.sleep(seconds)


def _reader_is_gone() -> bool:
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # an error or a hang-up is reported all the same
    return bool(poll.poll(0))


def _give_up_stdout() -> None:
    """Let nothing that is still buffered complain at exit: `| head` had what it wanted."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _write(line: DatasetLine) -> None:
    sys.stdout.buffer.write(line.data)
    sys.stdout.buffer.flush()


def _shower() -> Show:
    if not sys.stdout.isatty():
        return lambda line: typer.echo(_row(line, _START).plain)
    console = Console(highlight=False)

    def show(line: DatasetLine) -> None:
        row = _row(line, console.width // _RUN_SHARE)
        console.print(row, no_wrap=True, overflow="ellipsis", crop=True)

    return show


def _row(line: DatasetLine, run_width: int) -> Text:
    """Return what people see of a line. All text from it is escaped, and none is read for markup."""
    checked = check_line(line.data)
    if not checked.messages:
        why = checked.findings[0]
        return Text(f"byte {line.offset}: not a record: {why.kind}: {printable(why.detail)}", style="red")
    metadata = checked.metadata
    cells = (
        Text(_cut(_value(metadata.get("run_id")), run_width), style="cyan"),
        Text(f"turn {_value(metadata.get('turn'))}"),
        Text(f"reward {_value(metadata.get('total_reward'))}", style="green"),
        Text(_cut(" ".join(filter(None, _reply(checked.messages))), _START)),
    )
    return Text("  ").join(cells)


def _value(value: object) -> str:
    if value is None:
        return "-"
    return printable(value[:_START] if isinstance(value, str) else shown(value))


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _reply(messages: list[dict[str, Any]]) -> Iterator[str]:
    """Yield what the last message of the assistant says, then what it calls."""
    replies = [message for message in messages if message.get("role") == "assistant"]
    for message in replies[-1:]:
        yield from _said(message.get("content"))
        for name, arguments in tool_calls(message):
            yield f"{_folded(name)}({_folded(arguments)})"


def _said(content: object) -> Iterator[str]:
    if isinstance(content, str):
        yield _folded(content)
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict):
            text = part.get("text")
            yield _folded(text if isinstance(text, str) else f"[{part.get('type')}]")


def _folded(text: str) -> str:
    """Return the start of a text on one line."""
    return printable(" ".join(text[:_START].split()))
