"""Inspects a dataset in one pass: its problems and its contents. Memory holds one line at a time."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
from blake3 import blake3

from streamer.base.errors import UnavailableError
from streamer.base.histogram import Bin, bins, quantile
from streamer.base.spill_counts import Tally
from streamer.base.text import printable
from streamer.core.records.conversation import of_messages
from streamer.core.records.images import check_image
from streamer.core.records.key import DedupBy, record_key
from streamer.core.records.layouts import ROLES
from streamer.core.records.schema import CheckedLine, Finding, Kind, check_line, image_parts, is_number, tool_calls
from streamer.reader.scan import LONGEST_LINE, NumberedLine, check_is_dataset, numbered_lines
from streamer.store.parts.files import open_dataset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from streamer.store.parts.files import DatasetFiles

FINDINGS_KEPT = 20
_TOP = 10
_NAME = 200
"""Characters that are kept of the name of a model or tool."""


class PlacedFinding(msgspec.Struct, frozen=True):
    """One finding and its place.

    ``line`` counts from 1 through all files of the dataset, ``offset`` is the first byte of the line in ``file``.
    """

    kind: Kind
    file: str
    line: int
    offset: int
    detail: str


class Findings(msgspec.Struct):
    """The number of findings of each kind, and the first few findings."""

    counts: dict[str, int] = {}
    first: list[PlacedFinding] = []

    def add(self, found: PlacedFinding) -> None:
        """Count a finding, and keep it if it is one of the first."""
        self.counts[found.kind] = self.counts.get(found.kind, 0) + 1
        if len(self.first) < FINDINGS_KEPT:
            self.first.append(found)


class _Lengths(msgspec.Struct, frozen=True):
    """Bytes of the lines, newline included; all 0 for an empty dataset. The median is exact (the lower)."""

    min: int = 0
    median: int = 0
    max: int = 0


class _Images(msgspec.Struct, frozen=True):
    """The number of records with images, and the results of decoding the images."""

    records: int = 0
    decoded: int = 0
    remote: int = 0
    skipped: int = 0
    broken: int = 0


class VerifyReport(msgspec.Struct, frozen=True):
    """The problems and the contents of a dataset. ``bytes`` is its length at the start of the pass."""

    dataset: str
    files: int
    bytes: int
    lines: int
    problems: Findings
    warnings: Findings
    roles: dict[str, int]
    rewards: list[Bin]
    without_reward: int
    rollouts: int
    models: dict[str, int]
    tools: dict[str, int]
    images: _Images
    lengths: _Lengths


def inspect(
    path: Path,
    *,
    by: DedupBy = DedupBy.CONVERSATION,
    decode_images: bool = True,
    progress: Callable[[int, int], None] = lambda _done, _size: None,
    sleep: Callable[[float], None] = time.sleep,
    longest_line: int = LONGEST_LINE,
) -> VerifyReport:
    """Read a dataset up to its present length, and report on it.

    Args:
        path: The dataset file; it may grow meanwhile.
        by: The rule that makes a line a duplicate of an earlier one.
        decode_images: Whether to decode data URLs with Pillow, or only count them.
        progress: Called with (bytes read, bytes to read), about once for each MiB.
        sleep: Called with the seconds to wait for the end of an unterminated last line.
        longest_line: Bytes; a longer line is a problem, and is not parsed.

    Raises:
        ConfigError: there is no such file, or it is a pipe or a folder.
        MissingExtraError: images are to be decoded and Pillow is not installed.
        UnavailableError: the file cannot be read, or the disk has no room for the temporary database.
    """
    with scanning("verify", path) as (files, tally):
        size = files.length
        inspection = _Inspection(tally, by, decode_images=decode_images)
        for line in with_progress(numbered_lines(files, size, longest_line, sleep), size, progress):
            inspection.take(line)
        return inspection.report(str(path), len(files.files), size)


@contextmanager
def scanning(op: str, path: Path, read_op: str | None = None) -> Iterator[tuple[DatasetFiles, Tally]]:
    """Open a dataset and a tally for one pass over its lines, and translate errors of files and of the tally.

    Args:
        op: The operation, a verb phrase for errors.
        path: The dataset file.
        read_op: The verb phrase for errors of the files; None for ``op``.

    Raises:
        ConfigError: there is no such file, or it is a pipe or a folder.
        UnavailableError: the file cannot be read, or the disk has no room for the temporary database.
    """
    try:
        check_is_dataset(op, path)
        with open_dataset(path) as files, Tally() as tally:
            yield files, tally
    except OSError as error:
        raise UnavailableError(read_op or op, printable(str(path)), error.strerror or str(error)) from error
    except sqlite3.Error as error:
        hint = "make room, or set SQLITE_TMPDIR to a folder on another disk"
        raise UnavailableError(op, "its temporary database", str(error), hint) from error


def with_progress(
    lines: Iterable[NumberedLine], size: int, progress: Callable[[int, int], None]
) -> Iterator[NumberedLine]:
    """Yield lines, and call ``progress`` with (bytes read, ``size``) about once for each MiB."""
    for line in lines:
        yield line
        if line.crosses_block:
            progress(min(line.stop, size), size)


class _Inspection:
    """The state of the pass: counts and findings so far."""

    def __init__(self, tally: Tally, by: DedupBy, *, decode_images: bool) -> None:
        self._tally = tally
        self._by = by
        self._decode_images = decode_images
        self._lines = 0
        self._problems = Findings()
        self._warnings = Findings()
        self._roles: Counter[str] = Counter()
        self._images: Counter[str] = Counter()
        self._without_reward = 0

    def take(self, line: NumberedLine) -> None:
        self._lines += 1
        self._tally.add("length", line.length)
        for finding in self._findings(line):
            self._add(line, finding)

    def report(self, dataset: str, files: int, size: int) -> VerifyReport:
        return VerifyReport(
            dataset=dataset,
            files=files,
            bytes=size,
            lines=self._lines,
            problems=self._problems,
            warnings=self._warnings,
            roles=dict(self._roles.most_common()),
            rewards=bins(self._tally, "reward"),
            without_reward=self._without_reward,
            rollouts=self._tally.distinct("run"),
            models=self._tally.top("model", _TOP),
            tools=self._tally.top("tool", _TOP),
            images=_Images(**self._images),
            lengths=_lengths(self._tally),
        )

    def _add(self, line: NumberedLine, finding: Finding) -> None:
        findings = self._warnings if finding.kind.is_warning else self._problems
        findings.add(PlacedFinding(finding.kind, line.file, line.number, line.offset, finding.detail))

    def _findings(self, line: NumberedLine) -> Iterator[Finding]:
        if not line.terminated:
            yield _unterminated(line)
        elif line.data is None:
            yield Finding(Kind.TOO_LONG, f"{line.length} bytes: it was not looked into")
        else:
            checked = check_line(line.data)
            yield from checked.findings
            yield from self._duplicate(checked, line.number)
            yield from self._look_at_images(checked)
            self._count(checked)

    def _duplicate(self, checked: CheckedLine, number: int) -> Iterator[Finding]:
        key = _key(checked, self._by)
        if key is None:
            return
        first = self._tally.first_line(key, number)
        if first != number:
            yield Finding(Kind.DUPLICATE, f"the same as line {first}, by {self._by}")

    def _look_at_images(self, checked: CheckedLine) -> Iterator[Finding]:
        records = 0
        for where, part in image_parts(checked.messages):
            image = check_image(part, where, decode=self._decode_images)
            self._images[image.fate] += 1
            records = 1
            if image.finding:
                yield image.finding
        self._images["records"] += records

    def _count(self, checked: CheckedLine) -> None:
        self._roles.update(_roles(checked.messages))
        for message in checked.messages:
            for name, _ in tool_calls(message):
                if name:
                    self._tally.add("tool", name[:_NAME])
        metadata = checked.metadata
        if is_number(metadata.get("total_reward")):
            self._tally.add("reward", float(metadata["total_reward"]))
        else:
            self._without_reward += 1
        if isinstance(metadata.get("model"), str):
            self._tally.add("model", metadata["model"][:_NAME])
        if isinstance(metadata.get("run_id"), str):
            self._tally.add("run", blake3(metadata["run_id"].encode()).digest(16))


def _unterminated(line: NumberedLine) -> Finding:
    return Finding(
        Kind.UNTERMINATED,
        f"the last {line.length} bytes have no newline: a running daemon may be in the middle of a write"
        " (look again); if none is running, the next one mends it when it starts",
    )


def _key(checked: CheckedLine, by: DedupBy) -> bytes | None:
    """Return the key that the daemon computes for a line, or None if its shape allows none."""
    if not checked.messages:
        return None
    metadata = checked.metadata
    identity = (metadata.get("run_id"), metadata.get("turn"), metadata.get("timestamp"))
    try:
        return record_key(of_messages(checked.messages), by, identity)
    except (AttributeError, TypeError, RecursionError):
        return None


def _roles(messages: list[dict[str, Any]]) -> Iterator[str]:
    for message in messages:
        role = message.get("role")
        if isinstance(role, str) and role in ROLES:
            yield role


def _lengths(tally: Tally) -> _Lengths:
    shortest, longest = tally.range("length")
    return _Lengths(int(shortest), int(quantile(tally, "length", 1, 2)), int(longest))
