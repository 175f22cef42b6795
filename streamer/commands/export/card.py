"""The report of an export (``export.json``), and its dataset card.

The card is a README.md with the front matter that the Hub and ``datasets`` read. Text of records and of users is in
indented blocks, in ASCII, so that none of it is markup.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from blake3 import blake3

from streamer.commands.common import aligned
from streamer.commands.export.chat import ExportRecord
from streamer.commands.export.lines import DatasetOrigin
from streamer.commands.export.options import Format, ImageMode, Options
from streamer.commands.export.selection import SplitCounts

_DIGEST_BYTES = 16
_LONGEST = 160
"""The most characters of each text of the sample."""

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_LARGER = "1M<n<10M"
_SHAPE = {
    Format.JSONL: "`messages` and `metadata`, line for line as in the source.",
    Format.PARQUET: "`id`, `messages`, `images` if there are any, `metadata`. `arguments` of a tool call is text.",
    Format.HUB: "`id`, `messages`, `images` if there are any, `metadata`. `arguments` of a tool call is text.",
    Format.OPENAI: "`messages` and, where given, `tools`: the chat format of OpenAI's fine-tuning.",
    Format.TRL: "TRL's conversational format. `arguments` of a tool call is an object (`datasets` 4.7 or newer).",
    Format.SHAREGPT: "`conversations` with `from` and `value`, and `images` as paths.",
}


class ExportReport(msgspec.Struct, frozen=True):
    """The counts and the files of an export.

    ``origin.lines`` = ``written`` + all of ``excluded``. ``splits`` has the splits with records, ``paths`` the path or
    pattern of each below the output. The report has no time: the same input gives the same report.
    """

    streamer: str
    options: Options
    origin: DatasetOrigin
    written: int
    splits: list[SplitCounts]
    paths: dict[str, str]
    excluded: dict[str, int]
    warnings: list[str]


def card(report: ExportReport, sample: ExportRecord) -> str:
    """Return the text of the card.

    Args:
        report: The report of the export.
        sample: The record to show.
    """
    return "\n".join([*_front(report), *_body(report, sample)]) + "\n"


def _front(report: ExportReport) -> Iterator[str]:
    yield "---"
    yield "task_categories:"
    yield "- text-generation"
    yield "tags:"
    yield from ("- sft", "- streamer")
    yield "size_categories:"
    yield f"- {next((name for limit, name in _SIZES if report.written < limit), _LARGER)}"
    yield "configs:"
    yield "- config_name: default"
    # `datasets` caches a local folder by its name and this text alone, so each export needs a text of its own.
    yield f"  description: export {blake3(msgspec.json.encode(report)).hexdigest(_DIGEST_BYTES)}"
    yield "  data_files:"
    for split, path in report.paths.items():
        yield f"  - split: {split}"
        yield f'    path: "{path}"'
    if report.options.format is Format.SHAREGPT:
        yield from _sharegpt_features(report.options)
    yield "---"


def _sharegpt_features(options: Options) -> Iterator[str]:
    """Yield the types of the columns: readers cannot infer them from a first split without images."""
    yield from ("dataset_info:", "  features:", "  - name: conversations", "    list:")
    for name in ("from", "value"):
        yield from (f"    - name: {name}", "      dtype: string")
    if options.image_mode is ImageMode.FILES:
        yield from ("  - name: images", "    list: string")
    if options.tools is not None:
        yield from ("  - name: tools", "    dtype: string")


def _body(report: ExportReport, sample: ExportRecord) -> Iterator[str]:
    origin, options = report.origin, report.options
    yield "# Rollouts that ended well"
    yield ""
    yield f"{report.written:,} conversations from evaluation rollouts, as streamer collected them by their reward."
    yield ""
    yield from _section("Splits", aligned([_HEAD, *map(_row, report.splits)]))
    yield "A rollout is in one split only: its run id decides, by a hash with the seed below."
    yield ""
    yield from _section("Columns", ())
    yield _SHAPE[options.format]
    yield ""
    yield from _section("What was asked for", _requested(options))
    left = aligned([("reason", "records"), *((reason, f"{count:,}") for reason, count in report.excluded.items())])
    yield from _section("What was left out", left if report.excluded else ["nothing"])
    facts = [
        f"file        {_line(origin.name)}, {origin.lines:,} lines, {origin.bytes:,} bytes",
        f"blake3      {origin.digest}",
        f"streamer    {report.streamer}",
    ]
    facts += [f"condition   {_line(condition)}" for condition in origin.conditions]
    facts += [f"duplicates  by {origin.dedup}"] if origin.dedup else []
    yield from _section("Where it is from", facts)
    shown = json.dumps({"messages": _cut(sample.messages), "metadata": _cut(sample.metadata)}, indent=2)
    yield from _section("A record of the source, with texts cut", shown.splitlines())


def _requested(options: Options) -> Iterator[str]:
    yield f"seed          {options.seed}"
    yield f"splits        {', '.join(f'{split.name}={split.share:g}' for split in options.splits)}"
    if options.where is not None:
        yield f"where         {_line(options.where)}"
    if options.top_rollouts is not None:
        yield f"top rollouts  {options.top_rollouts}"
    if options.sample is not None:
        yield f"sample        {options.sample}"
    yield f"images        {options.image_mode}"


_HEAD = ("split", "records", "rollouts", "with images", "reward min", "mean", "max")


def _row(split: SplitCounts) -> tuple[str, ...]:
    rewards = (split.reward_min, split.reward_mean, split.reward_max)
    counts = (split.records, split.rollouts, split.with_images)
    return (split.name, *(f"{count:,}" for count in counts), *("-" if r is None else f"{r:.4g}" for r in rewards))


def _section(title: str, lines: Iterable[str]) -> Iterator[str]:
    yield f"## {title}"
    yield ""
    block = [f"    {line}" for line in lines]
    if block:
        yield from block
        yield ""


def _line(text: str) -> str:
    """Return text on one line, in ASCII."""
    return json.dumps(" ".join(text.split()))[1:-1]


def _cut(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= _LONGEST else f"{value[:_LONGEST]}..."
    if isinstance(value, dict):
        return {_cut(key): _cut(inner) for key, inner in value.items()}
    return [_cut(inner) for inner in value] if isinstance(value, list) else value
