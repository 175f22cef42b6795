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
"""The counts have to stay the same for this number of looks."""

_LEDGER_SPARED = 0.5
"""After this part of the time, chaos leaves the ledger alone, so that no re-read repairs a mistake."""

_CALM = 0.8
"""After this part of the time, chaos leaves everything alone."""

_SETTLE_SECONDS = 60.0
"""Time for the daemon to catch up in the end, in addition to the length of the soak."""


class Soak:
    """One soak. It owns every process and ends all of them with itself.

    Args:
        folder: A new, empty folder on the file system under test.
        minutes: Length without settling and validating.
        seed: Decides every draw.
    """

    def __init__(self, folder: Path, minutes: float, seed: int) -> None:
        self._workspace = SoakWorkspace(folder)
        self._minutes = minutes
        self._seed = seed
        self._problems: list[BrokenPromise] = []
        self._began = time.monotonic()
        self._phase = "starting"
        self._expected: Expected | None = None
        self._seen = snapshot(self._workspace.dataset, self._workspace.ledger)

    def run(self) -> SoakReport:
        """Run the soak; stop at the first broken promise.

        Raises:
            OSError: The folder cannot be written.
        """
        self._workspace.make()
        verdict = SoakVerdict({}, [])
        with ExitStack() as stack:
            children = stack.enter_context(Children(self._workspace.logs))
            self._journal = stack.enter_context(SoakJournal(self._workspace.journals, "chaos"))
            self._watcher = stack.enter_context(Watcher(self._workspace.dataset, self._problems.append))
            self._screen = stack.enter_context(screen(_PLAIN_SECONDS, stderr=True))
            self._daemon = DaemonUnderTest(self._workspace, children, self._problems.append)
            self._source = SoakSource(self._workspace, self._seed, children, self._problems.append)
            self._drive(self._phases())
            if not self._problems:
                verdict = self._validate()
        return self._report(verdict)

    def _phases(self) -> Script:
        """Start both processes, let mishaps happen, be calm, stop the producer, let the daemon settle, stop it."""
        self._daemon.start()
        yield from self._daemon.up()
        self._source.start()
        rng = draws(self._seed, "chaos")
        chaos = Chaos(self._workspace, rng, self._journal, self._daemon, self._source)
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
        """Wait until every required record is in and no count changes; at a timeout, validation reports the rest."""
        must = self._expect().must()
        deadline = time.monotonic() + _SETTLE_SECONDS + self._minutes * 60
        counts, quiet = None, 0
        while time.monotonic() < deadline and (quiet < _QUIET_LOOKS or must - validate.marks_in(self._workspace)):
            yield _SETTLE_LOOK
            before, counts = counts, self._snapshot().counts
            quiet = quiet + 1 if counts == before else 0

    def _expect(self) -> Expected:
        """Return the oracle's answer, asked once the producer has ended."""
        if self._expected is None:
            self._expected = oracle.expect(self._workspace)
        return self._expected

    def _snapshot(self) -> Snapshot:
        """Return the ledger's counts, or the last ones while it is missing or busy."""
        with suppress(StreamerError):
            self._seen = snapshot(self._workspace.dataset, self._workspace.ledger)
        return self._seen

    def _drive(self, script: Script) -> None:
        """Run a script, and check everything in its pauses."""
        for pause in script:
            deadline = time.monotonic() + pause
            while not self._problems:
                self._check()
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                time.sleep(min(_TICK, left))
            if self._problems:
                return

    def _check(self) -> None:
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
            return validate.validate(self._workspace, self._expect())
        except StreamerError as error:
            return SoakVerdict({}, [BrokenPromise("unreadable", error.where, str(error))])

    def _report(self, verdict: SoakVerdict) -> SoakReport:
        problems = [*self._problems, *verdict.problems]
        return SoakReport(
            clean=not problems,
            seed=self._seed,
            minutes=self._minutes,
            folder=str(self._workspace.folder),
            injected=report.injected(Journals(self._workspace.journals).new_entries()),
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
        """Return the part of the time that has passed."""
        return self._seconds() / (self._minutes * 60)

    def _seconds(self) -> float:
        return time.monotonic() - self._began
