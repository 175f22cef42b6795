"""Compaction: judge the lines of a dataset again, and take out those that would not get in today.

Invariants
- Only closed parts change, and only while the dataset's lock is held.
- Order for each group of parts: what is left of them is written beside them and synced; one ledger transaction, synced;
  the manifest; the names. A crash before the transaction leaves everything as it was, one after it is finished by the
  next start (``Dataset.recover``). A reader finds one file or the other under the name of a part, and each is whole.
- What was kept out because of a record that goes is judged again by the next run: duplicates, near-duplicates, and
  records beyond a cap.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import msgspec
from anyio import to_thread

from streamer.base.errors import StreamerError, UnavailableError
from streamer.base.events import Emit, PartCompacted
from streamer.base.files import Clock, Files
from streamer.commands.compact import doomed
from streamer.commands.compact.spans import Spans
from streamer.commands.compact.verdicts import NO_SHARD, Judge, facts_of
from streamer.config import Config
from streamer.core.records.dataset_line import line_key
from streamer.core.records.model import Span, Verdict
from streamer.core.verdicts.turns import TurnBook
from streamer.daemon.pipeline import Pipeline, no_failpoints
from streamer.store.curation.curation import chunks
from streamer.store.ledger.transactions import Compaction
from streamer.store.parts.parts import Part, part_path

_LIVE = 0
"""Stands for the number of a part where lines of the live file are counted."""

_PATIENCE = 10.0
"""Seconds for which a trace database that is busy is waited for."""


_Progress = Callable[[str, int, int], None]


def _untold(_what: str, _done: int, _size: int) -> None:
    """Tell no one how far it is."""


class Sum(msgspec.Struct, frozen=True):
    """So many records of so many bytes."""

    records: int = 0
    bytes: int = 0

    def plus(self, records: int, size: int) -> Sum:
        """Return the sum with more of them."""
        return Sum(self.records + records, self.bytes + size)


class Compacted(msgspec.Struct, frozen=True):
    """What a compaction did, or would do.

    ``removed`` is what was taken out, and ``live`` what would be if the live file were closed, both by reason.
    ``unjudged`` are records that stay although nothing says that they would get in today, by reason. ``parts`` were
    rewritten; ``left`` is what the dataset holds now. With ``dry_run`` nothing was changed.
    """

    removed: dict[str, Sum]
    live: dict[str, Sum]
    unjudged: dict[str, int]
    parts: int
    left: Sum
    dry_run: bool


async def compact(
    config: Config,
    files: Files,
    clock: Clock,
    emit: Emit,
    failpoint: Callable[[str], None] = no_failpoints,
    *,
    progress: _Progress = _untold,
    close_live: bool = False,
    dry_run: bool = False,
) -> Compacted:
    """Recover a dataset, read all outcomes, and take out what would not get in today; the dataset's lock is held.

    Args:
        config: where everything is, and how it is judged now.
        files: the system calls.
        clock: what time it is.
        emit: is told of every event.
        failpoint: called with the name of each point at which a crash must be harmless.
        progress: called with (what is done, how much of it, how much there is).
        close_live: close the live file first, as if it were full.
        dry_run: rewrite nothing, and only count.

    Raises:
        StreamerError: something that is needed is not there, or a person has to decide something first.
    """
    async with Pipeline.open(config, files, clock, emit, failpoint, travels=False) as pipeline:
        await _catch_up(pipeline, clock)
        return await _Compactor(pipeline, clock, emit, failpoint, progress).compact(
            close_live=close_live, dry_run=dry_run
        )


async def _catch_up(pipeline: Pipeline, clock: Clock) -> None:
    """Read every outcome row under the present condition.

    Raises:
        UnavailableError: the trace database cannot be read, and has not been for a while.
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
        pipeline: it has recovered, and its outcomes are caught up.
        clock: what time it is, a label.
        emit: is told of each part.
        failpoint: called with the name of each point at which a crash must be harmless.
        progress: called with (what is done, how much of it, how much there is).
    """

    def __init__(
        self,
        pipeline: Pipeline,
        clock: Clock,
        emit: Emit,
        failpoint: Callable[[str], None],
        progress: _Progress,
    ) -> None:
        self._pipeline = pipeline
        self._ledger = pipeline.ledger
        self._dataset = pipeline.dataset
        self._rewriter = pipeline.dataset.rewriter
        self._clock = clock
        self._emit = emit
        self._failpoint = failpoint
        self._progress = progress
        self._by = pipeline.config.dedup.by
        self._spans = Spans(pipeline.ledger, pipeline.inbox, pipeline.rollouts, self._by)
        self._removed: dict[str, Sum] = {}
        self._live: dict[str, Sum] = {}
        self._unjudged: Counter[str] = Counter()
        self._parts = 0

    async def compact(self, *, close_live: bool = False, dry_run: bool = False) -> Compacted:
        """Take out what would not get in today; return what that was.

        Args:
            close_live: close the live file first, as if it were full.
            dry_run: change no file, and only count.

        Raises:
            RefusedError: a part is not the file that was closed.
            UnavailableError: the disk has no room, or something cannot be read now; what is done is done.
        """
        if close_live and not dry_run:
            await self._pipeline.close_part()
        await self._ledger.look(doomed.prepare)
        await self._judge_all()
        groups = await self._ledger.look(doomed.groups)
        if dry_run:
            for parts in groups:
                self._parts += len(parts)
                self._add(await self._ledger.look(partial(doomed.totals, parts=parts)))
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

    # -- which lines go ----------------------------------------------------------------------------------

    async def _judge_all(self) -> None:
        parts = await self._ledger.parts()
        size = sum(part.bytes for part in parts) + self._dataset.length - self._dataset.live.start
        withdrawn = await self._ledger.look(_withdrawn)
        done = 0
        for part in parts:
            for chunk in chunks(self._dataset.lines_of(part)):
                await self._judge(chunk, part.number, withdrawn)
                done += sum(len(line) for _, line in chunk)
                self._progress("judging records", done, size)
        for chunk in chunks(self._dataset.live_lines(self._dataset.live.start)):
            await self._judge(chunk, _LIVE, withdrawn)
            done += sum(len(line) for _, line in chunk)
            self._progress("judging records", done, size)

    async def _judge(self, lines: Sequence[tuple[int, bytes]], part: int, withdrawn: frozenset[int]) -> None:
        facts = [facts_of(line) for _, line in lines]
        judge = await self._judge_of({one.run_id for one in facts if one is not None}, withdrawn)
        found: list[doomed.MarkedLine] = []
        for (place, line), one in zip(lines, facts, strict=True):
            verdict = judge.verdict(one)
            if isinstance(verdict, str):
                self._unjudged[verdict] += 1
            elif verdict is not None and one is not None:
                if part == _LIVE:
                    self._live[verdict.reason] = self._live.get(verdict.reason, Sum()).plus(1, len(line))
                else:
                    found.append(self._doomed(place, line, part, one.run_id, verdict))
        if found:
            await self._ledger.transact(partial(doomed.add, lines=found))

    async def _judge_of(self, sessions: set[str], withdrawn: frozenset[int]) -> Judge:
        rules = self._pipeline.rules
        outcomes = await self._ledger.outcomes(sessions)
        turn_rules = rules.records.turn_rules
        turns = None
        if turn_rules is not None:
            rewards = await self._ledger.turn_rewards(sessions, turn_rules.type)
            turns = TurnBook(rewards, outcomes, rules.join, turn_rules)
        return Judge(outcomes, withdrawn, rules, turns)

    def _doomed(self, place: int, line: bytes, part: int, session: str, verdict: Verdict) -> doomed.MarkedLine:
        return doomed.MarkedLine(
            place,
            place + len(line),
            part,
            session,
            line_key(line, self._by),
            verdict,
            self._pipeline.curation.counted_by(line),
        )

    # -- take them out -----------------------------------------------------------------------------------

    async def _compact(self, numbers: Sequence[int]) -> None:
        """Take out what is to go of parts that belong together, all of it or nothing."""
        taken, spans = await self._change(numbers)
        parts = [part for part in await self._ledger.parts() if part.number in set(numbers)]
        sums = await self._ledger.look(partial(doomed.totals, parts=numbers))
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
        self._tell(parts, rewritten)

    async def _change(self, parts: Sequence[int]) -> tuple[list[Span], list[Span]]:
        """Return the spans that go and those that come; sessions of which that cannot be told keep their records."""
        taken: list[Span] = []
        spans: list[Span] = []
        for session in await self._ledger.look(partial(doomed.sessions, parts=parts)):
            change = await self._spans.change(session)
            if change is None:
                self._unjudged[NO_SHARD] += await self._ledger.transact(partial(doomed.spare, session=session))
                continue
            taken += change.taken
            spans += change.spans
        return taken, spans

    async def _rewrite(self, parts: Sequence[Part]) -> list[Part]:
        rewritten: list[Part] = []
        try:
            for part in parts:
                ranges = await self._ledger.look(partial(doomed.ranges, part=part.number))
                if ranges:
                    rewritten.append(await to_thread.run_sync(self._rewriter.rewrite, part, ranges, self._failpoint))
        except StreamerError:
            self._rewriter.discard(parts)
            raise
        return rewritten

    def _forget(self, db: sqlite3.Connection, parts: Sequence[int]) -> None:
        doomed.forget_keys(db, parts)
        self._pipeline.curation.take_out(db, doomed.places(parts), doomed.values(parts))

    def _add(self, sums: Sequence[tuple[str, int, int]]) -> None:
        for reason, records, size in sums:
            self._removed[reason] = self._removed.get(reason, Sum()).plus(records, size)

    def _tell(self, before: Sequence[Part], after: Sequence[Part]) -> None:
        lines = {part.number: part.lines for part in before}
        for part in after:
            name = part_path(self._dataset.path, part.number).name
            self._emit(PartCompacted(name, lines[part.number] - part.lines, part.lines))

    async def _left(self) -> Sum:
        head, parts = await self._ledger.head(), await self._ledger.parts()
        gone = sum(part.lines for part in await self._ledger.removed_parts())
        size = sum(part.bytes for part in parts) + head.dataset_length - head.live.start
        return Sum(head.dataset_lines - gone, size)


def _withdrawn(db: sqlite3.Connection) -> frozenset[int]:
    return frozenset(ref for (ref,) in db.execute("SELECT ref FROM outcome WHERE withdrawn"))
