"""Publish the state as server-sent events: whole in each message, at most one per second, only after changes.

Invariants
- The state is read only while clients are connected.
- A slow client holds one message: when it is ready it gets the newest, and misses those in between.
- Each message is encoded once for all clients.
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
from streamer.web.state import WebState

_MAX_CLIENTS = 32
_PAUSE = 1.0
"""Minimum seconds between two messages."""

_REFRESH = 5.0
"""Seconds between two reads without an event, for values that change with time: rate and lag."""

_KEEP_ALIVE = 15.0
"""Seconds after which a silent connection sends a keep-alive comment."""


class Publisher:
    """Reads the state for all clients.

    Args:
        read: Returns the state, off the event loop.
        pause: Minimum seconds between two reads.
    """

    def __init__(self, read: Callable[[], Awaitable[WebState]], pause: float = _PAUSE) -> None:
        self._read = read
        self._pause = pause
        self._lock = anyio.Lock()
        self._run_id = f"{time.time_ns() // 1_000_000}"
        self._number = 0
        self._state: WebState | None = None
        self._message = b""
        self._read_at = float("-inf")
        self._clients = 0
        self._has_clients = anyio.Event()
        self._changed = anyio.Event()
        self._published = anyio.Event()
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def notify(self) -> None:
        """Report a change, from any thread; without clients it costs nothing."""
        loop = self._loop
        if self._clients and loop is not None:
            loop.call_soon_threadsafe(self._changed.set)

    async def run(self) -> None:
        """Publish until cancelled."""
        self._loop = asyncio.get_running_loop()
        while True:
            await self._has_clients.wait()
            with suppress(StreamerError):  # the daemon reports it; retried later
                await self.current()
            await anyio.sleep(self._pause)
            with anyio.move_on_after(_REFRESH):
                await self._changed.wait()
            self._changed = anyio.Event()

    def stop(self) -> None:
        """End all streams."""
        self._stopping = True
        self._publish()

    async def current(self) -> WebState:
        """Return the state, at most a second old.

        Raises:
            StreamerError: It cannot be read.
        """
        async with self._lock:
            state = self._state
            if state is None or time.monotonic() - self._read_at >= self._pause:
                state = self._store(await self._read())
                self._read_at = time.monotonic()
            return state

    def subscribe(self) -> AsyncIterator[bytes]:
        """Return the events for one client.

        Raises:
            RefusedRequestError: There are too many clients.
        """
        if self._clients >= _MAX_CLIENTS:
            raise RefusedRequestError(503, f"{_MAX_CLIENTS} pages are open already; close one")
        return self._events()

    async def _events(self) -> AsyncIterator[bytes]:
        self._clients += 1
        self._has_clients.set()
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
                with anyio.move_on_after(_KEEP_ALIVE) as waiting:
                    await published.wait()
                if waiting.cancelled_caught:
                    yield b": beat\n\n"
            yield b"event: stopping\ndata: {}\n\n"
        finally:
            self._clients -= 1
            if not self._clients:
                self._has_clients = anyio.Event()

    def _store(self, state: WebState) -> WebState:
        """Store a new state; publish it if its values have changed."""
        before = self._state
        if before is not None and _same(before, state):
            self._state = msgspec.structs.replace(state, revision=before.revision)
            return self._state
        self._number += 1
        self._state = msgspec.structs.replace(state, revision=f"{self._run_id}-{self._number}")
        self._message = b"event: state\nid: %s\ndata: %s\n\n" % (self._state.revision.encode(), encode(self._state))
        self._publish()
        return self._state

    def _publish(self) -> None:
        published, self._published = self._published, anyio.Event()
        published.set()


def _same(one: WebState, other: WebState) -> bool:
    return msgspec.structs.replace(one, at=0.0, revision="") == msgspec.structs.replace(other, at=0.0, revision="")
