"""Wiring of a pipeline: which source, inbox and uplink a configuration asks for, local or JetStream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing

from streamer.base.env import Env
from streamer.base.failures import SourceFailures
from streamer.config import Config
from streamer.config.fleet_names import Names
from streamer.config.fleet_table import SinkKind
from streamer.daemon.pipeline import Pipeline, Sources
from streamer.fleet.beside import beside
from streamer.sources.folder import shard_folder
from streamer.sources.inbox import ShardInbox
from streamer.sources.null import NoOutcomes, NoRollouts, NoUplink
from streamer.sources.outcomes import OutcomePoller
from streamer.sources.read_cache import ReadCache
from streamer.sources.reader import ShardReader
from streamer.sources.rollouts import RolloutInbox
from streamer.store.dataset.dead_letters import DeadLetters, dead_letters_path
from streamer.store.dataset.writer import DatasetWriter
from streamer.store.ledger.ledger import Ledger


@asynccontextmanager
async def open_pipeline(
    config: Config,
    env: Env,
    *,
    failures: SourceFailures | None = None,
    read_cache: ReadCache | None = None,
    wake: Callable[[], None] = lambda: None,
    connect: bool = True,
) -> AsyncIterator[Pipeline]:
    """Open a pipeline and recover; close everything in the end.

    Args:
        config: Inputs, conditions and dataset.
        env: Files, clock, events and failpoints.
        failures: Active failures of an earlier pipeline; none by default.
        read_cache: Shards that other datasets have just read, and that they find here.
        wake: Called when the fleet has sent something for the next step.
        connect: Connect to the fleet, if one is configured.

    Raises:
        UnavailableError: something cannot be opened now.
        RefusedError: dataset and ledger contradict each other; manual action is required.
    """
    dataset = DatasetWriter(config.dataset.path, env, config.roll)
    dead_letters = DeadLetters(dead_letters_path(config.dataset.path), env.files)
    outcomes = _outcomes(config, env)
    try:
        dataset.open()
        async with Ledger.open(config.dataset.ledger, env.files) as ledger:
            sources = _sources(config, env, ledger, outcomes, failures or SourceFailures(env.emit), read_cache, wake)
            pipeline = Pipeline(config, env, ledger, dataset, dead_letters, sources)
            with closing(sources.rollouts):
                await pipeline.recover()
                async with AsyncExitStack() as stack:
                    for run in (sources.inbox.run, sources.uplink.run) if connect else ():
                        await stack.enter_async_context(beside(run))
                    yield pipeline
    finally:
        dataset.close()
        dead_letters.close()
        await outcomes.close()


def _outcomes(config: Config, env: Env) -> OutcomePoller | NoOutcomes:
    source, where = config.source, config.qualify.where
    if not source.is_local:
        return NoOutcomes(where, f"the stream {Names(config.fleet.prefix, config.fleet.dataset).stream}")
    turns = config.records.turn_rules
    return OutcomePoller(source.database, where, env.clock, token=source.token, turns=turns, objective=source.objective)


def _sources(
    config: Config,
    env: Env,
    ledger: Ledger,
    outcomes: OutcomePoller | NoOutcomes,
    failures: SourceFailures,
    read_cache: ReadCache | None,
    wake: Callable[[], None],
) -> Sources:
    uplink: Uplink | NoUplink = NoUplink()
    if config.sink.kind is SinkKind.JETSTREAM:
        from streamer.fleet.uplink import Uplink  # noqa: PLC0415 - only a fleet needs its 20 modules

        uplink = Uplink(config, ledger, env, failures.fleet)
    if not config.source.is_local:
        from streamer.fleet.intake import Intake  # noqa: PLC0415 - as above

        intake = Intake(config, ledger, env, failures.fleet, wake)
        return Sources(intake, NoRollouts(), outcomes, uplink, failures.inputs)
    source = config.source
    reader = ShardReader(source.shards, source.max_line_bytes, env, follow_symlinks=source.follow_symlinks)
    inbox = ShardInbox(shard_folder(config), reader, ledger, source.max_line_bytes, env, read_cache)
    rollouts = RolloutInbox(source, ledger, env, failures.conversations)
    return Sources(inbox, rollouts, outcomes, uplink, failures.inputs)
