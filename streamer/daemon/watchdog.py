"""The heartbeat for the service manager's watchdog: sent while work makes progress, and for no other reason."""

from __future__ import annotations

from collections.abc import Callable

from streamer.base.files import Clock
from streamer.daemon.observers.systemd import Notifier


class Heartbeat:
    """Sends a heartbeat if there was progress since the last one.

    Each round of the loop is progress, idle or busy, and so is each step of long work (a recovery, a scan of a large
    folder). A poll that hangs or a disk that does not respond makes no progress, in whichever thread it hangs. A loop
    that is stuck sends nothing.

    Args:
        notifier: Knows the watchdog's interval, if there is a watchdog.
        clock: Waits between two heartbeats.
        on_progress: Called at each step, from any thread.
    """

    def __init__(self, notifier: Notifier, clock: Clock, on_progress: Callable[[], None] = lambda: None) -> None:
        self._on_progress = on_progress
        self._notifier = notifier
        self._clock = clock
        self._steps = 0
        interval = notifier.watchdog_interval
        self.interval = None if interval is None else interval / 2
        """Seconds between two checks for progress; the loop must come round as often. None without a watchdog."""

    def progress(self) -> None:
        """Record progress, from any thread; of two calls at the same time, one may be lost."""
        self._steps += 1
        self._on_progress()

    async def run(self) -> None:
        """Send heartbeats until cancelled; return at once without a watchdog."""
        if self.interval is None:
            return
        seen = None
        while True:
            if self._steps != seen:
                seen = self._steps
                self._notifier.watchdog()
            await self._clock.sleep(self.interval)
