"""``streamer filter``: filters a trace database by the configuration of `synth-ai filter`."""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from streamer.base.atomic_file import AtomicFile
from streamer.base.errors import ConfigError
from streamer.base.files import Files
from streamer.base.text import printable
from streamer.commands.common import UNEXPECTED
from streamer.commands.filter.config import FilterConfig, load
from streamer.commands.filter.daemon import daemon_config
from streamer.commands.filter.run import Counts, run
from streamer.commands.run import run_daemon
from streamer.config import NO_SHARDS, Config, From, Source
from streamer.core.records.schema import tool_calls

_SAMPLES = 10
_START = 100


def filter(  # noqa: A001 - the command is called so
    *,
    config: Annotated[Path, typer.Option(help="TOML file with a [filter] table.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written, and write nothing.")] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Go on as a daemon, with each rollout that ends.")] = False,
) -> None:
    """Write the examples of the sessions of a trace database that meet all conditions to one file.

    Takes the [filter] table of `synth-ai filter` as it is. An existing output is replaced once the new one is
    complete. The database is only read, in short pages, while the producer goes on.

    With --follow the output is the dataset of a daemon: it is appended to with each outcome, until SIGTERM or Ctrl-C.

    Exit code: 0 written or stopped, 1 nothing matched, 2 wrong configuration, 3 the database cannot be read, 4 another
    process writes that output, 5 it is the dataset of a daemon.

    Example: streamer filter --config filter.toml --dry-run
    """
    if follow:
        if dry_run:
            raise ConfigError("follow the filter", "--dry-run", "a daemon does not end", "leave one of the two out")
        run_daemon(lambda: [_followed(config)])
        return
    settings = load(config, os.environ)
    counts = _dry_run(settings) if dry_run else _write(settings)
    for line in _summary(counts, settings, dry_run=dry_run):
        typer.echo(line)
    if not counts.written:
        raise typer.Exit(UNEXPECTED)


def _followed(config: Path) -> Config:
    settings = load(config, os.environ)
    return daemon_config(settings, Source(NO_SHARDS, settings.db, From.DATABASE, token=settings.token))


def _write(settings: FilterConfig) -> Counts:
    with AtomicFile(settings.output, Files()) as output:
        counts = run(settings, output.write, settings.output.parent)
        if counts.written:
            output.publish()
    return counts


def _dry_run(settings: FilterConfig) -> Counts:
    samples: list[bytes] = []

    def keep(line: bytes) -> None:
        if len(samples) < _SAMPLES:
            samples.append(line)

    counts = run(settings, keep, Path(tempfile.gettempdir()))
    for line in samples:
        typer.echo(_sample(json.loads(line)))
    if samples:
        sys.stdout.write("\n")
    return counts


def _summary(counts: Counts, settings: FilterConfig, *, dry_run: bool) -> Iterator[str]:
    width = len(f"{max(counts.sessions, counts.written, counts.skipped, counts.duplicates):,}")
    yield f"{counts.sessions:>{width},} sessions"
    for key, sessions in counts.removed.items():
        yield f"{sessions:>{width},} removed by {key}"
    yield f"{counts.chosen:>{width},} left"
    so_far = "" if counts.seen or settings.shuffle else " so far: the limit was reached"
    if counts.other_rollouts:
        yield f"{counts.other_rollouts:>{width},} examples of rollouts or models that do not match{so_far}"
    for reason, decisions in counts.dead.items():
        first = counts.first_dead[reason]
        turn = "" if first.turn is None else f" turn {first.turn}"
        yield (
            f"{decisions:>{width},} dead letters {reason}{so_far}, the first: "
            f"session {_cut(first.session)}{turn}: {printable(first.detail)}"
        )
    yield f"{counts.duplicates:>{width},} duplicate examples{so_far}"
    if settings.offset:
        yield f"{counts.skipped:>{width},} examples skipped by offset"
    would = "would be written" if dry_run else "written"
    yield f"{counts.written:>{width},} examples {would}"
    output = printable(str(settings.output))
    if not counts.written:
        yield f"nothing matched: {output} is as it was"
    elif not dry_run:
        yield f"output: {output}"


def _sample(line: dict[str, Any]) -> str:
    """Return an example on one line. Text of models cannot steer the terminal."""
    metadata, messages = line["metadata"], line["messages"]
    turn, reward = metadata["turn"], metadata["total_reward"]
    reply = next(message for message in reversed(messages) if message["role"] == "assistant")
    text = reply["content"] if isinstance(reply["content"], str) else "[parts]"
    calls = [f"{name}({arguments})" for name, arguments in tool_calls(reply)]
    return (
        f"{_cut(metadata['run_id'])}  turn {'-' if turn is None else turn}"
        f"  reward {'-' if reward is None else reward}  {_cut(' '.join([text, *calls]).strip())}"
    )


def _cut(text: str) -> str:
    folded = " ".join(text[: 2 * _START].split())
    return printable(folded if len(folded) <= _START else f"{folded[: _START - 1]}…")
