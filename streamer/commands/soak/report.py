"""The report of a soak: injected mishaps, results, and the verdict."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator

import msgspec

from streamer.base.text import printable
from streamer.commands.soak.journal import Did, Entry
from streamer.commands.soak.problem import BrokenPromise

_SHOWN = 20
"""Most problems that are shown in full."""


class SoakReport(msgspec.Struct, frozen=True):
    """The report of one soak. ``folder`` holds its files, or is None if they were removed.

    ``problems`` are the first of each kind; ``problem_counts`` count all of them.
    """

    clean: bool
    seed: int
    minutes: float
    folder: str | None
    injected: dict[str, int]
    came_out: dict[str, int]
    longest_commit_seconds: float
    problem_counts: dict[str, int]
    problems: list[BrokenPromise]


def injected(entries: Iterable[Entry]) -> dict[str, int]:
    """Return the number of injections by kind, from the journals."""
    counts: Counter[str] = Counter()
    for entry in entries:
        if isinstance(entry, Did):
            counts[entry.what] += entry.times
    return dict(sorted(counts.items()))


def worst(problems: Iterable[BrokenPromise]) -> list[BrokenPromise]:
    """Return the first problems of each kind."""
    kept: list[BrokenPromise] = []
    seen: Counter[str] = Counter()
    for problem in problems:
        seen[problem.kind] += 1
        if seen[problem.kind] <= max(1, _SHOWN // 4) and len(kept) < _SHOWN:
            kept.append(problem)
    return kept


def as_text(report: SoakReport) -> Iterator[str]:
    """Yield a report as printable lines."""
    yield "injected"
    yield from _table(report.injected)
    yield "came out"
    yield from _table(report.came_out)
    yield f"longest commit of the producer: {report.longest_commit_seconds:.2f} s"
    if report.clean:
        yield f"OK: every promise held (seed {report.seed})"
    else:
        yield from _broken(report)
    if report.folder is not None:
        yield f"everything is in {printable(report.folder)}"


def _broken(report: SoakReport) -> Iterator[str]:
    for problem in report.problems:
        first, *rest = problem.what.splitlines()
        yield f"BROKEN  {problem.kind}: {printable(problem.where)}: {printable(first)}"
        yield from (f"          {printable(line)}" for line in rest)
    total = sum(report.problem_counts.values())
    kinds = ", ".join(f"{times} {kind}" for kind, times in report.problem_counts.items())
    yield f"FAILED: {total} times a promise was broken: {kinds}"
    again = ["streamer", "soak", "--minutes", f"{report.minutes:g}", "--seed", str(report.seed)]
    yield f"the same draws again: {shlex.join(again)}"


def _table(counts: dict[str, int]) -> Iterator[str]:
    width = max((len(f"{times:,}") for times in counts.values()), default=0)
    return (f"  {times:>{width},}  {what}" for what, times in counts.items())
