"""Tasks beside a pipeline: one that must not be interrupted runs to its end."""

from __future__ import annotations

import asyncio

import pytest

from streamer.fleet.beside import to_its_end


def test_what_has_to_come_to_its_end_does_and_the_cancellation_comes_after() -> None:
    """Repeated cancellations do not interrupt it."""
    ended: list[str] = []

    async def main() -> None:
        begun, may_end = asyncio.Event(), asyncio.Event()

        async def run() -> None:
            begun.set()
            await may_end.wait()
            ended.append("run")

        task = asyncio.create_task(to_its_end(run))
        await begun.wait()
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
        assert not task.done()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert ended == ["run"]


def test_without_a_cancellation_it_only_ends() -> None:
    """Its error is raised."""

    async def fails() -> None:
        raise ValueError("of its own")

    with pytest.raises(ValueError, match="of its own"):
        asyncio.run(to_its_end(fails))
