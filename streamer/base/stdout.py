"""Standard output, and the reader behind it who may have had enough."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def until_enough() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and a reader that has gone (``| head``) be the end of what goes on for ever."""
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
    """Say whether no one reads any more: without anything new to write, no write would tell."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # an error or a hang-up is reported all the same
    return bool(poll.poll(0))


def give_up() -> None:
    """Let nothing that is still buffered complain at exit, nor what is written from now on."""
    no_failpoints = os.open(os.devnull, os.O_WRONLY)
    os.dup2(no_failpoints, sys.stdout.fileno())
    os.close(no_failpoints)
