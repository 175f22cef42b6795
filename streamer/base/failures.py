"""What does not work just now, each warned of once when it begins, and told once when it is over."""

from __future__ import annotations

from streamer.base.errors import StreamerError
from streamer.base.events import Emit, FailureBegan, FailureContinued, FailureEnded

_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 5.0


class ActiveFailures:
    """Remembers troubles by what was being done, and how long to pause before the next try."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._known: dict[str, tuple[FailureBegan, float]] = {}

    def begin(self, error: StreamerError) -> float:
        """Note a trouble; return the seconds to wait before the next try (each longer than the last)."""
        trouble = FailureBegan.of(error)
        known, pause = self._known.get(error.op, (None, _FIRST_PAUSE / 2))
        self._emit(trouble if known != trouble else FailureContinued.of(error))
        pause = min(_LONGEST_PAUSE, 2 * pause)
        self._known[error.op] = (trouble, pause)
        return pause

    def over(self, op: str) -> None:
        """Note that ``op`` works."""
        known = self._known.pop(op, None)
        if known is not None:
            self._emit(FailureEnded(op, known[0].where))

    def all_over(self) -> None:
        """Note that everything works."""
        for op in list(self._known):
            self.over(op)


class SourceFailures:
    """Troubles with sources and with a fleet. They outlive the pipeline in which they began, and end in another one.

    ``inputs`` are those of the shard folder and of outcomes, ``conversations`` those of reading rollouts,
    ``fleet`` those of sending records to others, or of taking theirs.
    """

    def __init__(self, emit: Emit) -> None:
        self.inputs = ActiveFailures(emit)
        self.conversations = ActiveFailures(emit)
        self.fleet = ActiveFailures(emit)
