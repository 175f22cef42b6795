"""Active failures: each is reported once when it begins and once when it ends, with backoff in between."""

from __future__ import annotations

from streamer.base.errors import StreamerError
from streamer.base.events import Emit, FailureBegan, FailureContinued, FailureEnded

_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 5.0


class ActiveFailures:
    """Active failures by operation, with the pause before the next retry."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._known: dict[str, tuple[FailureBegan, float]] = {}

    def begin(self, error: StreamerError) -> float:
        """Record a failure; return the seconds to wait before the next retry (twice the last ones, up to a limit)."""
        failure = FailureBegan.of(error)
        known, pause = self._known.get(error.op, (None, _FIRST_PAUSE / 2))
        self._emit(failure if known != failure else FailureContinued.of(error))
        pause = min(_LONGEST_PAUSE, 2 * pause)
        self._known[error.op] = (failure, pause)
        return pause

    def over(self, op: str) -> None:
        """End the failure of an operation, if there is one."""
        known = self._known.pop(op, None)
        if known is not None:
            self._emit(FailureEnded(op, known[0].where))

    def all_over(self) -> None:
        """End all failures."""
        for op in list(self._known):
            self.over(op)


class SourceFailures:
    """Active failures of sources and of a fleet; one may begin in one pipeline and end in a later one.

    ``inputs`` are failures of the shard folder and of outcomes, ``conversations`` those of reading rollouts, ``fleet``
    those of delivering or receiving records.
    """

    def __init__(self, emit: Emit) -> None:
        self.inputs = ActiveFailures(emit)
        self.conversations = ActiveFailures(emit)
        self.fleet = ActiveFailures(emit)
