"""``streamer status``: whether the daemon is alive, and how many lines are in each state."""

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from streamer import config as configuration
from streamer.base.errors import StreamerError
from streamer.base.stdout import until_enough
from streamer.base.text import printable
from streamer.commands import status_text
from streamer.commands.common import ConfigOption, DatasetsOption, JsonOption, print_json
from streamer.config import Dataset
from streamer.sources.lag import Lag, measure
from streamer.store.views.snapshot import Snapshot, snapshot

if TYPE_CHECKING:
    from rich.text import Text

_Look = Callable[[], list[str]]
_Files = Sequence[Dataset]

_SECONDS = 2.0
_LEAST_SECONDS = 0.1
_SHARE = 20
"""The least pause after a look, in durations of the look."""


def status(
    seconds: Annotated[
        float | None, typer.Argument(min=_LEAST_SECONDS, metavar="SECONDS", help="With --watch: how often; else 2.")
    ] = None,
    *,
    config: ConfigOption = None,
    dataset: DatasetsOption = None,
    as_json: JsonOption = False,
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again, until Ctrl-C.")] = False,
) -> None:
    """Say whether the daemon is alive, and where every line that was read stands.

    Works from the ledger, with the daemon up or down. The six counts add up to the lines read. Where several datasets
    are configured, each is told of, with --json as {"datasets": [...]}; --dataset picks one.

    With --watch a terminal shows the newest answer in its place; a pipe gets each one, with --json as one line.

    Exit code: 0 answered, 2 wrong configuration, 3 the ledger cannot be read.

    Example: streamer status --dataset good.jsonl --json | jq .accounting

    Example: streamer status --dataset good.jsonl --watch 5
    """
    if seconds is not None and not watch:
        raise typer.BadParameter("it goes with --watch", param_hint="SECONDS")
    files = configuration.datasets(config, os.environ, dataset)
    if not watch:
        if as_json:
            print_json(_values(files))
        else:
            _print(_text(files))
        return
    with until_enough():
        if as_json:
            _print_for_ever(partial(_json_or_error, files), seconds or _SECONDS)
        else:
            _show_for_ever(partial(_text_or_error, files), seconds or _SECONDS)


def _show_for_ever(look: _Look, seconds: float) -> None:
    from streamer.commands.tail.terminal import Terminal, can_draw  # noqa: PLC0415 - loading it takes longer than the answer

    if not can_draw():
        _print_for_ever(look, seconds, between="\n")
        return
    with Terminal() as terminal:
        while True:
            lines, pause = _timed(look, seconds)
            terminal.show(partial(_drawn, lines))
            terminal.rest(pause)


def _print_for_ever(look: _Look, seconds: float, between: str = "") -> None:
    lines, pause = _timed(look, seconds)
    _print(lines)
    while True:
        time.sleep(pause)
        lines, pause = _timed(look, seconds)
        _print([f"{between}{lines[0]}", *lines[1:]])


def _print(lines: list[str]) -> None:
    typer.echo("\n".join(lines))


def _timed(look: _Look, seconds: float) -> tuple[list[str], float]:
    """Return the lines of one look, and the seconds to wait before the next one."""
    start = time.monotonic()
    lines = look()
    return lines, max(seconds, _SHARE * (time.monotonic() - start))


def _drawn(lines: list[str], width: int, height: int) -> "list[Text]":
    from rich.text import Text  # noqa: PLC0415 - as above

    from streamer.commands.tail.cells import fitted  # noqa: PLC0415

    return [Text(fitted(line, width)) for line in lines[:height]]


def _text_or_error(files: _Files) -> list[str]:
    """Return the answer, or the error: with --watch, an error of one look does not end the command."""
    try:
        return _text(files)
    except StreamerError as error:
        return [printable(line) for line in str(error).splitlines()]


def _json_or_error(files: _Files) -> list[str]:
    try:
        return [msgspec.json.encode(_values(files)).decode()]
    except StreamerError as error:
        return [msgspec.json.encode({"error": str(error)}).decode()]


def _text(files: _Files) -> list[str]:
    lines: list[str] = []
    for one in files:
        lines += [*([""] if lines else []), *status_text.lines(*_look(one, files))]
    return lines


def _values(files: _Files) -> dict[str, Any]:
    values = [_as_json(*_look(one, files)) for one in files]
    return values[0] if len(values) == 1 else {"datasets": values}


def _look(one: Dataset, files: _Files) -> tuple[Snapshot, Lag]:
    seen = snapshot(one.path, one.ledger)
    return seen, measure(one.ledger, seen, files)


def _as_json(seen: Snapshot, lag: Lag) -> dict[str, Any]:
    values = msgspec.to_builtins(seen)
    counts, reasons = values.pop("counts"), values.pop("reasons")
    daemon = values.pop("daemon")
    return {
        "alive": daemon is not None,
        "daemon": daemon,
        "accounting": {"read": seen.read, **counts},
        "reasons": {state: {reason: n for reason, n in split.items() if reason} for state, split in reasons.items()},
        "lag": msgspec.to_builtins(lag),
        **values,
    }
