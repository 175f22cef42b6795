"""Signatures: a few hundred bytes that tell how alike two records are.

``slots`` holds the lowest byte of each of 256 MinHash values: the share of equal slots, less what chance makes equal,
estimates the Jaccard similarity of the sets of runs of words, with a standard error of 0.025 at 0.8. ``images`` holds
``IMAGE_BYTES`` for each image.

Bands are parts of a signature. Records that are near each other have one in common, nearly always; so only those that
share one are compared. Two texts that are exactly as near as the threshold share none in 2 of 100 cases; the nearer,
the fewer.
"""

from __future__ import annotations

import math
import struct
from typing import Any
from zlib import crc32

import msgspec

from streamer.base.errors import MissingExtraError
from streamer.core.verdicts.near.image_hash import BITS, IMAGE_BYTES, differing_bits, image_hasher
from streamer.core.verdicts.near.rules import Near
from streamer.core.verdicts.near.words import compared, shingles

SLOTS = 256
_PACK = struct.Struct(f"<{SLOTS}I").pack
_CHANCE = 1 / 256
"""How often two bytes are equal that have nothing to do with each other."""

_SEED = 1
_TEXT_BANDS = 20
_IMAGE_BANDS = 16
"""Images that differ in fewer bits than this share a band for certain."""

_MISSED = 0.02


class Signature(msgspec.Struct, frozen=True, gc=False):
    """What is kept of one record to compare others with."""

    slots: bytes
    images: bytes


class Signer:
    """Makes and compares signatures by one set of rules.

    ``meaning`` names what they mean: those of another meaning are of no use. ``bands`` is how many each one has.

    Raises:
        MissingExtraError: a package that the rules need is not installed.
    """

    def __init__(self, rules: Near) -> None:
        self._rules = rules
        self._look = image_hasher(perceptual=rules.images is not None)
        self._threshold = rules.threshold
        self._most_differing = rules.images or 0
        if rules.threshold is None:
            self.meaning = rules.meaning(0)
            self.bands, self._width = _IMAGE_BANDS, (IMAGE_BYTES - 1) // _IMAGE_BANDS
        else:
            self._minhash = _minhash()
            self.meaning = rules.meaning(self._minhash.ALGORITHM_VERSION)
            self.bands, self._width = _TEXT_BANDS, _slots_in_a_band(rules.threshold)

    def sign(self, line: bytes) -> Signature | None:
        """Return the signature of a dataset line; None if there is nothing in it to compare.

        Raises:
            ValueError: the line is not one of ours.
        """
        what = compared(line, self._rules.scope)
        images = b"".join(map(self._look, what.images))
        if self._threshold is None:
            return Signature(b"", images) if images else None
        runs = shingles(what.text, self._rules.ngram)
        if not runs and not images:
            return None
        sketch = self._minhash(num_perm=SLOTS, seed=_SEED)
        sketch.update(runs or [""])
        return Signature(_PACK(*sketch.digest())[::4], images)

    def bands_of(self, signature: Signature) -> list[int]:
        """Return a number of 32 bits for each band: equal bands have equal numbers."""
        width, data = self._width, signature.slots
        if self._threshold is None:
            data = signature.images[1 - IMAGE_BYTES :]  # of the last image: all have to look the same
        return [crc32(data[start : start + width]) for start in range(0, self.bands * width, width)]

    def similarity(self, one: Signature, other: Signature) -> float | None:
        """Return how alike two records are, from 0 to 1, or None if they are not near each other.

        Of texts it is the estimated Jaccard similarity. Where texts are not compared, it is the share of equal bits in
        the image that differs most.
        """
        bits = differing_bits(one.images, other.images)
        if bits is None or bits > self._most_differing:
            return None
        if self._threshold is None:
            return 1 - bits / BITS
        unequal = int.from_bytes(one.slots) ^ int.from_bytes(other.slots)
        equal = unequal.to_bytes(SLOTS).count(0) / SLOTS
        alike = max(0.0, (equal - _CHANCE) / (1 - _CHANCE))
        return alike if alike >= self._threshold else None


def _slots_in_a_band(threshold: float) -> int:
    """Return the size of a band: the larger, the fewer are compared in vain, and the more are missed."""
    most = SLOTS // _TEXT_BANDS
    if threshold >= 1:
        return most
    in_common = 1 - _MISSED ** (1 / _TEXT_BANDS)
    return max(1, min(most, math.floor(math.log(in_common) / math.log(threshold))))


def _minhash() -> Any:
    try:
        from rensa import RMinHash  # noqa: PLC0415 - an extra
    except ImportError:
        raise MissingExtraError(
            "find near-duplicates",
            "near.threshold is set",
            "rensa is not installed",
            "install the extra `near` (in a checkout: pip install '.[near]'), or leave near.threshold out",
        ) from None
    return RMinHash
