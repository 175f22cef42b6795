"""What an export says of itself: ``export.json``, and what the card and the command show."""

from __future__ import annotations

import msgspec

from streamer.commands.export.lines import DatasetOrigin
from streamer.commands.export.options import Options
from streamer.commands.export.selection import SplitCounts


class ExportReport(msgspec.Struct, frozen=True):
    """What was written and what was not.

    ``origin.lines`` = ``written`` + all of ``excluded``. ``splits`` are those that have a record, ``paths`` where each
    is (a path or pattern below the output). There is no time in it: the same input gives the same report.
    """

    streamer: str
    options: Options
    origin: DatasetOrigin
    written: int
    splits: list[SplitCounts]
    paths: dict[str, str]
    excluded: dict[str, int]
    warnings: list[str]
