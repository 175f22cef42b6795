"""A real daemon with its page, and a real HTTP client that looks at it."""

from __future__ import annotations

import json
import socket
import subprocess
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.helpers.place import PATIENCE, Place, until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("uvicorn", reason="the page needs the extra `web`: pip install '.[web]'")


class Site(Place):
    """A place whose daemon serves the page at a port that is free."""

    def configure(self, text: str = "", source: str = "", web: str = 'listen = "127.0.0.1:0"') -> None:
        """Write the configuration."""
        super().configure(f"{text}\n[web]\n{web}", source)

    @contextmanager
    def served(self) -> Iterator[httpx.Client]:
        """Run the daemon and give a client for its page."""
        with self.running() as (_, client):
            yield client

    @contextmanager
    def running(self) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
        """Run the daemon and give its process and a client for its page."""
        before = len(self.events("page_served"))
        with self.daemon() as process:
            until(lambda: len(self.events("page_served")) > before or process.poll() is not None)
            assert process.poll() is None, self.log.read_text()
            with httpx.Client(base_url=self.events("page_served")[-1]["url"], timeout=PATIENCE) as client:
                yield process, client


def got(client: httpx.Client, path: str, **query: Any) -> Any:
    """Return what a GET answers, which is JSON and fine."""
    answer = client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(client: httpx.Client, path: str, status: int) -> str:
    """Return in which words a GET is refused."""
    answer = client.get(path)
    assert answer.status_code == status, answer.text
    words: str = answer.json()["error"]
    assert words
    assert "Traceback" not in answer.text
    return words


def flow(state: dict[str, Any]) -> dict[str, int]:
    """Return the lines by state, after seeing that they add up."""
    counts = {each["state"]: each["lines"] for each in state["flow"]["states"]}
    assert sum(counts.values()) == state["flow"]["read"]
    assert all(sum(each["reasons"].values()) == each["lines"] for each in state["flow"]["states"])
    return counts


class Events:
    """Server-sent events as they come."""

    def __init__(self, answer: httpx.Response) -> None:
        self._lines = answer.iter_lines()

    def next(self) -> tuple[str, str, Any]:
        """Return the next event: its name, its id and its data."""
        event: dict[str, str] = {}
        for line in self._lines:
            if not line and "data" in event:
                return event.get("event", ""), event.get("id", ""), json.loads(event["data"])
            name, _, value = line.partition(": ")
            event[name] = value
        raise EOFError

    def until_read(self, lines: int) -> dict[str, Any]:
        """Return the first state in which so many lines were read."""
        while True:
            _, _, state = self.next()
            if state["flow"]["read"] >= lines:
                found: dict[str, Any] = state
                return found


@contextmanager
def events(client: httpx.Client) -> Iterator[Events]:
    """Listen to the page's events."""
    with client.stream("GET", "/api/events") as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Events(answer)


def raw(client: httpx.Client, request: bytes) -> bytes:
    """Send bytes that no client would send; return the beginning of the answer."""
    place = client.base_url
    with socket.create_connection((place.host, place.port or 0), timeout=PATIENCE) as connection:
        with suppress(ConnectionError):  # it need not be read to its end
            connection.sendall(request)
        return connection.recv(4096)
