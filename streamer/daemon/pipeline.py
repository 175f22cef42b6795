"""The path: shard lines meet their outcomes, qualify, lose their duplicates, and become dataset lines.

Invariants
- ``step`` is one batch. Either its ledger transaction commits, or the next ``recover`` heals all traces of the
  batch: no state in memory survives a failure.
- Order within a batch: dead letters, append, sync, commit. A crash between any two of them repeats the batch. Lines
  that have reached the dataset are adopted, and claimed by the shard lines that they came from.
- Outcomes have a transaction of their own. It also puts the lines that waited for them up for re-evaluation, so
  that no crash can separate the two.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, ParamSpec, TypeVar

from anyio import to_thread

from streamer.base.env import Env
from streamer.base.errors import UnavailableError
from streamer.base.events import (
    DatabaseReplaced,
    LinesExpired,
    OutcomesSeen,
    PartClosed,
    PartRemoved,
    PartsMissing,
    Recovered,
)
from streamer.base.failures import ActiveFailures
from streamer.config import Config
from streamer.core.records.dataset_line import own_keys
from streamer.core.records.model import Outcome
from streamer.core.verdicts.caps import metadata_keys
from streamer.core.verdicts.judge import Judged, Rules, Settled, judge, sessions, settle
from streamer.daemon.telemetry import Telemetry
from streamer.sources.inbox import Inbox, Work
from streamer.sources.null import NoOutcomes, NoRollouts, NoUplink
from streamer.sources.outcomes import OutcomePoller
from streamer.sources.read_cache import ReadCache
from streamer.sources.reader import Budget
from streamer.sources.rollouts import RolloutInbox
from streamer.store.curation.curation import AdmissionFilter, Curation, forget
from streamer.store.dataset.dead_letters import DeadLetters
from streamer.store.dataset.writer import DatasetWriter
from streamer.store.ledger.ledger import Ledger
from streamer.store.ledger.paths import is_session
from streamer.store.ledger.transactions import BatchCommit, ReadSettings
from streamer.store.parts.parts import part_path

if TYPE_CHECKING:
    from streamer.fleet.uplink import Uplink

_T = TypeVar("_T")
_P = ParamSpec("_P")

_BATCH_BYTES = 8 << 20
"""Bytes of lines in one batch; in memory, a batch takes a few times as much."""

_FEW = 64
"""Lines that are judged faster than a thread starts."""


class Sources(NamedTuple):
    """Inputs of lines and outcomes, and the uplink that delivers records to a fleet.

    ``failures`` are those of reading shards and outcomes.
    """

    inbox: Inbox
    rollouts: RolloutInbox | NoRollouts
    outcomes: OutcomePoller | NoOutcomes
    uplink: Uplink | NoUplink
    failures: ActiveFailures


class Pipeline:
    """One run of the path, from a recovery to the next failure or the end."""

    def __init__(
        self,
        config: Config,
        env: Env,
        ledger: Ledger,
        dataset: DatasetWriter,
        dead_letters: DeadLetters,
        sources: Sources,
    ) -> None:
        self.ledger = ledger
        self.dataset = dataset
        self.inbox = sources.inbox
        self.rollouts = sources.rollouts
        self.outcomes = sources.outcomes
        self.uplink = sources.uplink
        self._dead_letters = dead_letters
        self._clock = env.clock
        self._emit = env.emit
        self._failpoint = env.failpoint
        self._failures = sources.failures
        self._telemetry = Telemetry(env)
        self.poll_pause = 0.0
        self.poll_error: UnavailableError | None = None
        self.scan_error: UnavailableError | None = None
        self.curation = Curation(config.near, config.cap)
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Judge by ``config`` from now on; if caps change, call ``backfill`` next."""
        self.config = config
        turns = config.records.turn_rules
        keys = metadata_keys(config.cap, own_keys(with_turn=turns is not None))
        self.curation.set_caps(config.cap)
        self.outcomes.set_where(config.qualify.where, turns, keys)
        self.rules = Rules(self.outcomes.rule, config.join.rule, config.records, config.dedup.by)
        self.rollouts.configure(self.outcomes.rule, config.join.rule)

    @property
    def error(self) -> UnavailableError | None:
        """Why inputs cannot be read or records not be delivered now; None if all works."""
        return self.poll_error or self.rollouts.error or self.scan_error or self.inbox.error or self.uplink.error

    @property
    def is_at_rest(self) -> bool:
        """Whether everything that can be read now was taken; valid after a step without work."""
        if self.error is not None:
            return True
        return self.has_arrived and not (self.outcomes.is_waiting or self.rollouts.has_news)

    @property
    def has_arrived(self) -> bool:
        """Whether no record is on its way from or to a fleet."""
        return self.inbox.is_at_rest and self.uplink.is_at_rest

    async def recover(self) -> None:
        """Make dataset, ledger and dead letters agree."""
        by = self.config.dedup.by
        found = await self.dataset.recover(self.ledger, by, self._failpoint)
        head = await self.ledger.head()
        if self._dead_letters.recover(head.dead_length, head.dead_tail):
            await self.ledger.rewrite_dead_letters()  # first: a crash in between repeats both
            self._dead_letters.clear()
        await self.backfill()  # first: a part may hold lines that were adopted just now
        await self._remove_expired_parts()
        await self.describe()
        await self.ledger.relax()
        self.uplink.committed(self.dataset.length)
        if found.adopted or found.foreign or found.cut:
            self._emit(Recovered(found.adopted, found.foreign, found.cut))
        if found.missing:
            self._emit(PartsMissing(found.missing))

    async def backfill(self) -> None:
        """Let near-duplicates and caps catch up with the dataset."""
        await self.curation.catch_up(self.ledger, self.dataset, self._failpoint)

    async def describe(self) -> None:
        """Record inputs and conditions in the ledger."""
        source = self.config.source
        await self.ledger.describe(
            ReadSettings(
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
        """Take one batch of lines to the dataset; return False if there is none."""
        work = await self._next_batch()
        if work is None or work.is_empty:
            return work is not None
        judged, outcomes = await self._judge(work)
        settled, admission = await self._settle(judged)
        await self._store(work, settled, admission)
        await self._acknowledge(work, settled)
        self._telemetry.report(settled, outcomes, self.dataset.length)
        return True

    async def _next_batch(self) -> Work | None:
        """Return lines to judge, those to judge again before new ones; None if there are none."""
        batch = self.config.batch
        deadline = self._clock.monotonic() + batch.milliseconds / 1000
        budget = Budget(batch.records, _BATCH_BYTES, lambda: self._clock.monotonic() > deadline)
        spans = await self.ledger.pending(budget.lines, with_sessions=self.rollouts.is_open)
        if spans:
            inbox = self.rollouts if is_session(spans[0][1].path) else self.inbox
            work = await inbox.pending(spans, budget)
            if work is not None:
                return work
        return await self.inbox.new(budget) or await self.rollouts.new(budget)

    async def _judge(self, work: Work) -> tuple[Sequence[Judged], Mapping[str, Sequence[Outcome]]]:
        """Return the lines with a verdict or a key to look up, and the outcomes that they were judged by."""
        self._failpoint("read")
        outcomes = await self.ledger.outcomes(sessions(work.items))
        turns = self.config.records.turn_rules
        rewards = await self.ledger.turn_rewards(outcomes, turns.type) if turns else {}
        return await _computed(len(work.items), judge, work.items, outcomes, self.rules, rewards), outcomes

    async def _settle(self, judged: Sequence[Judged]) -> tuple[Settled, AdmissionFilter | None]:
        """Return the verdicts of all lines, and the filter that has counted the accepted ones."""
        known = await self.ledger.known({one.offer.key for one in judged if one.offer is not None})
        admission = await self.curation.admission_filter(self.ledger, judged, known)
        return await _computed(len(judged), settle, judged, known, self.dataset.length, admission), admission

    async def _store(self, work: Work, settled: Settled, admission: AdmissionFilter | None) -> None:
        """Write a batch to the disk, then commit it to the ledger."""
        await to_thread.run_sync(self._write, settled)
        with self._telemetry.timed("commit"):
            await self._commit(work, settled, admission)
        self._failpoint("committed")

    def _write(self, settled: Settled) -> None:
        """Append dead letters and dataset lines, and sync both."""
        if settled.dead_letters:
            self._dead_letters.append(settled.dead_letters)
            self._failpoint("dead letters written")
        if settled.dataset:
            self.dataset.append(settled.dataset, [place for _, place in settled.appended], self._failpoint)
            self._failpoint("appended")
            with self._telemetry.timed("sync"):
                self.dataset.sync()
            self._failpoint("synced")

    async def _commit(self, work: Work, settled: Settled, admission: AdmissionFilter | None) -> None:
        await self.ledger.commit(
            BatchCommit(
                cursors=work.cursors,
                taken=work.taken,
                spans=[*settled.spans, *work.kept],
                pending=work.pending,
                blocked=work.blocked,
                appended=settled.appended,
                claimed=settled.claimed,
                dataset_length=self.dataset.length,
                dataset_tail=self.dataset.tail_digest(),
                dead_length=self._dead_letters.length,
                dead_tail=self._dead_letters.tail_digest(),
                at=self._clock.now(),
                closed=self.dataset.closed,
                live=self.dataset.live if self.config.roll.is_on and settled.appended else None,
                also=partial(self._also, work, admission),
            )
        )

    def _also(self, work: Work, admission: AdmissionFilter | None, db: sqlite3.Connection) -> None:
        """Write the tables of curation and of a fleet, in the transaction of the batch."""
        if admission is not None:
            admission.write(db, length=self.dataset.length)
        if work.also is not None:
            work.also(db)

    async def _acknowledge(self, work: Work, settled: Settled) -> None:
        """Tell the fleet that a batch is committed, and retire parts."""
        if work.done is not None:
            await work.done()
        self.uplink.committed(self.dataset.length, settled.appended)
        if self.dataset.closed:
            await self._report_closed_parts()

    async def _rotate_by_age(self) -> None:
        """Close the live file if it is too old; give up parts that are."""
        if self.dataset.is_old:
            await self.close_part()
        elif self.config.retain.age is not None:
            await self._remove_expired_parts()

    async def close_part(self) -> None:
        """Close the live file, unless it is empty."""
        if self.dataset.length > self.dataset.live.start:
            await to_thread.run_sync(self.dataset.close_part, self._failpoint)
            await self.ledger.close_parts(self.dataset.closed)
            await self._report_closed_parts()

    async def _report_closed_parts(self) -> None:
        """Report the parts that were just closed, and remove expired ones."""
        for part in self.dataset.closed:
            self._emit(PartClosed(part_path(self.dataset.path, part.number).name, part.lines, part.bytes))
        self.dataset.closed.clear()
        await self._remove_expired_parts()

    async def _remove_expired_parts(self) -> None:
        keep_from = await self.uplink.keep_from()
        for part in await self.dataset.tidy(self.ledger, self.config.retain, self._failpoint, forget, keep_from):
            self._emit(PartRemoved(part_path(self.dataset.path, part.number).name, part.lines))

    async def poll(self) -> bool:
        """Take one page of outcome rows; return False if none was new or the database cannot be read now.

        A slow server does not hold up lines: a later call takes its rows.
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
        for notice in self.outcomes.notices:
            self._emit(notice)
        self.outcomes.notices = []
        self.poll_pause = self.outcomes.pause(self.config.source.poll_interval)
        self._failures.over("read outcomes")
        changed = await self.ledger.store_outcomes(rows, self.rules.join, self.outcomes.rewards)
        self.rollouts.look(changed)
        if changed:
            self._emit(OutcomesSeen(len(changed), sum(row.qualifies for row in changed)))
        return bool(changed) or not self.outcomes.caught_up

    async def scan(self) -> None:
        """Look for changed shards, old parts, and lines whose outcome is overdue."""
        try:
            if self.config.source.reads_shards:
                await self.inbox.scan()
        except UnavailableError as error:
            self._failures.begin(error)
            self.scan_error = error
        else:
            self._failures.over("list the shard folder")
            self.scan_error = None
        await self._rotate_by_age()
        expired = await self.ledger.expire(self._clock.now() - self.config.join.never_scored_after)
        if expired:
            self._emit(LinesExpired(expired))

    async def refresh(self) -> None:
        """Scan the whole folder, and take all outcomes that are there now."""
        await self.scan()
        while await self.poll():
            pass

    async def catch_up(self) -> None:
        """Process everything that can be read now."""
        await self.refresh()
        while await self.step():
            pass

    async def drain(self) -> None:
        """Process everything that is there now, without waiting for shards."""
        await drain([self])


async def _computed(lines: int, function: Callable[_P, _T], *args: _P.args, **more: _P.kwargs) -> _T:
    """Call a pure function: at once for a few lines, in a thread for many."""
    if lines <= _FEW:
        return function(*args, **more)
    return await to_thread.run_sync(partial(function, *args, **more))


async def drain(pipelines: Sequence[Pipeline], read_cache: ReadCache | None = None) -> None:
    """Process everything that is there now, without waiting for shards; pipelines take turns batch by batch."""
    for pipeline in pipelines:
        await pipeline.refresh()
    await _step_in_turn(pipelines, read_cache)
    for pipeline in pipelines:
        pipeline.rollouts.wait_no_longer()  # their shards were there now, or are not
    await _step_in_turn(pipelines, read_cache)


async def _step_in_turn(pipelines: Sequence[Pipeline], read_cache: ReadCache | None) -> None:
    worked = True
    while worked:
        worked = False
        for pipeline in pipelines:
            worked |= await pipeline.step()
        if read_cache is not None:
            read_cache.clear()
