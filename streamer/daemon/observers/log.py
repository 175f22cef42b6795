"""Events as lines on stderr: for a person, for a machine, or for the journal.

An event has its own level and its own sentence; this file only renders it, with structlog. In each format, one
event is one line, text from outside cannot leave that line or steer a terminal, and a log that cannot be written
costs lines, never the daemon.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import select
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from streamer.base.text import printable
from streamer.config import LogFormat
from streamer.daemon.observers import journal
from streamer.daemon.observers.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import TextIO

    from structlog.typing import EventDict, Processor, WrappedLogger

    from streamer.base.events import Event
    from streamer.config import Log

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3}
_LONGEST_TEXT = 1000
_LONGEST_ITEM = 200
"""Characters of one text in a list; one journal entry holds a hundred of them."""

_JOURNAL_NAMES = {"name": "STREAMER_EVENT", "runs": "STREAMER_RUN_ID"}
"""Fields of the journal with other names than those of events."""

_PATIENCE_MS = 100


class _Write(Protocol):
    """Writes an event to the log, with the dataset's name if there are several."""

    def __call__(self, event: Event, dataset: str = "") -> None:
        """Write one event."""


def configure(
    log: Log, environ: Mapping[str, str], stream: TextIO | None, journal_socket: Path = journal.SOCKET
) -> _Write:
    """Return the function that writes an event to the log.

    Nothing global is set; after a reload, call it again with the new level.

    Args:
        log: Lowest level that is written, and the format.
        environ: ``JOURNAL_STREAM`` names the stream that the journal reads; ``NO_COLOR`` and ``TERM=dumb`` turn
            colours off.
        stream: Destination of the lines, usually ``sys.stderr``, which is None if it was closed at start.
        journal_socket: Socket of the journal; used if it exists and the journal reads the stream.
    """
    chosen = _detect(environ, stream) if log.format is LogFormat.AUTO else log.format
    sink: _Lines | _Entries
    rendering: list[Processor]
    if chosen is LogFormat.JOURNALD and journal_socket.exists() and _is_journal(environ, stream):
        sink, rendering = _Entries(Journal(journal_socket)), [_as_journal_entry]
    else:
        sink, rendering = _Lines(stream), _rendering(chosen, environ, stream)
    logger = structlog.wrap_logger(
        sink,
        processors=[structlog.processors.add_log_level, _losses(sink), *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[log.level]),
        context_class=dict,
    ).bind()

    def write(event: Event, dataset: str = "") -> None:
        # Bound rather than passed, so that a field named "event" cannot clash with the message.
        bound = logger.bind(**_fields(event), name=event.name)
        if dataset:
            bound = bound.bind(dataset=_plain(dataset))
        bound.log(_LEVELS[event.level], _plain(event.message()))

    return write


def _fields(event: Event) -> dict[str, Any]:
    return {field.name: _plain(getattr(event, field.name)) for field in dataclasses.fields(event) if field.repr}


def _plain(value: object) -> object:
    """Return a value that each format can show: no hostile character, no endless text, no NaN."""
    if isinstance(value, tuple):
        return [_cut(str(item), _LONGEST_ITEM) for item in value]
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return _cut(str(value), _LONGEST_TEXT)


def _cut(text: str, longest: int) -> str:
    return printable(text if len(text) <= longest else f"{text[:longest]}…")


def _rendering(chosen: LogFormat, environ: Mapping[str, str], stream: TextIO | None) -> list[Processor]:
    if chosen is LogFormat.JOURNALD:
        return [_as_journal_line]
    if chosen is LogFormat.JSON:
        return [structlog.processors.TimeStamper(fmt="iso", utc=True), _as_json]
    colors = _is_tty(stream) and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
    stamp = structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False)
    return [stamp, _without_name, structlog.dev.ConsoleRenderer(colors=colors)]


def _detect(environ: Mapping[str, str], stream: TextIO | None) -> LogFormat:
    if _is_journal(environ, stream):
        return LogFormat.JOURNALD
    return LogFormat.CONSOLE if _is_tty(stream) else LogFormat.JSON


def _is_journal(environ: Mapping[str, str], stream: TextIO | None) -> bool:
    """Return whether ``JOURNAL_STREAM`` names this stream; it may have been redirected."""
    fd = _fileno(stream)
    if fd is None:
        return False
    status = os.fstat(fd)
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _is_tty(stream: TextIO | None) -> bool:
    fd = _fileno(stream)
    return fd is not None and os.isatty(fd)


def _fileno(stream: TextIO | None) -> int | None:
    """Return the open file descriptor of a stream, or None."""
    if stream is None:
        return None
    try:
        fd = stream.fileno()
        os.fstat(fd)
    except (OSError, ValueError):
        return None
    return fd


def _without_name(_logger: WrappedLogger, _method: str, entry: EventDict) -> EventDict:
    del entry["name"]
    return entry


def _as_json(_logger: WrappedLogger, _method: str, entry: EventDict) -> str:
    head = {
        "time": entry.pop("timestamp"),
        "level": entry.pop("level"),
        "event": entry.pop("name"),
        "message": entry.pop("event"),
    }
    return json.dumps({**head, **entry})


def _as_journal_line(_logger: WrappedLogger, _method: str, entry: EventDict) -> str:
    """Return ``<N>message key=value``; N is the priority, and the journal adds the time."""
    priority = _PRIORITIES[entry.pop("level")]
    message = entry.pop("event")
    del entry["name"]
    return " ".join([f"<{priority}>{message}", *(f"{key}={_quoted(value)}" for key, value in entry.items())])


def _as_journal_entry(_logger: WrappedLogger, _method: str, entry: EventDict) -> EventDict:
    """Return the arguments of :meth:`_Entries.msg`: message, priority, and the fields under the journal's names."""
    priority = _PRIORITIES[entry.pop("level")]
    message = entry.pop("event")
    fields = {_JOURNAL_NAMES.get(key, f"STREAMER_{key}"): value for key, value in entry.items()}
    return {"message": message, "priority": priority, "fields": {"SYSLOG_IDENTIFIER": "streamer", **fields}}


def _quoted(value: object) -> str:
    if isinstance(value, str) and value and not any(char in ' "=' for char in value):
        return value
    return json.dumps(value, ensure_ascii=False)


class _Lines:
    """Writes lines to a stream that may be slow, closed or gone; drops and counts those that it does not take.

    A pipe whose reader sleeps, or a journal that restarts, must not block the daemon. So after one short wait that
    was in vain, lines are dropped without a wait until the stream takes one again.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.lost = 0
        self._stream = stream
        self._poll = select.poll()
        self._fd = _fileno(stream)
        if self._fd is not None:
            self._poll.register(self._fd, select.POLLOUT)

    def msg(self, line: str) -> None:
        """Write one line, or drop it."""
        self.lost = 0 if self._write(line) else self.lost + 1

    debug = info = warning = error = msg

    def _write(self, line: str) -> bool:
        if self._stream is None or not self._has_room():
            return False
        try:
            self._stream.write(f"{line}\n")
            self._stream.flush()
        except (OSError, ValueError):
            return False
        return True

    def _has_room(self) -> bool:
        return self._fd is None or bool(self._poll.poll(0 if self.lost else _PATIENCE_MS))


class _Entries:
    """Sends entries to the journal; drops and counts those that it does not take."""

    def __init__(self, receiver: Journal) -> None:
        self.lost = 0
        self._journal = receiver

    def msg(self, *, message: str, priority: int, fields: Mapping[str, journal.Field]) -> None:
        """Send one entry, or drop it."""
        took = self._journal.send(message, priority, fields, patient=not self.lost)
        self.lost = 0 if took else self.lost + 1

    debug = info = warning = error = msg


def _losses(sink: _Lines | _Entries) -> Processor:
    """Return a processor that adds the number of lost lines to the first line after a loss."""

    def add(_logger: WrappedLogger, _method: str, entry: EventDict) -> EventDict:
        if sink.lost:
            entry["log_lines_lost"] = sink.lost
        return entry

    return add
