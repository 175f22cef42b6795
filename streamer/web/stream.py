"""The state as server-sent events: whole in each message, at most one a second, and only when something changed.

Invariants
- Nothing is read while nobody looks.
- However slow a client is, it holds one message: when it is ready it takes the newest, and misses those between.
- A message is built once for all clients.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import anyio
import msgspec

from streamer.base.errors import StreamerError
from streamer.web.encoding import encode
from streamer.web.errors import RefusedRequestError
from streamer.web.state import PageState

_MOST_CLIENTS = 32
_PAUSE = 1.0
"""Seconds between two messages, at least."""

_REFRESH = 5.0
"""Seconds after which it is looked, unasked, whether something changed with time: a rate, a lag."""

_BEAT = 15.0
"""Seconds after which a silent connection shows that it is alive."""


class Publisher:
    """Reads the state for all who look at it.

    Args:
        read: returns the state, off the event loop.
        pause: seconds between two readings.
    """

    def __init__(self, read: Callable[[], Awaitable[PageState]], pause: float = _PAUSE) -> None:
        self._read = read
        self._pause = pause
        self._lock = anyio.Lock()
        self._life = f"{time.time_ns() // 1_000_000}"
        self._number = 0
        self._state: PageState | None = None
        self._message = b""
        self._read_at = float("-inf")
        self._clients = 0
        self._someone = anyio.Event()
        self._changed = anyio.Event()
        self._published = anyio.Event()
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def poke(self) -> None:
        """Say that something has changed; from any thread, and for nothing if nobody looks."""
        loop = self._loop
        if self._clients and loop is not None:
            loop.call_soon_threadsafe(self._changed.set)

    async def run(self) -> None:
        """Publish until cancelled."""
        self._loop = asyncio.get_running_loop()
        while True:
            await self._someone.wait()
            with suppress(StreamerError):  # the daemon says what is wrong; it is tried again
                await self.current()
            await anyio.sleep(self._pause)
            with anyio.move_on_after(_REFRESH):
                await self._changed.wait()
            self._changed = anyio.Event()

    def stop(self) -> None:
        """End all streams."""
        self._stopping = True
        self._publish()

    async def current(self) -> PageState:
        """Return the state now, or as it was less than a second ago.

        Raises:
            StreamerError: it cannot be read.
        """
        async with self._lock:
            state = self._state
            if state is None or time.monotonic() - self._read_at >= self._pause:
                state = self._take(await self._read())
                self._read_at = time.monotonic()
            return state

    def subscribe(self) -> AsyncIterator[bytes]:
        """Return the events for one client.

        Raises:
            RefusedRequestError: there are too many clients.
        """
        if self._clients >= _MOST_CLIENTS:
            raise RefusedRequestError(503, f"{_MOST_CLIENTS} pages are open already; close one")
        return self._events()

    async def _events(self) -> AsyncIterator[bytes]:
        self._clients += 1
        self._someone.set()
        try:
            yield b"retry: 1000\n\n"
            with suppress(StreamerError):
                await self.current()
            seen = ""
            while not self._stopping:
                published = self._published
                if self._state is not None and self._state.revision != seen:
                    seen = self._state.revision
                    yield self._message
                    continue
                with anyio.move_on_after(_BEAT) as waiting:
                    await published.wait()
                if waiting.cancelled_caught:
                    yield b": beat\n\n"
            yield b"event: stopping\ndata: {}\n\n"
        finally:
            self._clients -= 1
            if not self._clients:
                self._someone = anyio.Event()

    def _take(self, state: PageState) -> PageState:
        """Make a state the present one; tell it to all if it says something new."""
        before = self._state
        if before is not None and _same(before, state):
            self._state = msgspec.structs.replace(state, revision=before.revision)
            return self._state
        self._number += 1
        self._state = msgspec.structs.replace(state, revision=f"{self._life}-{self._number}")
        self._message = b"event: state\nid: %s\ndata: %s\n\n" % (self._state.revision.encode(), encode(self._state))
        self._publish()
        return self._state

    def _publish(self) -> None:
        published, self._published = self._published, anyio.Event()
        published.set()


def _same(one: PageState, other: PageState) -> bool:
    return msgspec.structs.replace(one, at=0.0, revision="") == msgspec.structs.replace(other, at=0.0, revision="")
