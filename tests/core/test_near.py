"""Which records nearly equal each other: words, signatures, the index of their bands, and how images look."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from base64 import b64encode
from io import BytesIO
from random import Random
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from streamer.base.errors import MissingExtraError
from streamer.core.verdicts.near.buckets import Buckets
from streamer.core.verdicts.near.image_hash import IMAGE_BYTES, differing_bits, image_hasher
from streamer.core.verdicts.near.rules import Near, Scope
from streamer.core.verdicts.near.signature import SLOTS, Signature, Signer
from streamer.core.verdicts.near.words import compared, shingles
from tests.helpers.producer import PNG, call, messages

TEXTS = Near(threshold=0.7, ngram=1)
IMAGES = Near(images=8)


def line(*said: str, image: str | None = None, **more: Any) -> bytes:
    """Return a dataset line whose user says something, and shows an image."""
    value = messages("run", 0, " ".join(said), **more)
    if image is not None:
        value["messages"][1]["content"] = [
            {"type": "text", "text": " ".join(said)},
            {"type": "image_url", "image_url": {"url": image}},
        ]
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def words(first: int, last: int) -> str:
    """Return words that no other number has."""
    return " ".join(f"w{number}" for number in range(first, last))


def scene(seed: int, *, side: int = 64, dot: bool = False) -> Image.Image:
    """Return a picture of some coloured fields, at any size; with a dot somewhere."""
    random = Random(seed)
    image = Image.new("RGB", (64, 64))
    draw = ImageDraw.Draw(image)
    for x in range(0, 64, 8):
        for y in range(0, 64, 8):
            draw.rectangle((x, y, x + 7, y + 7), fill=tuple(random.randrange(256) for _ in range(3)))
    if dot:
        draw.rectangle((30, 30, 31, 31), fill="white")
    return image.resize((side, side), Image.Resampling.NEAREST)


def url(image: Image.Image, kind: str = "PNG") -> str:
    """Return an image as a data URL."""
    file = BytesIO()
    image.save(file, kind, quality=90)
    return f"data:image/{kind.lower()};base64,{b64encode(file.getvalue()).decode()}"


def signed(rules: Near, data: bytes) -> Signature:
    """Return the signature of a line that has one."""
    signature = Signer(rules).sign(data)
    assert signature is not None
    return signature


def similarity(rules: Near, one: bytes, other: bytes) -> float | None:
    """Return how alike two lines are, None if they are not near."""
    return Signer(rules).similarity(signed(rules, one), signed(rules, other))


class TestWords:
    """What is compared of a line."""

    @pytest.mark.parametrize(
        ("scope", "expected"),
        [
            (Scope.CONVERSATION, ["north", "and", "do", "interact_many", "actions", "go"]),
            (Scope.USER, ["north", "and", "do"]),
            (Scope.REPLY, ["interact_many", "actions", "go"]),
        ],
    )
    def test_a_scope_is_whose_words_count(self, scope: Scope, expected: list[str]) -> None:
        """Instructions never do."""
        value = messages("run", 0, "North, and: do!")
        value["messages"][-1]["tool_calls"] = [call(actions=["go"])]
        assert shingles(compared(json.dumps(value).encode(), scope).text, 1) == expected

    def test_a_run_is_so_many_words(self) -> None:
        """A shorter text is one run; no words are none."""
        assert shingles("A b, c d", 3) == ["a b c", "b c d"]
        assert shingles("a b", 3) == ["a b"]
        assert shingles(" …!", 3) == []

    def test_a_character_of_a_script_without_spaces_is_a_word(self) -> None:
        """Else a sentence would be one word."""
        assert shingles("雪の中 go", 2) == ["雪 の", "の 中", "中 go"]

    @pytest.mark.parametrize("data", [b"", b"[]", b'{"messages": [1]}', b'{"messages": [{"content": ""}]}'])
    def test_a_line_of_someone_else_says_nothing(self, data: bytes) -> None:
        """It is passed over."""
        with pytest.raises(ValueError, match=r"\w"):
            compared(data, Scope.CONVERSATION)


class TestTexts:
    """Signatures of what was said."""

    def test_a_signature_is_the_same_for_ever(self) -> None:
        """Else a ledger would have to be told: SIGNATURE_VERSION. A release of rensa may bring this about."""
        digest = hashlib.sha256(signed(TEXTS, line("the snow lies ✓ 雪")).slots).hexdigest()
        assert digest == "bed2ca6cdec75fc8f968184d6c2a32e743508cd095834db5132121dd2aa5f1ad"

    @pytest.mark.parametrize("seed", ["0", "1"])
    def test_a_signature_does_not_depend_on_the_hash_seed(self, seed: str) -> None:
        """Nor on the process."""
        code = (
            "from streamer.core.verdicts.near.rules import Near; "
            "from streamer.core.verdicts.near.signature import Signer; import sys;"
            "sys.stdout.write(Signer(Near(threshold=0.7)).sign(sys.stdin.buffer.read()).slots.hex())"
        )
        data = line(words(0, 50))
        done = subprocess.run(
            [sys.executable, "-c", code], input=data, env=os.environ | {"PYTHONHASHSEED": seed}, check=True,
            capture_output=True,
        )  # fmt: skip
        assert bytes.fromhex(done.stdout.decode()) == signed(Near(threshold=0.7), data).slots

    @settings(deadline=None, max_examples=50)
    @given(shared=st.integers(20, 300), own=st.integers(0, 100), others=st.integers(0, 100))
    def test_a_similarity_is_nearly_that_of_the_sets(self, shared: int, own: int, others: int) -> None:
        """Within five standard errors; and it is told where it reaches the threshold only."""
        rules = Near(threshold=0.5, ngram=1, scope=Scope.USER)
        one, other = words(0, shared + own), f"{words(0, shared)} {words(1000, 1000 + others)}"
        exact = shared / (shared + own + others)
        error = 5 * (exact * (1 - exact) / SLOTS) ** 0.5 + 0.005
        found = similarity(rules, line(one), line(other))
        assert exact < 0.5 + error if found is None else abs(found - exact) <= error

    @settings(deadline=None, max_examples=50)
    @given(st.text(), st.sampled_from(Scope), st.integers(1, 6))
    def test_a_record_equals_itself(self, text: str, scope: Scope, ngram: int) -> None:
        """Whatever it says, if it says anything."""
        signer = Signer(Near(threshold=1.0, ngram=ngram, scope=scope))
        signature = signer.sign(line(text))
        if signature is None:
            assert scope is Scope.USER
            assert not shingles(text, ngram)
        else:
            assert signer.similarity(signature, signature) == 1

    def test_images_have_to_be_equal(self) -> None:
        """The same question about another picture is another question."""
        one, other = url(scene(1)), url(scene(2))
        assert similarity(TEXTS, line("What now?", image=one), line("What now?", image=one)) == 1
        assert similarity(TEXTS, line("What now?", image=one), line("What now?", image=other)) is None
        assert similarity(TEXTS, line("What now?", image=one), line("What now?")) is None

    def test_or_alike_where_both_are_compared(self) -> None:
        """And both have to be near."""
        rules = Near(threshold=0.7, ngram=1, images=8, scope=Scope.USER)
        one, alike, other = url(scene(1)), url(scene(1, dot=True)), url(scene(2))
        assert similarity(rules, line("What now?", image=one), line("What now?", image=alike)) == 1
        assert similarity(rules, line("What now?", image=one), line("What now?", image=other)) is None
        assert similarity(rules, line("What now?", image=one), line("Where to go?", image=alike)) is None

    @pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9, 1.0])
    def test_who_is_near_shares_a_band(self, threshold: float) -> None:
        """All but a few of the pairs at the threshold itself."""
        rules = Near(threshold=threshold, ngram=1, scope=Scope.USER)
        signer = Signer(rules)
        shared = 0
        for start in range(0, 100_000, 1000):
            own = round(100 * (1 - threshold) / (1 + threshold))
            one = signed(rules, line(words(start, start + 100)))
            other = signed(rules, line(words(start, start + 100 - own), words(start + 200, start + 200 + own)))
            shared += any(a == b for a, b in zip(signer.bands_of(one), signer.bands_of(other), strict=True))
        assert shared >= 94


class TestImages:
    """Hashes of how they look."""

    def test_a_picture_that_is_saved_in_another_way_looks_the_same(self) -> None:
        """Another format, another size, a detail."""
        look = image_hasher(perceptual=True)
        for same in (url(scene(1), "BMP"), url(scene(1, side=128)), url(scene(1), "WEBP"), url(scene(1, dot=True))):
            assert (differing_bits(look(url(scene(1))), look(same)) or 0) <= 12

    def test_another_picture_does_not(self) -> None:
        """By far."""
        look = image_hasher(perceptual=True)
        hashes = [look(url(scene(seed))) for seed in range(20)]
        for number, one in enumerate(hashes):
            assert all((differing_bits(one, other) or 0) > 60 for other in hashes[:number])

    @pytest.mark.parametrize(
        "hostile",
        [
            "",
            "http://host/x.png",
            "data:,x",
            "data:image/png;base64,",
            "data:image/png;base64,!",
            PNG[:-60],
            PNG,
            "x" * 9999,
        ],
    )
    def test_what_does_not_decode_or_shows_nothing_equals_itself_only(self, hostile: str) -> None:
        """And nothing is fetched."""
        look = image_hasher(perceptual=True)
        assert differing_bits(look(hostile), look(hostile)) == 0
        assert differing_bits(look(hostile), look(hostile + "#")) is None
        assert differing_bits(look(hostile), look(url(scene(1)))) is None
        assert len(look(hostile)) == IMAGE_BYTES

    def test_all_images_of_a_record_have_to_look_the_same(self) -> None:
        """In their order; a record without images is not compared."""
        one, two, dotted = (
            image_hasher(perceptual=True)(url(image)) for image in (scene(1), scene(2), scene(1, dot=True))
        )
        assert differing_bits(one + two, dotted + two) == differing_bits(one, dotted)
        assert (differing_bits(one + two, two + one) or 0) > 60
        assert differing_bits(one + two, one) is None
        assert Signer(IMAGES).sign(line("no image")) is None

    def test_texts_do_not_count_without_a_threshold(self) -> None:
        """The similarity is the share of equal bits."""
        one, alike = line("What now?", image=url(scene(1))), line("Anything else", image=url(scene(1, dot=True)))
        found = similarity(IMAGES, one, alike)
        assert found is not None
        assert 1 - 8 / 256 <= found <= 1

    @settings(deadline=None, max_examples=200)
    @given(st.binary(min_size=32, max_size=32), st.sets(st.integers(0, 255), max_size=15))
    def test_who_differs_in_less_than_16_bits_shares_a_band(self, look: bytes, flipped: set[int]) -> None:
        """For certain."""
        other = (int.from_bytes(look) ^ sum(1 << bit for bit in flipped)).to_bytes(32)
        signer = Signer(IMAGES)
        bands = [signer.bands_of(Signature(b"", b"\0" + one)) for one in (look, other)]
        assert any(a == b for a, b in zip(*bands, strict=True))


def spread(*bands: int) -> list[int]:
    """Return what stands for some bands: a checksum of each."""
    return [crc32(bytes([band])) for band in bands]


class TestBuckets:
    """The index of bands, compared with a list."""

    @settings(deadline=None)
    @given(st.lists(st.lists(st.integers(0, 5), min_size=3, max_size=3), max_size=30), st.integers(1, 40))
    def test_the_newest_that_share_a_band_are_found_and_no_others(self, records: list[list[int]], keep: int) -> None:
        """Of so many as are kept."""
        buckets = Buckets(3, keep)
        for number, bands in enumerate(records, 1):
            kept = list(enumerate(records[: number - 1], 1))[-keep:]
            expected = {n for n, other in kept if any(a == b for a, b in zip(bands, other, strict=True))}
            assert set(buckets.candidates(spread(*bands))) == expected
            buckets.add(number, spread(*bands))

    def test_where_everything_resembles_everything_only_some_are_looked_at(self) -> None:
        """The newest."""
        buckets = Buckets(2, 1000)
        for number in range(1, 1001):
            buckets.add(number, spread(1, number % 7))
        assert set(range(969, 1001)) <= set(buckets.candidates(spread(1, 8)))
        assert len(buckets.candidates(spread(1, 3))) <= 64

    def test_it_goes_on_at_any_number(self) -> None:
        """As after a start with a ledger that has forgotten the first ones."""
        buckets = Buckets(1, 10)
        for number in range(5_000_000, 5_000_025):
            buckets.add(number, spread(7))
        assert buckets.candidates(spread(7)) == list(range(5_000_024, 5_000_014, -1))


@pytest.mark.parametrize(("module", "rules", "extra"), [("rensa", TEXTS, "near"), ("PIL", IMAGES, "images")])
def test_without_the_package_the_error_names_the_extra(
    module: str, rules: Near, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is imported by those who need it only."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=f"install the extra `{extra}`"):
        Signer(rules)
