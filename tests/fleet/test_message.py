"""Messages: decoding returns the encoded message, and rejects everything else."""

from __future__ import annotations

import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.core.records.dataset_line import line_key
from streamer.core.records.key import DedupBy
from streamer.core.records.layouts import MalformedError
from streamer.fleet.message import (
    ENCODING,
    EPOCH,
    HOLDS,
    LAST_SEQUENCE,
    OBJECT,
    PRODUCER,
    SEQUENCE,
    SKIPPED,
    Message,
    MessageId,
    headers,
    pack,
    read,
    record,
    unpack,
)

LINE = (
    b'{"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"ho"}],'
    b'"metadata":{"run_id":"r","turn":0,"timestamp":null}}\n'
)
PLACES = st.builds(
    MessageId,
    st.from_regex(r"[A-Za-z0-9_-]{1,64}\.[a-z0-9]{1,32}", fullmatch=True),
    st.from_regex(r"[a-z0-9]{1,32}", fullmatch=True),
    st.integers(1, LAST_SEQUENCE),
)
BODIES = st.binary(min_size=1, max_size=50)
OBJECTS = st.from_regex(r"[A-Za-z0-9._-]{1,200}", fullmatch=True)
KEYS = st.binary(min_size=16, max_size=16)
MESSAGES = st.one_of(
    st.builds(Message, PLACES, BODIES, packed=st.booleans()),
    st.builds(Message, PLACES, packed=st.just(value=True), object=OBJECTS, holds=KEYS),
    st.builds(Message, PLACES, holds=KEYS),
    st.builds(Message, PLACES, skipped=st.just(value=True)),
)
HEADER = {PRODUCER: "host.1a", EPOCH: "2b", SEQUENCE: "7"}


def refused(found: dict[str, str] | None, body: bytes = b"x") -> str:
    """Return the reason for which a message is set aside."""
    with pytest.raises(MalformedError) as caught:
        read(found, body)
    return caught.value.reason


@given(MESSAGES)
def test_what_was_written_is_read(message: Message) -> None:
    """Headers and body hold the whole message."""
    assert read(headers(message, "s", "id"), message.body) == message


@given(
    st.none()
    | st.dictionaries(
        st.sampled_from([PRODUCER, EPOCH, SEQUENCE, ENCODING, OBJECT, HOLDS, SKIPPED]),
        st.text(max_size=80) | st.sampled_from(["host.1a", "2b", "7", "zlib", "ab" * 16]),
    ),
    st.binary(max_size=20),
)
def test_any_headers_are_read_or_refused_for_a_counted_reason(found: dict[str, str] | None, body: bytes) -> None:
    """No input ends in another error, and a decoded message holds only safe names."""
    try:
        message = read(found, body)
    except MalformedError:
        assert refused(found, body) == "bad_header"
        return
    assert message.is_record or message.skipped or message.holds is not None
    assert "/" not in message.object
    assert 1 <= message.id.sequence <= LAST_SEQUENCE


@pytest.mark.parametrize(
    "change",
    [
        {PRODUCER: "host"},
        {PRODUCER: "a.b.c"},
        {PRODUCER: "*.>"},
        {EPOCH: "../x"},
        {SEQUENCE: "0"},
        {SEQUENCE: "-1"},
        {SEQUENCE: "7.5"},
        {SEQUENCE: "\u0667"},
        {SEQUENCE: "9" * 5000},
        {ENCODING: "gzip"},
        {OBJECT: "../../etc"},
        {HOLDS: "zz"},
        {HOLDS: "ab"},
        {PRODUCER: "h" * (1 << 20)},
    ],
)
def test_a_header_that_is_not_ours_is_refused(change: dict[str, str]) -> None:
    """A number that is none, a name that leads elsewhere, a mebibyte of either."""
    assert refused(HEADER | change) == "bad_header"


def test_a_record_has_a_body_and_what_is_none_has_not() -> None:
    """A message without a body gives the reason, and one with a body gives none."""
    assert refused(HEADER, b"") == "bad_header"
    assert refused(HEADER | {SKIPPED: "1"}) == "bad_header"
    assert refused(HEADER | {HOLDS: "ab" * 16}) == "bad_header"


def test_a_record_has_the_key_of_its_line() -> None:
    """It is computed from the line alone."""
    found = record(LINE, DedupBy.CONVERSATION)
    assert found.key == line_key(LINE, DedupBy.CONVERSATION)
    assert (found.line, found.session) == (LINE, "r")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        LINE[:-1],
        LINE + LINE,
        b"\n" + LINE,
        LINE.replace(b"hi", "\u2028".encode()),
        LINE.replace(b"hi", b"\0"),
        LINE.replace(b"hi", b"\xff"),
        LINE.replace(b'"r"', b"7"),
        LINE.replace(b'"turn":0,', b""),
        b'{"messages":1,"metadata":{"run_id":"r","turn":0,"timestamp":null}}\n',
        b"[" * 100_000 + b"\n",
        b"{}\n",
    ],
)
def test_what_is_no_line_of_a_dataset_is_refused(line: bytes) -> None:
    """Only complete lines in the dataset's format reach its readers."""
    with pytest.raises(MalformedError) as caught:
        record(line, DedupBy.CONVERSATION)
    assert caught.value.reason == "not_a_record"


@given(st.binary(max_size=2000))
def test_what_was_packed_is_unpacked(line: bytes) -> None:
    """Unpacking returns the same bytes."""
    assert unpack(pack(line)) == line


def test_what_would_unpack_to_too_much_is_not_unpacked() -> None:
    """A few bytes can stand for gigabytes: no more than the limit is unpacked."""
    bomb = zlib.compress(b"0" * (64 << 20), 9)
    with pytest.raises(MalformedError) as caught:
        unpack(bomb, longest=1 << 20)
    assert caught.value.reason == "too_long"


@pytest.mark.parametrize("body", [b"", b"x", pack(LINE)[:-3], pack(LINE) + b"x"])
def test_what_is_not_packed_as_we_do_is_refused(body: bytes) -> None:
    """Torn, followed by something, or something else from the start."""
    with pytest.raises(MalformedError) as caught:
        unpack(body)
    assert caught.value.reason == "bad_encoding"


def test_a_message_is_as_long_as_it_says() -> None:
    """The headers of the longest names fit into the room that is kept for them."""
    place = MessageId("h" * 64 + "." + "a" * 32, "b" * 32, LAST_SEQUENCE)
    message = Message(place, packed=True, object="o" * 200, holds=b"k" * 16)
    found = headers(message, "p" * 64 + "-" + "d" * 64, "i" * 100)
    size = sum(len(name) + len(value) + 4 for name, value in found.items()) + len("NATS/1.0\r\n\r\n")
    assert size < 1024
    assert msgspec.json.decode(msgspec.json.encode(place), type=MessageId) == place
