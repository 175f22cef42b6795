"""The beat that the service manager's watchdog waits for: sent while work gets on, and for no other reason."""

from __future__ import annotations

from collections.abc import Callable

from streamer.base.files import Clock
from streamer.daemon.observers.systemd import Notifier


class Heartbeat:
    """Sends a beat whenever there was progress since the last one.

    The loop makes progress each time it comes round, be it idle or busy, and long work (a recovery, a scan of a large
    folder) at each of its steps. A poll that hangs or a disk that does not answer makes none, whichever thread it
    hangs in; and a loop that is stuck itself sends nothing.

    Args:
        notifier: knows how often the manager wants to hear of us, if at all.
        clock: what waits between two beats.
        on_progress: called at each step, from any thread.
    """

    def __init__(self, notifier: Notifier, clock: Clock, on_progress: Callable[[], None] = lambda: None) -> None:
        self._on_progress = on_progress
        self._notifier = notifier
        self._clock = clock
        self._steps = 0
        interval = notifier.watchdog_interval
        self.interval = None if interval is None else interval / 2
        """Seconds between two looks for progress: the loop has to come round as often. None without a watchdog."""

    def progress(self) -> None:
        """Note that work got on, from any thread: of two at the same time one may be lost, the other one is seen."""
        self._steps += 1
        self._on_progress()

    async def run(self) -> None:
        """Send beats until cancelled; return at once where no one waits for them."""
        if self.interval is None:
            return
        seen = None
        while True:
            if self._steps != seen:
                seen = self._steps
                self._notifier.watchdog()
            await self._clock.sleep(self.interval)
