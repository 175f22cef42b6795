"""Invalid UTF-8 is found before anything is decoded, also in strings that a decoder skips."""

import pytest

from streamer.base.text import invalid_utf8
from streamer.commands.compact.verdicts import facts_of
from streamer.core.records.dataset_line import line_key
from streamer.core.records.key import DedupBy
from streamer.core.records.layouts import MalformedError, read
from streamer.core.records.schema import Kind, check_line
from streamer.core.verdicts.caps import Cap
from streamer.core.verdicts.near.rules import Scope
from streamer.core.verdicts.near.words import compared
from streamer.store.curation.cap_counts import values_of
from tests.commands.test_verify import encoded, record

GOOD = encoded(record(1)).rstrip(b"\n")
BAD = GOOD[:-1] + b', "skipped": "\xff"}'
"""A dataset line with a byte that is not UTF-8 in a key that nobody reads."""


@pytest.mark.parametrize(
    ("data", "offset"),
    [
        (b"", None),
        (b"plain", None),
        ("déjà vu \U0001f600".encode(), None),
        (b"\xff", 0),
        (b"ab\xc3", 2),
        (b"\xed\xa0\xbd", 0),  # half a surrogate pair
        (b"\xc0\xaf", 0),  # an overlong slash
        (b"\xf4\x90\x80\x80", 0),  # beyond the last code point
    ],
)
def test_the_first_byte_that_is_not_utf8_is_found(data: bytes, offset: int | None) -> None:
    """Whatever is no UTF-8 by the standard has an offset; everything else has none."""
    assert invalid_utf8(data) == offset


def test_a_shard_line_with_it_in_a_skipped_string_is_malformed() -> None:
    """The reason is the same wherever in the line the byte stands."""
    assert read(GOOD, "a.jsonl").session
    with pytest.raises(MalformedError) as found:
        read(BAD, "a.jsonl")
    assert (found.value.reason, found.value.detail) == ("invalid_utf8", f"byte {BAD.index(0xFF)} is not UTF-8")


def test_a_dataset_line_with_it_in_a_skipped_string_is_none_of_ours() -> None:
    """Key, words, caps, compaction and `verify` agree."""
    cap = Cap("metadata.model", 1)
    assert [line_key(GOOD, DedupBy.CONVERSATION), compared(GOOD, Scope.CONVERSATION), facts_of(GOOD)].count(None) == 0
    assert values_of(GOOD, [cap]) != [()]
    with pytest.raises(ValueError, match="not UTF-8"):
        line_key(BAD, DedupBy.CONVERSATION)
    with pytest.raises(ValueError, match="not UTF-8"):
        compared(BAD, Scope.CONVERSATION)
    assert facts_of(BAD) is None
    assert values_of(BAD, [cap]) == [()]
    assert [finding.kind for finding in check_line(BAD).findings] == [Kind.NOT_UTF8]
