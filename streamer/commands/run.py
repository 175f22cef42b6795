"""``streamer run``: the daemon, or with ``--once`` a single pass over existing data."""

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
from streamer.commands.common import DatabaseOption, RunConfigOption, ShardsOption, WhereOption
from streamer.config import Config, Flags, duration, load_all
from streamer.config.database_url import locate
from streamer.core.records.model import State
from streamer.daemon.daemon import Daemon, Listeners
from streamer.daemon.observers import log, progress
from streamer.daemon.observers.health import Health
from streamer.daemon.observers.systemd import Notifier
from streamer.store.ledger.ledger import LineCounts

if TYPE_CHECKING:
    from streamer.web.server import WebUi

_WEB_EXTRA = frozenset({"starlette", "uvicorn", "prometheus_client", "h11"})
"""Packages of the extra `web` that the web UI imports."""

_GC_THRESHOLDS = (50_000, 20, 20)
"""A batch makes tens of thousands of objects without cycles: searching for cycles took a tenth of the time."""

_SWITCH_SECONDS = 0.001
"""The longest time that a computing thread (a scan, a long batch) delays a rollout that has just ended."""


def run(
    *,
    config: RunConfigOption = None,
    once: Annotated[bool, typer.Option("--once", help="Work off what is there, then stop.")] = False,
    until_idle: Annotated[
        str | None,
        typer.Option(envvar="STREAMER_UNTIL_IDLE", help='Stop when nothing new has come for so long: "10m".'),
    ] = None,
    shards: ShardsOption = None,
    database: DatabaseOption = None,
    dataset: Annotated[str | None, typer.Option(help="The JSONL file to append to.")] = None,
    where: WhereOption = None,
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
        read: Returns the configuration of each dataset; called again at each SIGHUP.
        until_idle: Seconds without new data after which the daemon ends; None for never.

    Raises:
        StreamerError: manual action is required.
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
    """The log of events. A reload can change its level. It names the dataset if there are several."""

    def __init__(self, configs: Sequence[Config]) -> None:
        self._names = len(configs) > 1
        self.configure(configs[0])

    def configure(self, config: Config) -> None:
        """Apply the log settings of ``config``."""
        self._write = log.configure(config.log, os.environ, sys.stderr)

    def __call__(self, event: Event) -> None:
        self._write(event)

    def of(self, dataset: Path) -> Emit:
        """Return the function that logs the events of one dataset."""
        return (lambda event: self._write(event, str(dataset))) if self._names else self


def _page(configs: Sequence[Config], healths: Mapping[Path, Health], emit: Emit) -> "WebUi":
    try:
        from streamer.web.server import WebUi  # noqa: PLC0415 - an extra
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in _WEB_EXTRA:
            raise
        raise MissingExtraError(
            "serve the page",
            str(configs[0].web.listen),
            f"{error.name} is not installed",
            "install the extra `web` (in a checkout: pip install '.[web]'), or leave web.listen out",
        ) from None
    return WebUi(configs, healths, emit)


def _tune() -> None:
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    sys.setswitchinterval(_SWITCH_SECONDS)


def run_once(read: Callable[[], Sequence[Config]]) -> list[str]:
    """Process existing data once, and return the counts of each dataset as lines of text.

    Args:
        read: Returns the configuration of each dataset.

    Raises:
        StreamerError: something required is missing, or manual action is required.
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
    """Refuse a single pass without inputs, which would look like success. A daemon waits for them instead."""
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


def _summary(accounts: LineCounts, dataset: Path) -> list[str]:
    """Return the counts as lines of text: the lines read, and the number in each state."""
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
