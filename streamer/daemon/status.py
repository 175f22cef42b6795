"""How a daemon stands: what it says of itself in plain words, how far it is behind, and how long nothing has come."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from streamer.base.errors import StreamerError
from streamer.base.files import Clock
from streamer.base.text import counted
from streamer.core.records.model import State
from streamer.daemon.pipeline import Pipeline
from streamer.store.ledger.ledger import LineCounts

_PAUSE = 1.0
"""Seconds between two status texts."""

_SHARE = 300
"""Adding up the accounts is followed by a pause of so many times its own duration."""

_NEVER = float("inf")


class Stand(NamedTuple):
    """How a dataset stands.

    ``accounts`` are None while it waits for something without which nothing can be done; ``behind`` are the seconds
    from the moment at which news were noticed until they were in the dataset, None before any; ``error`` is what does
    not work now; ``undelivered`` are records of a collector that no writer has said to hold, None of another daemon.
    """

    accounts: LineCounts | None
    behind: float | None
    error: StreamerError | None
    undelivered: int | None = None


class DaemonStatus:
    """Tells how a dataset stands, and knows for how long it has been idle.

    Idle means: nothing came (no new byte of a shard, no new or changed outcome row: the ledger stayed as it is) and
    nothing is left to be done. Lines that wait for an outcome do not count: it may never come.

    Args:
        say: is told how it stands.
        clock: pauses.
    """

    def __init__(self, say: Callable[[Stand], None], clock: Clock) -> None:
        self._say = say
        self._clock = clock
        self._seen: tuple[Pipeline, int] | None = None
        self._error = str(None)
        self._burst: float | None = None
        self._behind: float | None = None
        self._untold = True
        self._next_text = 0.0
        self._last_news = clock.monotonic()

    def waits(self, error: StreamerError) -> None:
        """Tell what has to be waited for before work can go on at all."""
        self._say(Stand(None, None, error))
        self._changed()

    def reloaded(self) -> None:
        """Take note that the configuration was read again."""
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
        """Tell how things stand, unless that is known, or was told a moment ago."""
        start = self._clock.monotonic()
        if not self._untold or start < self._next_text:
            return
        self._untold = False
        undelivered = await pipeline.uplink.undelivered()
        self._say(Stand(await pipeline.ledger.counts(), self._behind, pipeline.error, undelivered))
        end = self._clock.monotonic()
        self._next_text = end + max(_PAUSE, _SHARE * (end - start))

    @property
    def next_text(self) -> float:
        """The time in monotonic seconds at which there is something to tell; infinite if there is nothing."""
        return self._next_text if self._untold else _NEVER

    @property
    def idle_since(self) -> float:
        """The time in monotonic seconds at which there was last something to do."""
        return self._last_news


class Stands:
    """Keeps the manager's status text true: it is the stand of one dataset, or the sum of several.

    Args:
        tell: is given each new text.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._known: dict[Path, Stand | None] = {}

    def of(self, dataset: Path) -> Callable[[Stand], None]:
        """Return the function that takes how this dataset stands."""
        self._known[dataset] = None

        def take(stand: Stand) -> None:
            self._known[dataset] = stand
            self._tell(_text(stand) if len(self._known) == 1 else _text_of_several(self._known))

        return take


def _text_of_several(stands: Mapping[Path, Stand | None]) -> str:
    """Return how several datasets stand in words: the records of all, the longest wait, and what does not work.

    All of them wait for the same outcomes, so what waits is not added up.
    """
    known = {path: stand for path, stand in stands.items() if stand is not None}
    accounts = [stand.accounts for stand in known.values() if stand.accounts is not None]
    records = sum(one.lines[State.ACCEPTED] for one in accounts)
    parts = [f"{len(stands)} datasets: {counted(records, 'record')}"]
    if accounts:
        parts.append(f"{max(one.waiting_rollouts for one in accounts):,} waiting")
    behind = [stand.behind for stand in known.values() if stand.behind is not None]
    if behind:
        parts.append(f"{_duration(max(behind))} behind")
    if dead := max((one.lines[State.DEAD_LETTERED] for one in accounts), default=0):
        parts.append(counted(dead, "dead letter"))
    parts += [
        f"{path.name}: cannot {stand.error.op}: {stand.error.cause}" for path, stand in known.items() if stand.error
    ]
    return "; ".join(parts)


def _text(stand: Stand) -> str:
    """Return how a dataset stands in words."""
    if stand.accounts is not None:
        return status(stand.accounts, stand.behind, stand.error, stand.undelivered)
    return f"waiting: cannot {stand.error.op}: {stand.error.cause}" if stand.error else "waiting"


def status(
    accounts: LineCounts, behind: float | None, error: StreamerError | None, undelivered: int | None = None
) -> str:
    """Return the text: how much there is, how much waits, and what does not work.

    Args:
        accounts: lines and rollouts.
        behind: seconds from the moment at which news were noticed until they were in the dataset; None before any.
        error: why outcomes or shards cannot be read now, or records cannot be delivered.
        undelivered: records of a collector that no writer has said to hold; None of another daemon.
    """
    lines = accounts.lines
    parts = [
        f"{counted(lines[State.ACCEPTED], 'record')} from {counted(accounts.appended_rollouts, 'rollout')}",
        f"{accounts.waiting_rollouts:,} waiting",
    ]
    if behind is not None:
        parts.append(f"{_duration(behind)} behind")
    if undelivered is not None:
        parts.append(f"{undelivered:,} not delivered")
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
