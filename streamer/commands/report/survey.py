"""A dataset, read once: what a report says of it. Memory holds one line at a time."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3

from streamer.base.errors import UnavailableError
from streamer.base.histogram import Bin, bins, quantile
from streamer.base.spill_counts import Tally
from streamer.base.text import printable
from streamer.commands.report.gather import BestRollouts, Curve, RecordPlace, Rollout, Sample, Top, top
from streamer.commands.verify.inspect import Findings, PlacedFinding
from streamer.core.records.images import image_url
from streamer.core.records.layouts import ROLES, time_us
from streamer.core.records.schema import CheckedLine, Finding, Kind, check_line, image_parts, is_number, tool_calls
from streamer.reader.scan import LONGEST_LINE, NumberedLine, check_is_dataset, numbered_lines
from streamer.store.parts.files import open_dataset

SAMPLES = 12
_TOP = 12
_BEST = 10

_SLOTS = 240
"""Points of the growth over time."""

_TAIL = 1
"""Percent of the longest conversations that do not widen the bins."""

_BINS = 20
_NAME = 200
"""Characters of a name that count."""

_NAMES = 100
"""Names of achievements of one record that count."""

_US = 1_000_000

_ACHIEVEMENTS = ("achievements", "final_achievements")
"""Keys of metadata under which the names of achievements stand, as a list or as an object."""


class Spread(msgspec.Struct, frozen=True):
    """How a length is spread over the records; the median is exact (the lower of two)."""

    bins: list[Bin]
    min: float
    median: float
    max: float


class _Growth(msgspec.Struct, frozen=True):
    """How many records there were when. ``x`` of ``points`` is seconds since the epoch, or rollouts begun so far.

    Times are those of the records themselves (``metadata.timestamp``): when a turn was played, and not when its
    record came into the dataset. ``without_time`` are records that have none.
    """

    by_time: bool
    points: list[tuple[float, int]]
    without_time: int


class RoleCounts(msgspec.Struct, frozen=True):
    """Messages of one role, and the characters of their texts and tool calls."""

    messages: int
    characters: int


class Survey(msgspec.Struct, frozen=True):
    """What a dataset holds.

    ``bytes`` are those that were read, ``beyond`` those that lay after them: not committed, or written meanwhile.
    ``records`` are the lines with messages. ``image_characters`` are those of the URLs of images, as a rule base64.
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
    """Read a dataset and return what is in it. Broken lines are counted and named; the rest goes on.

    Args:
        path: the dataset; a daemon may write meanwhile.
        committed: bytes up to which it is read, where a ledger says how long it is; else all of it.
        samples: how many places are picked at random.
        seed: the same one picks the same places.
        progress: called with (bytes read, bytes to read), about once for each MiB.
        longest_line: bytes; a longer line is not looked into.

    Raises:
        ConfigError: there is no such file, or it is a pipe or a folder.
        UnavailableError: the file cannot be read, or the disk has no room for the temporary database.
    """
    try:
        check_is_dataset("report on", path)
        with open_dataset(path) as files, Tally() as tally:
            there = files.length
            size = there if committed is None else min(there, committed)
            surveyor = _Surveyor(tally, Sample(samples, seed))
            for line in numbered_lines(files, size, longest_line):
                surveyor.take(line)
                if line.crosses_block:
                    progress(min(line.stop, size), size)
            return surveyor.survey(str(path), size, there - size)
    except OSError as error:
        raise UnavailableError("read", printable(str(path)), error.strerror or str(error)) from error
    except sqlite3.Error as error:
        hint = "make room, or set SQLITE_TMPDIR to a folder on another disk"
        raise UnavailableError("report on", "its temporary database", str(error), hint) from error


class _Surveyor:
    """Everything that is remembered from line to line."""

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
        """Go by time if most records have one."""
        without = self._records - self._timed
        low, high = self._tally.range("second")
        if without > self._timed or low == high:
            return _Growth(by_time=False, points=self._by_rollout.points(), without_time=without)
        return _Growth(by_time=True, points=list(self._over_time(low, high)), without_time=without)

    def _over_time(self, low: float, high: float) -> Iterator[tuple[float, int]]:
        """Yield how many records there were at the end of each of many equal slots."""
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
    """Yield what a message says and calls: its text, text parts, names and arguments of tool calls."""
    content = message.get("content")
    if isinstance(content, str):
        yield content
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            yield part["text"]
    for name, arguments in tool_calls(message):
        yield name
        yield arguments


def _achievements(metadata: dict[str, Any]) -> Iterator[str]:
    """Yield the names of the achievements that were reached."""
    for key in _ACHIEVEMENTS:
        found = metadata.get(key)
        if isinstance(found, dict):
            found = [name for name, reached in found.items() if reached]
        for name in found[:_NAMES] if isinstance(found, list) else ():
            if isinstance(name, str):
                yield name[:_NAME]
