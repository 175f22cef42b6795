"""Wake-ups are hints: a failure of the watcher is reported once, and stops nothing."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import anyio

from streamer.base.events import Event
from streamer.sources.wake_ups import PendingChanges, WakeUps, watch


def append(path: bytes) -> None:
    """Append a byte to a file whose name is no text."""
    with open(path, "ab") as file:
        file.write(b"x")


def test_a_name_that_cannot_be_decoded_costs_a_scan_and_not_the_daemon(tmp_path: Path) -> None:
    """The watcher fails on it; we look at the whole folder instead."""
    told: list[Event] = []
    hints = WakeUps(tmp_path, "traces.db")

    async def main() -> None:
        stop = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write_until, stop)
            with anyio.fail_after(20):
                on_change = partial(heard, stop)
                await watch(tmp_path, on_change, told.append, stop, recursive=True, force_polling=False)

    def heard(stop: anyio.Event, path: str) -> None:
        hints.shard(path)
        if not path:
            stop.set()

    async def write_until(stop: anyio.Event) -> None:
        """Change the file repeatedly, as the start of the watch is not observable."""
        while not stop.is_set():
            append(os.fsencode(tmp_path) + b"/\xfe.jsonl")
            with anyio.move_on_after(0.05):
                await stop.wait()

    anyio.run(main)
    assert [event.name for event in told] == ["notifications_lost"]
    assert hints.take().scan


def test_a_change_before_the_wait_is_not_slept_over(tmp_path: Path) -> None:
    """A wake-up ends the next wait at once, and only that one."""
    hints = WakeUps(tmp_path, "traces.db")
    hints.shard(str(tmp_path / "a.jsonl"))
    hints.database(str(tmp_path / "other.db"))
    hints.database(str(tmp_path / "traces.db-journal"))

    async def main() -> None:
        with anyio.fail_after(20):
            await hints.wait(3600)

    anyio.run(main)
    assert hints.take() == PendingChanges({"a.jsonl"}, scan=False, database=True)
    assert hints.take() == PendingChanges()
