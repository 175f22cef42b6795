"""What runs beside a pipeline: tasks that end with it, and groups of tasks that end together.

They are tasks of asyncio and no task groups, as pipelines of several datasets open and close in any order.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

Run = Callable[[], Coroutine[Any, Any, None]]


@asynccontextmanager
async def beside(run: Run) -> AsyncIterator[None]:
    """Let something run for as long as the block is open."""
    task = asyncio.create_task(run())
    try:
        yield
    finally:
        await _end(task)


async def until_first(*runs: Run) -> None:
    """Run all of these until one of them ends, then end the others; raise what it raised."""
    tasks = [asyncio.create_task(run()) for run in runs]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            await _end(task)
    for task in done:
        task.result()


async def _end(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait for its end; what it raised is its own affair."""
    task.cancel()
    await asyncio.wait([task])


async def first_of(seconds: float, wait: Callable[[], Awaitable[object]]) -> None:
    """Wait for something, but no longer than some seconds."""
    try:
        async with asyncio.timeout(seconds):
            await wait()
    except TimeoutError:
        pass
