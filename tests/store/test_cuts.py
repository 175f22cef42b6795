"""Where lines stand after cuts, and which of them are gone: against the bytes themselves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamer.store.parts.cuts import TAIL, Cut, OffsetMap, joined, token_digest, touches

LINES = st.lists(st.integers(1, 9), min_size=1, max_size=12)
"""Lengths of lines."""


def spread(lengths: list[int]) -> list[tuple[int, int]]:
    """Return where lines of these lengths begin and end, one behind the other."""
    ends = [sum(lengths[: number + 1]) for number in range(len(lengths))]
    return [(end - length, end) for end, length in zip(ends, lengths, strict=True)]


@given(LINES, st.data())
def test_every_line_that_is_left_is_found_at_its_place_after_any_cuts(lengths: list[int], data: st.DataObject) -> None:
    """And from its place in the file, and no other line is."""
    start = data.draw(st.integers(0, 50))
    lines = list(enumerate(lengths))
    cuts: list[Cut] = []
    for _ in range(data.draw(st.integers(0, 3))):
        gone = data.draw(st.sets(st.sampled_from([number for number, _ in lines]))) if lines else set[int]()
        there = spread([length for _, length in lines])
        cuts.append(Cut(joined(span for (number, _), span in zip(lines, there, strict=True) if number in gone)))
        lines = [line for line in lines if line[0] not in gone]
    offsets = OffsetMap(start, cuts)
    left = dict(zip([number for number, _ in lines], spread([length for _, length in lines]), strict=True))
    for number, (begins, _) in enumerate(spread(lengths)):
        place = start + begins
        assert offsets.has(place) is (number in left)
        if number in left:
            assert offsets.file_offset(place) == left[number][0]
            assert offsets.log_offset(left[number][0]) == place
        else:
            after = [other for other in left if other > number]
            size = sum(length for _, length in lines)
            assert offsets.file_offset(place) == (left[after[0]][0] if after else size)
    assert offsets.log_offset(sum(length for _, length in lines)) == start + sum(lengths)


def test_neighbours_are_one_range() -> None:
    """A rollout that went is one hole, not one for each of its lines."""
    assert joined([(0, 3), (3, 5), (7, 9), (9, 10)]) == ((0, 5), (7, 10))
    assert joined([]) == ()


def test_a_token_is_in_doubt_when_anything_before_it_was_taken_out() -> None:
    """As far as its digest reaches, and no further; what lies after it does not matter."""
    removed = [(100, 200), (10_000, 10_001)]
    assert [end for end in (100, 101, 200, 199 + TAIL, 200 + TAIL, 10_000, 10_001) if touches(removed, end)] == [
        101, 200, 199 + TAIL, 10_001,
    ]  # fmt: skip


def test_a_cut_knows_its_tokens_and_no_others() -> None:
    """By the beginnings of their digests, wherever they stand."""
    digests = [token_digest(bytes([number])) for number in range(3)]
    cut = Cut(((0, 1),), b"".join(digest[:6] for digest in digests[:2]))
    assert [cut.has(digest) for digest in digests] == [True, True, False]
    shifted = cut.tokens[3:9] + bytes(10)
    assert not cut.has(shifted)
