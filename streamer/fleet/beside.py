"""Tasks beside a pipeline: tasks that end with it, and groups of tasks that end together.

They are asyncio tasks, not task groups, as pipelines of several datasets open and close in any order.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

_Run = Callable[[], Coroutine[Any, Any, None]]

_AGAIN = 1.0
"""Seconds after which a task that ignores a cancellation is cancelled again."""


@asynccontextmanager
async def beside(run: _Run) -> AsyncIterator[None]:
    """Run a task while the block is open."""
    task = asyncio.create_task(run())
    try:
        yield
    finally:
        await _end(task)


async def until_first(*runs: _Run) -> None:
    """Run tasks until one of them ends, then cancel the others; raise the error of the first."""
    tasks = [asyncio.create_task(run()) for run in runs]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _end(*tasks)
    for task in done:
        task.result()


async def _end(*tasks: asyncio.Task[None]) -> None:
    """Cancel tasks and wait until all have ended; their errors are ignored.

    One cancellation is not enough: before Python 3.12 ``asyncio.wait_for``, which the client uses, drops one that comes
    together with an answer, and parts of the client take one for the end of a connection. Such a task goes on.
    """
    cancelled = False
    while going := [task for task in tasks if not task.done()]:
        for task in going:
            task.cancel()
        try:
            await asyncio.wait(going, timeout=_AGAIN)
        except asyncio.CancelledError:  # of our own task: raised once these have ended
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError


async def to_its_end(run: _Run) -> None:
    """Run a task to its own end, even if the caller is cancelled meanwhile; the cancellation is raised after it."""
    task = asyncio.create_task(run())
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancelled = True
    task.result()
    if cancelled:
        raise asyncio.CancelledError


async def first_of(seconds: float, wait: Callable[[], Awaitable[object]]) -> None:
    """Wait at most some seconds."""
    try:
        async with asyncio.timeout(seconds):
            await wait()
    except TimeoutError:
        pass
