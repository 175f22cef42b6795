"""``streamer run``: the daemon, or with ``--once`` one pass over what is there."""

import gc
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import anyio
import typer

from streamer.base.env import Env
from streamer.base.errors import MissingExtraError, UnavailableError
from streamer.base.events import Emit, Event, fan_out
from streamer.base.text import counted, printable
from streamer.config import Config, Flags, duration, load_all
from streamer.core.records.model import State
from streamer.daemon.daemon import Daemon, Listeners
from streamer.daemon.observers import log, progress
from streamer.daemon.observers.health import Health
from streamer.daemon.observers.systemd import Notifier
from streamer.sources.trace_db import locate
from streamer.store.ledger.ledger import Accounts

if TYPE_CHECKING:
    from streamer.web.server import Page

_WEB_EXTRA = frozenset({"starlette", "uvicorn", "prometheus_client", "h11"})
"""What the extra `web` installs and the page imports."""

_GC_THRESHOLDS = (50_000, 20, 20)
"""A batch makes tens of thousands of objects, none of them in cycles: to look for those cost a tenth of the time."""

_SWITCH_SECONDS = 0.001
"""How long a thread that computes (a scan, a long batch) keeps a rollout waiting that has just ended."""


def run(
    *,
    config: Annotated[Path | None, typer.Option(help="config.toml; else STREAMER_CONFIG, else none.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Work off what is there, then stop.")] = False,
    until_idle: Annotated[
        str | None,
        typer.Option(envvar="STREAMER_UNTIL_IDLE", help='Stop when nothing new has come for so long: "10m".'),
    ] = None,
    shards: Annotated[str | None, typer.Option(help="Folder of the shards; else SFT_OUTPUT_DIR.")] = None,
    database: Annotated[str | None, typer.Option(help="Trace database: file, sqld folder or URL.")] = None,
    dataset: Annotated[str | None, typer.Option(help="The JSONL file to append to.")] = None,
    where: Annotated[str | None, typer.Option(help="SQL condition over outcome_rewards.")] = None,
) -> None:
    """Append the records of every rollout that ends well to the dataset, each exactly once.

    Without --once it runs until SIGTERM or Ctrl-C; SIGHUP reads the configuration again. With --until-idle it also ends
    by itself, once shards and outcomes have not changed for that long. Flags override environment variables, which
    override the file. Where that has several tables [[dataset]], all are written, or with --dataset that one alone.

    Exit code: 0 done or stopped, 2 wrong configuration, 3 something needed is not there, 4 another daemon
    holds the dataset, 5 dataset and ledger contradict each other.

    Example: streamer run --shards sft/ --database traces.db --dataset good.jsonl --where 'total_reward >= 3'
    """
    read = partial(load_all, config, os.environ, Flags(shards=shards, database=database, dataset=dataset, where=where))
    if once:
        for line in run_once(read):
            typer.echo(line)
    else:
        run_daemon(read, until_idle=duration(until_idle, "--until-idle") if until_idle else None)


def run_daemon(read: Callable[[], Sequence[Config]], until_idle: float | None = None) -> None:
    """Run the daemon of a configuration until SIGTERM or Ctrl-C.

    Args:
        read: returns the configuration for each dataset; it is asked again at each SIGHUP.
        until_idle: after so many seconds without anything new it ends; None for never.

    Raises:
        StreamerError: a person has to decide something first.
    """
    configs = read()
    _tune()
    observer = _Log(configs)
    healths = {config.dataset.path: Health(time.monotonic) for config in configs}
    page = None if configs[0].web.listen is None else _page(configs, healths, observer)

    def of(config: Config) -> Emit:
        path = config.dataset.path
        return fan_out(observer.of(path), healths[path], *([page.of(path)] if page else []))

    def configure(config: Config) -> None:
        observer.configure(config)
        if page is not None:
            page.configure(config)

    def heartbeat() -> None:
        for health in healths.values():
            health.heartbeat()

    daemon = Daemon(
        configs,
        Env(emit=fan_out(observer, page) if page else observer),
        reload=read,
        notifier=Notifier(os.environ),
        listeners=Listeners(configure, heartbeat, of),
        until_idle=until_idle,
    )
    anyio.run(daemon.run, page.served() if page else None)


class _Log:
    """The log of events, whose level a reload can change. It names the dataset where there are several."""

    def __init__(self, configs: Sequence[Config]) -> None:
        self._names = len(configs) > 1
        self.configure(configs[0])

    def configure(self, config: Config) -> None:
        """Log by ``config`` from now on."""
        self._write = log.configure(config.log, os.environ, sys.stderr)

    def __call__(self, event: Event) -> None:
        self._write(event)

    def of(self, dataset: Path) -> Emit:
        """Return who writes the events of one dataset."""
        return (lambda event: self._write(event, str(dataset))) if self._names else self


def _page(configs: Sequence[Config], healths: Mapping[Path, Health], emit: Emit) -> "Page":
    try:
        from streamer.web.server import Page  # noqa: PLC0415 - an extra
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in _WEB_EXTRA:
            raise
        raise MissingExtraError(
            "serve the page",
            str(configs[0].web.listen),
            f"{error.name} is not installed",
            "install the extra `web` (in a checkout: pip install '.[web]'), or leave web.listen out",
        ) from None
    return Page(configs, healths, emit)


def _tune() -> None:
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    sys.setswitchinterval(_SWITCH_SECONDS)


def run_once(read: Callable[[], Sequence[Config]]) -> list[str]:
    """Work off what is there, once, and return the accounts of each dataset as lines of text.

    Args:
        read: returns the configuration for each dataset.

    Raises:
        StreamerError: something that is needed is not there, or a person has to decide something first.
    """
    configs = read()
    _tune()
    _require_inputs(configs[0])
    observer = _Log(configs)
    with progress.shown(sys.stderr.isatty()) as show:
        daemon = Daemon(
            configs,
            Env(emit=show(observer)),
            reload=read,
            notifier=Notifier(os.environ),
            listeners=Listeners(emit_for=lambda config: show(observer.of(config.dataset.path))),
        )
        each = anyio.run(daemon.once)
    lines: list[str] = []
    for accounts, config in zip(each, configs, strict=True):
        lines += [*([""] if lines else []), *_summary(accounts, config.dataset.path)]
    return lines


def _require_inputs(config: Config) -> None:
    """Refuse a single pass over nothing: it would look like success. A daemon waits instead."""
    if not config.source.is_local:
        return
    database = locate(config.source.database)
    if config.source.reads_shards and not config.source.shards.is_dir():
        raise UnavailableError(
            "read shards",
            str(config.source.shards),
            "there is no such folder",
            "see --shards, SFT_OUTPUT_DIR",
        )
    if isinstance(database, Path) and not database.is_file():
        raise UnavailableError(
            "read outcomes", str(database), "there is no such file", "see --database, TURSO_LOCAL_DB_URL"
        )


def _summary(accounts: Accounts, dataset: Path) -> list[str]:
    """Return the accounts as lines of text: what was read, and where all of it is."""
    lines = accounts.lines
    width = len(f"{sum(lines.values()):,}")
    return [
        f"{sum(lines.values()):>{width},} lines read",
        f"{lines[State.ACCEPTED]:>{width},} appended, from {counted(accounts.appended_rollouts, 'rollout')}",
        f"{lines[State.DUPLICATE]:>{width},} duplicate",
        f"{lines[State.REJECTED]:>{width},} below the bar",
        f"{lines[State.WAITING]:>{width},} waiting for an outcome, of {counted(accounts.waiting_rollouts, 'rollout')}",
        f"{lines[State.EXPIRED]:>{width},} never scored",
        f"{lines[State.DEAD_LETTERED]:>{width},} dead-lettered",
        f"dataset: {printable(str(dataset))}",
    ]
