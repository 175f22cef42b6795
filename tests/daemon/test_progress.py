"""The moving line of a pass on a terminal."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress

from streamer.base.events import Committed, Event, Quiet
from streamer.daemon.observers.progress import _Counts, shown
from tests.helpers.producer import add_outcome, dialogue, jsonl, make_traces, settings, work_off

if TYPE_CHECKING:
    from pathlib import Path


def passed(folder: Path) -> list[Event]:
    """Return the events of a pass over a good line and a bad one, in two batches."""
    (folder / "shards").mkdir()
    add_outcome(make_traces(folder / "traces.db"), "run", 3, 9)
    (folder / "shards" / "a.jsonl").write_bytes(jsonl(dialogue("run"), "nonsense"))
    return work_off(settings(folder, batch=1))


def test_batches_are_counted_and_other_events_passed_on(tmp_path: Path) -> None:
    """The log would break the line with every batch."""
    others: list[Event] = []
    with Progress(console=Console(file=io.StringIO())) as progress:
        emit = _Counts(progress).over(others.append)
        for event in (events := passed(tmp_path)):
            emit(event)
        assert progress.tasks[0].description == "2 lines read, 1 records appended"
    assert others == [event for event in events if not isinstance(event, Committed | Quiet)]
    assert others


def test_without_a_terminal_all_events_are_passed_on() -> None:
    """A file or a pipe gets the log as it is."""
    others: list[Event] = []
    with shown(stream_is_tty=False) as over:
        assert over(others.append) == others.append


def test_on_a_terminal_the_line_is_gone_in_the_end(tmp_path: Path) -> None:
    """Batches do not reach the log."""
    others: list[Event] = []
    with shown(stream_is_tty=True) as over:
        emit = over(others.append)
        for event in passed(tmp_path):
            emit(event)
    assert not any(isinstance(event, Committed | Quiet) for event in others)
