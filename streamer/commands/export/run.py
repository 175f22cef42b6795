"""Runs an export: two passes over the lines, and the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Protocol

import msgspec

from streamer import __version__
from streamer.base.errors import ConfigError
from streamer.commands.export.card import ExportReport, card
from streamer.commands.export.chat import ExportRecord
from streamer.commands.export.json_lines import JsonLines, openai_lines, plain_lines, sharegpt_lines
from streamer.commands.export.lines import Lines
from streamer.commands.export.openai_rules import FileRules
from streamer.commands.export.options import Format, Options
from streamer.commands.export.output import REPORT, ExportFolder
from streamer.commands.export.selection import Candidate, Selection
from streamer.commands.export.tables import Tables, layout
from streamer.commands.export.unfit import Exclusion, UnfitError
from streamer.commands.export.where import Condition
from streamer.core.records.conversation import has_image
from streamer.core.records.schema import CheckedLine, Kind, check_line
from streamer.reader.scan import NumberedLine

EXCLUDED = "excluded.jsonl"
"""The file that lists the records that could not be exported, without those that were not selected."""

_CARD = "README.md"
_decode = msgspec.json.Decoder().decode
_STEP = 1 << 20
_SHOWN = 500
"""The most characters of a detail."""

_LISTED = 100
"""The most details of one record."""

_Progress = Callable[[str, int, int], None]
"""Called with (step, bytes done, bytes in all), about once for each MiB."""


class _Writer(Protocol):
    def add(self, split: str, record: ExportRecord) -> None: ...
    def finish(self) -> dict[str, str]: ...


class _Excluded(msgspec.Struct, frozen=True):
    """One line of ``excluded.jsonl``."""

    line: int
    offset: int
    reason: str
    details: list[str]


def export(
    dataset: Path,
    ledger: Path,
    out: Path,
    options: Options,
    *,
    overwrite: bool = False,
    progress: _Progress = lambda _what, _done, _size: None,
) -> ExportReport:
    """Export the committed lines of a dataset, and return the report, which counts every line.

    Without a selected record, the output is not written.

    Args:
        dataset: The dataset file.
        ledger: Its ledger, which may be missing.
        out: The folder to make.
        options: The options of the export.
        overwrite: Whether to replace an older export at ``out``.
        progress: Called with the progress.

    Raises:
        ConfigError: options contradict each other, the condition cannot be evaluated, there is no such dataset, or
            the output exists.
        MissingExtraError: the format or the condition needs the extra.
        RefusedError: the output is no export, or the dataset is shorter than its ledger says.
        UnavailableError: something cannot be read or written now.
    """
    options.check()
    _keep_apart(dataset, out)
    with (
        ExportFolder(out, overwrite=overwrite) as output,
        Lines(dataset, ledger) as lines,
        Selection(options.splits, options.seed) as selection,
    ):
        passes = _Export(options, output, lines, selection, progress)
        with output.open(EXCLUDED) as excluded:
            paths = passes.run(excluded)
        report = passes.report(paths)
        if report.written:
            output.write(_CARD, card(report, passes.sample()).encode())
            output.write(REPORT, msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
            output.publish()
        return report


class _Export:
    def __init__(
        self,
        options: Options,
        output: ExportFolder,
        lines: Lines,
        selection: Selection,
        progress: _Progress,
    ) -> None:
        self._options = options
        self._output = output
        self._lines = lines
        self._selection = selection
        self._excluded: BinaryIO
        self._progress = progress
        self._invalid: Counter[str] = Counter()
        self._rules = FileRules()

    def run(self, excluded: BinaryIO) -> dict[str, str]:
        """Run both passes, and return the path or pattern of each split."""
        self._excluded = excluded
        self._read()
        self._choose()
        return self._write()

    def _read(self) -> None:
        """Run the first pass: select the lines that are records and meet the condition."""
        if self._options.where is None:
            for line, checked in self._records():
                self._take(line, checked)
            return
        with Condition(self._options.where, self._output.scratch) as condition:
            for line, checked in self._records():
                self._take(line, checked)
                condition.add(line.number, checked.metadata)
            self._selection.keep(condition.lines())

    def _records(self) -> Iterator[tuple[NumberedLine, CheckedLine]]:
        """Yield each line that is a record, and exclude the others."""
        size = self._lines.length
        for line in self._lines:
            if line.position // _STEP != line.stop // _STEP:
                self._progress("reading", line.stop, size)
            checked = self._checked(line)
            if checked is not None:
                yield line, checked

    def _checked(self, line: NumberedLine) -> CheckedLine | None:
        """Return the content of a line, or None if it is no record: a line that is a problem for `verify` is none."""
        if not line.terminated:
            self._exclude(line.number, line.position, Exclusion.UNFINISHED, f"{line.length} bytes without a newline")
        elif line.data is None:
            self._exclude(line.number, line.position, Kind.TOO_LONG, f"{line.length} bytes")
        else:
            checked = check_line(line.data)
            problem = next((found for found in checked.findings if not found.kind.is_warning), None)
            if problem is None:
                return checked
            self._exclude(line.number, line.position, problem.kind, problem.detail)
        return None

    def _take(self, line: NumberedLine, checked: CheckedLine) -> None:
        data = line.data or b""
        self._selection.add(line.number, line.position, data, checked.metadata, image=has_image(checked.messages))

    def _choose(self) -> None:
        if self._options.top_rollouts is not None:
            self._selection.keep_top(self._options.top_rollouts)
        if self._options.sample is not None:
            self._selection.keep_sample(self._options.sample)

    def _write(self) -> dict[str, str]:
        done, (_, size) = 0, self._selection.size()
        with self._writer() as writer:
            for candidate in self._selection.taken():
                record = self._record(candidate)
                try:
                    writer.add(candidate.split, record)
                except UnfitError as error:
                    self._selection.exclude(candidate.line, error.reason)
                    self._list(candidate.line, candidate.offset, error.reason, *error.details)
                if done // _STEP != (done + candidate.length) // _STEP:
                    self._progress("writing", done + candidate.length, size)
                done += candidate.length
            return writer.finish()

    def _writer(self) -> AbstractContextManager[_Writer]:
        options, output = self._options, self._output
        if options.format is Format.JSONL:
            return JsonLines(output, plain_lines(output, options.image_mode))
        if options.format is Format.OPENAI:
            return JsonLines(output, openai_lines(options, self._rules))
        if options.format is Format.SHAREGPT:
            return JsonLines(output, sharegpt_lines(options, output))
        return Tables(output, layout(options, images=self._selection.has_images()))

    def _record(self, candidate: Candidate) -> ExportRecord:
        data = self._lines.read(candidate.offset, candidate.length)
        value = _decode(data)  # the first pass has checked it
        return ExportRecord(candidate.line, candidate.id, data, value["messages"], value["metadata"])

    def sample(self) -> ExportRecord:
        """Return the first written record."""
        return self._record(next(self._selection.taken()))

    def report(self, paths: dict[str, str]) -> ExportReport:
        """Return the report, which counts every line."""
        counts = self._selection.counts()
        empty = [f"{split.name}: no rollout fell into it, so it has no file" for split in counts if not split.records]
        sizes = {split: self._output.size(path) for split, path in paths.items()} if self._is_openai() else {}
        return ExportReport(
            streamer=__version__,
            options=self._options,
            origin=self._lines.origin(),
            written=sum(split.records for split in counts),
            splits=[split for split in counts if split.records],
            paths=paths,
            excluded=dict(sorted({**self._invalid, **self._selection.excluded()}.items())),
            warnings=[*empty, *self._rules.warnings(sizes)],
        )

    def _is_openai(self) -> bool:
        return self._options.format is Format.OPENAI

    def _exclude(self, line: int, offset: int, reason: str, detail: str) -> None:
        self._invalid[str(reason)] += 1
        self._list(line, offset, reason, detail)

    def _list(self, line: int, offset: int, reason: str, *details: str) -> None:
        listed = _Excluded(line, offset, str(reason), [detail[:_SHOWN] for detail in details[:_LISTED]])
        self._excluded.write(msgspec.json.encode(listed) + b"\n")


def _keep_apart(dataset: Path, out: Path) -> None:
    """Refuse an output that would contain or replace the dataset."""
    inner = dataset.absolute().resolve()
    if out.absolute().resolve() in (inner, *inner.parents):
        raise ConfigError("export", str(out), "the dataset lies there", "name a folder of its own")
