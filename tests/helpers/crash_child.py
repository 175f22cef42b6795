"""Work off a folder, and die by SIGKILL at the n-th pass of a point of the path.

Usage: ``python -m tests.helpers.crash_child FOLDER BATCH BY POINT N [CONVERSATIONS [TABLES]]``. ``POINT`` is a name
that the pipeline calls out, or ``half of a write`` or ``half of a rewrite``. ``TABLES`` is JSON that takes the place of
tables of the configuration, such as ``{"roll": {"records": 3}}``. Exit code 0: the point was not passed that often.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import msgspec

from streamer.base.files import Files
from streamer.config import Config, From
from streamer.core.records.key import DedupBy
from tests.helpers.producer import settings, work_off

HALF_A_WRITE = "half of a write"
HALF_A_REWRITE = "half of a rewrite"


class Fuse:
    """Counts how often a point is passed, and kills the process when that was often enough."""

    def __init__(self, point: str, times: int) -> None:
        self._point = point
        self._left = times

    def __call__(self, point: str) -> None:
        """Pass a point."""
        if self.burns(point):
            os.kill(os.getpid(), signal.SIGKILL)

    def burns(self, point: str) -> bool:
        """Count one pass and say whether this is the last one."""
        self._left -= point == self._point
        return point == self._point and self._left == 0


class DeadlyFiles(Files):
    """Real files; one write of many is broken off in the middle, with the process."""

    def __init__(self, fuse: Fuse) -> None:
        self._fuse = fuse

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """Write all, or half and die."""
        if self._fuse.burns(HALF_A_WRITE):
            super().write(fd, data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return super().write(fd, data)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        """Write all, or half and die."""
        if self._fuse.burns(HALF_A_REWRITE):
            super().pwrite(fd, data[: len(data) // 2], offset)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().pwrite(fd, data, offset)


def with_tables(config: Config, tables: str) -> Config:
    """Return a configuration in which some tables are those of a JSON object."""
    types = {field.name: field.type for field in msgspec.structs.fields(Config)}
    more = {name: msgspec.convert(values, types[name]) for name, values in json.loads(tables).items()}
    return msgspec.structs.replace(config, **more)


def main(
    folder: str, batch: str, by: str, point: str, times: str, conversations: str = "shards", tables: str = "{}"
) -> None:
    """Work off what is there, as far as one gets."""
    fuse = Fuse(point, int(times))
    config = settings(Path(folder), batch=int(batch), by=DedupBy(by), conversations=From(conversations))
    work_off(with_tables(config, tables), files=DeadlyFiles(fuse), failpoint=fuse)


if __name__ == "__main__":
    main(*sys.argv[1:])
