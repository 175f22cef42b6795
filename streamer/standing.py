"""How a daemon stands: what it says of itself in plain words, how far it is behind, and how long nothing has come."""

from __future__ import annotations

from streamer.errors import UnavailableError
from streamer.files import Clock
from streamer.ledger import Accounts
from streamer.model import State
from streamer.observers.systemd import Notifier
from streamer.pipeline import Pipeline
from streamer.text import counted

_PAUSE = 1.0
"""Seconds between two status texts."""

_SHARE = 300
"""Adding up the accounts is followed by a pause of so many times its own duration."""

_NEVER = float("inf")


class Standing:
    """Keeps the manager's status text true, and knows for how long the daemon has been idle.

    Idle means: nothing came (no new byte of a shard, no new or changed outcome row: the ledger stayed as it is) and
    nothing is left to be done. Lines that wait for an outcome do not count: it may never come.
    """

    def __init__(self, notifier: Notifier, clock: Clock) -> None:
        self._notifier = notifier
        self._clock = clock
        self._seen: tuple[Pipeline, int] | None = None
        self._error = str(None)
        self._burst: float | None = None
        self._behind: float | None = None
        self._untold = True
        self._next_text = 0.0
        self._last_news = clock.monotonic()

    def waits(self, error: UnavailableError) -> None:
        """Tell what has to be waited for before work can go on at all."""
        self._notifier.status(f"waiting: cannot {error.op}: {error.cause}")
        self._changed()

    def reloaded(self) -> None:
        """Tell that the configuration was read again."""
        self._notifier.ready("configuration read again")
        self._changed()

    def _changed(self) -> None:
        self._untold = True
        self._last_news = self._clock.monotonic()

    def turn(self, pipeline: Pipeline, began: float, *, worked: bool) -> None:
        """Take note of one turn of the loop.

        Args:
            pipeline: what worked.
            began: when the turn began, in monotonic seconds.
            worked: whether there was anything to do, and so may be more.
        """
        now = self._clock.monotonic()
        seen = pipeline, pipeline.ledger.changes
        if worked and self._burst is None:
            self._burst = began
        if seen != self._seen:
            self._changed()
            if self._burst is not None:
                self._behind = now - self._burst
        elif not pipeline.is_at_rest:
            self._last_news = now
        if not worked:
            self._burst = None
        self._untold |= str(pipeline.error) != self._error
        self._seen, self._error = seen, str(pipeline.error)

    async def tell(self, pipeline: Pipeline) -> None:
        """Tell the manager how things stand, unless it knows, or was told a moment ago."""
        start = self._clock.monotonic()
        if not self._untold or start < self._next_text:
            return
        self._untold = False
        self._notifier.status(status(await pipeline.ledger.accounts(), self._behind, pipeline.error))
        end = self._clock.monotonic()
        self._next_text = end + max(_PAUSE, _SHARE * (end - start))

    @property
    def next_text(self) -> float:
        """The time in monotonic seconds at which there is something to tell; infinite if there is nothing."""
        return self._next_text if self._untold else _NEVER

    @property
    def idle_since(self) -> float:
        """The time in monotonic seconds at which the daemon last had something to do."""
        return self._last_news


def status(accounts: Accounts, behind: float | None, error: UnavailableError | None) -> str:
    """Return the text: how much there is, how much waits, and what does not work.

    Args:
        accounts: lines and rollouts.
        behind: seconds from the moment at which news were noticed until they were in the dataset; None before any.
        error: why outcomes or shards cannot be read now.
    """
    lines = accounts.lines
    parts = [
        f"{counted(lines[State.APPENDED], 'record')} from {counted(accounts.appended_rollouts, 'rollout')}",
        f"{accounts.waiting_rollouts:,} waiting",
    ]
    if behind is not None:
        parts.append(f"{_duration(behind)} behind")
    if lines[State.DEAD_LETTERED]:
        parts.append(counted(lines[State.DEAD_LETTERED], "dead letter"))
    if error is not None:
        parts.append(f"cannot {error.op}: {error.cause}")
    return "; ".join(parts)


def _duration(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min"), (1, "s")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds * 1000:.0f} ms"
