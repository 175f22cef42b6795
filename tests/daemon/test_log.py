"""Events become lines that are safe to show, and that may be lost, but never stop the daemon."""

from __future__ import annotations

import io
import json
import os
import re
from dataclasses import dataclass
from typing import TextIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.base.events import Event
from streamer.base.text import printable
from streamer.config import Log, LogFormat, LogLevel
from streamer.daemon.observers.log import configure

HOSTILE = "a\n\r\t\x00\x1b[2J\x7f\x85\x9b\u2028\u2029\u202a\u202e\u2066\u2069\udcff\ufeffb"
SHOWN = r"a\n\r\t\x00\x1b[2J\x7f\x85\x9b\u2028\u2029\u202a\u202e\u2066\u2069\udcff\ufeffb"
FORBIDDEN = set(HOSTILE) - set("ab[2J")
FORMATS = [LogFormat.CONSOLE, LogFormat.JSON, LogFormat.JOURNALD]


@dataclass(frozen=True)
class Found(Event):
    """A shard was found."""

    name = "found"
    shard: object
    lines: int = 3

    def message(self) -> str:
        """Say what was found."""
        return f"found {self.shard}"


@dataclass(frozen=True)
class Alarm(Event):
    """Something is wrong."""

    name = "alarm"
    level = "error"

    def message(self) -> str:
        """Say so."""
        return "100 % wrong"


@dataclass(frozen=True)
class Whisper(Event):
    """Something that hardly matters."""

    name = "whisper"
    level = "debug"


@dataclass(frozen=True)
class Clash(Event):
    """An event whose fields are named as the log's own."""

    name = "clash"
    event: str = "field"
    timestamp: str = "field"


def written(log: Log, *events: Event, environ: dict[str, str] | None = None) -> list[str]:
    """Return the lines that events become."""
    stream = io.StringIO()
    write = configure(log, environ or {}, stream)
    for event in events:
        write(event)
    text = stream.getvalue()
    assert text == "" or text.endswith("\n")
    return text.split("\n")[:-1]


class TestPrintable:
    """Text from outside."""

    def test_every_hostile_character_is_shown_as_an_escape(self) -> None:
        """Control characters, separators, marks of direction, lone surrogates."""
        assert printable(HOSTILE) == SHOWN

    def test_ordinary_text_stays_as_it_is(self) -> None:
        """Any language, any emoji, and backslashes."""
        text = "C:\\n caf\u00e9 \u4f60\u597d \u05e9\u05dc\u05d5\u05dd \U0001f469\u200d\U0001f680"
        assert printable(text) == text

    @settings(deadline=None)
    @given(text=st.text(st.characters()))
    def test_the_result_is_one_line_of_utf8_whatever_goes_in(self, text: str) -> None:
        """And doing it twice changes nothing."""
        shown = printable(text)
        assert len(f"{shown}|".splitlines()) == 1
        assert shown.encode().decode() == shown
        assert printable(shown) == shown


class TestFormats:
    """What a line looks like."""

    def test_json_is_one_object_a_line(self) -> None:
        """Time, level, event and message first, then the event's own fields."""
        (line,) = written(Log(format=LogFormat.JSON), Found("s.jsonl"))
        entry = json.loads(line)
        assert list(entry) == ["time", "level", "event", "message", "shard", "lines"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", entry.pop("time"))
        assert entry == {
            "level": "info",
            "event": "found",
            "message": "found s.jsonl",
            "shard": "s.jsonl",
            "lines": 3,
        }

    def test_the_journal_gets_priority_message_and_fields(self) -> None:
        """As sd-daemon(3) describes; the journal adds the time itself."""
        lines = written(Log(format=LogFormat.JOURNALD), Found("a b"), Alarm())
        assert lines == ['<6>found a b shard="a b" lines=3', "<3>100 % wrong"]

    def test_the_console_is_for_people(self) -> None:
        """Time, level, sentence, fields; no colours where no terminal is."""
        (line,) = written(Log(format=LogFormat.CONSOLE), Found("s.jsonl"))
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \[info +\] found s\.jsonl +lines=3 shard=s\.jsonl$", line)

    @pytest.mark.parametrize("chosen", FORMATS)
    def test_text_from_outside_stays_on_its_line_and_steers_nothing(self, chosen: LogFormat) -> None:
        """In the message and in the fields, in every format."""
        (line,) = written(Log(format=chosen), Found(HOSTILE))
        assert not set(line) & FORBIDDEN
        assert "u202e" in line

    @pytest.mark.parametrize("chosen", FORMATS)
    @settings(deadline=None)
    @given(text=st.text(st.characters()))
    def test_any_text_becomes_one_line(self, chosen: LogFormat, text: str) -> None:
        """Whatever a producer may call its runs."""
        (line,) = written(Log(format=chosen), Found(text))
        assert len(f"{line}|".splitlines()) == 1
        assert line.encode().decode() == line

    @pytest.mark.parametrize("chosen", FORMATS)
    def test_endless_text_is_cut(self, chosen: LogFormat) -> None:
        """A run id of megabytes does not fill a disk."""
        (line,) = written(Log(format=chosen), Found("x" * 9_000_000))
        assert len(line) < 5000

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), b"x", LogLevel.INFO])
    def test_json_takes_whatever_a_field_holds(self, value: object) -> None:
        """What JSON does not know becomes text."""
        (line,) = written(Log(format=LogFormat.JSON), Found(value))
        assert json.loads(line, parse_constant=pytest.fail)["shard"] == str(value)

    @pytest.mark.parametrize("value", [None, True, 3, -0.5])
    def test_json_keeps_the_types_that_it_knows(self, value: object) -> None:
        """Numbers stay numbers."""
        (line,) = written(Log(format=LogFormat.JSON), Found(value))
        assert json.loads(line)["shard"] == value

    @pytest.mark.parametrize("chosen", FORMATS)
    def test_a_field_cannot_take_the_place_of_the_message(self, chosen: LogFormat) -> None:
        """Whatever the fields of an event are called."""
        (line,) = written(Log(format=chosen), Clash())
        assert "clash" in line


class TestLevels:
    """Which events are written."""

    @pytest.mark.parametrize(
        ("level", "count"),
        [(LogLevel.DEBUG, 3), (LogLevel.INFO, 2), (LogLevel.WARNING, 1), (LogLevel.ERROR, 1)],
    )
    def test_only_events_of_the_level_or_above_are_written(self, level: LogLevel, count: int) -> None:
        """An event brings its own level."""
        assert len(written(Log(level, LogFormat.JOURNALD), Whisper(), Found("s"), Alarm())) == count

    def test_a_second_configuration_takes_over_at_once(self) -> None:
        """Nothing global keeps the level of before a reload."""
        stream = io.StringIO()
        configure(Log(LogLevel.ERROR, LogFormat.JOURNALD), {}, stream)(Found("s"))
        configure(Log(LogLevel.DEBUG, LogFormat.JOURNALD), {}, stream)(Whisper())
        assert stream.getvalue() == "<7>whisper\n"


class TestAuto:
    """Which format is chosen if none is."""

    def test_a_pipe_gets_json(self) -> None:
        """Someone collects it."""
        (line,) = written(Log(), Alarm())
        assert json.loads(line)["event"] == "alarm"

    def test_a_terminal_gets_the_console_in_colours(self) -> None:
        """Someone looks at it."""
        assert "\x1b[" in on_terminal({"TERM": "xterm"})

    @pytest.mark.parametrize("environ", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
    def test_a_terminal_that_wants_no_colours_gets_none(self, environ: dict[str, str]) -> None:
        """By the usual variables."""
        text = on_terminal(environ)
        assert "[error" in text
        assert "\x1b" not in text

    def test_the_journals_own_stream_gets_priorities(self) -> None:
        """JOURNAL_STREAM names the device and inode of the stream."""
        reader, stream = pipe()
        with reader, stream:
            status = os.fstat(stream.fileno())
            environ = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
            configure(Log(), environ, stream)(Alarm())
            assert reader.readline() == "<3>100 % wrong\n"

    def test_a_stream_that_was_redirected_away_from_the_journal_gets_json(self) -> None:
        """The variable alone says nothing."""
        (line,) = written(Log(), Alarm(), environ={"JOURNAL_STREAM": "8:1"})
        assert json.loads(line)["level"] == "error"


class TestLoss:
    """A log that cannot be written costs lines, never the daemon."""

    def test_without_stderr_nothing_happens(self) -> None:
        """Python has None for a stream that was closed when it started."""
        configure(Log(), {}, None)(Alarm())

    def test_a_closed_stream_does_no_harm(self) -> None:
        """Closed before or after the set-up."""
        reader, stream = pipe()
        write = configure(Log(), {}, stream)
        stream.close()
        reader.close()
        write(Alarm())
        configure(Log(), {}, stream)(Alarm())

    def test_a_closed_descriptor_does_no_harm(self) -> None:
        """The stream does not know that its descriptor is gone."""
        reader, stream = pipe()
        write = configure(Log(), {}, stream)
        os.close(stream.fileno())
        write(Alarm())
        with pytest.raises(OSError, match="Bad file descriptor"):
            stream.close()
        reader.close()

    def test_a_reader_that_is_gone_does_no_harm(self) -> None:
        """`streamer run 2>&1 | head` goes on."""
        reader, stream = pipe()
        reader.close()
        write = configure(Log(), {}, stream)
        for _ in range(3):
            write(Alarm())
        with pytest.raises(BrokenPipeError):
            stream.close()

    def test_a_full_disk_does_no_harm(self) -> None:
        """Every write to /dev/full fails."""
        stream = open("/dev/full", "w")  # noqa: SIM115
        write = configure(Log(), {}, stream)
        write(Alarm())
        write(Alarm())
        with pytest.raises(OSError, match="No space"):
            stream.close()

    def test_a_reader_that_sleeps_does_not_stop_the_daemon_and_learns_what_it_missed(self) -> None:
        """A full pipe takes no more lines; the first one that it takes again says how many were lost."""
        reader, stream = pipe()
        with reader, stream:
            filled = fill(stream)
            write = configure(Log(format=LogFormat.JOURNALD), {}, stream)
            for _ in range(1000):
                write(Alarm())
            assert len(reader.read(filled)) == filled
            write(Alarm())
            write(Alarm())
            assert reader.readline() == "<3>100 % wrong log_lines_lost=1000\n"
            assert reader.readline() == "<3>100 % wrong\n"

    @pytest.mark.parametrize("chosen", FORMATS)
    def test_a_stream_that_knows_ascii_only_loses_no_line(self, chosen: LogFormat) -> None:
        """As stderr is in the C locale: what it cannot show, it escapes."""
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, encoding="ascii", errors="backslashreplace")
        configure(Log(format=chosen), {}, stream)(Found("caf\u00e9"))
        assert b"caf\\" in raw.getvalue()


def pipe() -> tuple[TextIO, TextIO]:
    """Return the two ends of a pipe, the writing one buffered by the line, as stderr is."""
    out, into = os.pipe()
    return os.fdopen(out, "r"), os.fdopen(into, "w", buffering=1)


def fill(stream: TextIO) -> int:
    """Fill a pipe to the brim and return how many bytes that took."""
    count = 0
    os.set_blocking(stream.fileno(), False)
    try:
        while True:
            count += os.write(stream.fileno(), b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(stream.fileno(), True)
        return count


def on_terminal(environ: dict[str, str]) -> str:
    """Return what a terminal gets for one event."""
    leader, follower = os.openpty()
    with os.fdopen(follower, "w") as stream:
        configure(Log(), environ, stream)(Alarm())
        text = os.read(leader, 4096).decode()
    os.close(leader)
    return text
