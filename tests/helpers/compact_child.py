"""Compact the dataset of a folder, and die by SIGKILL at the n-th pass of a point.

Usage: ``python -m tests.helpers.compact_child FOLDER POINT N TABLES``. ``POINT`` is a name that is called out, or
``half of a write``. ``TABLES`` is JSON that takes the place of tables of the configuration. Exit code 0: the point was
not passed that often.
"""

from __future__ import annotations

import sys
from pathlib import Path

import anyio

from streamer.base.env import Env
from streamer.commands.compact.run import compact
from tests.helpers.crash_child import DeadlyFiles, Fuse, with_tables
from tests.helpers.producer import FakeClock, settings


def main(folder: str, point: str, times: str, tables: str) -> None:
    """Compact the dataset, live file and all, as far as one gets."""
    fuse = Fuse(point, int(times))
    config = with_tables(settings(Path(folder)), tables)

    async def run() -> None:
        await compact(config, Env(files=DeadlyFiles(fuse), clock=FakeClock(), failpoint=fuse), close_live=True)

    anyio.run(run)


if __name__ == "__main__":
    main(*sys.argv[1:])
