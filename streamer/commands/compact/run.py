"""Compaction: judges the lines of a dataset again, and removes those that are rejected today.

Invariants
- Only closed parts change, and only while the dataset's lock is held.
- Order for each group of parts: write the remaining lines to new files beside the parts, and sync them; commit one
  ledger transaction, and sync it; write the manifest; rename the new files. A crash before the transaction leaves
  everything as it was; after a later one the next start (``Dataset.recover``) finishes the work. A reader finds the old
  file or the new one under the name of a part, and each is whole.
- The next run judges again what a removed record kept out: duplicates, near-duplicates, and records beyond a cap.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import msgspec
from anyio import to_thread

from streamer.base.env import Env
from streamer.base.errors import StreamerError, UnavailableError
from streamer.base.events import PartCompacted
from streamer.base.files import Clock
from streamer.commands.compact import tombstones
from streamer.commands.compact.spans import Spans
from streamer.commands.compact.verdicts import NO_SHARD, Judge, facts_of
from streamer.config import Config
from streamer.core.records.dataset_line import line_key
from streamer.core.records.model import Span, Verdict
from streamer.core.verdicts.turns import TurnBook
from streamer.daemon.build import open_pipeline
from streamer.daemon.pipeline import Pipeline
from streamer.store.curation.curation import chunks
from streamer.store.ledger.transactions import Compaction
from streamer.store.parts.parts import Part, part_path

_LIVE = 0
"""The part number of lines of the live file."""

_PATIENCE = 10.0
"""Seconds to wait for a busy trace database."""


_Progress = Callable[[str, int, int], None]


class Sum(msgspec.Struct, frozen=True):
    """A number of records, and of their bytes."""

    records: int = 0
    bytes: int = 0

    def plus(self, records: int, size: int) -> Sum:
        """Return the sum with ``records`` and ``size`` added."""
        return Sum(self.records + records, self.bytes + size)


class Compacted(msgspec.Struct, frozen=True):
    """The result of a compaction, or of a dry run of it, which changes nothing.

    ``removed`` has the removed records by reason, and ``live`` those that would be if the live file were closed.
    ``unjudged`` has the records that stay because they cannot be judged, by reason. ``parts`` is the number of
    rewritten parts, ``left`` the sum of the records in the dataset now.
    """

    removed: dict[str, Sum]
    live: dict[str, Sum]
    unjudged: dict[str, int]
    parts: int
    left: Sum
    dry_run: bool


async def compact(
    config: Config,
    env: Env,
    *,
    progress: _Progress = lambda _step, _done, _total: None,
    close_live: bool = False,
    dry_run: bool = False,
) -> Compacted:
    """Recover a dataset, read all outcomes, and remove the records that are rejected today.

    The caller holds the lock of the dataset.

    Args:
        config: The files and the rules of today.
        env: The machine, and where events go.
        progress: Called with (step, done, total).
        close_live: Whether to close the live file first, as if it were full.
        dry_run: Whether to rewrite nothing, and only count.

    Raises:
        StreamerError: something required is missing, or manual action is required.
    """
    async with open_pipeline(config, env, connect=False) as pipeline:
        await _catch_up(pipeline, env.clock)
        return await _Compactor(pipeline, env, progress).compact(close_live=close_live, dry_run=dry_run)


async def _catch_up(pipeline: Pipeline, clock: Clock) -> None:
    """Read every outcome row under the present condition.

    Raises:
        UnavailableError: the trace database cannot be read for ten seconds.
    """
    deadline = clock.monotonic() + _PATIENCE
    while True:
        while await pipeline.poll():
            pass
        if pipeline.poll_error is None and pipeline.outcomes.caught_up:
            return
        if clock.monotonic() >= deadline:
            raise pipeline.poll_error or UnavailableError(
                "read outcomes", str(pipeline.outcomes.path), "it does not answer", "see the server, and try again"
            )
        await clock.sleep(pipeline.poll_pause)


class _Compactor:
    """Compacts the dataset of one pipeline, once.

    Args:
        pipeline: A pipeline that has recovered and read all outcomes.
        env: The machine, and where events go.
        progress: Called with (step, done, total).
    """

    def __init__(self, pipeline: Pipeline, env: Env, progress: _Progress) -> None:
        self._pipeline = pipeline
        self._ledger = pipeline.ledger
        self._dataset = pipeline.dataset
        self._rewriter = pipeline.dataset.rewriter
        self._clock = env.clock
        self._emit = env.emit
        self._failpoint = env.failpoint
        self._progress = progress
        self._by = pipeline.config.dedup.by
        self._spans = Spans(pipeline.ledger, pipeline.inbox, pipeline.rollouts, self._by)
        self._removed: dict[str, Sum] = {}
        self._live: dict[str, Sum] = {}
        self._unjudged: Counter[str] = Counter()
        self._parts = 0

    async def compact(self, *, close_live: bool = False, dry_run: bool = False) -> Compacted:
        """Remove the records that are rejected today, and return the result.

        Args:
            close_live: Whether to close the live file first, as if it were full.
            dry_run: Whether to change no file, and only count.

        Raises:
            RefusedError: a part is not the file that was closed.
            UnavailableError: the disk has no room, or something cannot be read now; groups that are done stay done.
        """
        if close_live and not dry_run:
            await self._pipeline.close_part()
        await self._ledger.look(tombstones.create)
        await self._judge_all()
        groups = await self._ledger.look(tombstones.groups)
        if dry_run:
            for parts in groups:
                self._parts += len(parts)
                self._add(await self._ledger.look(partial(tombstones.totals, parts=parts)))
            if close_live and self._live:
                self._parts += 1
                for reason, lines in self._live.items():
                    self._removed[reason] = self._removed.get(reason, Sum()).plus(lines.records, lines.bytes)
                self._live = {}
        else:
            for number, parts in enumerate(groups):
                self._progress("rewriting parts", number, len(groups))
                await self._compact(parts)
        return Compacted(
            self._removed, self._live, dict(sorted(self._unjudged.items())), self._parts, await self._left(), dry_run
        )

    # -- mark lines -------------------------------------------------------------------------------------

    async def _judge_all(self) -> None:
        parts = await self._ledger.parts()
        size = sum(part.bytes for part in parts) + self._dataset.length - self._dataset.live.start
        retracted = await self._ledger.look(_retracted)
        done = 0
        for part in parts:
            for chunk in chunks(self._dataset.lines_of(part)):
                await self._judge(chunk, part.number, retracted)
                done += sum(len(line) for _, line in chunk)
                self._progress("judging records", done, size)
        for chunk in chunks(self._dataset.live_lines(self._dataset.live.start)):
            await self._judge(chunk, _LIVE, retracted)
            done += sum(len(line) for _, line in chunk)
            self._progress("judging records", done, size)

    async def _judge(self, lines: Sequence[tuple[int, bytes]], part: int, retracted: frozenset[int]) -> None:
        facts = [facts_of(line) for _, line in lines]
        judge = await self._judge_of({one.run_id for one in facts if one is not None}, retracted)
        found: list[tombstones.MarkedLine] = []
        for (offset, line), one in zip(lines, facts, strict=True):
            verdict = judge.verdict(one)
            if isinstance(verdict, str):
                self._unjudged[verdict] += 1
            elif verdict is not None and one is not None:
                if part == _LIVE:
                    self._live[verdict.reason] = self._live.get(verdict.reason, Sum()).plus(1, len(line))
                else:
                    found.append(self._marked(offset, line, part, one.run_id, verdict))
        if found:
            await self._ledger.transact(partial(tombstones.add, lines=found))

    async def _judge_of(self, sessions: set[str], retracted: frozenset[int]) -> Judge:
        rules = self._pipeline.rules
        outcomes = await self._ledger.outcomes(sessions)
        turn_rules = rules.records.turn_rules
        turns = None
        if turn_rules is not None:
            rewards = await self._ledger.turn_rewards(sessions, turn_rules.type)
            turns = TurnBook(rewards, outcomes, rules.join, turn_rules)
        return Judge(outcomes, retracted, rules, turns)

    def _marked(self, offset: int, line: bytes, part: int, session: str, verdict: Verdict) -> tombstones.MarkedLine:
        return tombstones.MarkedLine(
            offset,
            offset + len(line),
            part,
            session,
            line_key(line, self._by),
            verdict,
            self._pipeline.curation.counted_by(line),
        )

    # -- remove them ------------------------------------------------------------------------------------

    async def _compact(self, numbers: Sequence[int]) -> None:
        """Remove the marked lines of one group of parts, all or none."""
        taken, spans = await self._change(numbers)
        parts = [part for part in await self._ledger.parts() if part.number in set(numbers)]
        sums = await self._ledger.look(partial(tombstones.totals, parts=numbers))
        if not sums:
            return
        rewritten = await self._rewrite(parts)
        lines = sum(records for _, records, _ in sums)
        await self._ledger.compact(
            Compaction(rewritten, lines, taken, spans, self._clock.now(), partial(self._forget, parts=numbers))
        )
        self._failpoint("compaction committed")
        following = self._dataset.live.number
        await to_thread.run_sync(self._rewriter.put_in_place, await self._ledger.parts(), following, self._failpoint)
        self._failpoint("compacted")
        self._parts += len(rewritten)
        self._add(sums)
        self._report(parts, rewritten)

    async def _change(self, parts: Sequence[int]) -> tuple[list[Span], list[Span]]:
        """Return the old spans and the new ones; unmark the sessions whose change cannot be computed."""
        taken: list[Span] = []
        spans: list[Span] = []
        for session in await self._ledger.look(partial(tombstones.sessions, parts=parts)):
            change = await self._spans.change(session)
            if change is None:
                self._unjudged[NO_SHARD] += await self._ledger.transact(partial(tombstones.unmark, session=session))
                continue
            taken += change.taken
            spans += change.spans
        return taken, spans

    async def _rewrite(self, parts: Sequence[Part]) -> list[Part]:
        rewritten: list[Part] = []
        try:
            for part in parts:
                ranges = await self._ledger.look(partial(tombstones.ranges, part=part.number))
                if ranges:
                    rewritten.append(await to_thread.run_sync(self._rewriter.rewrite, part, ranges, self._failpoint))
        except StreamerError:
            self._rewriter.discard(parts)
            raise
        return rewritten

    def _forget(self, db: sqlite3.Connection, parts: Sequence[int]) -> None:
        tombstones.forget_keys(db, parts)
        self._pipeline.curation.remove(db, tombstones.offsets(parts), tombstones.values(parts))

    def _add(self, sums: Sequence[tuple[str, int, int]]) -> None:
        for reason, records, size in sums:
            self._removed[reason] = self._removed.get(reason, Sum()).plus(records, size)

    def _report(self, before: Sequence[Part], after: Sequence[Part]) -> None:
        lines = {part.number: part.lines for part in before}
        for part in after:
            name = part_path(self._dataset.path, part.number).name
            self._emit(PartCompacted(name, lines[part.number] - part.lines, part.lines))

    async def _left(self) -> Sum:
        head, parts = await self._ledger.head(), await self._ledger.parts()
        gone = sum(part.lines for part in await self._ledger.removed_parts())
        size = sum(part.bytes for part in parts) + head.dataset_length - head.live.start
        return Sum(head.dataset_lines - gone, size)


def _retracted(db: sqlite3.Connection) -> frozenset[int]:
    return frozenset(ref for (ref,) in db.execute("SELECT ref FROM outcome WHERE withdrawn"))
