"""Receipts, and the evidence on which lines are sent again; what a writer remembers of collectors."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.config.fleet_names import bucket_of, host_name, is_name, parse_buckets
from streamer.fleet import origins
from streamer.fleet.lane import Lane
from streamer.fleet.message import MessagePlace
from streamer.fleet.origins import MOST_RANGES, Held, extended, whole
from streamer.fleet.receipts import MOST_MARKS, Mark, Receipt, is_lost, read_ask, read_receipts, thinned
from streamer.store.ledger.delivery import Delivered

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = "incarnation 1"


def answer(number: int = 0, **more: object) -> Receipt:
    """Return an answer to a question, of a stream in which all is on its way."""
    values = {"incarnation": NOW, "floor": 0, "last": 1 << 40} | more
    return Receipt(0, "host.a", "life", number, **values)  # type: ignore[arg-type]


def mark(number: int, sequence: int | None = None, order: int | None = None, incarnation: str = NOW) -> Mark:
    """Return the mark of a line that was acknowledged in its turn."""
    return Mark(number, number * 100, sequence or number, incarnation, order or number)


class TestEvidence:
    """What shows that a line cannot be on its way any more."""

    def test_a_writer_that_is_behind_is_no_evidence(self) -> None:
        """What waits in the stream is not sent again, however long it waits there."""
        assert not is_lost([mark(1), mark(2), mark(3)], answer(1, floor=1), asked=3)

    def test_what_was_taken_without_being_held_is_lost(self) -> None:
        """The writer has gone past it."""
        assert is_lost([mark(1), mark(2), mark(3)], answer(1, floor=2), asked=3)

    def test_a_stream_that_was_made_anew_has_lost_what_the_old_one_held(self) -> None:
        """Its sequences say nothing of ours."""
        assert is_lost([mark(1)], answer(0, incarnation="incarnation 2"), asked=1)

    def test_a_stream_that_has_not_come_so_far_has_lost_its_end(self) -> None:
        """It acknowledged a sequence that it has not given."""
        assert is_lost([mark(5, sequence=50)], answer(0, last=49), asked=9)

    def test_an_idle_writer_has_nothing_to_come(self) -> None:
        """All that the stream has was taken."""
        assert is_lost([mark(1)], answer(0, idle=True), asked=1)

    def test_what_was_acknowledged_after_the_question_may_be_on_its_way(self) -> None:
        """The answer cannot know of it."""
        assert not is_lost([mark(1, order=2)], answer(0, idle=True, floor=9, last=0), asked=1)

    def test_what_is_said_unasked_is_no_evidence(self) -> None:
        """It may be old."""
        assert not is_lost([mark(1)], Receipt(0, "host.a", "life", 0, idle=True, floor=9), asked=1)

    @given(st.lists(st.integers(1, 60), unique=True), st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))
    def test_only_what_is_not_held_and_was_gone_past_is_lost(
        self, numbers: list[int], held: int, floor: int, asked: int
    ) -> None:
        """The rule, said once more over all cases of one stream."""
        marks = [mark(number) for number in numbers]
        expected = any(held < number <= floor and number <= asked for number in numbers)
        assert is_lost(marks, answer(held, floor=floor), asked) is expected

    @pytest.mark.slow
    @given(st.integers(1, 5000))
    def test_marks_stay_few_and_the_last_one_stays(self, count: int) -> None:
        """However many lines wait."""
        marks: list[Mark] = []
        for number in range(1, count + 1):
            marks = thinned([*marks, mark(number)])
        assert len(marks) <= MOST_MARKS
        assert marks[-1].number == count
        assert [one.number for one in marks] == sorted({one.number for one in marks})

    @pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"\xff", b"[" * 9999, b'{"origin":1}', b'[{"bucket":"x"}]'])
    def test_what_is_no_receipt_and_no_question_is_passed_over(self, data: bytes) -> None:
        """Whoever sends it."""
        assert read_receipts(data) == []
        assert read_ask(data) is None

    def test_a_question_names_a_collector(self) -> None:
        """Of another name nothing is looked up."""
        assert read_ask(b'{"origin":"host.a1","life":"b2"}') is not None
        assert read_ask(b'{"origin":"host.*","life":"b2"}') is None
        assert read_ask(b'{"origin":"host.a1","life":"B 2"}') is None


class TestLane:
    """One bucket of an uplink."""

    def test_lines_are_delivered_in_the_end_and_counted(self) -> None:
        """Numbered, acknowledged, held."""
        lane = Lane(Delivered(50, 7))
        assert not lane.takes(50)
        assert [lane.numbered(place) for place in (100, 200, 300)] == [1, 2, 3]
        assert (lane.waits, lane.floor) == (3, 100)
        for number in (1, 2, 3):
            lane.acknowledged(mark(number))
        lane.hear(answer(2))
        assert (lane.delivered, lane.waits, lane.floor) == (Delivered(200, 9), 1, 200)
        lane.hear(answer(3))
        assert (lane.delivered, lane.waits, lane.floor) == (Delivered(300, 10), 0, None)

    def test_a_receipt_that_is_faster_than_the_stream_waits_for_it(self) -> None:
        """A writer may have taken what is not acknowledged to us yet."""
        lane = Lane(Delivered())
        lane.numbered(0)
        lane.hear(answer(1))
        assert lane.waits == 1
        lane.acknowledged(Mark(1, 0, 1, NOW, 1))
        assert (lane.delivered, lane.waits) == (Delivered(0, 1), 0)

    def test_a_receipt_for_what_was_never_sent_delivers_nothing(self) -> None:
        """No more is believed than can be true."""
        lane = Lane(Delivered())
        lane.hear(answer(1 << 60))
        lane.numbered(0)
        lane.acknowledged(Mark(1, 0, 1, NOW, 1))
        assert lane.waits == 1

    def test_what_is_sent_again_begins_behind_what_is_held(self) -> None:
        """And evidence of before counts no more."""
        lane = Lane(Delivered())
        for number in (1, 2, 3):
            lane.numbered(number * 100)
            lane.acknowledged(mark(number))
        found = answer(1, floor=3)
        lane.hear(found)
        assert lane.lost(found, asked=3)
        assert lane.rewind() == (1, 100)
        assert not lane.lost(found, asked=3)
        lane.acknowledged(mark(2, sequence=4, order=4))
        assert not lane.lost(answer(1, floor=3), asked=4)
        assert lane.lost(answer(1, floor=4), asked=4)


class TestOrigins:
    """What a writer remembers."""

    @given(st.lists(st.lists(st.integers(1, 90))))
    def test_ranges_hold_what_was_put_into_them(self, batches: list[list[int]]) -> None:
        """In whatever order, and however often."""
        ranges: origins.Ranges = ()
        for numbers in batches:
            ranges = extended(ranges, numbers)
        held = {number for numbers in batches for number in numbers}
        assert {n for first, last in ranges for n in range(first, last + 1)} == held
        assert whole(ranges) == next(n for n in range(1, 93) if n not in held) - 1
        assert all(before[1] + 1 < after[0] for before, after in pairwise(ranges))

    def test_ranges_that_are_too_many_are_forgotten_from_the_end(self) -> None:
        """A collector that numbers without order costs it being sent again, and no memory."""
        ranges = extended((), range(1, 10_000, 2))
        assert len(ranges) == MOST_RANGES
        assert whole(ranges) == 1

    @pytest.fixture
    def db(self) -> Iterator[sqlite3.Connection]:
        """Return a ledger with the tables that are needed."""
        with closing(sqlite3.connect(":memory:")) as db:
            db.execute("CREATE TABLE record (key BLOB PRIMARY KEY)")
            origins.prepare(db)
            yield db

    def test_what_was_taken_is_held_up_to_the_first_gap(self, db: sqlite3.Connection) -> None:
        """A gap that is filled later counts from then on."""
        for numbers, expected in (([1, 2], 2), ([4], 2), ([3], 4)):
            held = [Held(MessagePlace("h.a", "l", number), 5) for number in numbers]
            assert origins.take(db, held, 0.0) == {("h.a", 5, "l"): expected}
        assert origins.number_held(db, "h.a", 5, "l") == 4
        assert origins.number_held(db, "h.a", 6, "l") == 0
        assert origins.already(db, [(5, MessagePlace("h.a", "l", 3)), (5, MessagePlace("h.a", "l", 9))]) == {
            (5, MessagePlace("h.a", "l", 3))
        }

    def test_a_key_that_another_one_sent_is_held_if_it_is_there(self, db: sqlite3.Connection) -> None:
        """Nothing is believed of what a collector says of keys."""
        db.execute("INSERT INTO record VALUES (?)", (b"there",))
        held = [Held(MessagePlace("h.a", "l", 1), 0, b"there"), Held(MessagePlace("h.a", "l", 2), 0, b"not there")]
        assert origins.take(db, held, 0.0) == {("h.a", 0, "l"): 1}

    def test_lives_that_are_long_over_are_forgotten(self, db: sqlite3.Connection) -> None:
        """A collector that starts every minute does not fill the ledger."""
        for life in range(200):
            origins.take(db, [Held(MessagePlace("h.a", str(life), 1), 0)], 0.0)
        (rows,) = db.execute("SELECT count(*) FROM origin").fetchone()
        assert rows == 16
        assert origins.number_held(db, "h.a", 0, "199") == 1
        assert origins.number_held(db, "h.a", 0, "0") == 0

    def test_a_writer_keeps_its_name(self, db: sqlite3.Connection) -> None:
        """It is what its buckets are owned by."""
        assert origins.writer(db, "one") == "one"
        assert origins.writer(db, "two") == "one"


class TestNames:
    """Names and buckets."""

    @given(st.text())
    def test_every_host_has_a_name_that_can_be_used(self, text: str) -> None:
        """Whatever the machine is called."""
        name = host_name(text)
        assert is_name(name) or name in ("ask", "receipt", "alive")

    @given(st.binary(min_size=16, max_size=16), st.integers(1, 4096))
    def test_every_key_has_one_bucket(self, key: bytes, buckets: int) -> None:
        """Of those that there are."""
        assert 0 <= bucket_of(key, buckets) < buckets

    def test_buckets_are_read(self) -> None:
        """Single ones and ranges."""
        assert parse_buckets("0-2,7") == frozenset({0, 1, 2, 7})
        assert parse_buckets("") is None

    def test_receipts_travel_as_they_are(self) -> None:
        """All of an answer arrives."""
        found = answer(3, idle=True)
        assert read_receipts(msgspec.json.encode([found])) == [found]
