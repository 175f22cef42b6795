"""Surveys a dataset in one pass for a report. Memory holds one line at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3

from streamer.base.histogram import Bin, bins, quantile
from streamer.base.spill_counts import Tally
from streamer.commands.report.gather import BestRollouts, Curve, RecordPlace, Rollout, Sample, Top, texts_of, top
from streamer.commands.verify.inspect import Findings, PlacedFinding, scanning, with_progress
from streamer.core.records.images import image_url
from streamer.core.records.layouts import ROLES, time_us
from streamer.core.records.schema import CheckedLine, Finding, Kind, check_line, image_parts, is_number, tool_calls
from streamer.reader.scan import LONGEST_LINE, NumberedLine, numbered_lines

SAMPLES = 12
_TOP = 12
_BEST = 10

_SLOTS = 240
"""The most points of the growth over time."""

_TAIL = 1
"""The percentage of the longest conversations that do not widen the bins."""

_BINS = 20
_NAME = 200
"""Characters that are kept of a name."""

_NAMES = 100
"""The most achievements that are counted of one record."""

_US = 1_000_000

_ACHIEVEMENTS = ("achievements", "final_achievements")
"""Metadata keys of the achievements, a list or an object."""


class Spread(msgspec.Struct, frozen=True):
    """The distribution of a length over the records; the median is exact (the lower of two)."""

    bins: list[Bin]
    min: float
    median: float
    max: float


class _Growth(msgspec.Struct, frozen=True):
    """The number of records over time. ``points`` are (seconds since the epoch, or rollouts begun so far; records).

    Times are those of the records (``metadata.timestamp``): the time of a turn, not the time at which its record was
    appended. ``without_time`` is the number of records without one.
    """

    by_time: bool
    points: list[tuple[float, int]]
    without_time: int


class RoleCounts(msgspec.Struct, frozen=True):
    """The number of messages of one role, and of the characters of their texts and tool calls."""

    messages: int
    characters: int


class Survey(msgspec.Struct, frozen=True):
    """The contents of a dataset.

    ``bytes`` is the number of bytes read, ``beyond`` the number after them, which were not committed or were written
    meanwhile. ``records`` counts the lines with messages, ``image_characters`` the characters of image URLs.
    """

    dataset: str
    bytes: int
    beyond: int
    lines: int
    records: int
    rollouts: int
    findings: Findings
    growth: _Growth
    rewards: list[Bin]
    without_reward: int
    achievement_counts: list[Bin]
    achievements: Top
    messages: Spread
    characters: Spread
    roles: dict[str, RoleCounts]
    tools: Top
    models: Top
    with_image: int
    images: int
    image_characters: int
    best: list[Rollout]
    sample: list[RecordPlace]


def survey(
    path: Path,
    *,
    committed: int | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda _done, _size: None,
    longest_line: int = LONGEST_LINE,
) -> Survey:
    """Read a dataset and return its survey. Broken lines are counted as findings, and skipped.

    Args:
        path: The dataset; a daemon may write meanwhile.
        committed: The committed length in bytes, up to which to read; None to read all.
        samples: The number of places in the sample.
        seed: The seed of the sample.
        progress: Called with (bytes read, bytes to read), about once for each MiB.
        longest_line: Bytes; a longer line is a finding, and is not parsed.

    Raises:
        ConfigError: there is no such file, or it is a pipe or a folder.
        UnavailableError: the file cannot be read, or the disk has no room for the temporary database.
    """
    with scanning("report on", path, read_op="read") as (files, tally):
        there = files.length
        size = there if committed is None else min(there, committed)
        surveyor = _Surveyor(tally, Sample(samples, seed))
        for line in with_progress(numbered_lines(files, size, longest_line), size, progress):
            surveyor.take(line)
        return surveyor.survey(str(path), size, there - size)


class _Surveyor:
    """The state of the pass: counts and findings so far."""

    def __init__(self, tally: Tally, sample: Sample) -> None:
        self._tally = tally
        self._sample = sample
        self._best = BestRollouts(_BEST)
        self._by_rollout = Curve()
        self._findings = Findings()
        self._lines = self._records = self._rollouts = self._timed = self._scored = 0
        self._with_image = self._images = self._image_characters = 0
        self._messages: Counter[str] = Counter()
        self._characters: Counter[str] = Counter()

    def take(self, line: NumberedLine) -> None:
        self._lines += 1
        if line.data is None:
            kind, why = (
                (Kind.TOO_LONG, "it was not looked into") if line.terminated else (Kind.UNTERMINATED, "no newline")
            )
            self._find(line, Finding(kind, f"{line.length:,} bytes: {why}"))
            return
        checked = check_line(line.data)
        for finding in checked.findings:
            if not finding.kind.is_warning:
                self._find(line, finding)
        if checked.messages:
            self._take_record(line, checked)

    def _find(self, line: NumberedLine, finding: Finding) -> None:
        self._findings.add(PlacedFinding(finding.kind, line.file, line.number, line.offset, finding.detail))

    def _take_record(self, line: NumberedLine, checked: CheckedLine) -> None:
        self._records += 1
        self._sample.offer(RecordPlace(line.position, line.length, line.number))
        self._take_messages(checked.messages)
        self._take_metadata(checked.metadata, line.number)

    def _take_messages(self, messages: list[dict[str, Any]]) -> None:
        total = 0
        for message in messages:
            role = message.get("role")
            name = role if isinstance(role, str) and role in ROLES else "other"
            characters = sum(map(len, _texts(message)))
            self._messages[name] += 1
            self._characters[name] += characters
            total += characters
            for tool, _ in tool_calls(message):
                if tool:
                    self._tally.add("tool", tool[:_NAME])
        self._tally.add("messages", float(len(messages)))
        self._tally.add("characters", float(total))
        urls = [len(image_url(part) or "") for _, part in image_parts(messages)]
        self._with_image += bool(urls)
        self._images += len(urls)
        self._image_characters += sum(urls)

    def _take_metadata(self, metadata: dict[str, Any], number: int) -> None:
        model = metadata.get("model")
        model = model[:_NAME] if isinstance(model, str) else ""
        if model:
            self._tally.add("model", model)
        when = time_us(metadata.get("timestamp"))
        if when is not None:
            self._timed += 1
            self._tally.add("second", float(when // _US))
        if is_number(metadata.get("achievements_count")):
            self._tally.add("achievements_count", float(metadata["achievements_count"]))
        for name in set(_achievements(metadata)):
            self._tally.add("achievement", name)
        reward = float(metadata["total_reward"]) if is_number(metadata.get("total_reward")) else None
        if reward is not None:
            self._scored += 1
            self._tally.add("reward", reward)
        self._take_rollout(metadata.get("run_id"), reward, model, number)

    def _take_rollout(self, run_id: object, reward: float | None, model: str, number: int) -> None:
        if isinstance(run_id, str):
            key = blake3(run_id.encode()).digest(16)
            self._tally.add("run", key)
            self._rollouts += self._tally.first_line(key, number) == number
            if reward is not None:
                self._best.offer(key, Rollout(run_id[:_NAME], reward, 0, model, number))
        self._by_rollout.add(float(self._rollouts), self._records)

    def survey(self, dataset: str, size: int, beyond: int) -> Survey:
        tally = self._tally
        return Survey(
            dataset=dataset,
            bytes=size,
            beyond=beyond,
            lines=self._lines,
            records=self._records,
            rollouts=self._rollouts,
            findings=self._findings,
            growth=self._growth(),
            rewards=bins(tally, "reward"),
            without_reward=self._records - self._scored,
            achievement_counts=bins(tally, "achievements_count"),
            achievements=top(tally, "achievement", _TOP),
            messages=self._spread("messages"),
            characters=self._spread("characters"),
            roles={
                role: RoleCounts(messages, self._characters[role]) for role, messages in self._messages.most_common()
            },
            tools=top(tally, "tool", _TOP),
            models=top(tally, "model", _TOP),
            with_image=self._with_image,
            images=self._images,
            image_characters=self._image_characters,
            best=self._best.rollouts(tally, "run"),
            sample=self._sample.places(),
        )

    def _growth(self) -> _Growth:
        """Return the growth over time if most records have a time, else over rollouts."""
        without = self._records - self._timed
        low, high = self._tally.range("second")
        if without > self._timed or low == high:
            return _Growth(by_time=False, points=self._by_rollout.points(), without_time=without)
        return _Growth(by_time=True, points=list(self._over_time(low, high)), without_time=without)

    def _over_time(self, low: float, high: float) -> Iterator[tuple[float, int]]:
        """Yield (time, number of records so far) at the ends of equal slots."""
        slots = int(min(_SLOTS, high - low))
        counts = [0] * (slots + 1)
        for second, records in self._tally.in_order("second"):
            counts[-(-int((second - low) * slots) // int(high - low))] += records
        total = 0
        for slot, records in enumerate(counts):
            total += records
            yield low + (high - low) * slot / slots, total

    def _spread(self, what: str) -> Spread:
        low, high = self._tally.range(what)
        return Spread(
            bins(self._tally, what, tail=_TAIL, whole=True, count=_BINS), low, quantile(self._tally, what, 1, 2), high
        )


def _texts(message: dict[str, Any]) -> Iterator[str]:
    """Yield the texts of a message, and the names and arguments of its tool calls."""
    yield from texts_of(message.get("content"))
    for name, arguments in tool_calls(message):
        yield name
        yield arguments


def _achievements(metadata: dict[str, Any]) -> Iterator[str]:
    """Yield the names of the reached achievements."""
    for key in _ACHIEVEMENTS:
        found = metadata.get(key)
        if isinstance(found, dict):
            found = [name for name, reached in found.items() if reached]
        for name in found[:_NAMES] if isinstance(found, list) else ():
            if isinstance(name, str):
                yield name[:_NAME]
