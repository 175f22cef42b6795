"""The path: shard lines meet their outcomes, qualify, lose their duplicates, and become dataset lines.

Invariants
- ``step`` is one batch. It either happens (its ledger transaction commits) or leaves nothing behind that
  the next ``recover`` does not heal: no state in memory is believed across a failure.
- Order within a batch: dead letters, append, sync, commit. A crash at any arrow repeats the batch; lines
  that reached the dataset are adopted and claimed by the shard lines they came from.
- Outcomes are committed on their own, and make lines ``due`` in the same transaction, so that none is
  forgotten between an outcome and the lines that waited for it.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from functools import partial
from itertools import islice
from typing import NamedTuple, ParamSpec, Self, TypeVar

from anyio import to_thread

from streamer.base.errors import UnavailableError
from streamer.base.events import (
    Committed,
    DatabaseReplaced,
    DeadLettered,
    Emit,
    NeverScored,
    OutcomesSeen,
    PartClosed,
    PartRemoved,
    PartsMissing,
    Quiet,
    Recovered,
)
from streamer.base.failures import SourceFailures
from streamer.base.files import Clock, Files
from streamer.config import Config
from streamer.config.fleet_names import Names
from streamer.config.fleet_table import SinkKind
from streamer.core.records.dataset_line import own_keys
from streamer.core.records.layouts import MalformedError
from streamer.core.records.model import Outcome, Span, State
from streamer.core.verdicts.caps import metadata_keys
from streamer.core.verdicts.judge import Item, Rules, Settled, count, judge, sessions, settle
from streamer.core.verdicts.turns import TurnReward
from streamer.fleet.beside import beside
from streamer.fleet.intake import Intake
from streamer.fleet.uplink import Uplink
from streamer.sources.folder import shard_folder
from streamer.sources.inbox import Inbox, ShardInbox, Work
from streamer.sources.null import NoOutcomes, NoRollouts, NoUplink
from streamer.sources.outcomes import OutcomePoller
from streamer.sources.read_cache import ReadCache
from streamer.sources.reader import Budget, ShardReader
from streamer.sources.rollouts import RolloutInbox
from streamer.store.curation.curation import AdmissionFilter, Curation, forget
from streamer.store.dataset.dead_letters import DeadLetters, dead_letters_path
from streamer.store.dataset.writer import DatasetWriter
from streamer.store.ledger.ledger import Ledger, Reads
from streamer.store.ledger.paths import is_session
from streamer.store.ledger.transactions import BatchCommit
from streamer.store.parts.parts import part_path

_T = TypeVar("_T")
_P = ParamSpec("_P")

_BATCH_BYTES = 8 << 20
"""Bytes of lines in one batch: what a batch holds in memory, a few times over."""


_FEW = 64
"""Lines that are judged sooner than a thread is woken for them."""


_RUNS_TOLD = 100
"""Rollouts that one event names at most."""


async def _quickly(lines: int, judge: Callable[_P, _T], *args: _P.args, **more: _P.kwargs) -> _T:
    """Call a pure function: at once for a few lines, in a thread for many."""
    if lines <= _FEW:
        return judge(*args, **more)
    return await to_thread.run_sync(partial(judge, *args, **more))


def _runs(spans: Iterable[Span]) -> tuple[str, ...]:
    """Return the first rollouts of which records were appended."""
    appended = dict.fromkeys(span.session for span in spans if span.state is State.ACCEPTED)
    return tuple(islice(appended, _RUNS_TOLD))


def no_failpoints(_point: str) -> None:
    """Pass a named point at which a crash must be harmless; tests crash there."""


def _outcomes(config: Config, clock: Clock) -> OutcomePoller | NoOutcomes:
    source, qualify = config.source, config.qualify
    if not source.is_local:
        return NoOutcomes(qualify.where, f"the stream {Names(config.fleet.prefix, config.fleet.dataset).stream}")
    turns = config.records.turn_rules
    return OutcomePoller(source.database, qualify.where, clock, token=source.token, turns=turns)


def _shards(
    config: Config,
    ledger: Ledger,
    files: Files,
    clock: Clock,
    emit: Emit,
    failpoint: Callable[[str], None],
    read_cache: ReadCache | None,
) -> ShardInbox:
    source = config.source
    reader = ShardReader(source.shards, source.max_line_bytes, files, clock, follow_symlinks=source.follow_symlinks)
    return ShardInbox(shard_folder(config), reader, ledger, source.max_line_bytes, clock, emit, failpoint, read_cache)


def _uplink(
    config: Config, ledger: Ledger, files: Files, clock: Clock, emit: Emit, failures: SourceFailures
) -> Uplink | NoUplink:
    if config.sink.kind is not SinkKind.JETSTREAM:
        return NoUplink()
    return Uplink(config, ledger, files, clock, emit, failures.fleet)


class _Sources(NamedTuple):
    """Where lines and outcomes come from, and what does not work of that; and where records go from the dataset."""

    inbox: Inbox
    rollouts: RolloutInbox | NoRollouts
    outcomes: OutcomePoller | NoOutcomes
    failures: SourceFailures
    uplink: Uplink | NoUplink


class Pipeline:
    """One life of the path, from a recovery to the next failure or the end."""

    def __init__(
        self,
        config: Config,
        ledger: Ledger,
        dataset: DatasetWriter,
        dead: DeadLetters,
        sources: _Sources,
        clock: Clock,
        emit: Emit,
        failpoint: Callable[[str], None],
    ) -> None:
        self.ledger = ledger
        self.dataset = dataset
        self.inbox = sources.inbox
        self.rollouts = sources.rollouts
        self.outcomes = sources.outcomes
        self.uplink = sources.uplink
        self._dead = dead
        self._clock = clock
        self._emit = emit
        self._failpoint = failpoint
        self._failures = sources.failures.inputs
        self.poll_pause = 0.0
        self.poll_error: UnavailableError | None = None
        self.scan_error: UnavailableError | None = None
        self.curation = Curation(config.near, config.cap)
        self.configure(config)

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        config: Config,
        files: Files,
        clock: Clock,
        emit: Emit,
        failpoint: Callable[[str], None] = no_failpoints,
        failures: SourceFailures | None = None,
        read_cache: ReadCache | None = None,
        news: Callable[[], None] = lambda: None,
        *,
        travels: bool = True,
    ) -> AsyncIterator[Self]:
        """Open everything, recover, and close everything in the end.

        Args:
            config: what to read, how to judge, where to write.
            files: the system calls.
            clock: ages and pauses; no verdict depends on it.
            emit: is told of every event.
            failpoint: called with the name of each point at which a crash must be harmless.
            failures: what did not work in an earlier pipeline; without it, nothing.
            read_cache: what other datasets have just read, and where others find what is read here.
            news: called when something has come that a step can take.
            travels: whether records go to a fleet meanwhile, or come from one, if that is configured.

        Raises:
            UnavailableError: something cannot be opened now.
            RefusedError: dataset and ledger contradict each other; a person has to decide.
        """
        dataset = DatasetWriter(config.dataset.path, files, clock, config.roll)
        dead = DeadLetters(dead_letters_path(config.dataset.path), files)
        outcomes = _outcomes(config, clock)
        try:
            dataset.open()
            async with Ledger.open(config.dataset.ledger, files) as ledger:
                failures = failures or SourceFailures(emit)
                uplink = _uplink(config, ledger, files, clock, emit, failures)
                if config.source.is_local:
                    inbox: Inbox = _shards(config, ledger, files, clock, emit, failpoint, read_cache)
                    rollouts: RolloutInbox | NoRollouts = RolloutInbox(
                        config.source, ledger, clock, emit, failures.conversations
                    )
                else:
                    inbox, rollouts = Intake(config, ledger, clock, emit, failures.fleet, news), NoRollouts()
                sources = _Sources(inbox, rollouts, outcomes, failures, uplink)
                pipeline = cls(config, ledger, dataset, dead, sources, clock, emit, failpoint)
                with closing(pipeline.rollouts):
                    await pipeline.recover()
                    async with AsyncExitStack() as stack:
                        for run in (inbox.run, uplink.run) if travels else ():
                            await stack.enter_async_context(beside(run))
                        yield pipeline
        finally:
            dataset.close()
            dead.close()
            await outcomes.close()

    def configure(self, config: Config) -> None:
        """Judge by ``config`` from now on; after other caps, ``take_up`` has to follow."""
        self.config = config
        turns = config.records.turn_rules
        keys = metadata_keys(config.cap, own_keys(with_turn=turns is not None))
        self.curation.set_caps(config.cap)
        self.outcomes.set_where(config.qualify.where, turns, keys)
        self.rules = Rules(self.outcomes.rule, config.join.rule, config.records, config.dedup.by)
        self.rollouts.configure(self.outcomes.rule, config.join.rule)

    @property
    def error(self) -> UnavailableError | None:
        """Why something cannot be read now, or nothing can be delivered; None if all works."""
        return self.poll_error or self.rollouts.error or self.scan_error or self.inbox.error or self.uplink.error

    @property
    def is_at_rest(self) -> bool:
        """Say, after a step that found nothing to do, whether all that can be read now was taken."""
        if self.error is not None:
            return True
        return self.has_arrived and not (self.outcomes.is_waiting or self.rollouts.has_news)

    @property
    def has_arrived(self) -> bool:
        """Say whether nothing is on its way from or to a fleet."""
        return self.inbox.is_at_rest and self.uplink.is_at_rest

    async def recover(self) -> None:
        """Make dataset, ledger and dead letters agree."""
        by = self.config.dedup.by
        found = await self.dataset.recover(self.ledger, by, self._failpoint)
        head = await self.ledger.head()
        if self._dead.recover(head.dead_length, head.dead_tail):
            await self.ledger.tell_dead_again()  # first: a crash in between repeats both
            self._dead.clear()
        await self.take_up()  # first: a part may hold lines that were adopted just now
        await self._tidy()
        await self.describe()
        await self.ledger.relax()
        self.uplink.committed(self.dataset.length)
        if found.adopted or found.foreign or found.cut:
            self._emit(Recovered(found.adopted, found.foreign, found.cut))
        if found.missing:
            self._emit(PartsMissing(found.missing))

    async def take_up(self) -> None:
        """Take up what the dataset holds and near-duplicates and caps do not know of yet."""
        await self.curation.catch_up(self.ledger, self.dataset, self._failpoint)

    async def describe(self) -> None:
        """Tell the ledger what is read and asked now."""
        source = self.config.source
        await self.ledger.describe(
            Reads(
                shards=str(source.shards.absolute()) if source.reads_shards else "",
                pattern=source.pattern,
                follow_symlinks=source.follow_symlinks,
                database=source.database,
                rule=self.outcomes.rule,
                where=self.config.qualify.where,
                join=self.config.join.rule,
                turns=self.config.records.turn_rules,
            )
        )

    async def step(self) -> bool:
        """Take one batch of lines all the way; False when there is none."""
        work = await self._next_work()
        if work is None:
            return False
        if work.is_empty:
            return True
        self._failpoint("read")
        outcomes = await self.ledger.outcomes(sessions(work.items))
        rewards = await self._turn_rewards(outcomes)
        judged = await _quickly(len(work.items), judge, work.items, outcomes, self.rules, rewards)
        known = await self.ledger.known({one.offer.key for one in judged if one.offer is not None})
        gate = await self.curation.gate(self.ledger, judged, known)
        settled = await _quickly(len(work.items), settle, judged, known, self.dataset.length, gate)
        sync_seconds = await to_thread.run_sync(self._write, settled)
        began = self._clock.monotonic()
        await self._commit(work, settled, gate)
        commit_seconds = self._clock.monotonic() - began
        self._failpoint("committed")
        if work.done is not None:
            await work.done()
        self.uplink.committed(self.dataset.length, settled.appended)
        if self.dataset.closed:
            await self._tell_closed()
        self._tell(settled, sync_seconds, commit_seconds, self._latencies(settled, outcomes))
        self._tell_dead(settled.dead)
        return True

    async def _turn_rewards(self, sessions: Iterable[str]) -> Mapping[str, Sequence[TurnReward]]:
        turns = self.config.records.turn_rules
        return await self.ledger.turn_rewards(sessions, turns.type) if turns else {}

    async def _next_work(self) -> Work | None:
        batch = self.config.batch
        deadline = self._clock.monotonic() + batch.milliseconds / 1000
        budget = Budget(batch.records, _BATCH_BYTES, lambda: self._clock.monotonic() > deadline)
        spans = await self.ledger.due(budget.lines, with_sessions=self.rollouts.is_open)
        if spans:
            inbox = self.rollouts if is_session(spans[0][1].path) else self.inbox
            work = await inbox.due(spans, budget)
            if work is not None:
                return work
        return await self.inbox.new(budget) or await self.rollouts.new(budget)

    def _write(self, settled: Settled) -> float | None:
        """Make a batch durable but for its commit; return the seconds of the dataset's sync, if there was one."""
        if settled.dead_letters:
            self._dead.append(settled.dead_letters)
            self._failpoint("dead letters written")
        if not settled.dataset:
            return None
        self.dataset.append(settled.dataset, [place for _, place in settled.appended], self._failpoint)
        self._failpoint("appended")
        began = self._clock.monotonic()
        self.dataset.sync()
        seconds = self._clock.monotonic() - began
        self._failpoint("synced")
        return seconds

    async def _commit(self, work: Work, settled: Settled, gate: AdmissionFilter | None) -> None:
        await self.ledger.commit(
            BatchCommit(
                cursors=work.cursors,
                taken=work.taken,
                spans=[*settled.spans, *work.kept],
                due=work.due,
                parked=work.parked,
                appended=settled.appended,
                claimed=settled.claimed,
                dataset_length=self.dataset.length,
                dataset_tail=self.dataset.tail_digest(),
                dead_length=self._dead.length,
                dead_tail=self._dead.tail_digest(),
                at=self._clock.now(),
                closed=self.dataset.closed,
                live=self.dataset.live if self.config.roll.is_on and settled.appended else None,
                also=partial(self._also, work, gate),
            )
        )

    def _also(self, work: Work, gate: AdmissionFilter | None, db: sqlite3.Connection) -> None:
        """Write what others keep of a batch, in its transaction."""
        if gate is not None:
            gate.write(db, length=self.dataset.length)
        if work.also is not None:
            work.also(db)

    async def _close_old_part(self) -> None:
        """Close the live file if it is too old; give up parts that are."""
        if self.dataset.is_old:
            await self.close_part()
        elif self.config.retain.age is not None:
            await self._tidy()

    async def close_part(self) -> None:
        """Close the live file, unless it is empty."""
        if self.dataset.length > self.dataset.live.start:
            await to_thread.run_sync(self.dataset.close_part, self._failpoint)
            await self.ledger.close_parts(self.dataset.closed)
            await self._tell_closed()

    async def _tell_closed(self) -> None:
        """Say which parts were closed, and make room for them."""
        for part in self.dataset.closed:
            self._emit(PartClosed(part_path(self.dataset.path, part.number).name, part.lines, part.bytes))
        self.dataset.closed.clear()
        await self._tidy()

    async def _tidy(self) -> None:
        keep_from = await self.uplink.keep_from()
        for part in await self.dataset.tidy(self.ledger, self.config.retain, self._failpoint, forget, keep_from):
            self._emit(PartRemoved(part_path(self.dataset.path, part.number).name, part.lines))

    def _latencies(self, settled: Settled, outcomes: Mapping[str, Sequence[Outcome]]) -> tuple[float, ...]:
        """Return the ages in seconds of the outcomes by which records were appended, as far as they are known."""
        if not settled.appended:
            return ()
        now = self._clock.now()
        refs = {span.outcome for span in settled.spans if span.state is State.ACCEPTED}
        rows = (row for session in outcomes.values() for row in session if row.ref in refs)
        return tuple(max(0.0, now - row.created_us / 1e6) for row in rows if row.created_us is not None)

    def _tell(
        self, settled: Settled, sync_seconds: float | None, commit_seconds: float, latencies: tuple[float, ...]
    ) -> None:
        counts = count(settled.spans)
        event = Committed if counts[State.ACCEPTED] else Quiet
        self._emit(
            event(
                read=sum(counts.values()),
                appended=counts[State.ACCEPTED],
                duplicate=counts[State.DUPLICATE],
                below_bar=counts[State.REJECTED],
                waiting=counts[State.WAITING],
                dead_lettered=counts[State.DEAD_LETTERED],
                appended_bytes=len(settled.dataset),
                dataset_bytes=self.dataset.length,
                runs=_runs(settled.spans),
                sync_seconds=None if sync_seconds is None else round(sync_seconds, 6),
                commit_seconds=round(commit_seconds, 6),
                latencies=latencies,
            )
        )

    def _tell_dead(self, dead: Sequence[Item]) -> None:
        first: dict[tuple[str, str], int] = {}
        lines: Counter[tuple[str, str]] = Counter()
        for item in dead:
            if isinstance(item.content, MalformedError):
                place = (item.line.shard, item.content.reason)
                first.setdefault(place, item.line.number)
                lines[place] += 1
        for (shard, reason), line in first.items():
            self._emit(DeadLettered(shard, line, reason, lines[shard, reason]))

    async def poll(self) -> bool:
        """Take one page of outcome rows; False when none was new or the database cannot be read now.

        A server that has not answered yet is no reason to stop taking lines: its rows come with a later call.
        """
        try:
            rows = await self.outcomes.poll()
        except UnavailableError as error:
            self.poll_pause = self.outcomes.pause_after_failure(self._failures.begin(error))
            self.poll_error = error
            return False
        if self.outcomes.is_waiting:
            return True
        self.poll_error = None
        if self.outcomes.replaced:
            self.outcomes.replaced = False
            self._emit(DatabaseReplaced(str(self.outcomes.path)))
        self.poll_pause = self.outcomes.pause(self.config.source.poll_interval)
        self._failures.over("read outcomes")
        changed = await self.ledger.take_outcomes(rows, self.rules.join, self.outcomes.rewards)
        self.rollouts.look(changed)
        if changed:
            self._emit(OutcomesSeen(len(changed), sum(row.qualifies for row in changed)))
        return bool(changed) or not self.outcomes.caught_up

    async def scan(self) -> None:
        """Look at the whole folder, and at how long lines have waited."""
        try:
            if self.config.source.reads_shards:
                await self.inbox.scan()
        except UnavailableError as error:
            self._failures.begin(error)
            self.scan_error = error
        else:
            self._failures.over("list the shard folder")
            self.scan_error = None
        await self._close_old_part()
        expired = await self.ledger.expire(self._clock.now() - self.config.join.never_scored_after)
        if expired:
            self._emit(NeverScored(expired))

    async def look(self) -> None:
        """Look at the whole folder, and take all outcomes that are there now."""
        await self.scan()
        while await self.poll():
            pass

    async def catch_up(self) -> None:
        """Take everything that is there now and can be taken now."""
        await self.look()
        while await self.step():
            pass

    async def drain(self) -> None:
        """Work off everything that is there now."""
        await drain([self])


async def drain(pipelines: Sequence[Pipeline], read_cache: ReadCache | None = None) -> None:
    """Work off everything that is there now, batch by batch in turn."""
    for pipeline in pipelines:
        await pipeline.look()
    await _step_by_step(pipelines, read_cache)
    for pipeline in pipelines:
        pipeline.rollouts.wait_no_longer()  # their shards were there now, or are not
    await _step_by_step(pipelines, read_cache)


async def _step_by_step(pipelines: Sequence[Pipeline], read_cache: ReadCache | None) -> None:
    worked = True
    while worked:
        worked = False
        for pipeline in pipelines:
            worked |= await pipeline.step()
        if read_cache is not None:
            read_cache.clear()
