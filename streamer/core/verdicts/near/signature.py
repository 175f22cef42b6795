"""Signatures: a few hundred bytes that estimate the similarity of two records.

``slots`` holds the lowest byte of each of 256 MinHash values: the share of equal slots, less what chance makes equal,
estimates the Jaccard similarity of the sets of runs of words, with a standard error of 0.025 at 0.8. ``images`` holds
``IMAGE_BYTES`` for each image.

Bands are parts of a signature, for locality-sensitive hashing: near-duplicates nearly always share one, so only records
that share one are compared. Two texts exactly as similar as the threshold share none in 2 of 100 cases; more similar
ones in fewer.
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
"""Probability that two unrelated bytes are equal."""

_SEED = 1
_TEXT_BANDS = 20
_IMAGE_BANDS = 16
"""Images that differ in fewer bits than this always share a band."""

_MISSED = 0.02


class Signature(msgspec.Struct, frozen=True, gc=False):
    """The MinHash slots and image hashes of one record."""

    slots: bytes
    images: bytes


class Signer:
    """Computes and compares signatures by one set of rules.

    ``meaning`` is the version of the signatures: those of another version cannot be compared. ``bands`` is the number
    of bands of each.

    Raises:
        MissingExtraError: a package that the rules need is not installed.
    """

    def __init__(self, rules: Near) -> None:
        self._rules = rules
        self._hash_image = image_hasher(perceptual=rules.images is not None)
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
        """Return the signature of a dataset line; None if it has nothing to compare.

        Raises:
            ValueError: the line was not written by streamer.
        """
        found = compared(line, self._rules.scope)
        images = b"".join(map(self._hash_image, found.images))
        if self._threshold is None:
            return Signature(b"", images) if images else None
        runs = shingles(found.text, self._rules.ngram)
        if not runs and not images:
            return None
        sketch = self._minhash(num_perm=SLOTS, seed=_SEED)
        sketch.update(runs or [""])
        return Signature(_PACK(*sketch.digest())[::4], images)

    def bands_of(self, signature: Signature) -> list[int]:
        """Return a checksum of 32 bits for each band."""
        width, data = self._width, signature.slots
        if self._threshold is None:
            data = signature.images[1 - IMAGE_BYTES :]  # of the last image: all have to look the same
        return [crc32(data[start : start + width]) for start in range(0, self.bands * width, width)]

    def similarity(self, one: Signature, other: Signature) -> float | None:
        """Return the similarity of two records, from 0 to 1, or None if they are not near each other.

        For texts it is the estimated Jaccard similarity. Where texts are not compared, it is the share of equal bits in
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
    """Return the slots of a band: a larger band compares fewer records in vain and misses more."""
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
