"""Everything that code needs from the machine, as one argument that tests can replace."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from streamer.base.events import Emit, Event
from streamer.base.files import Clock, Files, SystemClock

Failpoint = Callable[[str], None]
"""Called with the name of each point at which a crash must be harmless."""


def no_failpoints(_point: str) -> None:
    """Pass a named point at which a crash must be harmless; tests crash there."""


def _ignore(_event: Event) -> None:
    """Observe nothing."""


class Env(msgspec.Struct, frozen=True):
    """System calls, time, and the two callbacks that nearly everything needs.

    Args:
        files: The system calls on files.
        clock: Ages and pauses; no verdict depends on it.
        emit: Called with every event.
        failpoint: Called with the name of each point at which a crash must be harmless.
    """

    files: Files = msgspec.field(default_factory=Files)
    clock: Clock = msgspec.field(default_factory=SystemClock)
    emit: Emit = _ignore
    failpoint: Failpoint = no_failpoints
