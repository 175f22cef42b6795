"""Entries of the journal, through a real socket."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from streamer.base.events import Committed, FailureBegan
from streamer.config import Log
from streamer.daemon.observers.journal import Journal
from streamer.daemon.observers.log import configure
from tests.daemon.test_log import HOSTILE, SHOWN, pipe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from streamer.base.events import Event

COMMITTED = Committed(
    read=3,
    appended=2,
    duplicate=0,
    below_bar=1,
    waiting=0,
    dead_lettered=0,
    appended_bytes=9,
    dataset_bytes=99,
    sync_seconds=0.25,
    commit_seconds=0.5,
    runs=("a", "b"),
)


class Receiver:
    """The journal's end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(0)

    def entries(self) -> list[list[tuple[str, str]]]:
        """Return the fields of all entries that are there."""
        found: list[list[tuple[str, str]]] = []
        while True:
            try:
                data = self._socket.recv(1 << 20)
            except BlockingIOError:
                return found
            assert data.endswith(b"\n")
            found.append([tuple(line.split("=", 1)) for line in data.decode().split("\n")[:-1]])  # type: ignore[misc]

    def close(self) -> None:
        """Close the socket; its file stays."""
        self._socket.close()


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    """Return a journal."""
    made = Receiver(tmp_path / "socket")
    yield made
    made.close()


def logged(receiver: Receiver, *events: Event) -> list[dict[str, str]]:
    """Return the entries that events become, where the journal reads the stream."""
    reader, stream = pipe()
    with reader, stream:
        status = os.fstat(stream.fileno())
        write = configure(Log(), {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}, stream, receiver.path)
        for event in events:
            write(event)
    return [dict(entry) for entry in receiver.entries()]


class TestEntries:
    """What stands in them."""

    def test_an_event_is_an_entry_with_its_fields(self, receiver: Receiver) -> None:
        """Message and priority as the journal calls them, the event's own with a prefix."""
        trouble = FailureBegan("read outcomes", "/traces.db", "locked", "it is tried again")
        (entry,) = logged(receiver, trouble)
        assert entry == {
            "MESSAGE": "cannot read outcomes: /traces.db: locked (it is tried again)",
            "PRIORITY": "4",
            "SYSLOG_IDENTIFIER": "streamer",
            "STREAMER_EVENT": "trouble",
            "STREAMER_OP": "read outcomes",
            "STREAMER_WHERE": "/traces.db",
            "STREAMER_CAUSE": "locked",
            "STREAMER_HINT": "it is tried again",
        }

    def test_a_batch_is_found_by_each_of_its_rollouts(self, receiver: Receiver) -> None:
        """A field may stand there several times."""
        reader, stream = pipe()
        with reader, stream:
            status = os.fstat(stream.fileno())
            environ = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
            configure(Log(), environ, stream, receiver.path)(COMMITTED)
        (entry,) = receiver.entries()
        assert [value for name, value in entry if name == "STREAMER_RUN_ID"] == ["a", "b"]

    def test_text_from_outside_adds_no_field(self, receiver: Receiver) -> None:
        """Newlines are shown, not sent."""
        (entry,) = logged(receiver, FailureBegan("read", HOSTILE, "x\nPRIORITY=0", ""))
        assert entry["STREAMER_WHERE"] == SHOWN
        assert entry["PRIORITY"] == "4"

    def test_the_longest_entry_still_fits(self, receiver: Receiver) -> None:
        """A hundred rollouts whose names are as long as anyone likes."""
        runs = tuple(f"{number}\U0001f469" * 5000 for number in range(100))
        reader, stream = pipe()
        with reader, stream:
            status = os.fstat(stream.fileno())
            environ = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
            configure(Log(), environ, stream, receiver.path)(replace(COMMITTED, runs=runs))
        assert len(receiver.entries()) == 1


class TestWays:
    """When entries are sent, and what becomes of those that the journal does not take."""

    def test_a_stream_that_is_not_the_journals_gets_lines(self, receiver: Receiver) -> None:
        """Someone has redirected it."""
        reader, stream = pipe()
        with reader, stream:
            configure(Log(), {"JOURNAL_STREAM": "8:1"}, stream, receiver.path)(COMMITTED)
            assert reader.readline().startswith("{")
        assert receiver.entries() == []

    def test_a_journal_that_went_away_costs_entries_and_no_more(self, receiver: Receiver) -> None:
        """Its socket is there, but no one is behind it."""
        receiver.close()
        assert not Journal(receiver.path).send("x", 6, {}, patient=True)

    def test_a_journal_that_is_started_again_gets_entries_again(self, receiver: Receiver) -> None:
        """And learns how many it missed."""
        reader, stream = pipe()
        with reader, stream:
            status = os.fstat(stream.fileno())
            environ = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
            write = configure(Log(), environ, stream, receiver.path)
            receiver.close()
            write(COMMITTED)
            write(COMMITTED)
            receiver.path.unlink()
            another = Receiver(receiver.path)
            write(COMMITTED)
        (entry,) = another.entries()
        another.close()
        assert ("STREAMER_LOG_LINES_LOST", "2") in entry

    def test_a_journal_that_sleeps_is_not_waited_for_and_learns_what_it_missed(self, receiver: Receiver) -> None:
        """Its queue is short."""
        journal = Journal(receiver.path)
        assert any(not journal.send("x", 6, {}, patient=False) for _ in range(10_000))
        assert not journal.send("x", 6, {}, patient=True)
        assert receiver.entries()
        assert journal.send("x", 6, {}, patient=True)
