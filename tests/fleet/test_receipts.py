"""Receipts, the evidence on which lines are sent again, and the lines that a writer remembers of collectors."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.config.fleet_names import host_name, is_name, parse_partitions, partition_of
from streamer.fleet import producers
from streamer.fleet.message import MessageId
from streamer.fleet.partition_state import PartitionState
from streamer.fleet.producers import MOST_RANGES, Held, extended, high_watermark
from streamer.fleet.receipts import MOST_MARKS, Mark, Receipt, is_lost, read_ask, read_receipts, thinned
from streamer.store.ledger.delivery import Delivered

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = "incarnation 1"


def answer(number: int = 0, **more: object) -> Receipt:
    """Return an answer to a question, of a stream in which all is on its way."""
    values = {"incarnation": NOW, "ack_floor": 0, "last": 1 << 40} | more
    return Receipt(0, "host.a", "life", number, **values)  # type: ignore[arg-type]


def mark(number: int, sequence: int | None = None, order: int | None = None, incarnation: str = NOW) -> Mark:
    """Return the mark of a line that was acknowledged in its turn."""
    return Mark(number, number * 100, sequence or number, incarnation, order or number)


class TestEvidence:
    """Answers that prove that a line cannot arrive any more."""

    def test_a_writer_that_is_behind_is_no_evidence(self) -> None:
        """Lines that wait in the stream are not sent again, however long they wait."""
        assert not is_lost([mark(1), mark(2), mark(3)], answer(1, ack_floor=1), asked=3)

    def test_what_was_taken_without_being_held_is_lost(self) -> None:
        """The writer has gone past it."""
        assert is_lost([mark(1), mark(2), mark(3)], answer(1, ack_floor=2), asked=3)

    def test_a_stream_that_was_made_anew_has_lost_what_the_old_one_held(self) -> None:
        """Its sequences say nothing of ours."""
        assert is_lost([mark(1)], answer(0, incarnation="incarnation 2"), asked=1)

    def test_a_stream_that_has_not_come_so_far_has_lost_its_end(self) -> None:
        """It acknowledged a sequence that it has not assigned yet."""
        assert is_lost([mark(5, sequence=50)], answer(0, last=49), asked=9)

    def test_an_idle_writer_has_nothing_to_come(self) -> None:
        """The writer has taken every message of the stream."""
        assert is_lost([mark(1)], answer(0, idle=True), asked=1)

    def test_what_was_acknowledged_after_the_question_may_be_on_its_way(self) -> None:
        """The answer may be older than the acknowledgement."""
        assert not is_lost([mark(1, order=2)], answer(0, idle=True, ack_floor=9, last=0), asked=1)

    def test_what_is_said_unasked_is_no_evidence(self) -> None:
        """A receipt sent unasked may be old."""
        assert not is_lost([mark(1)], Receipt(0, "host.a", "life", 0, idle=True, ack_floor=9), asked=1)

    @given(st.lists(st.integers(1, 60), unique=True), st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))
    def test_only_what_is_not_held_and_was_gone_past_is_lost(
        self, numbers: list[int], held: int, floor: int, asked: int
    ) -> None:
        """The rule holds for all cases of one stream."""
        marks = [mark(number) for number in numbers]
        expected = any(held < number <= floor and number <= asked for number in numbers)
        assert is_lost(marks, answer(held, ack_floor=floor), asked) is expected

    @given(st.integers(1, 5000))
    def test_marks_stay_few_and_the_last_one_stays(self, count: int) -> None:
        """Their number does not grow with the lines that wait."""
        marks: list[Mark] = []
        for number in range(1, count + 1):
            marks = thinned([*marks, mark(number)])
        assert len(marks) <= MOST_MARKS
        assert marks[-1].sequence == count
        assert [one.sequence for one in marks] == sorted({one.sequence for one in marks})

    @pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"\xff", b"[" * 9999, b'{"origin":1}', b'[{"bucket":"x"}]'])
    def test_what_is_no_receipt_and_no_question_is_passed_over(self, data: bytes) -> None:
        """Invalid data is ignored."""
        assert read_receipts(data) == []
        assert read_ask(data) is None

    def test_a_question_names_a_collector(self) -> None:
        """Nothing is looked up for an invalid name."""
        assert read_ask(b'{"origin":"host.a1","life":"b2"}') is not None
        assert read_ask(b'{"origin":"host.*","life":"b2"}') is None
        assert read_ask(b'{"origin":"host.a1","life":"B 2"}') is None


class TestPartitionState:
    """One partition of an uplink."""

    def test_lines_are_delivered_in_the_end_and_counted(self) -> None:
        """A line counts as delivered once it is acknowledged and held."""
        state = PartitionState(Delivered(50, 7))
        assert not state.is_new(50)
        assert [state.assign(place) for place in (100, 200, 300)] == [1, 2, 3]
        assert (state.waiting, state.low_watermark) == (3, 100)
        for number in (1, 2, 3):
            state.acknowledged(mark(number))
        state.receive(answer(2))
        assert (state.delivered, state.waiting, state.low_watermark) == (Delivered(200, 9), 1, 200)
        state.receive(answer(3))
        assert (state.delivered, state.waiting, state.low_watermark) == (Delivered(300, 10), 0, None)

    def test_a_receipt_that_is_faster_than_the_stream_waits_for_it(self) -> None:
        """A writer may hold a line before its acknowledgement arrives."""
        state = PartitionState(Delivered())
        state.assign(0)
        state.receive(answer(1))
        assert state.waiting == 1
        state.acknowledged(Mark(1, 0, 1, NOW, 1))
        assert (state.delivered, state.waiting) == (Delivered(0, 1), 0)

    def test_a_receipt_for_what_was_never_sent_delivers_nothing(self) -> None:
        """A receipt raises the high watermark at most to the last sequence assigned."""
        state = PartitionState(Delivered())
        state.receive(answer(1 << 60))
        state.assign(0)
        state.acknowledged(Mark(1, 0, 1, NOW, 1))
        assert state.waiting == 1

    def test_what_is_sent_again_begins_behind_what_is_held(self) -> None:
        """Evidence from before the rewind does not count any more."""
        state = PartitionState(Delivered())
        for number in (1, 2, 3):
            state.assign(number * 100)
            state.acknowledged(mark(number))
        found = answer(1, ack_floor=3)
        state.receive(found)
        assert state.is_lost(found, asked=3)
        assert state.rewind() == (1, 100)
        assert not state.is_lost(found, asked=3)
        state.acknowledged(mark(2, sequence=4, order=4))
        assert not state.is_lost(answer(1, ack_floor=3), asked=4)
        assert state.is_lost(answer(1, ack_floor=4), asked=4)


class TestProducers:
    """Lines that a writer remembers of its collectors."""

    @given(st.lists(st.lists(st.integers(1, 90))))
    def test_ranges_hold_what_was_put_into_them(self, batches: list[list[int]]) -> None:
        """The order and repetitions of sequences do not matter."""
        ranges: producers.Ranges = ()
        for numbers in batches:
            ranges = extended(ranges, numbers)
        held = {number for numbers in batches for number in numbers}
        assert {n for first, last in ranges for n in range(first, last + 1)} == held
        assert high_watermark(ranges) == next(n for n in range(1, 93) if n not in held) - 1
        assert all(before[1] + 1 < after[0] for before, after in pairwise(ranges))

    def test_ranges_that_are_too_many_are_forgotten_from_the_end(self) -> None:
        """A collector with unordered sequences has its lines sent again, and costs no memory."""
        ranges = extended((), range(1, 10_000, 2))
        assert len(ranges) == MOST_RANGES
        assert high_watermark(ranges) == 1

    @pytest.fixture
    def db(self) -> Iterator[sqlite3.Connection]:
        """Return a ledger with the tables that are needed."""
        with closing(sqlite3.connect(":memory:")) as db:
            db.execute("CREATE TABLE record (key BLOB PRIMARY KEY)")
            producers.prepare(db)
            yield db

    def test_what_was_taken_is_held_up_to_the_first_gap(self, db: sqlite3.Connection) -> None:
        """Filling the gap raises the high watermark."""
        for numbers, expected in (([1, 2], 2), ([4], 2), ([3], 4)):
            held = [Held(MessageId("h.a", "l", number), 5) for number in numbers]
            assert producers.store(db, held, 0.0) == {("h.a", 5, "l"): expected}
        assert producers.held_up_to(db, "h.a", 5, "l") == 4
        assert producers.held_up_to(db, "h.a", 6, "l") == 0
        assert producers.already_held(db, [(5, MessageId("h.a", "l", 3)), (5, MessageId("h.a", "l", 9))]) == {
            (5, MessageId("h.a", "l", 3))
        }

    def test_a_key_that_another_one_sent_is_held_if_it_is_there(self, db: sqlite3.Connection) -> None:
        """A key that a collector claims counts only if the ledger has it."""
        db.execute("INSERT INTO record VALUES (?)", (b"there",))
        held = [Held(MessageId("h.a", "l", 1), 0, b"there"), Held(MessageId("h.a", "l", 2), 0, b"not there")]
        assert producers.store(db, held, 0.0) == {("h.a", 0, "l"): 1}

    def test_lives_that_are_long_over_are_forgotten(self, db: sqlite3.Connection) -> None:
        """A collector that starts every minute does not fill the ledger."""
        for epoch in range(200):
            producers.store(db, [Held(MessageId("h.a", str(epoch), 1), 0)], 0.0)
        (rows,) = db.execute("SELECT count(*) FROM origin").fetchone()
        assert rows == 16
        assert producers.held_up_to(db, "h.a", 0, "199") == 1
        assert producers.held_up_to(db, "h.a", 0, "0") == 0

    def test_a_writer_keeps_its_name(self, db: sqlite3.Connection) -> None:
        """Partitions are owned under this name."""
        assert producers.name_writer(db, "one") == "one"
        assert producers.name_writer(db, "two") == "one"


class TestNames:
    """Names and partitions."""

    @given(st.text())
    def test_every_host_has_a_name_that_can_be_used(self, text: str) -> None:
        """Any machine name becomes a valid name."""
        name = host_name(text)
        assert is_name(name) or name in ("ask", "receipt", "alive")

    @given(st.binary(min_size=16, max_size=16), st.integers(1, 4096))
    def test_every_key_has_one_bucket(self, key: bytes, partitions: int) -> None:
        """It is one of the existing partitions."""
        assert 0 <= partition_of(key, partitions) < partitions

    def test_buckets_are_read(self) -> None:
        """Single ones and ranges."""
        assert parse_partitions("0-2,7") == frozenset({0, 1, 2, 7})
        assert parse_partitions("") is None

    def test_receipts_travel_as_they_are(self) -> None:
        """An answer is decoded as it was encoded."""
        found = answer(3, idle=True)
        assert read_receipts(msgspec.json.encode([found])) == [found]
