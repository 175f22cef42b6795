"""One soak, from the first process to the verdict."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path

from streamer.base.errors import StreamerError
from streamer.commands.simulation.draws import draws
from streamer.commands.simulation.screen import screen
from streamer.commands.soak import oracle, report, validate
from streamer.commands.soak.agenda import Script
from streamer.commands.soak.chaos import Chaos
from streamer.commands.soak.journal import Journals, SoakJournal
from streamer.commands.soak.oracle import Expected
from streamer.commands.soak.problem import BrokenPromise
from streamer.commands.soak.report import SoakReport
from streamer.commands.soak.subjects import Children, DaemonUnderTest, SoakSource
from streamer.commands.soak.validate import SoakVerdict
from streamer.commands.soak.view import SoakView
from streamer.commands.soak.watcher import Watcher
from streamer.commands.soak.workspace import SoakWorkspace
from streamer.store.views.snapshot import Snapshot, snapshot

_TICK = 0.05
_PLAIN_SECONDS = 5.0
_SETTLE_LOOK = 0.5
_QUIET_LOOKS = 4
"""The accounts have to stay as they are for so many looks."""

_LEDGER_SPARED = 0.5
_CALM = 0.8
"""From these parts of the time on the ledger is left alone, and everything is: nothing heals any more."""

_SETTLE_SECONDS = 60.0
"""How long the daemon may take for what is left, and as long as the soak itself on top of it."""


class Soak:
    """One soak. It owns every process and ends with all of them.

    Args:
        folder: a new, empty folder on the file system in question.
        minutes: how long producer and mishaps go on; settling and validating come after that.
        seed: what is drawn.
    """

    def __init__(self, folder: Path, minutes: float, seed: int) -> None:
        self._place = SoakWorkspace(folder)
        self._minutes = minutes
        self._seed = seed
        self._problems: list[BrokenPromise] = []
        self._began = time.monotonic()
        self._phase = "starting"
        self._expected: Expected | None = None
        self._seen = snapshot(self._place.dataset, self._place.ledger)

    def run(self) -> SoakReport:
        """Run it; stop at the first broken promise.

        Raises:
            OSError: the folder cannot be written.
        """
        self._place.make()
        verdict = SoakVerdict({}, [])
        with ExitStack() as stack:
            children = stack.enter_context(Children(self._place.logs))
            self._journal = stack.enter_context(SoakJournal(self._place.journals, "chaos"))
            self._watcher = stack.enter_context(Watcher(self._place.dataset, self._problems.append))
            self._screen = stack.enter_context(screen(_PLAIN_SECONDS, stderr=True))
            self._daemon = DaemonUnderTest(self._place, children, self._problems.append)
            self._source = SoakSource(self._place, self._seed, children, self._problems.append)
            self._drive(self._life())
            if not self._problems:
                verdict = self._validate()
        return self._report(verdict)

    def _life(self) -> Script:
        """Start both, let mishaps happen, be calm, end the producer, let the daemon settle, end it."""
        self._daemon.start()
        yield from self._daemon.up()
        self._source.start()
        rng = draws(self._seed, "chaos")
        chaos = Chaos(self._place, rng, self._journal, self._daemon, self._source)
        self._phase = "mishaps"
        while self._part() < _CALM:
            yield from chaos.act(ledger_too=self._part() < _LEDGER_SPARED)
        self._phase = "calm"
        while self._part() < 1:
            yield _TICK
        self._phase = "settling"
        yield from self._source.stop()
        yield from self._settle()
        yield from self._daemon.stop()

    def _settle(self) -> Script:
        """Wait until all that must be in is in, and nothing moves any more; validation says if that never comes."""
        must = self._expect().must()
        deadline = time.monotonic() + _SETTLE_SECONDS + self._minutes * 60
        counts, quiet = None, 0
        while time.monotonic() < deadline and (quiet < _QUIET_LOOKS or must - validate.marks_in(self._place)):
            yield _SETTLE_LOOK
            before, counts = counts, self._snapshot().counts
            quiet = quiet + 1 if counts == before else 0

    def _expect(self) -> Expected:
        """Ask the oracle, once: the producer is at rest."""
        if self._expected is None:
            self._expected = oracle.expect(self._place)
        return self._expected

    def _snapshot(self) -> Snapshot:
        """Return what the ledger says; it may be away for a moment, or busy."""
        with suppress(StreamerError):
            self._seen = snapshot(self._place.dataset, self._place.ledger)
        return self._seen

    def _drive(self, script: Script) -> None:
        """Let a script act, and look at everything in its pauses."""
        for pause in script:
            deadline = time.monotonic() + pause
            while not self._problems:
                self._look()
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                time.sleep(min(_TICK, left))
            if self._problems:
                return

    def _look(self) -> None:
        self._watcher.look()
        self._daemon.check()
        self._source.check()
        if self._screen.due(self._seconds()):
            self._screen.show(self._view())

    def _validate(self) -> SoakVerdict:
        self._phase = "validating"
        self._screen.show(self._view())
        self._watcher.look_at_all()
        try:
            return validate.validate(self._place, self._expect())
        except StreamerError as error:
            return SoakVerdict({}, [BrokenPromise("unreadable", error.where, str(error))])

    def _report(self, verdict: SoakVerdict) -> SoakReport:
        problems = [*self._problems, *verdict.problems]
        return SoakReport(
            clean=not problems,
            seed=self._seed,
            minutes=self._minutes,
            folder=str(self._place.folder),
            injected=report.injected(Journals(self._place.journals).news()),
            came_out=verdict.counts,
            longest_commit_seconds=self._expected.longest_commit if self._expected is not None else 0.0,
            problem_counts=dict(Counter(problem.kind for problem in problems)),
            problems=report.worst(problems),
        )

    def _view(self) -> SoakView:
        seen = self._snapshot()
        return SoakView(
            seconds=self._seconds(),
            of=self._minutes * 60,
            phase=self._phase,
            mishaps=dict(self._journal.counts),
            dataset_lines=seen.dataset_lines,
            dataset_bytes=seen.dataset_bytes,
        )

    def _part(self) -> float:
        """Return how much of the time is over."""
        return self._seconds() / (self._minutes * 60)

    def _seconds(self) -> float:
        return time.monotonic() - self._began
