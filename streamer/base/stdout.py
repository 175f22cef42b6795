"""Standard output whose reader may have gone."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def until_enough() -> Iterator[None]:
    """End an endless block quietly at Ctrl-C, SIGTERM, or when the reader has gone (``| head``)."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        give_up()
    finally:
        signal.signal(signal.SIGTERM, before)


def reader_is_gone() -> bool:
    """Return whether the reader has gone; without new output, no write would fail and show it."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # an error or a hang-up is reported all the same
    return bool(poll.poll(0))


def give_up() -> None:
    """Discard buffered and further output, so that nothing fails at exit."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)
