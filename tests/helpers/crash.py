"""Processes that die by SIGKILL at the n-th pass of a point of the path."""

from __future__ import annotations

import multiprocessing
import os
import signal
from typing import TYPE_CHECKING

import anyio

from streamer.base.env import Env
from streamer.base.files import Files
from streamer.commands.compact.run import compact
from tests.helpers.producer import FakeClock, work_off

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamer.config import Config

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload([__name__])
"""Forks of a process that has imported all this: a new interpreter takes half a second."""

_PATIENCE = 30.0
"""Seconds."""

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


def dies(work: Callable[[Config, str, int], None], config: Config, point: str, times: int = 1) -> bool:
    """Do some work in a process of its own; return whether that killed itself.

    ``point`` is the name of a failpoint, or ``HALF_A_WRITE`` or ``HALF_A_REWRITE``. The process dies when it passes the
    point for the n-th time, if it comes to that.
    """
    process = _PROCESSES.Process(target=work, args=(config, point, times))
    process.start()
    process.join(_PATIENCE)
    process.kill()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def working_off(config: Config, point: str, times: int) -> None:
    """Work off what is there, as far as one gets."""
    fuse = Fuse(point, times)
    work_off(config, files=DeadlyFiles(fuse), failpoint=fuse)


def compacting(config: Config, point: str, times: int) -> None:
    """Compact the dataset, live file and all, as far as one gets."""
    fuse = Fuse(point, times)

    async def run() -> None:
        await compact(config, Env(files=DeadlyFiles(fuse), clock=FakeClock(), failpoint=fuse), close_live=True)

    anyio.run(run)
